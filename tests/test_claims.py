"""Claims: one holder at a time among many processes, and none that outlives its process for long."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from edit_sweeps import claims, owners

ROOT = Path(__file__).parent.parent


def child(folder, code, **variables):
    """A process of its own that runs lines of Python with `folder` and `claims` at hand."""
    head = f"import sys, time, os\nfrom pathlib import Path\nfrom edit_sweeps import claims\nfolder = Path({str(folder)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code)],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | variables, stdout=subprocess.PIPE, stdin=subprocess.PIPE,
        text=True,
    )  # fmt: skip


HOLDER = """
held = claims.try_hold(folder, "cell")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def held_elsewhere(tmp_path):
    process = child(tmp_path, HOLDER)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def pretend(folder, **changes):
    """A claim of another machine, as its file stands there."""
    body = json.loads((folder / "cell.1").read_text())
    (folder / "cell.1").write_text(json.dumps(body | {"space": "elsewhere"} | changes))


def age(file, seconds):
    """The file was last touched so long ago."""
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_who_holds_is_held_by_nobody_else_until_it_is_released(tmp_path):
    with claims.try_hold(tmp_path, "cell", note="why") as held:
        assert claims.who(tmp_path, "cell").note == "why"
        assert claims.try_hold(tmp_path, "cell") is None
        assert claims.try_hold(tmp_path, "other") is not None
        assert held.is_ours()
    assert claims.who(tmp_path, "cell") is None
    assert claims.try_hold(tmp_path, "cell") is not None


def test_numbers_grow_and_files_do_not_pile_up(tmp_path):
    for _ in range(5):
        with claims.try_hold(tmp_path, "cell"):
            pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cell.4", "cell.5"]


@pytest.mark.parametrize("name", ["", "../x", ".hidden", "a/b", "a b", "a\n", "x" * 201])
def test_a_name_that_is_no_plain_file_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="allowed are"):
        claims.try_hold(tmp_path, name)


def test_a_claim_of_another_process_is_seen_and_respected(tmp_path, held_elsewhere):
    assert claims.who(tmp_path, "cell").pid == held_elsewhere.pid
    assert claims.try_hold(tmp_path, "cell") is None
    told = []
    with (
        pytest.raises(TimeoutError, match=str(held_elsewhere.pid)),
        claims.hold(tmp_path, "cell", wait_s=0.1, on_wait=told.append),
    ):
        pass
    assert [owner.pid for owner in told] == [held_elsewhere.pid]


def test_the_claim_of_a_killed_process_of_this_machine_is_free_at_once(tmp_path, held_elsewhere):
    held_elsewhere.send_signal(signal.SIGKILL)
    held_elsewhere.wait()
    assert claims.who(tmp_path, "cell") is None
    assert claims.try_hold(tmp_path, "cell").number == 2


def test_a_process_with_the_number_of_a_dead_one_is_not_taken_for_it(tmp_path):
    claims.try_hold(tmp_path, "cell")
    body = json.loads((tmp_path / "cell.1").read_text())
    (tmp_path / "cell.1").write_text(json.dumps(body | {"started": body["started"] - 1}))
    assert claims.who(tmp_path, "cell") is None


def test_another_machine_keeps_its_claim_while_it_touches_it(tmp_path, held_elsewhere):
    pretend(tmp_path)
    age(tmp_path / "cell.1", claims.STALE_S - 20)
    assert claims.try_hold(tmp_path, "cell") is None
    age(tmp_path / "cell.1", claims.STALE_S + 20)
    assert claims.try_hold(tmp_path, "cell") is not None


def test_a_process_seen_at_work_keeps_its_claim_however_old_as_after_a_laptops_sleep(
    tmp_path, held_elsewhere
):
    age(tmp_path / "cell.1", claims.STALE_S + 20)
    assert claims.try_hold(tmp_path, "cell") is None
    held_elsewhere.send_signal(signal.SIGSTOP)
    end = time.monotonic() + 5
    while owners.process(held_elsewhere.pid)[0] != "T" and time.monotonic() < end:
        time.sleep(0.01)
    assert claims.try_hold(tmp_path, "cell") is not None, "Ctrl-Z must not hold for ever"


def test_a_process_hidden_by_the_kernel_is_not_taken_for_dead(
    tmp_path, held_elsewhere, monkeypatch
):
    real = Path.read_text

    def hidden(path, *args, **kwargs):
        if str(path) == f"/proc/{held_elsewhere.pid}/stat":
            raise FileNotFoundError(errno.ENOENT, "hidepid=2")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", hidden)
    assert claims.try_hold(tmp_path, "cell") is None
    age(tmp_path / "cell.1", claims.STALE_S + 20)
    assert claims.try_hold(tmp_path, "cell") is not None


def test_age_is_told_by_the_clock_of_the_file_system(tmp_path, held_elsewhere, monkeypatch):
    pretend(tmp_path)
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 10_000)
    assert claims.who(tmp_path, "cell") is not None, "this machine's clock is hours ahead"


def test_a_requeued_job_takes_over_from_its_former_self_at_once(
    tmp_path, held_elsewhere, monkeypatch
):
    pretend(tmp_path, job="17_3", restart=1)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert claims.try_hold(tmp_path, "cell") is None, "another task"
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert claims.try_hold(tmp_path, "cell") is None, "another process of the job"
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert claims.try_hold(tmp_path, "cell") is None, "a second program of one allocation"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert claims.who(tmp_path, "cell") is None
    assert claims.try_hold(tmp_path, "cell") is not None


def test_a_holder_that_was_superseded_knows_and_its_release_frees_nothing(tmp_path):
    old = claims.try_hold(tmp_path, "cell")
    pretend(tmp_path)
    age(tmp_path / "cell.1", claims.STALE_S + 1)
    new = claims.try_hold(tmp_path, "cell")
    assert not old.is_ours()
    old.release()
    assert claims.who(tmp_path, "cell").is_us()
    assert new.is_ours()
    new.release()
    assert not new.is_ours()


def test_late_with_an_old_number_one_backs_off(tmp_path, monkeypatch):
    """B saw number 1 released, slept, and by now 2 is gone and 3 is held: B's 2 must not count."""
    for _ in range(2):
        claims.try_hold(tmp_path, "cell").release()
    held = claims.try_hold(tmp_path, "cell")
    real, calls = claims.numbers, []

    def late(folder, name):
        calls.append(1)
        return [1] if len(calls) == 1 else real(folder, name)

    monkeypatch.setattr(claims, "numbers", late)
    assert claims.try_hold(tmp_path, "cell") is None
    assert claims.who(tmp_path, "cell").is_us()
    assert held.is_ours()


def test_a_file_that_cannot_be_read_is_somebodys_until_it_is_old(tmp_path):
    (tmp_path / "cell.1").write_text("{half")
    assert claims.try_hold(tmp_path, "cell") is None
    age(tmp_path / "cell.1", claims.STALE_S + 1)
    assert claims.try_hold(tmp_path, "cell") is not None


def test_a_process_that_ends_by_itself_leaves_no_claim(tmp_path):
    process = child(tmp_path, 'claims.try_hold(folder, "cell"); sys.exit(3)')
    assert process.wait(30) == 3
    assert "released" in (tmp_path / "cell.1").read_text()


def test_claims_are_touched_while_the_main_thread_computes(tmp_path):
    process = child(
        tmp_path,
        """
        claims.BEAT_S = 0.05
        held = claims.try_hold(folder, "cell")
        os.utime(held.file, (1, 1))
        end = time.monotonic() + 1
        while time.monotonic() < end:
            sum(range(1000))
        os._exit(held.file.stat().st_mtime < 1000)
        """,
    )
    assert process.wait(30) == 0


def test_a_child_of_a_fork_has_no_claim_to_give_back(tmp_path):
    process = child(
        tmp_path,
        """
        held = claims.try_hold(folder, "cell")
        pid = os.fork()
        if pid == 0:
            held.release()
            sys.exit()
        os.waitpid(pid, 0)
        os._exit(claims.who(folder, "cell") is None)
        """,
    )
    assert process.wait(30) == 0


def test_readers_see_all_live_claims_in_one_look(tmp_path):
    claims.try_hold(tmp_path, "a")
    claims.try_hold(tmp_path, "b").release()
    claims.try_hold(tmp_path, "c-1.x")
    assert set(claims.held_names(tmp_path)) == {"a", "c-1.x"}
    assert set(claims.held_names(tmp_path, {"a", "b"})) == {"a"}
    assert claims.held_names(tmp_path / "nowhere") == {}


def test_a_reader_who_may_not_write_sees_the_holder(tmp_path, held_elsewhere, monkeypatch):
    pretend(tmp_path)

    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refused)
    monkeypatch.setattr(Path, "write_text", refused)
    assert claims.who(tmp_path, "cell").pid == held_elsewhere.pid
    assert list(claims.held_names(tmp_path)) == ["cell"]
    age(tmp_path / "cell.1", claims.STALE_S + 20)
    assert claims.who(tmp_path, "cell") is None
    with pytest.raises(OSError, match="Read-only"):
        claims.try_hold(tmp_path, "cell")


def test_a_claim_given_back_on_a_full_disk_is_free(tmp_path, monkeypatch):
    held = claims.try_hold(tmp_path, "cell")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        held.release()
    assert claims.who(tmp_path, "cell") is None
    assert claims.try_hold(tmp_path, "cell") is not None


def test_files_of_others_that_cannot_be_removed_or_read_are_passed_over(tmp_path, monkeypatch):
    for _ in range(4):
        claims.try_hold(tmp_path, "cell").release()

    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        held = claims.try_hold(tmp_path, "cell")
    assert held.is_ours()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refused)
        assert claims.try_hold(tmp_path, "cell") is None


def test_without_hard_links_one_alone_gets_it(tmp_path, monkeypatch):
    def none(*_, **__):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    assert claims.try_hold(tmp_path, "cell").is_ours()
    assert not claims._create(tmp_path / "cell.1", {})
    assert claims.who(tmp_path, "cell").is_us()


def test_a_link_whose_answer_was_lost_counts_as_made(tmp_path, monkeypatch):
    real = os.link

    def twice(source, target):
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", twice)
    assert claims.try_hold(tmp_path, "cell").is_ours()


def test_an_owner_written_by_another_version_is_read(tmp_path, held_elsewhere):
    pretend(tmp_path, colour="red")
    assert claims.who(tmp_path, "cell").pid == held_elsewhere.pid


RACER = """
claims.POLL_S, claims.MOST_POLL_S = 0.001, 0.004
while not (folder / "begin").exists(): time.sleep(0.005)
for turn in range(50):
    with claims.hold(folder, "cell") as held:
        with open(folder / "log.txt", "a") as log:
            log.write(f"in {os.getpid()}\\n"); log.flush()
            time.sleep(0.0005)
            log.write(f"out {os.getpid()}\\n")
    time.sleep(0.001)
"""


def test_of_many_processes_one_at_a_time_is_inside_and_all_get_their_turn(tmp_path):
    racers = [child(tmp_path, RACER) for _ in range(8)]
    (tmp_path / "begin").touch()
    assert [racer.wait(120) for racer in racers] == [0] * 8
    lines = [line.split() for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert len(lines) == 2 * 8 * 50
    for first, second in zip(lines[::2], lines[1::2], strict=True):
        assert (first[0], second[0]) == ("in", "out")
        assert first[1] == second[1]
    assert len(list(tmp_path.glob("cell.*"))) <= 2
    assert claims.numbers(tmp_path, "cell")[-1] >= 8 * 50


def test_of_many_that_see_a_dead_claim_one_takes_it_over(tmp_path, held_elsewhere):
    pretend(tmp_path)
    age(tmp_path / "cell.1", claims.STALE_S + 5)
    code = """
    print("ready", flush=True)
    while not (folder / "begin").exists(): time.sleep(0.001)
    held = claims.try_hold(folder, "cell")
    print(held is not None, flush=True)
    sys.stdin.readline()
    os._exit(0)
    """
    takers = [child(tmp_path, code) for _ in range(6)]
    for taker in takers:
        assert taker.stdout.readline() == "ready\n"
    (tmp_path / "begin").touch()
    assert sorted(taker.stdout.readline().strip() for taker in takers) == ["False"] * 5 + ["True"]
    for taker in takers:
        taker.communicate("\n", timeout=30)
