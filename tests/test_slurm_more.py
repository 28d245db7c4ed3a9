"""On a real Slurm: how cells are grouped, a cluster of one's own, a Slurm that says little or something wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edit_sweeps.tracking import run_id
from tests.light_run import RUN
from tests.mini_slurm import MiniSlurm
from tests.slurm_programs import need_slurm
from tests.slurm_study import ROOT, Study
from tests.wandb_stub import API_KEY, Stub

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = pytest.mark.slow

FOUR = ["seed=0,1", "num_edits=1,2"]
TWO = ["num_edits=1,2"]


@pytest.fixture
def study(tmp_path, slurm):
    return Study(tmp_path, slurm)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Results of the four cells, run here and undisturbed."""
    return Study(tmp_path_factory.mktemp("calm")).undisturbed(tmp_path_factory, *FOUR)


def of(calm, *counts):
    """Those with these numbers of edits, of the first seed."""
    return {
        name: result
        for name, result in calm.items()
        if any(f"-n{count}-s0-" in name for count in counts)
    }


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        (["cluster.group=none"], [[1], [1], [1], [1]]),
        (["cluster.group=model"], [[1, 2, 1, 2]]),
        (["cluster.group=model", "cluster.max_cells_per_unit=3"], [[1, 2], [1, 2]]),
        (["cluster.max_cells_per_unit=1"], [[1], [2], [1], [2]]),
    ],
    ids=["none", "model", "model in pieces", "trajectory in pieces"],
)
def test_however_cells_are_grouped_each_is_run_once_with_the_same_result(
    study, calm, settings, tasks
):
    study.submit(*FOUR, *settings)
    (array,) = study.submissions()[0]["arrays"]
    grouped = [task["cells"] for task in array["tasks"]]
    assert sorted(map(len, grouped)) == sorted(map(len, tasks))
    assert sorted(name for cells in grouped for name in cells) == sorted(calm)
    study.wait()
    study.check(calm, 1)


def test_submitting_imports_nothing_heavy(study):
    sweep = [
        "editor=rome,memit",
        "num_edits=1,3",
        "task=mini_sentiment",
        "+cluster.extra.hold=true",
    ]
    done = subprocess.run(
        [sys.executable, "-c", RUN, "-m", *study.arguments(*sweep)],
        cwd=study.folder, env=study.env, capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    shown, _, heavy = done.stdout.rpartition("HEAVY")
    assert "Submitted 5 cells as 3 jobs" in shown
    assert heavy.split() == []


def test_a_cluster_of_ones_own_is_a_file(study, calm, tmp_path):
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "tests" / "standin", conf)
    (conf / "cluster").mkdir()
    (conf / "cluster" / "mysite.yaml").write_text(
        "defaults: [slurm]\nname: mysite\npartition: urgent\nsetup: [echo set up by mysite]\n"
    )
    study.submit(*TWO, f"hydra.searchpath=[file://{conf}]", "cluster=mysite")
    (job,) = study.jobs()
    assert study.slurm.field(job, "Partition") == "urgent"
    study.wait()
    assert "set up by mysite" in study.printed()
    study.check(of(calm, 1, 2), 1)


def test_who_waits_is_told_by_the_exit_code_that_cells_failed(study, calm):
    (study.control / "fail-2").touch()
    shown = study.submit(*TWO, "cluster.wait=true", "cluster.refresh_s=0.5", code=1)
    assert "failed 1" in shown
    assert "Traceback" not in shown
    shown = study.submit(*TWO, "cluster.wait=true", "cluster.refresh_s=0.5", code=0)
    assert "done 2" in shown
    study.check(of(calm, 1, 2), {1: 1, 2: 2})


def test_a_snapshot_runs_though_the_clone_is_edited_while_the_job_waits(study, calm):
    clone = study.folder
    for part in ("edit_sweeps", "conf"):
        shutil.copytree(ROOT / part, clone / part)
    (clone / "tests").mkdir()
    for file in ("launch.py", "tests/__init__.py", "tests/standin_editor.py"):
        if (ROOT / file).exists():
            shutil.copy(ROOT / file, clone / file)
    settings = [*TWO, "cluster.snapshot=true", "+cluster.extra.hold=true"]
    subprocess.run(
        [sys.executable, "launch.py", "-m", *study.arguments(*settings)],
        cwd=clone, env=study.env, check=True, timeout=120,
    )  # fmt: skip
    source = clone / "edit_sweeps" / "__init__.py"
    source.write_text(source.read_text() + "raise SystemExit('the clone was imported')\n")
    study.slurm.run("scontrol", "release", study.jobs()[0])
    study.wait()
    study.check(of(calm, 1, 2), 1)
    assert "the clone was imported" not in study.printed()


def test_what_jobs_kept_of_their_runs_is_pushed_from_the_login_node(study, calm):
    study.submit(*TWO, "wandb=offline", "wandb.project=edits", "wandb.group=mine")
    study.wait()
    study.check(of(calm, 1, 2), 1)
    with Stub() as server:
        study.env |= {
            "WANDB_API_KEY": API_KEY, "WANDB_BASE_URL": server.url, "WANDB_MODE": "online",
            "HOME": str(study.folder / "home"),
        }  # fmt: skip
        assert "2 pushed" in study.companion("push", "main")
        assert "2 there already" in study.companion("push", "main")
        ids = {run_id("main", study.path / "cells" / name) for name in study.records()}
        assert set(server.runs) == ids, "each once, under the id that its job gave it"
    study.check(of(calm, 1, 2), 1)


def test_a_cancelled_baseline_takes_its_cells_along_and_the_same_command_brings_all(study):
    command = ["seed=0,1", "num_edits=1", "task=mini_sentiment", "eval.limit=8"]
    study.submit(*command, "+cluster.extra.hold=true")
    baseline, cells = study.submissions()[0]["arrays"]
    assert (baseline["kind"], cells["kind"]) == ("baselines", "cells")
    study.slurm.run("scancel", baseline["job"])
    study.slurm.run("scontrol", "release", cells["job"])
    study.wait()
    rows = json.loads(study.companion("status", "main", "--json"))["cells"]
    assert [row["state"] for row in rows] == ["lost"] * 3
    assert all("CANCELLED" in row["why"] for row in rows), rows
    assert "Submitted 3 cells" in study.submit(*command)
    study.wait()
    compared = {
        name: set(record["result"]["comparisons"])
        for name, record in study.records().items()
        if "-none-" not in name
    }
    assert list(compared.values()) == [{"edit", "mini_sentiment"}] * 2


def test_a_job_that_sbatch_took_and_then_denied_is_neither_lost_nor_submitted_twice(
    study, calm, tmp_path
):
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    real = shutil.which("sbatch", path=study.env["PATH"])
    wrapper.write_text(f'#!/bin/sh\n{real} "$@" > /dev/null\necho Socket timed out >&2\nexit 1\n')
    wrapper.chmod(0o755)
    shown = study.submit(*TWO, code=2, PATH=f"{wrapper.parent}:{study.env['PATH']}")
    assert "in spite of an error, and cancelled" in shown
    assert "Socket timed out" in shown
    assert "Traceback" not in shown
    assert not study.slurm.run("squeue", "-h")
    assert "Submitted 2 cells" in study.submit(*TWO)
    study.wait()
    study.check(of(calm, 1, 2), 1)


def without(program, folder, path):
    """A PATH on which everything is that `path` has, but for one program."""
    folder.mkdir()
    for place in path.split(os.pathsep):
        for file in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / file.name
            if file.name != program and not link.exists():
                link.symlink_to(file)
    assert shutil.which(program, path=str(folder)) is None
    return str(folder)


LAGS = """#!/bin/sh
echo "$@" >> {log}
for job in $(squeue -h -t all -o %A) {jobs}; do echo "$job|RUNNING|es|||||||"; done
"""


def test_what_squeue_has_forgotten_is_lost_with_no_sacct_and_with_one_that_still_calls_it_running(
    tmp_path, calm
):
    need_slurm()
    with MiniSlurm(accounting="none", extra_conf={"MinJobAge": 2}) as slurm:
        absent, lagging = Study(tmp_path / "absent", slurm), Study(tmp_path / "lagging", slurm)
        absent.env["PATH"] = without("sacct", tmp_path / "programs", slurm.env["PATH"])
        called = tmp_path / "sacct.log"
        for study in (absent, lagging):
            (study.control / "kill-1").touch()
            study.submit(*TWO)
        told = LAGS.format(log=called, jobs=" ".join(lagging.jobs()))
        (slurm.root / "bin").mkdir(exist_ok=True)
        (slurm.root / "bin" / "sacct").write_text(told)
        (slurm.root / "bin" / "sacct").chmod(0o755)
        absent.wait()
        slurm.wait_until(
            "forgetting", lambda: not slurm.run("squeue", "-h", "-t", "all").strip(), 60
        )
        lost = {1: "lost", 2: "lost"}
        for study in (absent, lagging):
            slurm.wait_until("the end of the grace", lambda s=study: s.states() == lost, 120, 1)
            assert "Submitted 2 cells" in study.submit(*TWO)
        assert called.read_text().strip(), "it was asked"
        absent.wait()
        for study in (absent, lagging):
            study.check(of(calm, 1, 2), {1: 2, 2: 1})
            assert study.states() == {1: "done", 2: "done"}
