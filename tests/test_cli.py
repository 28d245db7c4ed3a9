"""`edit-sweeps`: studies by name, from any folder of the project, and messages instead of tracebacks."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from edit_sweeps import cli, studies
from tests.synthetic_study import make_record, write_study

run = CliRunner().invoke


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with three studies; the tests stand in it."""
    monkeypatch.delenv(cli.HOME_VARIABLE, raising=False)
    home = tmp_path / "project"
    (home / "conf").mkdir(parents=True)
    (home / "conf" / "config.yaml").touch()
    (home / "launch.py").touch()
    record = make_record("rome", 1)
    record.save(home / "outputs" / "main" / "cells" / record.name)
    write_study(home / "outputs" / "rome-layers")
    (home / "outputs" / "planned").mkdir()
    (home / "outputs" / "planned" / "plan.json").write_text("[]")
    (home / "outputs" / ".cache" / "cells").mkdir(parents=True)
    (home / "outputs" / "README.md").touch()
    monkeypatch.chdir(home)
    return home


def test_report_writes_both_files_and_says_where(project):
    done = run(cli.app, ["report", "main"])
    assert done.exit_code == 0, done.output
    assert "-rome-n1-" in done.stdout
    for name in ("report.html", "table.csv"):
        path = project / "outputs" / "main" / name
        assert path.is_file()
        assert str(path) in done.stdout


def test_studies_are_listed_with_their_states(project):
    done = run(cli.app, ["list"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "main         1 cell: 1 done",
        "planned      0 cells: nothing has run yet",
        "rome-layers  11 cells: 8 done, 1 collapsed, 1 failed, 1 missing",
    ]


@pytest.mark.parametrize("name", ["rome-layer", "rome_layers"])
def test_an_unknown_study_is_a_message_and_exit_code_2(project, name):
    done = run(cli.app, ["report", name])
    assert done.exit_code == 2
    assert f"'{name}'; did you mean rome-layers?" in done.stderr
    assert "Known: main, planned, rome-layers" in done.stderr
    assert "Traceback" not in done.output + done.stderr
    assert isinstance(done.exception, SystemExit)


@pytest.mark.parametrize("name", ["main", "outputs/main", "./outputs/main/"])
def test_a_study_may_be_given_as_its_folder(project, name):
    assert studies.find_study(name) == project / "outputs" / "main"


@pytest.mark.parametrize("name", ["..", ".cache", "", "../project", "README.md"])
def test_nothing_outside_the_studies_is_taken_for_one(project, name):
    with pytest.raises(studies.NotFoundError, match="there is no study"):
        studies.find_study(name)


def test_the_project_is_found_from_below_and_by_variable(project, monkeypatch, tmp_path):
    below = project / "outputs" / "main" / "cells"
    assert cli.find_home(below) == project
    monkeypatch.chdir(tmp_path)
    done = run(cli.app, ["list"])
    assert done.exit_code == 2
    assert cli.HOME_VARIABLE in done.stderr
    monkeypatch.setenv(cli.HOME_VARIABLE, str(project))
    assert run(cli.app, ["list"]).exit_code == 0
    monkeypatch.setenv(cli.HOME_VARIABLE, str(tmp_path))
    assert f"{cli.HOME_VARIABLE}={tmp_path}" in run(cli.app, ["list"]).stderr


def test_names_of_studies_are_completed(project, monkeypatch, tmp_path):
    assert studies.complete_study("") == ["main", "planned", "rome-layers"]
    assert studies.complete_study("r") == ["rome-layers"]
    monkeypatch.chdir(tmp_path)
    assert studies.complete_study("") == []


def test_the_shell_is_offered_the_names(project):
    variables = {
        "_EDIT_SWEEPS_COMPLETE": "complete_bash",
        "COMP_WORDS": "edit-sweeps report ro",
        "COMP_CWORD": "2",
    }
    done = run(cli.app, prog_name="edit-sweeps", env=variables)
    assert done.stdout.split() == ["rome-layers"]


def test_help_is_light():
    heavy = {"torch", "altair", "pandas", "jinja2", "vl_convert", "wandb", "transformers", "hydra"}
    code = f"import sys, edit_sweeps.cli; sys.exit(' '.join({heavy!r} & set(sys.modules)) or 0)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).stderr == b""
    )


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "edit_sweeps", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "Usage: edit-sweeps" in done.stdout
    assert all(command in done.stdout for command in ("report", "list", "outputs/"))
