"""The presets of conf/experiment/: the paper's figures with its models and edit counts, and all of them on the miniature."""

import copy
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from edit_sweeps import config as schema
from edit_sweeps.launcher import launch
from edit_sweeps.launcher.freezing import frozen
from edit_sweeps.launcher.plan import make_plan
from tests.test_conf import CONF, composed

EXPERIMENTS = CONF / "experiment"
PRESETS = sorted(
    str(f.relative_to(EXPERIMENTS).with_suffix("")) for f in EXPERIMENTS.rglob("*.yaml")
)
MINIATURE = ("model=miniature", "dataset=miniature", "task=miniature")
SMALL = (*MINIATURE, "eval.limit=2", "edit_scores.limit=2", "seed=0", "wandb=disabled")
OPERATIONS = (10, 20, 30, 40, 50)

# Preset -> model, editor, edits, regularizer and its shares, counts, batch size where it is fixed.
PAPER = {
    "paper_sequential/kn-gpt2-xl": ("gpt2-xl", "kn", "sequential", [1, 2, 3, 4]),
    "paper_sequential/rome-gpt2-xl": ("gpt2-xl", "rome_identity", "sequential", [5, 10, 15, 20]),
    "paper_sequential/kn-llama-7b": ("llama-7b", "kn", "sequential", [1, 2, 3, 4]),
    "paper_sequential/rome-llama-7b": ("llama-7b", "rome_identity", "sequential", [2, 4, 6, 8, 10]),
    "paper_batch/mend-gpt2-xl": ("gpt2-xl", "mend", "batch", [1, 5, 10]),
    "paper_batch/memit-gpt2-xl": ("gpt2-xl", "memit", "batch", [1, 10, 100, 1000, 2000, 3000]),
    "paper_batch/mend-llama-7b": ("llama-7b", "mend", "batch", [5, 10, 15, 20]),
    "paper_batch/memit-llama-7b": ("llama-7b", "memit", "batch", [1, 5, 10]),
    "paper_batch_sequential/memit-gpt2-xl-10": ("gpt2-xl", "memit", 10, [100, 200, 300, 400, 500]),
    "paper_batch_sequential/memit-gpt2-xl-30": ("gpt2-xl", "memit", 30, [300, 600, 900, 1200, 1500]),
    "paper_batch_sequential/memit-gpt2-xl-50": ("gpt2-xl", "memit", 50, [500, 1000, 1500, 2000, 2500]),
    "paper_batch_sequential/memit-llama-7b-2": ("llama-7b", "memit", 2, [4, 8]),
    "paper_batch_sequential/memit-llama-7b-3": ("llama-7b", "memit", 3, [6, 12]),
    "paper_batch_sequential/memit-llama-7b-4": ("llama-7b", "memit", 4, [8, 16]),
    "rect/rome-gpt2-xl": ("gpt2-xl", "rome_identity", "sequential", [5, 10, 15, 20]),
    "rect/rome-gpt2-xl-controls": ("gpt2-xl", "rome_identity", "sequential", [5, 10, 15, 20]),
    "rect/rome-llama-7b": ("llama-7b", "rome_identity", "sequential", [20]),
    "rect/rome-llama-7b-controls": ("llama-7b", "rome_identity", "sequential", [20]),
    "rect/memit-gpt2-xl": ("gpt2-xl", "memit", "sequential", [20]),
    "rect/memit-gpt2-xl-controls": ("gpt2-xl", "memit", "sequential", [20]),
    "rect/memit-llama-7b": ("llama-7b", "memit", "sequential", [20]),
    "rect/memit-llama-7b-controls": ("llama-7b", "memit", "sequential", [20]),
    "paper_sequential": ("gpt2-xl", "rome_identity", "sequential", [5, 10, 15, 20]),
    "paper_batch": ("gpt2-xl", "memit", "batch", [1, 10, 100, 1000, 2000, 3000]),
    "paper_batch_sequential": ("gpt2-xl", "memit", 10, [100, 200, 300, 400, 500]),
    "rect": ("gpt2-xl", "rome_identity", "sequential", [5, 10, 15, 20]),
}  # fmt: skip
EDITS_ONLY = [p for p in PAPER if p.startswith("rect/") and "rome-gpt2-xl" not in p]
STUDIES = {
    "paper_sequential": "paper-sequential",
    "paper_batch": "paper-batch",
    "paper_batch_sequential": "paper-batch-sequential",
    "rect": "paper-rect",
}
OURS = [
    "miniature_curve",
    "miniature_singles",
    "results_miniature",
    "results_regularizers",
    "smoke",
]


@pytest.fixture
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDIT_SWEEPS_CACHE", raising=False)


@functools.cache
def params(preset):
    """What the preset sweeps: `key -> values`, as text."""
    schema.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=[f"experiment={preset}"], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    return dict(config.hydra.sweeper.params)


def points(preset, *overrides):
    """The overrides of each cell, as Hydra's own sweeper makes them; those given go before the preset's own."""
    given = dict(override.split("=", 1) for override in overrides)
    lines = [f"{key}={value}" for key, value in (params(preset) | given).items()]
    parsed = OverridesParser.create().parse_overrides(lines)
    return [list(point) for point in BasicSweeper.split_arguments(parsed, None)[0]]


def grid(preset, *overrides):
    """What the launcher is given. Groups are composed once; plain values are then put in, which is quicker."""
    return [
        frozen(filled(preset, tuple(point)), [*point, f"experiment={preset}"])
        for point in points(preset, *overrides)
    ]


def filled(preset, point):
    groups = tuple(
        o for o in point if o.split("=")[0] in {"model", "dataset", "task", "regularizer", "wandb"}
    )
    config = copy.deepcopy(composed_once(f"experiment={preset}", *groups))
    for override in set(point) - set(groups):
        key, value = override.split("=")
        OmegaConf.update(config, key, yaml.safe_load(value))
    return config


@functools.cache
def composed_once(*overrides):
    return composed(*overrides)


def swept(preset, key):
    """The values of a swept key, as text, in order."""
    return str(params(preset)[key]).split(",")


def test_every_preset_is_in_a_list_of_this_file():
    assert sorted([*PAPER, *OURS]) == PRESETS


@pytest.mark.parametrize("preset", PAPER)
def test_a_preset_of_the_paper_has_its_model_editor_and_counts(preset):
    model, editor, edits, counts = PAPER[preset]
    config = filled(preset, (f"num_edits={counts[0]}",))
    assert (config.model.name, config.editor.name) == (model, editor)
    assert [int(n) for n in swept(preset, "num_edits")] == counts
    if isinstance(edits, int):
        assert (config.edits.name, config.edits.batch_size) == ("batch_sequential", edits)
        operations = OPERATIONS if model == "gpt2-xl" else (2, 4)
        assert counts == [edits * n for n in operations]
    else:
        assert config.edits.name == edits
        assert config.edits.batch_size == {"sequential": 1, "batch": counts[0]}[edits]
    assert swept(preset, "seed") == ["0", "1", "2"]
    assert config.study == STUDIES[preset.split("/")[0]]
    assert (config.dataset.name, config.dataset.repeat, config.dataset.target) == (
        "zsre_paper", True, "alt",
    )  # fmt: skip
    assert config.dataset.cap
    assert len(config.task) == (0 if preset in EDITS_ONLY else 8)
    assert config.moments.name == "faithful"


@pytest.mark.parametrize("preset", [p for p in PAPER if p.startswith("rect")])
def test_rect_has_the_papers_shares_and_what_it_is_compared_with(preset):
    if preset.endswith("-controls"):
        assert swept(preset, "regularizer") == ["none", "random", "low_rank"]
        random = OmegaConf.load(CONF / "regularizer" / "random.yaml")
        assert random.keep == 0.4
    else:
        assert swept(preset, "regularizer.keep") == ["0.8", "0.6", "0.4", "0.2"]
        regularizer = filled(preset, ()).regularizer
        assert (regularizer.name, regularizer.reference) == ("rect", "current")


def test_the_papers_editors_run_with_the_papers_values():
    rome = filled("paper_sequential", ()).editor
    assert (rome.second_moment, rome.layer, rome.value.lr, rome.value.steps) == (False, 17, 0.5, 20)
    memit = filled("paper_batch/memit-llama-7b", ()).editor
    assert memit.layers == [4, 5, 6, 7, 8]
    assert (memit.value.clamp, memit.second_moment_weight) == (4.0, 15000.0)
    kn = filled("paper_sequential/kn-llama-7b", ()).editor
    assert (kn.mode, kn.steps) == ("port", 1)
    mend = filled("paper_batch/mend-gpt2-xl", ()).editor
    assert (mend.layers, mend.train_source) == ([45, 46, 47], "zsre")


def test_on_the_miniature_nothing_is_taken_from_elsewhere():
    config = composed("experiment=paper_batch/mend-gpt2-xl", "model=miniature-llama")
    assert config.moments.name == "miniature"
    assert (config.editor.train_source, config.editor.train_file) == ("miniature", None)
    asked = composed("experiment=paper_batch", "model=miniature", "moments=quick")
    assert asked.moments.name == "quick", "the command line wins"


CAPPED = {  # what is left of the counts on the 640 requests of the miniature
    "paper_batch/memit-gpt2-xl": [1, 10, 100, 640],
    "paper_batch_sequential/memit-gpt2-xl-30": [300, 600, 640],
    "paper_batch_sequential/memit-gpt2-xl-50": [500, 640],
}


@pytest.mark.usefixtures("in_an_empty_folder")
@pytest.mark.parametrize("preset", [p for p in PAPER if "/" in p])
def test_a_preset_of_the_paper_is_planned_on_the_miniature(preset):
    cells = make_plan(grid(preset, *MINIATURE, "seed=0")).todo()
    assert cells[0].is_baseline
    edited = cells[1:]
    counts = CAPPED.get(preset, PAPER[preset][3])
    assert list(dict.fromkeys(cell.num_edits for cell in edited)) == counts
    ways = {"rect": 3 if preset.endswith("-controls") else 4}.get(preset.split("/")[0], 1)
    assert len(edited) == ways * len(counts)
    for cell in edited:
        more = [n for n in PAPER[preset][3] if n > 640] if cell.num_edits == 640 else []
        assert cell.config["num_edits_asked"] == more


@pytest.mark.usefixtures("in_an_empty_folder")
@pytest.mark.parametrize(
    ("preset", "task", "counts", "cells"),
    [("paper_sequential", "task=miniature", "1,3", 3), ("rect/rome-llama-7b", "task=none", "2", 4)],
)
def test_a_preset_runs_end_to_end_in_small(preset, task, counts, cells, tmp_path):
    launch(grid(preset, *SMALL, task, f"num_edits={counts}"))
    study = tmp_path / "outputs" / STUDIES[preset.split("/")[0]]
    records = [json.loads(f.read_text()) for f in study.glob("cells/*/record.json")]
    assert len(records) == cells
    assert {record["state"] for record in records} <= {"done", "collapsed"}
    assert (study / "report.html").exists()
    assert (study / "table.csv").exists()


FEWER = {  # what is cut besides the number of edits
    "miniature_singles": ["dataset.skip=0,7", "task=none"],
    "results_miniature": ["editor=rome,memit"],
    "results_regularizers": ["editor=rome", "regularizer=rect,prune"],
}


@pytest.mark.slow
@pytest.mark.parametrize("preset", [p for p in PRESETS if "/" in p or p in OURS])
def test_every_preset_runs_by_its_command_on_the_miniature(preset, tmp_path):
    launcher = Path(__file__).parent.parent / "launch.py"
    few = ["num_edits=2", *FEWER.get(preset, [])]
    command = [sys.executable, str(launcher), f"experiment={preset}", *SMALL, *few]
    environment = os.environ | {"EDIT_SWEEPS_CACHE": str(tmp_path.parent / "cache")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    states = [json.loads(f.read_text())["state"] for f in tmp_path.rglob("cells/*/record.json")]
    assert len(states) >= 2
    assert set(states) <= {"done", "collapsed"}
    assert not list(tmp_path.rglob("failure.json"))
