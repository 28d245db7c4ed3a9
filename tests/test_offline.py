"""Working from a data folder: flags for jobs, for modules that are loaded already, and a whole cell without a network."""

import json
import os
import subprocess
import sys

import pytest

from edit_sweeps import offline
from tests.test_conf import CONF

pytest_plugins = ["tests.data_folder"]

ROOT = CONF.parent


def test_jobs_get_the_off_line_flags_with_a_data_folder_alone(tmp_path):
    assert offline.offline_environment(None) == {}
    found = offline.offline_environment(tmp_path)
    assert found == {
        "EDIT_SWEEPS_DATA": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
    }


def test_going_off_line_reaches_modules_that_are_imported_already(tmp_path):
    code = (
        "import datasets, evaluate, huggingface_hub, transformers\n"
        "from transformers.utils.hub import is_offline_mode\n"
        "assert not is_offline_mode() and not datasets.config.HF_HUB_OFFLINE\n"
        "from edit_sweeps.offline import go_offline\n"
        "go_offline(None); assert not is_offline_mode()\n"
        "go_offline('.'); assert is_offline_mode() and datasets.config.HF_HUB_OFFLINE\n"
        "assert evaluate.config.HF_EVALUATE_OFFLINE\n"
    )
    environment = {k: v for k, v in os.environ.items() if "OFFLINE" not in k}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


GUARD = """
import socket
def refuse(self, address, *_):
    if self.family != socket.AF_UNIX:
        open({log!r}, "a").write(f"{{address}}\\n")
        raise OSError("the network is forbidden here")
socket.socket.connect = refuse
"""


@pytest.mark.slow
def test_a_cell_runs_from_a_data_folder_with_the_network_forbidden(cell, root, tmp_path):
    guard, log = tmp_path / "guard", tmp_path / "connections"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(GUARD.format(log=str(log)))
    environment = {
        k: v for k, v in os.environ.items() if "OFFLINE" not in k and k != "EDIT_SWEEPS_DATA"
    }
    environment |= {
        "PYTHONPATH": f"{guard}{os.pathsep}{ROOT}",
        "HF_HOME": str(tmp_path / "hf"),
        "OMP_NUM_THREADS": "1",
    }
    overrides = [
        *("model=custom", "model.pretrained=own/tiny", "editor=rome", "editor.layer=1"),
        *("dataset=jsonl", "dataset.path=facts.jsonl", "task=custom", "task.custom.name=own_rte"),
        *("task.custom.folder=tasks", "num_edits=2", "editor.value.steps=3", "moments.tokens=500"),
        *("wandb=disabled", f"data_root={root}"),
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *overrides],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert not log.exists(), log.read_text()
    found = [
        json.loads(p.read_text()) for p in (tmp_path / "outputs").glob("main/cells/*/record.json")
    ]
    assert sorted(len(r["result"]["scores"]) for r in found) == [1, 2]
    for record in found:
        assert record["result"]["scores"]["own_rte"]["acc"]["n"] == 8
        assert not record["result"]["errors"]
