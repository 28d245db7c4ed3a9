"""Several units in one job: whose log is whose, and whether the other processes still run."""

import os
import signal
import subprocess
import sys

import pytest

from edit_sweeps import this_job
from edit_sweeps.launcher import job
from edit_sweeps.launcher.states import look
from edit_sweeps.launcher.submissions import SUBMITTED, Array, Submission, Task
from tests.test_states import Answers


def submission(study, tasks):
    one = Submission.new(study, command=[], force=False, code={})
    one.arrays = [Array("es-main", "cells", tasks, 60, 1, job="17", state=SUBMITTED)]
    one.save()
    return one


@pytest.mark.parametrize(
    ("counts", "ranks"), [([2, 1, 1], [0, 0, 1, 2]), ([1, 3], [0, 1, 1, 1]), ([], [0] * 4)]
)
def test_every_cell_has_the_log_of_the_process_that_runs_it(tmp_path, counts, ranks):
    cells = ["a-1", "b-2", "c-3", "d-4"]
    units = [f"{i:04d}" for i in range(len(counts) or 1)]
    one = submission(tmp_path / "outputs" / "main", [Task(units, cells, counts=counts)])
    looks = look(one.study, Answers(), cells)
    assert [each.log.name for each in looks] == [f"17_{rank}_log.out" for rank in ranks]


@pytest.fixture
def process(monkeypatch):
    """Starts a process with given variables of Slurm; this one is rank 0 of job 4242."""
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "4242")
    monkeypatch.setenv("SLURM_PROCID", "0")
    started = []

    def start(**variables):
        found = subprocess.Popen(
            [sys.executable, "-c", "print('up', flush=True); input()"],
            env={**os.environ, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        started.append(found)
        assert found.stdout.readline() == b"up\n"
        return found

    yield start
    for each in started:
        each.kill()
        each.communicate()


def test_another_process_of_the_job_is_seen_until_it_ends(process):
    assert not this_job.others_run()
    other = process(SLURM_PROCID="1")
    assert this_job.others_run()
    other.communicate(b"\n")
    assert not this_job.others_run()


@pytest.mark.parametrize(
    "variables",
    [{"SLURM_PROCID": "0"}, {"SLURM_PROCID": "1", "SLURM_JOB_ID": "42"}],
    ids=["its own child", "another job's"],
)
def test_what_is_no_other_process_of_the_job_is_not_waited_for(process, variables):
    process(**variables)
    assert not this_job.others_run()


def test_the_first_process_stays_until_the_others_have_ended(monkeypatch):
    answers = iter([True, True, False])
    looks = []
    monkeypatch.setattr(this_job, "others_run", lambda: next(answers))
    monkeypatch.setattr(job.time, "sleep", looks.append)
    job.wait_for_others(2)
    assert len(looks) == 2
    job.wait_for_others(1)
    assert next(answers, "asked no more") == "asked no more"


def test_a_later_process_that_is_warned_leaves(monkeypatch):
    before = signal.signal(signal.SIGUSR2, job.stop_when_warned)
    try:
        with pytest.raises(SystemExit):
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
