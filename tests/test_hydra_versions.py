"""The same cells with Hydra 1.3 and with the current 1.4 pre-release, and with Hydra's own launchers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm_study import Study

pytest_plugins = ["tests.slurm_fixture"]

ROOT = Path(__file__).parent.parent
RELEASE = "hydra-core==1.4.0rc3"
SMALL = ["eval.limit=4", "wandb=disabled", "editor=ft", "num_edits=1", "task=none"]
GRID = ["-m", "editor=rome,memit", "num_edits=1,3", "seed=range(0,2)"]
RESULTS = re.compile(r"miniature-\w+-n\d+-s\d+-[0-9a-f]{10}")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pre_release(tmp_path_factory):
    """A folder with Hydra 1.4 and the OmegaConf it needs, to be put before the installed ones."""
    folder = tmp_path_factory.mktemp("hydra-1.4")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--pre", "--target", str(folder), RELEASE]  # fmt: skip
    try:
        done = subprocess.run(install, check=False, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{RELEASE} cannot be installed here: no answer")
    if done.returncode:
        pytest.skip(f"{RELEASE} cannot be installed here: {done.stderr.strip()[-300:]}")
    return folder


def launch(folder, *arguments, before=()):
    """What launch.py says when run in `folder`, with all warnings, and a path of packages before the installed ones."""
    path = os.pathsep.join(map(str, (*before, ROOT)))
    environment = os.environ | {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "default::UserWarning", str(ROOT / "launch.py"), *arguments],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def results(folder):
    files = sorted((folder / "outputs/main/cells").glob("*/record.json"))
    return {file.parent.name: json.loads(file.read_text())["result"] for file in files}


def test_the_pre_release_is_the_one_that_runs(pre_release):
    found = subprocess.run(
        [sys.executable, "-c", "import hydra; print(hydra.__version__)"],
        check=True,
        env=os.environ | {"PYTHONPATH": str(pre_release)},
        capture_output=True,
        text=True,
    )
    assert found.stdout.startswith("1.4.")


def test_both_plan_the_same_cells_and_warn_of_nothing(pre_release, tmp_path):
    plans = [launch(tmp_path, *GRID, "dry_run=true", before=b) for b in ((), (pre_release,))]
    cells = [sorted(set(RESULTS.findall(plan))) for plan in plans]
    assert len(cells[0]) == 9
    assert cells[0] == cells[1]
    for plan in plans:
        assert "Warning" not in plan
        assert "deprecated" not in plan


def test_both_compute_the_same_cell(pre_release, tmp_path):
    found = []
    for name, before in (("now", ()), ("next", (pre_release,))):
        folder = tmp_path / name
        folder.mkdir()
        shown = launch(folder, *SMALL, before=before)
        assert "deprecated" not in shown
        found.append(results(folder))
    assert len(found[0]) == 1
    assert found[0] == found[1]


def test_hydras_own_launcher_fills_the_same_folders(tmp_path):
    launch(tmp_path, "-m", *SMALL, "seed=0,1", "hydra/launcher=basic")
    before = results(tmp_path)
    assert len(before) == 2
    shown = launch(tmp_path, "-m", *SMALL, "seed=0,1")
    assert "Nothing to do" in shown
    assert results(tmp_path) == before


def test_with_the_pre_release_a_sweep_goes_through_slurm(
    pre_release, tmp_path, tmp_path_factory, slurm
):
    study = Study(tmp_path, slurm)
    shown = study.submit("num_edits=1,2", PYTHONPATH=str(pre_release))
    assert "Submitted 2 cells as 1 job" in shown
    study.wait()
    study.check(study.undisturbed(tmp_path_factory, "num_edits=1,2"), 1)
    versions = {r["provenance"]["versions"]["hydra-core"] for r in study.records().values()}
    assert {version[:4] for version in versions} == {"1.4."}
