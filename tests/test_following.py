"""Looking on: a live table on a terminal, lines elsewhere, until nothing is queued or running."""

import io

import pytest
from typer.testing import CliRunner

from edit_sweeps import cli
from edit_sweeps.launcher import following
from edit_sweeps.launcher.following import follow
from edit_sweeps.launcher.states import CellLook


def looks(*states):
    return [CellLook(f"cell-{i}", str(i), state) for i, state in enumerate(states)]


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A study of three cells that are seen in these states, one look after the other."""
    seen = [
        looks("running", "pending", "pending"),
        looks("done", "running", "pending"),
        looks("done", "failed", "done"),
    ]
    rest = iter(seen)
    monkeypatch.setattr(following, "look", lambda study, names: next(rest))
    monkeypatch.setattr(following.time, "sleep", lambda seconds: None)
    return tmp_path / "outputs" / "main"


class Terminal(io.StringIO):
    """Takes what is shown, and says that somebody looks at it."""

    def isatty(self):
        return True


def test_on_a_terminal_a_table_ends_with_what_became_of_every_cell(course, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    shown = Terminal()
    monkeypatch.setattr("sys.stdout", shown)
    assert follow(course, None, 0.1) == 1
    last = shown.getvalue().rsplit("main: 3 cells: ", 1)[1]
    assert last.startswith("done 2, failed 1")
    assert all(f"cell-{i}" in last for i in range(3))


def test_elsewhere_there_is_a_line_for_every_change(course, capsys):
    assert follow(course, None, 0.1) == 1
    lines = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["running 1, pending 2", "done 1, running 1, pending 1", "done 2, failed 1"]


def test_whoever_has_seen_enough_leaves_without_a_traceback(tmp_path, monkeypatch):
    study = tmp_path / "outputs" / "main"
    study.mkdir(parents=True)
    (study / "plan.json").write_text("[]")

    def enough(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(following, "look", enough)
    done = CliRunner().invoke(cli.app, ["status", str(study), "--watch"])
    assert done.exit_code == 0
    assert "Traceback" not in done.output
