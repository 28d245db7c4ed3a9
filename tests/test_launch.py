"""The command itself, as its user runs it: launch.py in a process of its own, on the miniature."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from edit_sweeps.table import COLUMNS

ROOT = Path(__file__).parent.parent
SMALL = ["eval.limit=12", "wandb=disabled", "editor.value.steps=8", "moments.tokens=4000"]

pytestmark = pytest.mark.slow


def command(*arguments):
    return [sys.executable, str(ROOT / "launch.py"), *arguments]


def launch(folder, *arguments, code=0):
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        command(*arguments),
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def records(folder, study="main"):
    found = [
        json.loads(p.read_text())
        for p in sorted((folder / "outputs" / study / "cells").glob("*/record.json"))
    ]
    return {record["name"]: record for record in found}


def results(folder, study="main"):
    return {name: record["result"] for name, record in records(folder, study).items()}


def mark(folder):
    files = [p for p in (folder / "outputs").glob("*/cells/**/*") if p.is_file()]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in files}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A small first sweep, run once for the tests that only look at it."""
    folder = tmp_path_factory.mktemp("swept")
    shown = launch(folder, "-m", "editor=rome,memit", "num_edits=1,4", *SMALL)
    return folder, shown


def test_a_sweep_leaves_records_table_and_report_and_says_where(swept):
    folder, shown = swept
    found = records(folder)
    assert len(found) == 5
    assert {r["state"] for r in found.values()} == {"done"}
    study = folder / "outputs" / "main"
    assert f"{study.relative_to(folder)}/report.html" in shown
    table = pd.read_csv(study / "table.csv", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert set(table.task) == {
        "edit",
        *(t for r in found.values() for t in r["result"]["scores"]),
    } - {""}
    assert "<html" in (study / "report.html").read_text()[:500].lower()


def test_each_record_compares_with_the_unedited_model_on_the_same_documents(swept):
    for name, result in results(swept[0]).items():
        if "-none-" in name:
            continue
        assert len(result["comparisons"]) == 9
        assert len(result["traces"]) == int(name.split("-n")[1].split("-")[0])
        for task, metrics in result["comparisons"].items():
            for metric, comparison in metrics.items():
                assert comparison["n"] == result["scores"][task][metric]["n"], (task, metric)


def test_the_same_command_again_does_nothing_and_says_so(swept):
    folder, _ = swept
    before = mark(folder)
    shown = launch(folder, "-m", "editor=rome,memit", "num_edits=1,4", *SMALL)
    assert "Nothing to do" in shown
    assert mark(folder) == before


def test_a_cell_run_alone_gives_the_record_of_the_same_cell_of_a_sweep(swept, tmp_path):
    launch(tmp_path, "editor=memit", "num_edits=4", *SMALL)
    alone, together = results(tmp_path), results(swept[0])
    assert len(alone) == 2
    for name, result in alone.items():
        assert result == together[name]


def test_save_delta_and_model_of_a_done_cell_score_nothing_again(swept, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(swept[0], folder)
    before = results(folder)
    started = records(folder)
    launch(folder, "editor=rome", "num_edits=4", "save=[delta,model]", *SMALL)
    assert results(folder) == before
    (cell,) = (folder / "outputs" / "main" / "cells").glob("*-rome-n4-*")
    assert records(folder)[cell.name]["provenance"] == started[cell.name]["provenance"]
    delta = load_file(cell / "delta.safetensors")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    edited = AutoModelForCausalLM.from_pretrained(cell / "model", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(
        ROOT / "edit_sweeps" / "miniature" / "checkpoints" / "gpt2", dtype=torch.float32
    )
    assert AutoTokenizer.from_pretrained(cell / "model").eos_token
    for name, weight in edited.state_dict().items():
        change = weight - plain.state_dict()[name]
        expected = delta.get(name, torch.zeros_like(change))
        assert torch.allclose(change, expected.to(change.dtype), atol=1e-6), name
    assert len(delta) == 1
    assert next(iter(delta.values())).abs().max() > 1e-3


def test_killed_at_random_moments_and_repeated_it_ends_with_the_undisturbed_results(tmp_path):
    arguments = ["-m", "editor=rome,memit", "num_edits=1,6", *SMALL, "edit_scores.limit=4"]
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    calm.mkdir()
    rough.mkdir()
    began = time.monotonic()
    launch(calm, *arguments)
    whole = time.monotonic() - began
    draw, killed = random.Random(7), 0
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    for _ in range(10):
        process = subprocess.Popen(
            command(*arguments), cwd=rough, env=environment, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(timeout=draw.uniform(0.1, 0.45) * whole)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
            process.wait()
    assert killed >= 2, "the process was too quick to be disturbed"
    launch(rough, *arguments)
    assert results(rough) == results(calm)


def test_a_broken_cell_leaves_the_others_and_the_exit_code_says_so(tmp_path):
    bad = tmp_path / "bad.safetensors"
    from safetensors.torch import save_file

    save_file({"transformer.h.0.mlp.c_proj.weight": torch.eye(3)}, bad)
    shown = launch(
        tmp_path,
        "-m",
        "editor=ft,memit",
        "moments.file=" + str(bad),
        *SMALL[:2],
        "num_edits=1",
        code=1,
    )
    states = {p.parent.name.split("-")[1]: p.name for p in tmp_path.glob("outputs/main/cells/*/*r*e*.json")
              if p.name in {"record.json", "failure.json"}}  # fmt: skip
    assert states == {"none": "record.json", "ft": "record.json", "memit": "failure.json"}, shown
    failure = json.loads(next(tmp_path.glob("outputs/main/cells/*/failure.json")).read_text())
    assert "Traceback" in failure["result"]["errors"]["cell"]
    assert "failed" in (tmp_path / "outputs/main/table.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["editor=romme"], "romme"),
        (["num_edit=3"], "num_edit"),
        (["num_edits=many"], "many"),
        (["study=../../away"], "not a name for a folder"),
        (["editor.layer=17"], "17"),
        (["-m", "num_edits=1,900000"], "dataset.repeat=true"),
    ],
)
def test_mistakes_are_told_without_a_traceback_and_leave_nothing_behind(tmp_path, arguments, says):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command(*arguments),
        check=False,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("cells"))
    assert not (tmp_path.parent.parent / "away").exists()


def test_help_explains_groups_and_gives_examples(tmp_path):
    shown = launch(tmp_path, "--help")
    for word in (
        "editor:",
        "rome",
        "num_edits",
        "Examples",
        "dry_run=true",
        "outputs/<study>/report.html",
    ):
        assert word in shown
