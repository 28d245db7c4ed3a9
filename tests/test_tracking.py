"""W&B gets each record once, and can neither hang nor change anything: what is written is read back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edit_sweeps import tracking, wandb_run
from edit_sweeps.record import Record
from edit_sweeps.tracking import WandbSettings, push, run_child, run_id
from tests.synthetic_study import TASKS, make_record
from tests.wandb_reader import runs_below
from tests.wandb_stub import API_KEY, BlackHole, Stub


@pytest.fixture
def cell(tmp_path, monkeypatch):
    """The folder of one synthetic cell; no W&B account, no key, no setting of the machine's."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    record = make_record("rome", 10, overrides={"editor.value.lr": 0.5})
    folder = tmp_path / "outputs" / "synthetic" / "cells" / record.name
    record.save(folder)
    return folder


def study_of(folder: Path) -> Path:
    return folder.parent.parent


def note(folder: Path) -> dict:
    return json.loads((folder / "wandb.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "wandb.json"}


def test_an_offline_run_holds_the_record(cell):
    before = contents(cell)
    assert push(cell, "synthetic", WandbSettings(mode="offline", tags=("mine",))) == "offline"
    (run,) = runs_below(study_of(cell))
    record = Record.load(cell)
    assert run.id == run_id("synthetic", cell) == note(cell)["run_id"]
    assert (run.group, run.job_type, run.project) == ("synthetic", "edit", "edit-sweeps")
    assert run.name == "miniature/rome/n10/s0"
    assert set(run.tags) == {"miniature", "rome", "synthetic", "mine"}
    flat = {
        "model": "miniature", "editor": "rome", "regularizer": "none", "dataset": "miniature", "edits": "sequential",
        "batch_size": 1, "num_edits": 10, "seed": 0, "study": "synthetic", "cell": record.name, "key": record.key,
        "schema": 1,
    }  # fmt: skip
    assert {k: run.config.get(k) for k in flat} == flat
    assert run.config["cfg"] == record.config
    assert run.metrics["*"] == "num_edits"
    (row,) = run.history
    assert row["num_edits"] == run.summary["num_edits"] == 10
    for task, (metric, _, _) in TASKS.items():
        assert run.summary[f"task/{task}/{metric}"] == pytest.approx(
            record.scores[task][metric].value
        )
        assert row[f"delta/{task}"] == pytest.approx(record.comparisons[task][metric].difference)
        assert row[f"retention/{task}"] == pytest.approx(record.comparisons[task][metric].retention)
    assert run.summary["edit/efficacy"] == pytest.approx(record.scores["edit"]["efficacy"].value)
    assert run.summary["weights/rel_norm"] == pytest.approx(1 / 40)
    assert run.summary["time/edit"] == 12.25
    assert 0 < run.summary["retention/mean"] < 1
    assert run.summary["state"] == "done"
    assert run.exit_code == 0
    ours = [name for name in row if not name.startswith("_")]
    assert len(ours) > 30
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_/]*", name) for name in ours)
    assert contents(cell) == before


def test_pushing_again_adds_nothing_until_the_record_changes(cell):
    settings = WandbSettings(mode="offline")
    push(cell, "synthetic", settings)
    written = (cell / "wandb.json").read_bytes()
    start = time.monotonic()
    assert push(cell, "synthetic", settings) == "offline"
    assert time.monotonic() - start < 0.5, "an unchanged record needs no child"
    assert (cell / "wandb.json").read_bytes() == written
    assert len(runs_below(study_of(cell))) == 1

    record = Record.load(cell)
    record.counts["requests"] = 11
    record.save(cell)
    assert push(cell, "synthetic", settings) == "offline"
    first, second = runs_below(study_of(cell))
    assert first.id == second.id
    assert (len(first.history), len(second.history)) == (1, 0), (
        "a synced run would get the row twice"
    )
    assert second.summary["num_edits"] == 10


def test_without_a_key_auto_writes_offline_and_asks_nothing(cell):
    start = time.monotonic()
    assert push(cell, "synthetic", WandbSettings(hard_timeout_s=60)) == "offline"
    assert time.monotonic() - start < 30
    assert note(cell)["reason"] == "no API key"
    assert len(runs_below(study_of(cell))) == 1


def test_disabled_does_nothing(cell, monkeypatch):
    monkeypatch.setattr(tracking, "run_child", lambda *_: pytest.fail("a child was started"))
    before = sorted(study_of(cell).rglob("*"))
    assert push(cell, "synthetic", WandbSettings(mode="disabled")) == "skipped"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert push(cell, "synthetic", WandbSettings(mode="auto")) == "skipped"
    assert sorted(study_of(cell).rglob("*")) == before


def test_a_child_that_hangs_is_killed_with_its_children(cell, monkeypatch, tmp_path):
    alive = tmp_path / "alive"
    grandchild = f"import time,pathlib\nwhile True: pathlib.Path({str(alive)!r}).write_text(str(time.time())); time.sleep(.05)"
    hang = f"import subprocess,sys,time; subprocess.Popen([sys.executable,'-c',{grandchild!r}]); time.sleep(600)"
    monkeypatch.setattr(tracking, "command", lambda *_: [sys.executable, "-c", hang])
    before, start = contents(cell), time.monotonic()
    outcome = push(cell, "synthetic", WandbSettings(mode="online", hard_timeout_s=1.5))
    assert time.monotonic() - start < 5
    assert outcome.startswith("failed: no end within 1.5 s")
    assert note(cell)["outcome"] == outcome
    assert contents(cell) == before
    assert alive.exists(), "the grandchild never ran"
    time.sleep(0.3)
    last = alive.read_text()
    time.sleep(0.3)
    assert alive.read_text() == last, "the grandchild lives on"


def test_an_outcome_told_before_a_hang_counts():
    late = "import json,time; print(json.dumps({'outcome': 'pushed'}), flush=True); time.sleep(600)"
    assert run_child([sys.executable, "-c", late], 1.5) == {"outcome": "pushed"}


def test_a_child_that_dies_is_told_of_by_its_last_words(cell, monkeypatch):
    dies = "import sys; sys.stderr.write('Traceback ...\\nOSError: disk full\\n'); sys.exit(3)"
    monkeypatch.setattr(tracking, "command", lambda *_: [sys.executable, "-c", dies])
    assert (
        push(cell, "synthetic", WandbSettings(mode="offline"))
        == "failed: exit status 3: OSError: disk full"
    )
    monkeypatch.setattr(tracking, "command", lambda *_: ["/no/such/program"])
    assert push(cell, "synthetic", WandbSettings(mode="offline")).startswith("failed: ")


def test_a_cell_without_a_record_fails_softly(cell):
    (cell / "record.json").unlink()
    assert push(cell, "synthetic", WandbSettings(mode="offline")).startswith(
        "failed: exit status 1"
    )


def test_an_unreachable_folder_raises_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "command", lambda *_: [sys.executable, "-c", ""])
    gone = tmp_path / "outputs" / "s" / "cells" / "x-abc"
    assert push(gone, "s", WandbSettings(mode="offline")).startswith("failed")


def test_the_run_id_depends_on_study_and_cell_only():
    a, b = (
        Path("outputs/s/cells/m-rome-n1-s0-0123456789"),
        Path("/elsewhere/cells/m-rome-n1-s0-0123456789"),
    )
    assert run_id("s", a) == run_id("s", b)
    assert run_id("t", a) != run_id("s", a)
    assert run_id("s", Path("outputs/s/cells/m-rome-n1-s0-9876543210")) != run_id("s", a)
    assert re.fullmatch("[0-9a-f]{16}", run_id("s", a))


def test_an_unknown_mode_is_refused_with_those_allowed():
    with pytest.raises(ValueError, match=r"'on'.*auto, online, offline, disabled"):
        WandbSettings(mode="on")


def test_baselines_and_unknown_figures():
    record = make_record("none", 5)
    config = wandb_run.flat_config(record, "s")
    assert (config["num_edits"], config["dataset"], config["batch_size"]) == (0, "", None)
    figures = wandb_run.metrics(record)
    assert "task/miniature_nli/acc" in figures
    assert not [
        name for name in figures if name.startswith(("delta", "retention", "weights", "edit/"))
    ]
    assert wandb_run.clean("exact_match,strict-match") == "exact_match_strict_match"


def test_importing_the_launchers_side_does_not_import_wandb():
    code = "import sys, edit_sweeps.tracking; sys.exit('wandb' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_online_a_second_push_takes_up_the_run_and_repeats_no_row(cell, monkeypatch):
    with Stub() as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        assert push(cell, "synthetic", WandbSettings(hard_timeout_s=90)) == "pushed", note(cell)
        assert push(cell, "synthetic", WandbSettings(hard_timeout_s=90)) == "pushed"
        assert stub.starts == 1, "an unchanged record was sent again"
        (cell / "wandb.json").unlink()
        assert push(cell, "synthetic", WandbSettings(hard_timeout_s=90)) == "pushed", note(cell)
    ((name, run),) = stub.runs.items()
    assert name == run_id("synthetic", cell)
    assert stub.starts == 2
    assert (run["groupName"], run["jobType"]) == ("synthetic", "edit")
    assert len(run["history"]) == 1
    assert run["summary"]["edit/efficacy"] == pytest.approx(
        Record.load(cell).scores["edit"]["efficacy"].value
    )


@pytest.mark.slow
def test_a_refusing_server_leaves_the_run_offline(cell, monkeypatch):
    with Stub(refuse=403) as stub:
        monkeypatch.setenv("WANDB_BASE_URL", stub.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        assert (
            push(cell, "synthetic", WandbSettings(mode="online", hard_timeout_s=90)) == "offline"
        ), note(cell)
    assert note(cell)["reason"]
    whole = [run for run in runs_below(study_of(cell)) if run.history]
    assert len(whole) == 1
    assert whole[0].summary["num_edits"] == 10


@pytest.mark.slow
def test_a_server_that_never_answers_loses_nothing(cell, monkeypatch):
    with BlackHole() as hole:
        monkeypatch.setenv("WANDB_BASE_URL", hole.url)
        monkeypatch.setenv("WANDB_API_KEY", API_KEY)
        settings = WandbSettings(mode="online", hard_timeout_s=8, init_timeout_s=60)
        start = time.monotonic()
        assert push(cell, "synthetic", settings).startswith("failed: no end within 8 s")
        assert time.monotonic() - start < 12
        patient = WandbSettings(mode="online", hard_timeout_s=120, init_timeout_s=5)
        assert push(cell, "synthetic", patient) == "offline", note(cell)
    assert [run.history[0]["num_edits"] for run in runs_below(study_of(cell)) if run.history] == [
        10
    ]
