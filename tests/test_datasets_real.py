"""Readers on the published files that lie beside the repository, where they do."""

from pathlib import Path

import pytest

from edit_sweeps.edit_scores import EditScoreSettings, score_edits
from edit_sweeps.editors.base import Prepared
from edit_sweeps.editors.ft import FineTune
from edit_sweeps.ledger import Ledger
from edit_sweeps.requests import RequestError, left_out, load_requests, read_requests
from tests.request_files import Data

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "edits"


def real(name, form, **settings):
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the repository (shared/data/edits)")
    return Data(str(path), name=form, format=form, **settings)


def test_flat_counterfact_reads_whole():
    data = real("counterfact-edit.3000.json", "counterfact_flat")
    requests = read_requests(data)
    assert len(requests) == 3000
    assert all(r.target_true and r.paraphrases and r.neighborhood for r in requests)
    assert all(p.alternative for r in requests for p in (*r.paraphrases, *r.neighborhood))
    assert all(r.subject in r.text and r.prompt.count("{}") == 1 for r in requests)


@pytest.mark.parametrize("target", ["alt", "answers"])
def test_the_facts_of_the_paper_read_whole(target):
    data = real("zsre_mend_eval_portability_gpt4.json", "zsre", target=target)
    requests = read_requests(data)
    assert len(requests) == len({(r.text, r.target_new) for r in requests}) == 1037
    assert len({r.subject for r in requests}) == 743
    assert sum(len(r.portability) for r in requests) == (1037 if target == "alt" else 0)
    assert sum(r.target_true is None for r in requests) == (0 if target == "alt" else 1037)


def test_the_papers_cycling_is_there_and_loudly_named(caplog):
    data = real("zsre_mend_eval_portability_gpt4.json", "zsre", repeat=True)
    requests = load_requests(data, 3000, seed=0)
    assert len({r.case_id for r in requests}) == 3000
    assert len({r.case_id.partition("#")[0] for r in requests}) == 1037
    assert "1037 requests for num_edits=3000: REPEATED UP TO 3 TIMES" in caplog.text


def test_two_empty_alternatives_of_the_training_file_are_refused_or_skipped():
    data = real("zsre_mend_train-1k.json", "zsre")
    with pytest.raises(RequestError, match="2 of 1000 requests are broken") as error:
        read_requests(data)
    assert str(error.value).count("field alt: is empty") == 2
    data.on_invalid = "skip"
    assert len(read_requests(data)) == 998
    assert left_out(data)["requests_invalid_skipped"] == 2


def test_known_facts_are_no_edits():
    with pytest.raises(RequestError, match="1209 of 1209 requests are broken"):
        read_requests(real("known_1000.json", "counterfact_flat"))


@pytest.mark.parametrize(
    ("name", "form", "compared", "portability"),
    [
        ("counterfact-edit.3000.json", "counterfact_flat", True, set()),
        (
            "zsre_mend_eval_portability_gpt4.json",
            "zsre",
            False,
            {"portability", "portability_one_hop"},
        ),
    ],
)
def test_a_real_fact_is_written_and_scored_by_every_probe_the_data_have(
    tiny_model, name, form, compared, portability
):
    model = tiny_model("gpt2", max_position_embeddings=512)
    requests = load_requests(real(name, form), 1, seed=0)
    settings = EditScoreSettings(max_new_tokens=2)
    before = score_edits(model, requests, settings)
    editor = FineTune(layer=1, lr=0.05, steps=25)
    editor.edit(model, requests, Ledger(model), editor.start(model, Prepared()))
    after = score_edits(model, requests, settings)
    assert after["efficacy_magnitude"].value > before["efficacy_magnitude"].value
    assert {"efficacy", "paraphrase", "neighborhood_accuracy"} <= set(after)
    assert ("neighborhood" in after) is compared
    assert {k for k in after if k.startswith("portability")} == portability
