"""The Slurm that the launcher's tests run on behaves like one: every mechanism that the launcher relies on."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import slurm_programs
from tests.mini_slurm import MiniSlurm
from tests.slurm_programs import missing_programs, need_slurm

pytest_plugins = ["tests.slurm_fixture"]
pytestmark = pytest.mark.slow

ATTEMPT = 'echo "attempt ${SLURM_RESTART_COUNT:-0} on $SLURMD_NODENAME"'
FIRST_WAITS = f'{ATTEMPT}; [ -n "$SLURM_RESTART_COUNT" ] || sleep 300'
"""A job whose first attempt has to be interrupted and whose second ends at once."""


@pytest.fixture(scope="module")
def bare():
    """One node, short arrays, and accounting that is disabled."""
    need_slurm()
    with MiniSlurm(nodes=1, accounting="none", extra_conf={"MaxArraySize": 5}) as cluster:
        yield cluster


def wait_for_output(slurm, job, text, timeout_s=30):
    slurm.wait_until(f"{text!r} from {job}", lambda: text in slurm.output(job), timeout_s)


def test_all_nodes_are_idle_and_have_their_gpus(slurm):
    rows = slurm.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T %G").split("\n")
    assert rows[:2] == ["n1 idle gpu:2", "n2 idle gpu:2"]


def test_daemons_and_running_steps_listen_on_loopback_only(slurm):
    job = slurm.submit("srun --ntasks=2 sh -c 'echo step; sleep 300'", "--ntasks=2")
    wait_for_output(slurm, job, "step")
    found = slurm.listening()
    assert {slurm.layout.ports[i] for i in (0, 3, 4)} <= {port for _, _, port in found}
    assert len(found) > 4, "the job's step, too, has sockets"
    assert all(address.is_loopback for _, address, _ in found), found


def test_nothing_of_a_surrounding_job_reaches_clients(slurm, monkeypatch):
    for name in ("SLURM_MEM_PER_CPU", "SBATCH_PARTITION", "SLURM_JOB_ID", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "1")
    inside = MiniSlurm(root=slurm.root / "x")
    strange = {k for k in inside.env if k.startswith(("SLURM", "SBATCH", "CUDA_VIS"))}
    assert strange == {"SLURM_CONF"}
    assert inside.env["SLURM_CONF"].startswith(str(slurm.root / "x"))


def test_every_task_of_an_array_has_a_gpu_of_its_own(slurm):
    go = slurm.root / "go"
    say = f'echo "$SLURMD_NODENAME/$CUDA_VISIBLE_DEVICES/"; until [ -e {go} ]; do sleep 0.1; done'
    job = slurm.submit(say, "--array=0-3", "--gpus-per-node=1")
    for task in range(4):
        wait_for_output(slurm, f"{job}_{task}", "/")
    go.touch()
    slurm.wait_for(job, "COMPLETED")
    seen = sorted(slurm.output(f"{job}_{task}").strip() for task in range(4))
    assert seen == ["n1/0/", "n1/1/", "n2/0/", "n2/1/"]


def test_more_gpus_than_a_node_has_are_refused_before_anything_is_queued(slurm):
    with pytest.raises(subprocess.CalledProcessError, match="sbatch"):
        slurm.submit("true", "--test-only", "--gpus-per-node=3")
    slurm.submit("true", "--test-only", "--gpus-per-node=2")
    assert not slurm.run("squeue", "-h")


def test_a_failing_task_is_failed_and_the_others_complete(slurm):
    job = slurm.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    states = slurm.wait_for(job, "COMPLETED", "FAILED")
    assert states == {f"{job}_0": "COMPLETED", f"{job}_1": "FAILED"}


def test_scancel_ends_a_pending_and_a_running_job(slurm):
    pending = slurm.submit(ATTEMPT, "--hold")
    running = slurm.submit(f"{ATTEMPT}; sleep 300; echo end")
    wait_for_output(slurm, running, "attempt 0")
    slurm.run("scancel", pending, running)
    assert slurm.wait_for(pending, "CANCELLED")
    assert slurm.wait_for(running, "CANCELLED")
    assert not slurm.output(pending)
    assert "end" not in slurm.output(running).split()


def test_a_requeued_job_starts_again_under_the_same_id(slurm):
    job = slurm.submit(FIRST_WAITS)
    wait_for_output(slurm, job, "attempt 0")
    slurm.run("scontrol", "requeue", job)
    slurm.wait_for(job, "COMPLETED")
    assert re.findall(r"attempt \d", slurm.output(job)) == ["attempt 0", "attempt 1"]
    assert slurm.field(job, "Restarts") == "1"


def test_before_its_time_is_up_a_step_gets_the_signal_that_was_asked_for(slurm):
    wait = "trap 'echo warned' USR2; echo ready; while :; do sleep 0.2; done"
    job = slurm.submit(f'srun bash -c "{wait}"', "--time=10", "--signal=USR2@50")
    wait_for_output(slurm, job, "ready")
    assert "warned" not in slurm.output(job)
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait_for_output(slurm, job, "warned", 60)
    assert slurm.states(job)[job] in {"RUNNING", "SIGNALING"}
    slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now")  # a limit has whole minutes
    slurm.wait_for(job, "TIMEOUT", timeout_s=120)


def test_an_urgent_job_preempts_one_that_is_warned_and_queued_again(slurm):
    warn = "trap 'echo warned; exit 0' USR2; echo set; while :; do sleep 0.1; done"
    script = f'{ATTEMPT}; [ -n "$SLURM_RESTART_COUNT" ] || srun bash -c "{warn}"; sleep 30'
    low = slurm.submit(script, "--exclusive", "--nodelist=n1", "--signal=USR2@30")
    wait_for_output(slurm, low, "set")
    urgent = slurm.submit(ATTEMPT, "--partition=urgent", "--exclusive", "--nodelist=n1")
    slurm.wait_for(urgent, "COMPLETED")
    wait_for_output(slurm, low, "attempt 1")
    assert "warned" in slurm.output(low)
    assert slurm.field(low, "Restarts") == "1"


def test_the_job_of_a_dead_node_runs_again_on_another(slurm):
    job = slurm.submit(FIRST_WAITS)
    wait_for_output(slurm, job, "attempt 0")
    dead = slurm.output(job).split()[-1]
    slurm.kill_node(dead)
    slurm.wait_for(job, "COMPLETED", timeout_s=120)
    other = {"n1": "n2", "n2": "n1"}[dead]
    lines = slurm.output(job).strip().split("\n")
    assert lines == [f"attempt 0 on {dead}", f"attempt 1 on {other}"]
    assert dead in slurm.run("sinfo", "-h", "-N", "-t", "down", "-o", "%N")
    slurm.resume_node(dead)
    slurm.wait_until("both nodes", slurm.all_idle, 30)


def test_what_waits_for_a_failed_job_is_cancelled_if_that_was_asked_for(slurm):
    first = slurm.submit("exit 1", "--hold")
    after = f"--dependency=afterok:{first}"
    cancelled = slurm.submit(ATTEMPT, after, "--kill-on-invalid-dep=yes")
    stuck = slurm.submit(ATTEMPT, after)
    slurm.run("scontrol", "release", first)
    slurm.wait_for(first, "FAILED")
    slurm.wait_for(cancelled, "CANCELLED")
    assert slurm.states(stuck) == {stuck: "PENDING"}
    slurm.wait_until(
        "reason", lambda: slurm.field(stuck, "Reason") == "DependencyNeverSatisfied", 30
    )


def test_jobs_survive_the_controller(slurm):
    job = slurm.submit("sleep 3; echo end")
    slurm.wait_for(job, "RUNNING")
    slurm.stop_controller()
    with pytest.raises(subprocess.CalledProcessError):
        slurm.run("timeout", "1", "squeue")
    slurm.start_controller()
    slurm.wait_for(job, "COMPLETED")
    assert "end" in slurm.output(job)


def test_an_array_longer_than_the_site_allows_is_refused(bare):
    assert re.search(r"MaxArraySize\s+= 5", bare.run("scontrol", "show", "config"))
    job = bare.submit("true", "--array=0-4")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        bare.submit("true", "--array=0-5")
    assert "Invalid job array specification" in caught.value.stderr
    assert len(bare.wait_for(job, "COMPLETED")) == 5


def test_without_accounting_sacct_fails_and_squeue_still_knows_finished_jobs(bare):
    job = bare.submit("exit 3")
    bare.wait_for(job, "FAILED")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        bare.run("sacct", "-j", job)
    assert "disabled" in caught.value.stderr


def test_the_stand_in_for_sacct_tells_what_squeue_tells(slurm):
    job = slurm.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
    states = slurm.wait_for(job, "COMPLETED", "FAILED")
    rows = slurm.run("sacct", "-X", "-n", "--parsable2", "-o", "JobID,State", "-j", job).split()
    assert dict(row.split("|") for row in rows) == states


def test_a_lagging_sacct_knows_a_young_array_by_one_row_only(slurm):
    slurm.set_sacct_lag(600)
    job = slurm.submit("true", "--array=0-1")
    slurm.wait_for(job, "COMPLETED")
    ask = ("sacct", "-n", "-o", "JobID,State", "--parsable2", "-j", job)
    assert slurm.run(*ask).split() == [f"{job}|PENDING"]
    slurm.set_sacct_lag(0)
    done = {f"{job}_0|COMPLETED", f"{job}_1|COMPLETED"}
    slurm.wait_until("sacct", lambda: set(slurm.run(*ask).split()) == done, 30)


def test_real_accounting_remembers_what_became_of_jobs():
    need_slurm("dbd")
    with MiniSlurm(nodes=1, accounting="dbd") as slurm:
        job = slurm.submit("exit $((3 * SLURM_ARRAY_TASK_ID))", "--array=0-1")
        slurm.wait_for(job, "COMPLETED", "FAILED")
        ask = ("sacct", "-X", "-n", "--parsable2", "-o", "JobID,State,ExitCode", "-j", job)
        rows = {f"{job}_0|COMPLETED|0:0", f"{job}_1|FAILED|3:0"}
        slurm.wait_until("rows of sacct", lambda: set(slurm.run(*ask).split()) == rows, 30)
        assert not slurm.listening_outside()


def test_nothing_runs_and_nothing_lies_around_after_stop():
    need_slurm()
    with MiniSlurm(nodes=1) as slurm:
        job = slurm.submit("trap '' TERM; srun sleep 301 & sleep 302 & echo up; wait; sleep 303")
        wait_for_output(slurm, job, "up")
        slurm.wait_until("the step", lambda: len(_commands(slurm, "sleep")) == 2, 30)
        assert _commands(slurm, "slurmstepd:")
        root = slurm.root
    assert not slurm.processes()
    assert not root.exists()


def _commands(slurm, program):
    lines = [Path(f"/proc/{pid}/cmdline").read_text() for pid in slurm.processes()]
    names = [line.split("\0")[0].rsplit("/", 1)[-1] for line in lines]
    return [name for name in names if name.startswith(program)]


SUBMIT = """
import json, os, sys
import submitit

def square(number):
    return number**2, os.environ["SLURM_ARRAY_TASK_ID"], os.environ["CUDA_VISIBLE_DEVICES"]

executor = submitit.SlurmExecutor(folder=sys.argv[1], python=sys.executable)
executor.update_parameters(time=5, gpus_per_node=1, cpus_per_task=1, nodes=1, ntasks_per_node=1)
jobs = executor.map_array(square, [3, 4])
print(json.dumps([job.result() for job in jobs]))
"""


def test_submitit_submits_an_array_of_two_and_gets_results(slurm, tmp_path):
    script = tmp_path / "submit.py"
    script.write_text(SUBMIT)
    said = slurm.run(sys.executable, script, tmp_path / "jobs", timeout_s=120)
    results = json.loads(said.strip().split("\n")[-1])
    assert [row[:2] for row in results] == [[9, "0"], [16, "1"]]
    assert {row[2] for row in results} <= {"0", "1"}


def test_a_machine_without_slurm_skips_loudly_or_fails_where_it_must_have_it(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tests.slurm_programs.SBIN", str(tmp_path))
    assert "slurmctld" in missing_programs()
    monkeypatch.delenv(slurm_programs.DEMAND, raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"apt-get install .* slurmctld"):
        need_slurm()
    monkeypatch.setenv("EDIT_SWEEPS_NEED_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match="EDIT_SWEEPS_NEED_SLURM is set"):
        need_slurm()
