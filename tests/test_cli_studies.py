"""status, logs, cancel, retry, collect, prune, push: on studies that a test put together, without Slurm."""

import io
import json
import os
import time

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from edit_sweeps import cli, provenance
from edit_sweeps.launcher import pruning
from edit_sweeps.launcher.showing import live_view, text_view
from edit_sweeps.launcher.states import CellLook
from edit_sweeps.record import Record
from edit_sweeps.tracking import run_id
from tests.synthetic_study import TRACEBACK, make_record, write_study
from tests.wandb_stub import API_KEY, Stub

run = CliRunner().invoke


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with outputs/rome: ten and one cells in all states that need no Slurm; the tests stand in it."""
    for name in ("EDIT_SWEEPS_HOME", "WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    write_study(tmp_path / "outputs" / "rome")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_status_counts_and_lists_every_cell(home):
    done = run(cli.app, ["status", "rome"])
    assert done.exit_code == 0, done.output
    first, *lines = done.stdout.splitlines()
    assert first == "rome: 11 cells: done 8, collapsed 1, failed 1, missing 1"
    assert sum("miniature-" in line for line in lines) == 11
    (failed,) = [line for line in lines if line.startswith("failed")]
    assert "ValueError: layer 9" in failed
    assert failed.split()[1].startswith("miniature-memit-n30")


def test_status_is_the_same_from_any_folder_and_by_path(home, monkeypatch):
    here = run(cli.app, ["status", "rome"]).stdout
    below = home / "outputs" / "rome" / "cells"
    monkeypatch.chdir(below)
    assert run(cli.app, ["status", "rome"]).stdout == here
    (home / "far" / "away").mkdir(parents=True)
    monkeypatch.chdir("/")
    assert run(cli.app, ["status", str(home / "outputs" / "rome")]).stdout == here


def test_status_of_some_states_and_for_programs(home):
    done = run(cli.app, ["status", "rome", "--state", "failed", "--json"])
    (cell,) = json.loads(done.stdout)["cells"]
    assert cell["state"] == "failed"
    assert "miniature-" not in run(cli.app, ["status", "rome", "--state", "lost"]).stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--state", "broken"], "allowed: done, collapsed, running"),
        (["--watch", "--json"], "leave out --state"),
        (["--watch", "--failed"], "leave out --state"),
    ],
)
def test_options_of_status_that_make_no_sense_are_refused(home, options, says):
    done = run(cli.app, ["status", "rome", *options], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert says in " ".join(done.stderr.replace("│", " ").split())


def test_failed_is_short_for_failed_and_lost_and_the_counts_stay_those_of_the_study(home):
    first, *lines = run(cli.app, ["status", "rome", "--failed"]).stdout.splitlines()
    assert first == "rome: 11 cells: done 8, collapsed 1, failed 1, missing 1"
    assert [line.split()[0] for line in lines if "miniature-" in line] == ["failed"]
    assert "(10 in other states, not shown" in "\n".join(lines)


@pytest.mark.parametrize("width", [40, 80, 140])
def test_a_reason_with_brackets_is_shown_as_it_is_on_a_terminal(home, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    why = "KeyError: '[/INST]' is no token of [bold]"
    looks = [CellLook("rome-n1-s0-0123456789", "0123456789", "failed", why)]
    console = Console(width=width, file=io.StringIO())
    console.print(live_view(home / "outputs" / "rome", looks))
    shown = console.file.getvalue()
    assert "[/INST]" in shown
    assert all(len(line) <= width for line in shown.splitlines())
    if width >= 80:
        assert "rome-n1-s0-0123456789" in shown
        assert "[bold]" in shown


def test_a_study_without_cells_has_an_empty_table(home):
    console = Console(width=80, file=io.StringIO())
    console.print(live_view(home / "outputs" / "rome", []))
    assert "rome: no cells yet" in console.file.getvalue()


def test_in_a_large_study_what_must_be_looked_at_comes_first(home):
    states = ["missing", "pending", "running", "lost", "failed", "done"] * 10
    looks = [CellLook(f"c{i}", str(i), state) for i, state in enumerate(states)]
    lines = text_view(home / "outputs" / "rome", looks).splitlines()[2:]
    order = list(dict.fromkeys(line.split()[0] for line in lines if not line.startswith("(")))
    assert order == ["failed", "lost", "running", "pending", "missing"]


def test_of_a_large_study_the_finished_cells_are_counted_only(home):
    for seed in range(60):
        record = make_record("rome", 1, seed)
        record.save(home / "outputs" / "many" / "cells" / record.name)
    short = run(cli.app, ["status", "many"]).stdout
    assert "(60 finished, not shown; --all shows every cell)" in short
    assert "-rome-" not in short
    assert run(cli.app, ["status", "many", "--all"]).stdout.count("-rome-") == 60


def test_status_only_reads(home, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("collected")

    def files():
        return {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()}

    before = files()
    for command in (
        ["status", "rome"],
        ["logs", "memit-n30"],
        ["collect", "rome", "--to", str(elsewhere)],
    ):
        assert run(cli.app, command).exit_code == 0
    assert files() == before


def test_watching_ends_when_nothing_runs_and_says_by_its_code_that_cells_failed(home):
    done = run(cli.app, ["status", "rome", "--watch", "--every", "0.2"])
    assert done.exit_code == 1
    assert "failed 1" in done.stdout


def test_logs_tell_why_a_cell_failed_and_the_end_of_its_log(home):
    (folder,) = (home / "outputs" / "rome" / "cells").glob("*-memit-n30-*")
    (folder / "cell.log").write_text("\n".join(f"line {i}" for i in range(100)))
    done = run(cli.app, ["logs", "memit-n30", "-n", "3"])
    assert done.exit_code == 0, done.output
    for line in TRACEBACK.splitlines():
        assert line in done.stdout
    assert "line 97\nline 98\nline 99" in done.stdout
    assert "line 96" not in done.stdout


@pytest.mark.parametrize(
    ("part", "says"), [("memit", "is in the names of"), ("nothing", "no cell of rome has")]
)
def test_a_part_that_is_in_no_name_or_in_many_is_told(home, part, says):
    done = run(cli.app, ["logs", part])
    assert done.exit_code == 2
    assert says in done.stderr
    assert "Traceback" not in done.output + done.stderr


def test_nothing_to_cancel_and_nothing_to_retry_without_slurm(home):
    assert "Nothing to cancel" in run(cli.app, ["cancel", "rome"]).stdout
    done = run(cli.app, ["retry", "rome"])
    assert done.exit_code == 0, done.output
    assert "repeat their launch.py command" in done.stdout


def test_collected_tables_have_a_row_for_each_cell_task_and_metric(home):
    done = run(cli.app, ["collect", "rome"])
    assert done.exit_code == 0, done.output
    assert "done 8, collapsed 1, failed 1, missing 1" in done.stdout
    study = home / "outputs" / "rome"
    table = pd.read_parquet(study / "results.parquet")
    again = pd.read_csv(study / "results.csv")
    assert len(table) == len(again) > 100
    assert set(table.study) == {"rome"}
    pd.testing.assert_series_equal(table.value, again.value, check_dtype=False)
    cells = pd.read_csv(study / "cells.csv")
    assert sorted(cells.state) == sorted(["done"] * 8 + ["collapsed", "failed", "missing"])


def test_several_studies_are_collected_into_one_table(home):
    write_study(home / "outputs" / "other")
    done = run(cli.app, ["collect", "rome", "other", "--to", str(home / "both")])
    assert done.exit_code == 0, done.output
    assert set(pd.read_parquet(home / "both" / "results.parquet").study) == {"rome", "other"}


# prune


@pytest.fixture
def old(home):
    """A study whose cells are all done, with prefixes nobody has touched for a month."""
    study = home / "outputs" / "old"
    record = make_record("rome", 1)
    record.save(study / "cells" / record.name)
    for name in ("aaa", "bbb"):
        file = study / "trajectories" / name / "000001" / "ledger.safetensors"
        file.parent.mkdir(parents=True)
        file.write_bytes(bytes(2048))
        then = time.time() - 30 * 86400
        for path in (file, file.parent, file.parent.parent):
            os.utime(path, (then, then))
    return study


def test_prefixes_of_finished_cells_go_and_records_stay(old):
    shown = run(cli.app, ["prune", "old", "--dry-run"]).stdout
    assert "2 files and folders, 4.0 KiB in all" in shown
    assert len(list((old / "trajectories").iterdir())) == 2
    done = run(cli.app, ["prune", "old", "--yes"])
    assert "Removed 4.0 KiB" in done.stdout
    assert list((old / "trajectories").iterdir()) == []
    assert len(list(old.glob("cells/*/record.json"))) == 1
    assert "Nothing to remove" in run(cli.app, ["prune", "old"]).stdout


def test_without_a_yes_nothing_goes(old):
    done = run(cli.app, ["prune", "old"], input="n\n")
    assert done.exit_code == 1
    assert len(list((old / "trajectories").iterdir())) == 2


def test_what_was_touched_lately_stays(old):
    (old / "trajectories" / "aaa" / "000002").mkdir()
    assert "1 files and folders" in run(cli.app, ["prune", "old", "--dry-run"]).stdout
    assert "Nothing" in run(cli.app, ["prune", "old", "--dry-run", "--older-than", "40d"]).stdout


def test_while_a_cell_is_not_done_its_study_keeps_its_prefixes(old):
    record = make_record("memit", 30)
    record.state, record.errors = "failed", {"cell": TRACEBACK}
    record.save(old / "cells" / record.name)
    assert "Nothing to remove" in run(cli.app, ["prune", "old", "--dry-run"]).stdout


def test_an_age_that_is_none_is_told(old):
    done = run(cli.app, ["prune", "old", "--older-than", "soon"])
    assert done.exit_code == 2
    assert "12h or 30d" in done.stderr


@pytest.mark.parametrize(
    ("size", "told"), [(0, "0 bytes"), (2048, "2.0 KiB"), (3 * 2**30, "3.0 GiB")]
)
def test_sizes_are_told_in_units_one_can_read(size, told):
    assert pruning.readable(size) == told


# push


@pytest.mark.slow
def test_pushing_twice_puts_every_record_there_once(home, monkeypatch):
    monkeypatch.setenv("HOME", str(home / "home"))
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    study = home / "outputs" / "two"
    records = [make_record("rome", n) for n in (1, 10)]
    for record in records:
        record.save(study / "cells" / record.name)
    with Stub() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        first = run(cli.app, ["push", "two"])
        assert first.exit_code == 0, first.output
        assert "2 pushed" in first.stdout
        again = run(cli.app, ["push", "two"])
        assert "2 there already" in again.stdout
        assert set(server.runs) == {run_id("two", study / "cells" / r.name) for r in records}
    assert all(Record.load(study / "cells" / r.name).state == "done" for r in records)


def test_provenance_reads_the_commit_of_a_copy_from_its_note(tmp_path, monkeypatch):
    (tmp_path / provenance.GIT_FILE).write_text("abc123-dirty\n")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "edit_sweeps" / "provenance.py"))
    assert provenance.git_version() == "abc123-dirty"
