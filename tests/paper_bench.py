"""The paper's ten tasks on made-up documents, and a stub that writes what a test says."""

import contextlib

import pytest
from lm_eval.api.model import LM

from edit_sweeps import live_lm
from edit_sweeps.task_scores import Bench
from tests.paper_documents import SOURCES, bench_of, write


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Source -> file of made-up documents."""
    return write(tmp_path_factory.mktemp("documents"))


@pytest.fixture(scope="session")
def paper(files):
    """All ten tasks on the made-up documents, built once."""
    return bench_of({key: files[source] for key, source in SOURCES.items()})


class Writer(LM):
    """Writes what `answer(request)` says."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.broken, self.cut = answer, frozenset(), 0

    def watch(self, bar):
        pass

    def loglikelihood(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        return [self.answer(request) for request in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


@pytest.fixture
def written(tiny, monkeypatch):
    """`written(bench, answer)`: scores when every request is answered by `answer(request)`."""
    monkeypatch.setattr(Bench, "_dead", lambda self, model: False)

    def score(bench, answer):
        writer = contextlib.nullcontext(Writer(answer))
        monkeypatch.setattr(live_lm, "live", lambda *_, **__: writer)
        results = bench.score(tiny)
        assert results.errors == {}
        return results.scores

    return score
