"""Processes, as they are told from one another on the machines that share a file system."""

from __future__ import annotations

import functools
import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edit_sweeps import this_job


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: Its machine.
        pid: Its number there.
        started: When the kernel started it, in ticks; 0 where /proc does not tell.
        space: What process numbers are comparable within: a boot of a machine and a name space of
            processes.
        job: Slurm's id of the job it is part of; empty outside Slurm.
        rank: Its number in that job.
        restart: How often the job had been queued again.
        since: When it made the claim, ISO text in UTC.
        note: What for.
    """

    host: str
    pid: int
    started: int
    space: str
    job: str = ""
    rank: int = 0
    restart: int = 0
    since: str = ""
    note: str = ""

    def __str__(self) -> str:
        """As told to a user."""
        process = f"process {self.pid} on {self.host}" if self.pid else self.host
        who = f"job {self.job} on {self.host}" if self.job else process
        return f"{who} (since {self.since})" if self.since else who

    def is_us(self) -> bool:
        """Whether this is the present process."""
        pid = os.getpid()
        return (self.pid, (self.space, self.started)) == (pid, _self(pid))

    def was_us(self) -> bool:
        """Whether this is a former self of the present job, which was queued again since.

        Two programs of one allocation have the same job and rank; only a restart tells them from it.
        """
        return (
            bool(self.job)
            and (self.job, self.rank) == (this_job.job_id(), this_job.rank()[0])
            and self.restart < this_job.restarts()
        )

    def is_gone(self) -> bool:
        """Whether it ran where this process can see it, and does not any more."""
        if self.space != process_space():
            return False
        seen = process(self.pid)
        return seen is None or seen[1] not in {0, self.started}

    def is_running(self) -> bool:
        """Whether this process sees it at work: its claim is good however late it is with its beat.

        After a laptop's sleep all claims look old. A stopped process (Ctrl-Z) is not at work.
        """
        if self.space != process_space() or not self.started:
            return False
        seen = process(self.pid)
        return seen is not None and seen[1] == self.started and seen[0] not in "Tt"


UNKNOWN = Owner("another process", 0, 0, "unknown")
"""Holder of a file that cannot be read, or of a claim that changed hands while we looked."""


def owner(note: str = "") -> Owner:
    """The present process."""
    pid = os.getpid()
    space, started = _self(pid)
    return Owner(
        platform.node(),
        pid,
        started,
        space,
        this_job.job_id(),
        this_job.rank()[0],
        this_job.restarts(),
        since=now_utc(),
        note=note,
    )


def process(pid: int) -> tuple[str, int] | None:
    """State of a process of this machine (the kernel's letter) and the tick of its start.

    None when it has ended; `("?", 0)` when it runs and no more can be known: another user's where
    /proc is hidden, or any on a system without /proc.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:  # it runs, and is another user's
            pass
        return "?", 0
    return None if words[0] in "ZX" else (words[0], int(words[19]))


def process_space() -> str:
    """Names the machine's present run and this process's name space: there a pid is one process."""
    return _self(os.getpid())[0]


@functools.cache
def _self(pid: int) -> tuple[str, int]:
    """Space and start of the present process, whose number is given so that a fork asks anew."""
    started = (process(pid) or ("?", 0))[1]
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}", started
    except OSError:
        return platform.node(), started


def now_utc() -> str:
    """ISO text, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
