"""Several processes in one job of a real Slurm: none is forgotten, none pays for the end of the others."""

import json

import pytest

from tests.slurm_study import Study

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = pytest.mark.slow

GRID = ["num_edits=1,4"]
PACKED = ["cluster.group=none", "cluster.units_per_gpu=2", "cluster.cpus=1", "cluster.memory_gb=1"]


@pytest.fixture
def study(tmp_path, slurm):
    return Study(tmp_path, slurm)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Results of the two cells, run here and undisturbed."""
    return Study(tmp_path_factory.mktemp("calm")).undisturbed(tmp_path_factory, *GRID)


def cell(study, count):
    (found,) = study.path.glob(f"cells/*-n{count}-*")
    return found


def shown(study):
    """num_edits -> the row of status."""
    rows = json.loads(study.companion("status", "main", "--json"))["cells"]
    return {int(row["name"].split("-n")[1].split("-")[0]): row for row in rows}


def test_at_the_time_limit_a_job_whose_first_process_has_ended_is_queued_again(study, calm):
    study.hold(4)
    study.submit(*GRID, *PACKED, "cluster.time=10", "cluster.signal_s=60")
    (job,) = study.jobs()
    study.wait_at(4)
    study.slurm.wait_until("the first cell", lambda: len(study.records()) == 1, 60)
    study.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    row = shown(study)[4]
    assert row["state"] == "running"
    assert row["log"].endswith(f"{job}_1_log.out"), "its own process' log, not the first one's"
    study.slurm.wait_until("the warning", lambda: "queues it again" in study.log(), 150)
    study.wait_until_gone(4)
    study.release(4)
    study.wait()
    assert study.results() == calm
    assert study.slurm.field(job, "Restarts") == "1"
    assert '"interrupted"' in (cell(study, 4) / "attempts.jsonl").read_text()
    assert sorted(study.starts().values()) == [1, 2]


def test_what_the_machine_did_to_a_later_process_brings_the_job_back(study, calm):
    study.hold(4)
    study.submit(*GRID, *PACKED)
    (job,) = study.jobs()
    study.wait_at(4)
    study.slurm.wait_until("the first cell", lambda: len(study.records()) == 1, 60)
    assert study.slurm.states(job) == {job: "RUNNING"}
    (study.control / "full-4").touch()
    study.release(4)
    study.wait()
    assert study.results() == calm
    assert study.slurm.field(job, "Restarts") == "1"
    assert sorted(study.starts().values()) == [1, 2]


def test_variables_for_sbatch_do_not_hide_a_job_from_its_study(study, calm):
    inherited = {"SBATCH_JOB_NAME": "mine", "SBATCH_TIMELIMIT": "3", "SBATCH_WAIT": "1"}
    study.submit(*GRID, "+cluster.extra.hold=true", **inherited)
    (job,) = study.jobs()
    assert study.slurm.field(job, "JobName") == study.submissions()[0]["arrays"][0]["name"]
    assert study.slurm.field(job, "TimeLimit") == "00:20:00"
    assert {row["state"] for row in shown(study).values()} == {"pending"}
    study.slurm.run("scontrol", "release", job)
    study.wait()
    assert study.results() == calm
