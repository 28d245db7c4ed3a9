"""On a CUDA device every editor writes what it writes on the CPU. Part of `make gpu-check`; never part of `make test`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edit_sweeps.model import EditableModel
from tests.conftest import tiny_network
from tests.test_editor_contract import WRITING, build, run, store  # noqa: F401  # `store` is a fixture

ROOT = Path(__file__).parent.parent
FAMILIES = ["gpt2", "gptj", "gpt_neox", "llama", "gemma2"]


def written(name, family, device, tokenizer, requests, store):  # noqa: F811
    """What an editor leaves: changes of weights, or what an attached module learnt."""
    network = tiny_network(family, len(tokenizer), "float64").to(device)
    _, ledger, state = run(build(name), EditableModel(network, tokenizer), requests, store)
    return {n: t.detach().cpu().double() for n, t in (ledger.delta() or state.tensors).items()}


@pytest.mark.gpu
@pytest.mark.usefixtures("exactly")  # or norms and attention would round to float32 inside
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", WRITING)
def test_an_editor_writes_the_same_on_the_gpu(name, family, tokenizer, requests, store):  # noqa: F811
    here = written(name, family, "cpu", tokenizer, requests, store)
    there = written(name, family, "cuda", tokenizer, requests, store)
    assert here.keys() == there.keys()
    assert here
    close = 1e-5 if name == "mend" else 1e-6  # its network computes in float32
    for parameter, delta in here.items():
        assert (there[parameter] - delta).norm() <= close * delta.norm(), parameter


def gpu_check(*arguments):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "scripts/gpu_check.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_without_a_gpu_the_check_says_so_and_fails():
    done = gpu_check()
    assert done.returncode == 2
    assert "NO GPU" in done.stderr
    assert "nothing was checked" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "editors"), [("llama-3-8b", WRITING), ("gpt2-xl", ["mend", "rome"])]
)
def test_the_check_itself_runs_through_on_small_shapes(shape, editors):
    done = gpu_check("--rehearse", "--shapes", shape, "--editors", ",".join(editors))
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rehearsal: no GPU figures" in done.stdout
    assert [row[0].removeprefix("| ") for row in rows if len(row) == 7] == ["editor", *editors]
