"""A grid composed once for each combination of options: every cell is what Hydra alone would make of it."""

import copy
import itertools
import random
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edit_sweeps import config as schema
from edit_sweeps.config import Config
from edit_sweeps.launcher import tuned
from edit_sweeps.launcher.composing import compose
from edit_sweeps.launcher.freezing import Refusal, leaves

CONF = Path(__file__).parent.parent / "conf"
GROUPS = {
    "model": ["miniature", "miniature-llama", "gpt2-xl", "llama-2-7b"],
    "editor": ["rome", "memit", "ft", "kn", "mend", "grace", "none"],
    "edits": ["sequential", "batch", "batch_sequential"],
    "task": ["miniature", "none", "[miniature,paper8]", "custom"],
    "tuned": ["default", "easyedit"],
    "moments": ["quick", "miniature"],
    "regularizer": ["none", "rect"],
    "experiment": ["smoke", "paper_batch", "paper_batch/mend-gpt2-xl"],
}
VALUES = {
    "num_edits": ["1", "10", "${seed}"],
    "seed": ["3", "7", "'5'"],
    "study": ["'a.b'", "x${seed}"],
    "edits.batch_size": ["4", "${num_edits}"],
    "eval.limit": ["null", "0.5", "12"],
    "save": ["[delta,model]", "none"],
    "editor.layer": ["2", "null"],
    "editor.layers": ["[1,2]", "[3]"],
    "editor.value.steps": ["8"],
    "editor.value": ["{lr:0.25}"],
    "model.pretrained": ["some/where", "'with space'"],
    "wandb.tags": ["[a,'b c']"],
    "task.miniature.limit": ["3"],
    "cluster.time": ["'4:00:00'", "30"],
    "dataset.path": ["a/${study}.json", "null"],
    "hydra.job.name": ["other"],
    "hydra/job_logging": ["default"],
    "hydra.verbose": ["true"],
    "num_edits_asked": ["[7]"],
    "resume": ["'on'", "auto"],
}
UNUSUAL = [
    "+editor.extra=1", "++num_edits=5", "++editor.layer=9", "~eval.limit", "+wandb.more=2", "+seeed=3",
    "~regularizer", "tuned@editor=rome-gpt2-xl", "+cluster.extra={a: 1}", "++task.miniature.limit=4",
]  # fmt: skip
BAD = [
    "num_edit=3", "num_edits=many", "editor=romme", "editor.stepz=3", "task.paper.limit=3", "nogroup@x=1", "seed.x=1",
    "editor.layers.9=3", "edits.batch_size=[1]", "cluster.wait=perhaps", "+model=gpt2-xl", "~nothing", "tuned/school=x",
]  # fmt: skip


QUICK = 6
"""So many draws are held against Hydra in the quick tests."""


@pytest.fixture(scope="module")
def hydra_parts():
    """Hydra's loader, and the configuration of a command without overrides."""
    schema.register()
    with initialize_config_dir(str(CONF), **schema.version_base()):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("config", [], RunMode.MULTIRUN)


def by_hydra(parts, overrides):
    """The frozen tree as Hydra and one merge into the schema make it, every value resolved before."""
    loader, master = parts
    config = copy.copy(loader.load_sweep_config(master, list(overrides)))
    OmegaConf.set_struct(config, value=False)
    config.pop("hydra")
    tree = OmegaConf.to_container(config, resolve=True)
    unknown = set(tree) - set(Config.__dataclass_fields__)
    if unknown:
        raise Refusal(unknown)
    guessed = tuned.fill_by_depth(tree, [path for path, value in leaves(tree) if value == "???"])
    if any(value == "???" for _, value in leaves(tree)):
        raise Refusal
    tree["tuned_source"] = tuned.describe_source(tree, guessed)
    tree["num_edits_asked"] = []
    return OmegaConf.to_container(OmegaConf.merge(OmegaConf.structured(Config), tree), resolve=True)


def outcome(make):
    """What comes of it: a tree, that it cannot be frozen, or Hydra's words."""
    try:
        return make()
    except HydraException as error:
        return str(error).partition("\nIn the cell")[0], str(error.__cause__)
    except (Refusal, OmegaConfBaseException, ValueError):
        return None


def drawn(seed):
    """A command's overrides: several for some keys, as a sweep has them, in a random order."""
    draw = random.Random(seed)
    picked = draw.sample(sorted(GROUPS), draw.randint(0, 3))
    axes = {key: draw.sample(GROUPS[key], draw.randint(1, 2)) for key in picked}
    for key in draw.sample(sorted(VALUES), draw.randint(1, 5)):
        axes[key] = draw.sample(VALUES[key], draw.randint(1, min(2, len(VALUES[key]))))
    rows = [[f"{key}={value}" for value in values] for key, values in axes.items()]
    rows += [[text] for text in draw.sample(UNUSUAL, draw.choice([0, 0, 0, 1, 2]))]
    draw.shuffle(rows)
    points = list(itertools.product(*rows))
    return draw.sample(points, min(4, len(points)))


SEEDS = [pytest.param(s, marks=[pytest.mark.slow] * (s >= QUICK)) for s in range(40)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cell_of_a_grid_is_the_one_that_hydra_composes_alone(hydra_parts, seed):
    points = drawn(seed)
    expected = [outcome(lambda point=point: by_hydra(hydra_parts, point)) for point in points]
    refused = [e for e in expected if isinstance(e, tuple)]
    got = outcome(lambda: compose(*hydra_parts, points))
    if refused and not isinstance(got, list):
        assert got == refused[0], points
        return
    # One that Hydra refuses may have another fault beside it, and that one be told.
    cells, expected = got, [None if isinstance(e, tuple) else e for e in expected]
    assert [cell.tree for cell in cells] == expected, points
    assert [cell.overrides for cell in cells] == points
    assert all(cell.tree or cell.reason for cell in cells)


@pytest.mark.slow
def test_the_draws_are_not_all_refused(hydra_parts):
    found = [outcome(lambda p=p: by_hydra(hydra_parts, p)) for s in range(40) for p in drawn(s)[:1]]
    assert sum(isinstance(f, dict) for f in found) >= 12
    assert sum(not isinstance(f, dict) for f in found) >= 5


@pytest.mark.parametrize("bad", BAD)
def test_what_hydra_refuses_is_refused_in_its_words_and_the_cell_is_named(hydra_parts, bad):
    expected = outcome(lambda: by_hydra(hydra_parts, ["editor=memit", "seed=1", bad]))
    assert isinstance(expected, tuple), "Hydra has nothing against it"
    points = [("editor=memit", "seed=1", bad), ("editor=memit", "seed=2", bad)]
    assert outcome(lambda: compose(*hydra_parts, points)) == expected
    with pytest.raises(HydraException, match=r"In the cell editor=memit seed=1 "):
        compose(*hydra_parts, points)


def test_an_option_that_only_some_editors_have_is_refused_where_it_is_not(hydra_parts):
    points = [(f"editor={e}", f"editor.layers=[{n}]") for e in ("memit", "rome") for n in (1, 2)]
    with pytest.raises(HydraException, match=r"editor\.layers.*\n.*\nIn the cell editor=rome"):
        compose(*hydra_parts, points)


def test_hydra_composes_once_for_each_combination_of_options(hydra_parts, monkeypatch):
    loader, master = hydra_parts
    asked, whole = [], loader.load_sweep_config
    monkeypatch.setattr(
        loader, "load_sweep_config", lambda m, o: asked.append(list(o)) or whole(m, o)
    )
    axes = [
        [f"editor={e}" for e in ("rome", "memit")],
        [f"seed={s}" for s in range(5)],
        ["+editor.extra=1"],
        [f"num_edits={n}" for n in range(1, 5)],
    ]
    cells = compose(loader, master, list(itertools.product(*axes)))
    assert len(cells) == len({str(cell.tree) for cell in cells}) == 40
    assert asked == [[f"editor={e}", "+editor.extra=1"] for e in ("rome", "memit")]


def test_a_value_of_one_cell_is_not_left_in_the_next(hydra_parts):
    points = [
        ("edits=batch", "edits.batch_size=3"),
        ("edits=batch", "num_edits=8"),
        ("edits=batch", "eval.limit=9"),
        ("edits=batch",),
    ]
    trees = [cell.tree for cell in compose(*hydra_parts, points)]
    assert [tree["edits"]["batch_size"] for tree in trees] == [3, 8, 1, 1]
    assert [tree["eval"]["limit"] for tree in trees] == [None, None, 9, None]
    assert [tree["num_edits"] for tree in trees] == [1, 8, 1, 1]
    assert trees[3] == compose(*hydra_parts, points[3:])[0].tree


def test_a_cell_that_cannot_be_frozen_keeps_the_reason(hydra_parts):
    points = [("editor=rome", "model=custom", f"seed={s}") for s in (1, 2)]
    cells = compose(*hydra_parts, points)
    assert [cell.tree for cell in cells] == [None, None]
    assert all("model.pretrained" in cell.reason for cell in cells)
    (cell,) = compose(*hydra_parts, [("+num_edit=1",)])
    assert "Did you mean num_edits?" in cell.reason


@pytest.mark.parametrize(("launcher", "checked"), [("cells", 0), ("basic", 2)])
def test_only_the_launcher_that_composes_the_grid_itself_is_spared_the_check(
    hydra_parts, monkeypatch, launcher, checked
):
    from hydra.plugins.sweeper import Sweeper
    from hydra_plugins.edit_sweeps_launcher import CellsLauncher, CellsSweeper

    asked = []
    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda _, batch: asked.extend(batch))
    sweeper = CellsSweeper(max_batch_size=None)
    sweeper.launcher = CellsLauncher() if launcher == "cells" else object()
    sweeper.validate_batch_is_legal([["seed=1"], ["seed=2"]])
    assert len(asked) == checked


def test_the_sweeper_of_the_grid_is_chosen_by_default_and_takes_presets(hydra_parts):
    loader, _ = hydra_parts
    config = loader.load_configuration("config", ["experiment=smoke"], RunMode.MULTIRUN)
    assert config.hydra.sweeper._target_.endswith("CellsSweeper")
    assert config.hydra.sweeper.params == {"editor": "rome,memit", "num_edits": "1,5"}
