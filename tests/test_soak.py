"""The soak (`make soak`) would say so if something were wrong."""

import collections
import importlib.util
import json

import pytest

from tests.slurm_study import ROOT, Study

SCRIPT = ROOT / "scripts" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def study_of(folder, results, ends=("done",)):
    """A study with these results, each cell started once and ended so."""
    study = Study(folder)
    for name, result in results.items():
        cell = study.path / "cells" / name
        cell.mkdir(parents=True)
        (cell / "record.json").write_text(json.dumps({"result": result}))
        lines = [{"number": 1, "started": "then"}]
        lines += [{"number": 1 + i, "ended": "now", "how": how} for i, how in enumerate(ends)]
        (cell / "attempts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return study


CALM = {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("found", "ends", "code", "told"),
    [
        (CALM, ["done"], 0, "0 lost, 0 done twice, 0 different"),
        ({"a": 1}, ["done"], 1, "1 lost, 0 done twice, 0 different"),
        (CALM | {"b": 3}, ["done"], 1, "0 lost, 0 done twice, 1 different"),
        (CALM, ["done", "done"], 1, "0 lost, 2 done twice, 0 different"),
        (CALM | {"c": 1}, ["done"], 1, "0 lost, 0 done twice, 1 different"),
    ],
    ids=["as it should be", "a cell lost", "a cell different", "done twice", "a cell too many"],
)
def test_it_judges(tmp_path, soak, capsys, found, ends, code, told):
    rough, calm = study_of(tmp_path / "rough", found, ends), study_of(tmp_path / "calm", CALM)
    assert soak.judge(rough, calm, 2, 1, 1.0, collections.Counter(kill=1)) == code
    assert told in capsys.readouterr().out


def test_a_disturber_that_dies_is_not_taken_for_a_quiet_one(soak, monkeypatch):
    trouble = soak.Trouble(None, 0.001, 0)
    trouble.start()
    trouble.join(10)
    assert isinstance(trouble.error, AttributeError)
