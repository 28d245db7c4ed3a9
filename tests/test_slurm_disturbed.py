"""A sweep on a real Slurm, disturbed: every cell ends with one record, equal to that of an undisturbed run."""

import os
import signal

import pytest

from tests.slurm_study import Study

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = pytest.mark.slow

THREE = ["num_edits=1,3,6"]


@pytest.fixture
def study(tmp_path, slurm):
    return Study(tmp_path, slurm)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Results of the three cells, run here and undisturbed."""
    return Study(tmp_path_factory.mktemp("calm")).undisturbed(tmp_path_factory, *THREE)


def submit(study, *arguments):
    """The three cells as one job; returns its id."""
    study.submit(*THREE, *arguments)
    return study.jobs()[-1]


def states(study):
    """num_edits -> state, as status sees them."""
    import json

    rows = json.loads(study.companion("status", "main", "--json"))
    return {int(row["name"].split("-n")[1].split("-")[0]): row["state"] for row in rows["cells"]}


def test_a_failing_cell_makes_its_task_failed_and_the_others_are_done(study, calm):
    (study.control / "fail-3").touch()
    job = submit(study)
    study.wait()
    assert study.slurm.states(job) == {job: "FAILED"}, study.log()
    assert sorted(record["config"]["num_edits"] for record in study.records().values()) == [1, 6]
    (failure,) = study.path.glob("cells/*/failure.json")
    assert "told to fail after 3 edits" in failure.read_text()
    assert states(study) == {1: "done", 3: "failed", 6: "done"}
    submit(study)
    study.wait()
    assert study.results() == calm
    assert sorted(study.starts().values()) == [1, 1, 2]


def test_what_a_killed_job_had_not_done_is_lost_and_the_same_command_brings_it(study, calm):
    (study.control / "kill-3").touch()
    job = submit(study)
    study.wait()
    assert study.slurm.states(job) == {job: "FAILED"}
    assert states(study) == {1: "done", 3: "lost", 6: "lost"}
    assert "Submitted 2 cells" in study.submit(*THREE)
    study.wait()
    assert study.results() == calm


def test_cancelled_while_pending_and_while_running(study, calm):
    pending = submit(study, "+cluster.extra.hold=true")
    study.slurm.run("scancel", pending)
    study.wait()
    assert set(states(study).values()) == {"lost"}
    study.hold(3)
    running = submit(study)
    study.wait_at(3)
    assert f"  {running}: " in study.companion("cancel", "main", "--yes")
    study.release(3)
    study.wait()
    assert states(study)[1] == "done"
    submit(study)
    study.wait()
    assert study.results() == calm


def test_queued_again_in_mid_trajectory_it_goes_on_from_the_stored_prefix(study, calm):
    study.hold(4)
    job = submit(study)
    study.wait_at(4)
    study.slurm.run("scontrol", "requeue", job)
    study.wait_until_gone(4)
    study.release(4)
    study.wait()
    assert study.results() == calm
    assert study.slurm.field(job, "Restarts") == "1"
    assert sorted(study.starts().values()) == [1, 1, 2]
    assert "continuing from the stored prefix of 3 edits" in study.log()


def test_at_its_time_limit_it_is_warned_queued_again_and_goes_on(study, calm):
    study.hold(4)
    job = submit(study, "cluster.time=2", "cluster.signal_s=60")
    study.wait_at(4)
    study.slurm.wait_until("the warning", lambda: "timed-out" in study.log(), 150)
    study.release(4)
    study.wait()
    assert study.results() == calm
    assert study.slurm.field(job, "Restarts") == "1"
    (third,) = (p for p in study.path.glob("cells/*-n6-*/attempts.jsonl"))
    assert '"interrupted"' in third.read_text()


def test_preempted_it_makes_room_and_goes_on_later(study, calm):
    study.hold(4)
    job = submit(study, "+cluster.extra.exclusive=true", "+cluster.extra.nodelist=n1")
    study.wait_at(4)
    urgent = study.slurm.submit("true", "--partition=urgent", "--exclusive", "--nodelist=n1")
    study.slurm.wait_for(urgent, "COMPLETED")
    study.release(4)
    study.wait()
    assert study.slurm.field(job, "Restarts") == "1"
    assert study.results() == calm


def test_when_its_node_dies_it_runs_again_on_another(study, calm):
    study.hold(4)
    job = submit(study)
    study.wait_at(4)
    node = study.slurm.field(job, "NodeList")
    study.slurm.kill_node(node)
    study.slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    study.release(4)
    study.wait()
    assert study.results() == calm
    assert study.slurm.field(job, "Restarts") == "1"


def test_a_full_disk_is_no_fault_of_the_cells(study, calm):
    shown = study.submit(*THREE, "cluster.setup=['ulimit -f 2']", "cluster.max_losses=2")
    assert "Submitted 3 cells" in shown
    study.wait()
    assert study.slurm.field(study.jobs()[0], "Restarts") == "1", "it queued itself again, once"
    assert study.results() == {}
    assert not list(study.path.glob("cells/*/.*.json.*")), "half written files are taken away"
    assert set(states(study).values()) <= {"failed", "lost"}, study.log()
    shown = study.submit(*THREE, "cluster.max_losses=2")
    assert "lost to the machine too often" in shown
    study.companion("retry", "main")
    study.wait()
    assert study.results() == {}, "retry submits them as they were frozen, limit and all"
    study.submit(*THREE, "cluster.max_losses=9")
    study.wait()
    assert study.results() == calm


def test_ctrl_c_while_waiting_only_detaches(study, calm):
    study.hold(3)
    waiting = study.start(
        "-m", *study.arguments(*THREE, "cluster.wait=true", "cluster.refresh_s=0.5")
    )
    study.wait_at(3)
    os.kill(waiting.pid, signal.SIGINT)
    shown, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "the jobs go on" in shown
    assert "running 1" in shown
    assert "Traceback" not in shown
    study.release(3)
    shown = study.submit(*THREE, "cluster.wait=true", "cluster.refresh_s=0.5")
    assert "done 3" in shown
    assert study.results() == calm
    assert set(study.starts().values()) == {1}
