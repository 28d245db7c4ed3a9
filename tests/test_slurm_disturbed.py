"""A sweep on a real Slurm, disturbed: every cell ends with one record, equal to that of an undisturbed run."""

import os
import signal

import pytest

from tests.slurm_study import QUICK, Study

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


def went_on(study, first, second):
    """Two processes did the edits, the second from the stored prefix on; returns their nodes."""
    (node, done), (other, rest) = study.edited()
    assert (done, rest) == (first, second), study.log()
    return node, other


def test_a_failing_cell_makes_its_task_failed_and_the_others_are_done(study, calm):
    (study.control / "fail-3").touch()
    job = submit(study)
    study.wait()
    assert study.slurm.states(job) == {job: "FAILED"}, study.log()
    assert sorted(record["config"]["num_edits"] for record in study.records().values()) == [1, 6]
    (failure,) = study.path.glob("cells/*/failure.json")
    assert "told to fail after 3 edits" in failure.read_text()
    assert study.states() == {1: "done", 3: "failed", 6: "done"}
    shown = study.companion("retry", str(study.path), cwd=study.control)
    assert "Submitted 1 cell again" in shown
    assert len(study.submissions()) == 2
    study.wait()
    assert sorted(study.starts().values()) == [1, 1, 2]
    study.check(calm, {1: 1, 3: 2, 6: 1})


def test_an_exception_is_not_repeated_when_its_job_is_queued_again(study, calm):
    (study.control / "fail-3").touch()
    study.hold(6)
    job = submit(study)
    study.wait_at(6)
    study.slurm.run("scontrol", "requeue", job)
    study.wait_until_gone(6)
    study.release(6)
    study.wait()
    assert study.slurm.field(job, "Restarts") == "1"
    assert study.slurm.states(job) == {job: "FAILED"}, "the cell that raised is not forgotten"
    assert study.states() == {1: "done", 3: "failed", 6: "done"}
    submit(study)
    study.wait()
    study.check(calm, {1: 1, 3: 2, 6: 2})


def test_what_a_killed_job_had_not_done_is_lost_and_the_same_command_brings_it(study, calm):
    (study.control / "kill-3").touch()
    job = submit(study)
    study.wait()
    assert study.slurm.states(job) == {job: "FAILED"}
    assert study.states() == {1: "done", 3: "lost", 6: "lost"}
    assert "Submitted 2 cells" in study.submit(*THREE)
    study.wait()
    study.check(calm, {1: 1, 3: 2, 6: 1})


def test_a_cell_that_kills_its_job_again_and_again_is_left_alone_until_retry(study, calm):
    for _ in range(2):
        (study.control / "kill-3").touch()
        assert "Submitted" in study.submit(*THREE, "cluster.max_losses=2")
        study.wait()
    shown = study.submit(*THREE, "cluster.max_losses=2")
    assert shown.count("lost to the machine too often (2 times in a row)") == 1
    assert "Submitted 1 cell " in shown, "the one that never had its turn"
    study.wait()
    assert study.states() == {1: "done", 3: "lost", 6: "done"}
    assert "Nothing to submit" in study.submit(*THREE, "cluster.max_losses=2")
    shown = study.companion("retry", str(study.path), cwd=study.control)
    assert "Submitted 1 cell again" in shown
    study.wait()
    study.check(calm, {1: 1, 3: 3, 6: 1})


def test_cancelled_while_pending_and_while_running(study, calm):
    pending = submit(study, "+cluster.extra.hold=true")
    study.slurm.run("scancel", pending)
    study.wait()
    assert set(study.states().values()) == {"lost"}
    study.hold(3)
    running = submit(study)
    study.wait_at(3)
    assert f"  {running}: " in study.companion("cancel", "main", "--yes")
    study.wait_until_gone(3)
    study.release(3)
    study.wait()
    assert study.states() == {1: "done", 3: "lost", 6: "lost"}
    assert "Submitted 2 cells" in study.submit(*THREE)
    study.wait()
    study.check(calm, {1: 1, 3: 2, 6: 1})


def test_who_cancels_again_and_again_is_not_told_that_the_machine_takes_the_cell(study, calm):
    for _ in range(2):
        study.hold(1)
        assert "Submitted 3 cells" in study.submit(*THREE, "cluster.max_losses=2")
        study.wait_at(1)
        study.companion("cancel", "main", "--yes")
        study.wait_until_gone(1)
        study.release(1)
        study.wait()
    assert "Submitted 3 cells" in study.submit(*THREE, "cluster.max_losses=2")
    study.wait()
    study.check(calm, {1: 3, 3: 1, 6: 1})


def test_queued_again_in_mid_trajectory_it_goes_on_from_the_stored_prefix(study, calm):
    study.hold(4)
    job = submit(study)
    study.wait_at(4)
    study.slurm.run("scontrol", "requeue", job)
    study.wait_until_gone(4)
    study.release(4)
    study.wait()
    study.check(calm, {1: 1, 3: 1, 6: 2})
    assert study.slurm.field(job, "Restarts") == "1"
    went_on(study, [1, 2, 3, 4], [4, 5, 6])


def test_at_its_time_limit_it_is_warned_queued_again_and_goes_on(study, calm):
    study.hold(4)
    job = submit(study, "cluster.time=10", "cluster.signal_s=60")
    study.wait_at(4)
    study.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    study.slurm.wait_until("the warning", lambda: "timed-out" in study.log(), 150)
    study.wait_until_gone(4)
    study.release(4)
    study.wait()
    study.check(calm, {1: 1, 3: 1, 6: 2})
    assert study.slurm.field(job, "Restarts") == "1"
    went_on(study, [1, 2, 3, 4], [4, 5, 6])
    (ends,) = [
        [x["how"] for x in lines if "ended" in x]
        for lines in study.attempts().values()
        if len(lines) == 4
    ]
    assert ends == ["interrupted", "done"]


def test_with_no_time_limit_left_to_use_up_the_same_command_goes_on(study, calm):
    study.hold(4)
    job = submit(study, "cluster.time=10", "cluster.signal_s=60", "cluster.timeouts=0")
    study.wait_at(4)
    study.slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=2")
    study.slurm.wait_until("the warning", lambda: "timed-out too many times" in study.log(), 150)
    study.wait_until_gone(4)
    study.release(4)
    study.wait()
    assert study.slurm.field(job, "Restarts") == "0"
    assert study.states() == {1: "done", 3: "done", 6: "lost"}
    submit(study)
    study.wait()
    study.check(calm, {1: 1, 3: 1, 6: 2})
    went_on(study, [1, 2, 3, 4], [4, 5, 6])


def test_preempted_it_makes_room_and_goes_on_later(study, calm):
    study.hold(4)
    job = submit(study, "+cluster.extra.exclusive=true", "+cluster.extra.nodelist=n1")
    study.wait_at(4)
    urgent = study.slurm.submit("true", "--partition=urgent", "--exclusive", "--nodelist=n1")
    study.slurm.wait_for(urgent, "COMPLETED")
    study.release(4)
    study.wait()
    assert study.slurm.field(job, "Restarts") == "1"
    study.check(calm, {1: 1, 3: 1, 6: 2})
    went_on(study, [1, 2, 3, 4], [4, 5, 6])


def test_when_its_node_dies_it_runs_again_on_another(study, calm):
    study.hold(4)
    job = submit(study)
    study.wait_at(4)
    node = study.slurm.field(job, "NodeList")
    study.slurm.kill_node(node)
    study.slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")
    study.release(4)
    study.wait()
    study.check(calm, {1: 1, 3: 1, 6: 2})
    assert study.slurm.field(job, "Restarts") == "1"
    dead, other = went_on(study, [1, 2, 3, 4], [4, 5, 6])
    assert (dead, other) == (node, {"n1": "n2", "n2": "n1"}[node])


def test_a_full_disk_is_no_fault_of_the_cells(study, calm):
    shown = study.submit(*THREE, "cluster.setup=['ulimit -f 2']", "cluster.max_losses=2")
    assert "Submitted 3 cells" in shown
    study.wait()
    assert study.slurm.field(study.jobs()[0], "Restarts") == "1", "it queued itself again, once"
    assert study.results() == {}
    assert not list(study.path.glob("cells/*/.*.json.*")), "half written files are taken away"
    assert set(study.states().values()) <= {"failed", "lost"}, study.log()
    blamed = [how for ends in study.ends().values() for how in ends]
    assert set(blamed) == {"infrastructure"}
    shown = study.submit(*THREE, "cluster.max_losses=2")
    assert "lost to the machine too often" in shown
    study.submit(*THREE, "cluster.max_losses=9")
    study.wait()
    assert study.results() == calm


def test_a_disk_that_fills_up_at_the_record_costs_no_edit(study, calm):
    study.launch("-m", *QUICK, *THREE)
    records = sorted(study.path.glob("cells/*/record.json"))
    most = max(file.stat().st_size for file in records)
    for file in records:
        file.unlink()
    assert most > 2048, "or the limit below is none"
    study.submit(*THREE, "cluster.setup=['ulimit -f 2']", "cluster.max_losses=2")
    study.wait()
    assert "record.save(cell.folder)" in study.printed()
    assert "File too large" in study.printed()
    assert {how for ends in study.ends().values() for how in ends[1:]} == {"infrastructure"}
    assert study.slurm.field(study.jobs()[0], "Restarts") == "1", "it queued itself again, once"
    assert study.results() == {}
    assert not list(study.path.glob("cells/*/.*")), "half written files are taken away"
    study.submit(*THREE, "cluster.max_losses=9")
    study.wait()
    assert study.results() == calm
    assert len(study.edited()) == 1, "the edits were in the stored prefix all the time"


def test_ctrl_c_while_waiting_only_detaches(study, calm):
    study.hold(3)
    waiting = study.start(
        "-m", *study.arguments(*THREE, "cluster.wait=true", "cluster.refresh_s=0.5")
    )
    study.wait_at(3)
    seen = ""
    while "running 1" not in seen:
        line = waiting.stdout.readline()
        assert line, f"it ended before it showed the running cell:\n{seen}"
        seen += line
    os.kill(waiting.pid, signal.SIGINT)
    shown, _ = waiting.communicate(timeout=60)
    assert waiting.returncode == 130
    assert "the jobs go on" in shown
    assert "Traceback" not in shown
    study.release(3)
    shown = study.submit(*THREE, "cluster.wait=true", "cluster.refresh_s=0.5")
    assert "done 3" in shown
    study.check(calm, 1)
