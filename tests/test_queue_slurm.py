"""A real Slurm is asked: what it says of ended, held, forgotten and foreign jobs, and what cells are by that."""

import json
import os

import pytest

from edit_sweeps.launcher import queue
from edit_sweeps.launcher.queue import Slurm, SlurmUnavailable, is_live
from edit_sweeps.launcher.states import look
from edit_sweeps.launcher.submissions import SUBMITTED, Array, Submission, Task
from tests.mini_slurm import MiniSlurm
from tests.slurm_programs import need_slurm

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = pytest.mark.slow

LONG = "es-" + "n" * 117
FOUR = """case $SLURM_ARRAY_TASK_ID in
0) true ;;
1) exit 3 ;;
2) kill -9 $$ ;;
*) sleep 300 ;;
esac"""


def client_of(cluster, patch):
    """Slurm as seen from a shell of that cluster."""
    for name in [name for name in os.environ if name.startswith(("SLURM", "SQUEUE", "SBATCH"))]:
        patch.delenv(name)
    for name in ("SLURM_CONF", "PATH"):
        patch.setenv(name, cluster.env[name])
    return Slurm()


@pytest.fixture
def client(slurm, monkeypatch):
    return client_of(slurm, monkeypatch)


def study_of(folder, job, tasks=4, name=LONG):
    """A study whose cells are the tasks of one array, submitted long ago."""
    study = folder / "outputs" / "main"
    study.mkdir(parents=True, exist_ok=True)
    rows = [{"name": f"cell-{i}", "key": str(i)} for i in range(tasks)]
    (study / "plan.json").write_text(json.dumps(rows))
    one = Submission.new(study, command=[], force=False, code={})
    one.time = "2026-01-01T00:00:00+00:00"
    tasks = [Task([str(i)], [f"cell-{i}"]) for i in range(tasks)]
    one.arrays = [Array(name, "cells", tasks, 60, 0, job=job, state=SUBMITTED)]
    one.save()
    return study


def states(study, client):
    return [each.state for each in look(study, client)]


def whys(study, client):
    return " / ".join(each.why for each in look(study, client))


def test_tasks_that_are_done_failed_killed_and_cancelled_or_held(slurm, client, tmp_path):
    job = slurm.submit(FOUR, "--array=0-3", f"--job-name={LONG}")
    study = study_of(tmp_path, job)
    slurm.wait_until(
        "the first three", lambda: sum(map(is_live, client.ask([job]).values())) == 1, 30
    )
    known = client.ask([f"{job}_0"])
    assert {task: known[f"{job}_{task}"].state for task in range(4)} == {
        0: "COMPLETED", 1: "FAILED", 2: "FAILED", 3: "RUNNING",
    }  # fmt: skip
    assert {each.name for each in known.values()} == {LONG}
    assert client.find(LONG) == job
    assert client.find(LONG[:-1]) is None
    assert states(study, client) == ["pending", "lost", "lost", "pending"], "0: its record is late"
    client.cancel([f"{job}_{task}" for task in range(4)])
    slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED")
    assert "CANCELLED" in whys(study, client)
    client.cancel([f"{job}_3", "999999"])  # has ended, and is unknown

    held = slurm.submit("true", "--array=0-5%2", "--hold", f"--job-name={LONG}")
    study = study_of(tmp_path / "held", held, 6)
    assert states(study, client) == ["pending"] * 6
    assert "JobHeldUser" in whys(study, client)
    other = study_of(tmp_path / "other", held, 6, name="es-another")
    assert states(other, client) == ["lost"] * 6, "the id was given to somebody else's job"


def test_accounting_that_lags_does_not_change_what_squeue_says(slurm, client, tmp_path):
    slurm.set_sacct_lag(60)
    job = slurm.submit("exit 3", "--array=0-1", f"--job-name={LONG}")
    slurm.wait_for(job, "FAILED")
    told = slurm.run("sacct", "-n", "-P", "-X", "-o", "JobID,State", "-j", job)
    assert told.split() == [f"{job}|PENDING"]
    assert states(study_of(tmp_path, job, 2), client) == ["lost", "lost"]


def test_a_controller_that_is_down_says_nothing_and_up_again_it_says_all(
    slurm, client, tmp_path, monkeypatch
):
    monkeypatch.setattr(queue, "PATIENCE_S", 3.0)
    job = slurm.submit("sleep 300", f"--job-name={LONG}")
    study = study_of(tmp_path, job, 1)
    slurm.wait_for(job, "RUNNING")
    slurm.stop_controller()
    with pytest.raises(SlurmUnavailable):
        client.ask([job])
    (seen,) = look(study, client)
    assert seen.state == "pending"
    assert seen.unasked
    slurm.start_controller()
    slurm.wait_until("controller", lambda: "UP" in slurm.run("scontrol", "ping"), 30)
    (seen,) = look(study, client)
    assert (seen.state, seen.live, seen.unasked) == ("pending", True, "")


def test_forgotten_without_accounting_and_told_by_the_disk(tmp_path, monkeypatch):
    need_slurm()
    with MiniSlurm(nodes=1, accounting="none", extra_conf={"MinJobAge": 2}) as cluster:
        client = client_of(cluster, monkeypatch)
        job = cluster.submit("exit 3", f"--job-name={LONG}")
        study = study_of(tmp_path, job, 1)
        cluster.wait_until("the end", lambda: not any(map(is_live, client.ask([job]).values())), 30)
        cluster.wait_until("oblivion", lambda: not client.ask([job]), 60)
        assert states(study, client) == ["lost"]
        assert f"does not know job {job} any more" in whys(study, client)
        monkeypatch.setenv("SQUEUE_USERS", "nobody")
        job = cluster.submit("sleep 300", f"--job-name={LONG}")
        assert client.ask([job])[job].name == LONG, "SQUEUE_USERS of the user hides nothing"
