"""Slurm's clients are asked and understood, also when they lag, forget, hang or are not there."""

import contextlib
import stat
import time

import pytest

from edit_sweeps.launcher import queue
from edit_sweeps.launcher.queue import Job, Slurm, SlurmUnavailable, by_task, is_live


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Puts a stand-in for a client of Slurm first on PATH; `calls` is what they were called with."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def put(name, says="", code=0, error="", seconds=0):
        file = tmp_path / name
        file.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\nsleep {seconds}\n'
            f"cat <<'END'\n{says}\nEND\ncat >&2 <<'END'\n{error}\nEND\nexit {code}\n"
        )
        file.chmod(file.stat().st_mode | stat.S_IEXEC)

    put.calls = (tmp_path / "calls").read_text
    return put


LONG = "es-" + "x" * 140
ROW = "17_0|RUNNING|{}|n1|1:05|2:00:00|2026-01-02T03:04:05|None"


def test_tasks_are_told_apart_and_long_names_kept(programs):
    programs("squeue", ROW.format(LONG) + "\n17_1|PENDING|es|||1:00|N/A|Priority | strange")
    programs("sacct", code=1, error="Slurm accounting storage is disabled")
    found = Slurm().ask({"17_0", "17_1", "18"})
    assert found["17_0"].name == LONG
    assert (found["17_1"].state, found["17_1"].reason, found["17_1"].end) == (
        "PENDING",
        "Priority | strange",
        "",
    )
    assert "-j 17,18" in programs.calls()
    assert "18" not in found, "forgotten, and accounting is disabled"


def test_what_squeue_has_forgotten_sacct_is_asked_for(programs):
    programs("squeue", ROW.format("es"))
    programs(
        "sacct",
        "17_1|CANCELLED by 0|es|n2|00:01:00|01:00:00|Unknown\n18|OUT_OF_MEMORY|es|n1|1|1|1\n18.batch|X|||||",
    )
    found = Slurm().ask({"17_0", "17_1", "18"})
    assert {job.id: job.state for job in found.values()} == {
        "17_0": "RUNNING", "17_1": "CANCELLED", "18": "OUT_OF_MEMORY",
    }  # fmt: skip
    assert "-j 17,18" in programs.calls().split("sacct")[1]


def test_what_lives_by_sacct_alone_does_not_live(programs):
    programs("squeue", ROW.format("es"))
    programs(
        "sacct",
        "17_1|RUNNING|es|n2|00:01:00|01:00:00|Unknown\n18|PENDING|es||||Unknown\n19_[2-3]|CANCELLED by 0|es||||",
    )
    found = Slurm().ask({"17_0", "17_1", "18", "19_3"})
    assert set(found) == {"17_0", "19_2", "19_3"}
    assert found["19_3"].reason == "CANCELLED by 0"


def test_of_older_jobs_only_squeue_is_asked(programs):
    programs("squeue", ROW.format("es"))
    programs("sacct")
    Slurm().ask({"17_0"}, {"9_0"})
    assert "-j 17,9" in programs.calls()
    assert "sacct" not in programs.calls()


def test_a_slow_sacct_is_not_waited_for_long(programs, monkeypatch):
    monkeypatch.setattr(queue, "SACCT_PATIENCE_S", 0.2)
    programs("squeue", ROW.format("es"))
    programs("sacct", "18|FAILED|es||||", seconds=5)
    assert set(Slurm().ask({"17_0", "18"})) == {"17_0"}


def test_what_a_user_has_set_for_looking_does_not_change_the_answers(
    programs, monkeypatch, tmp_path
):
    for name in ("SQUEUE_USERS", "SQUEUE_STATES", "SACCT_FORMAT", "SLURM_TIME_FORMAT"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("SLURM_CONF", "kept")
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\n")
    squeue.chmod(0o755)
    Slurm().ask({"17"})
    seen = (tmp_path / "seen").read_text()
    assert "SLURM_CONF=kept" in seen
    assert not [w for w in ("SQUEUE_", "SACCT_", "SLURM_TIME_FORMAT") if w in seen]


def test_rows_that_are_no_jobs_are_passed_over(programs):
    programs("squeue", f"CLUSTER: main\n{ROW.format('es')}\n")
    assert set(Slurm().ask({"17_0"})) == {"17_0"}
    assert Slurm().find("es") is None


def test_a_thousand_tasks_are_one_question_quickly_understood(programs):
    rows = "\n".join(ROW.format("es").replace("17_0", f"17_{i}") for i in range(1000))
    programs("squeue", rows)
    begin = time.process_time()
    assert len(Slurm().ask({f"17_{i}" for i in range(1000)})) == 1000
    assert time.process_time() - begin < 0.2
    assert programs.calls().count("\n") == 1


@pytest.mark.parametrize(
    ("error", "raises"),
    [
        ("scancel: error: Kill job error on job id 9: Invalid job id specified", False),
        ("Job/step already completing or completed", False),
        ("Unable to contact slurm controller", True),
    ],
)
def test_cancelling_what_has_ended_is_no_error(programs, error, raises):
    programs("scancel", code=1, error=error)
    with pytest.raises(SlurmUnavailable) if raises else contextlib.nullcontext():
        Slurm().cancel(["9"])


def test_sacct_is_left_alone_when_squeue_knows_all(programs):
    programs("squeue", ROW.format("es"))
    programs("sacct", code=1)
    Slurm().ask({"17_0"})
    assert "sacct" not in programs.calls()


def test_unknown_ids_are_forgotten_jobs_and_not_a_silent_slurm(programs):
    programs("squeue", code=1, error="slurm_load_jobs error: Invalid job id specified")
    programs("sacct")
    assert Slurm().ask({"17"}) == {}


@pytest.mark.parametrize("how", ["fails", "hangs", "absent"])
def test_a_slurm_that_does_not_answer_is_told_from_one_that_knows_nothing(
    programs, monkeypatch, how
):
    if how == "fails":
        programs("squeue", code=1, error="Unable to contact slurm controller (connect failure)")
    if how == "hangs":
        monkeypatch.setattr(queue, "PATIENCE_S", 0.2)
        programs("squeue", seconds=5)
    if how == "absent":
        monkeypatch.setenv("PATH", "/nowhere")
    says = {"fails": "Unable to contact", "hangs": "has not answered", "absent": "login node"}[how]
    with pytest.raises(SlurmUnavailable, match=says):
        Slurm().ask({"17"})


def test_nothing_is_asked_for_nothing(programs):
    assert Slurm().ask(set()) == {}


@pytest.mark.parametrize(
    ("row", "ids"),
    [
        ("17", ["17"]),
        ("17_3", ["17_3"]),
        ("17_[0-2,5%2]", ["17_0", "17_1", "17_2", "17_5"]),
        ("17_[4]", ["17_4"]),
    ],
)
def test_a_row_for_many_tasks_is_many_tasks(row, ids):
    assert [job.id for job in by_task(Job(row, "PENDING"))] == ids


@pytest.mark.parametrize(
    ("state", "reason", "live"),
    [
        ("PENDING", "Priority", True), ("PENDING", "DependencyNeverSatisfied", False), ("RUNNING", "", True),
        ("REQUEUED", "", True), ("SUSPENDED", "", True), ("COMPLETED", "", False), ("NODE_FAIL", "", False),
        ("TIMEOUT", "", False), ("PREEMPTED", "", False), ("SOMETHING_NEW", "", True),
    ],
)  # fmt: skip
def test_which_states_may_still_come_to_something(state, reason, live):
    assert is_live(Job("1", state, reason=reason)) is live


def test_the_limit_of_arrays_is_asked_for_and_has_a_default(programs, monkeypatch):
    programs("scontrol", "MaxArraySize            = 101\nMaxJobCount = 9")
    assert Slurm().max_array_size() == 100
    programs("scontrol", "nothing of it")
    assert Slurm().max_array_size() == 1000
    monkeypatch.setenv("PATH", "/nowhere")
    assert Slurm().max_array_size() == 1000


def test_an_array_is_found_by_its_whole_name(programs):
    programs("squeue", "101|99|es-main-1\n102|99|es-main-1")
    assert Slurm().find("es-main-1") == "99"
    assert Slurm().find("es-main") is None
