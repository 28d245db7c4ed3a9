"""What Slurm says of jobs: squeue first, sacct for what squeue has forgotten."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

ENDED = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
    "PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT",
}  # fmt: skip
"""States after which nothing comes; a word that is not here may stand for anything, so such a job counts as live."""
NEVER = "DependencyNeverSatisfied"
OVER = re.compile(r"already complet|Invalid job id", re.IGNORECASE)
"""What scancel says of a job that has ended, or that is forgotten."""
PATIENCE_S = 60.0
"""A client of Slurm that does not answer for so long is given up; its own limit is 100 s and more with retries."""
OF_USERS = ("SQUEUE_", "SACCT_", "SCONTROL_", "SLURM_TIME_FORMAT", "SLURM_BITSTR_LEN")
"""Variables by which a user changes what the clients show: SQUEUE_USERS alone would hide a colleague's jobs."""
SQUEUE_FIELDS = "%i|%T|%j|%N|%M|%l|%e|%r"
"""Id, state, name, nodes, elapsed, limit, end, reason; the reason last, for it may hold anything."""
SACCT_PATIENCE_S = 20.0
"""It only adds to what squeue says, so less is waited for a busy database."""
SACCT_FIELDS = "JobID,State,JobName,NodeList,Elapsed,Timelimit,End"
NOT_HERE = "there is no {} on this machine; cluster=slurm works on a login node of a Slurm cluster"
DEFAULT_MAX_ARRAY_SIZE = 1001
"""Slurm's own default of MaxArraySize."""


class SlurmUnavailable(RuntimeError):  # noqa: N818  # it names a state of the world
    """Slurm is not on this machine, or does not answer; nothing may then be concluded about jobs."""


@dataclass(frozen=True)
class Job:
    """One job, or one task of an array.

    Attributes:
        id: `17`, or `17_3`.
        state: Slurm's word.
        name: Its name; ids are given again after a controller lost its state, names of ours are not.
        node: Where it runs or ran.
        elapsed: How long, as Slurm writes it.
        limit: Its time limit, likewise.
        end: When it ended or will, in the cluster's local time; empty when unknown.
        reason: Why it waits.
    """

    id: str
    state: str
    name: str = ""
    node: str = ""
    elapsed: str = ""
    limit: str = ""
    end: str = ""
    reason: str = ""


def is_live(job: Job) -> bool:
    """Whether the job may still do something."""
    return job.state not in ENDED and not (job.state == "PENDING" and NEVER in job.reason)


class Slurm:
    """The clients of Slurm on this machine."""

    def require(self) -> None:
        """Make sure that jobs can be submitted from here.

        Raises:
            SlurmUnavailable: They cannot.
        """
        for program in ("sbatch", "srun", "squeue"):
            if shutil.which(program) is None:
                raise SlurmUnavailable(NOT_HERE.format(program))

    def ask(self, ids: Collection[str], older: Collection[str] = ()) -> dict[str, Job]:
        """What is known of jobs.

        Args:
            ids: Of jobs (`17`) and tasks of arrays (`17_3`).
            older: Likewise, of jobs that matter only while they live: sacct is not asked for these.

        Returns:
            By id; more than was asked for, where an array is known whole. Jobs that Slurm has forgotten are not
            in it, nor those that live by sacct alone: the controller forgets none that does, and accounting that
            has missed an end never learns of it.

        Raises:
            SlurmUnavailable: squeue cannot be asked.
        """
        if not ids and not older:
            return {}
        found = self._squeue({job.partition("_")[0] for job in (*ids, *older)})
        forgotten = {job.partition("_")[0] for job in ids if job not in found}
        for job in self._sacct(sorted(forgotten)):
            if not is_live(job):
                found.setdefault(job.id, job)
        return found

    def find(self, name: str) -> str | None:
        """The id of the job or array of that name, if squeue knows one.

        Raises:
            SlurmUnavailable: squeue cannot be asked.
        """
        done = run("squeue", "-h", "-a", "-t", "all", "-o", "%A|%F|%j", "--name", name)
        rows = (line.split("|", 2) for line in done.stdout.splitlines())
        return next((row[1] for row in rows if row[2:] == [name]), None)

    def cancel(self, jobs: Sequence[str]) -> None:
        """Cancel jobs or tasks by id; those that have ended are passed over.

        Raises:
            SlurmUnavailable: scancel cannot be run, or fails.
        """
        for first in range(0, len(jobs), 200):  # a command line has its limits
            done = run("scancel", *jobs[first : first + 200], check=False)
            told = [line for line in done.stderr.splitlines() if not OVER.search(line)]
            if done.returncode and told:
                raise SlurmUnavailable(explain("scancel", done))

    def test_only(self, script: Path) -> str:
        """What sbatch says of a script that it does not submit, on one line.

        Raises:
            SlurmUnavailable: There is no sbatch.
        """
        done = run("sbatch", "--test-only", str(script), check=False)
        told = " ".join((done.stdout + done.stderr).split()).removeprefix("sbatch: ")
        return told if done.returncode == 0 else f"REFUSED: {told}"

    def max_array_size(self) -> int:
        """How many tasks an array may have; array indices must be below MaxArraySize, and start at 0."""
        try:
            told = run("scontrol", "show", "config").stdout
        except SlurmUnavailable:
            return DEFAULT_MAX_ARRAY_SIZE - 1
        match = re.search(r"MaxArraySize\s*=\s*(\d+)", told)
        return max(1, int(match.group(1)) - 1 if match else DEFAULT_MAX_ARRAY_SIZE - 1)

    def _squeue(self, arrays: Collection[str]) -> dict[str, Job]:
        ids = ",".join(sorted(arrays))
        fields = ("-o", SQUEUE_FIELDS, "-j", ids)
        done = run("squeue", "-h", "-a", "-r", "-t", "all", *fields, check=False)
        if done.returncode:
            if "Invalid job id" in done.stderr:  # so it answers when it knows none of them
                return {}
            raise SlurmUnavailable(explain("squeue", done))
        jobs: dict[str, Job] = {}
        for line in done.stdout.splitlines():
            words = line.split("|", 7)
            if len(words) < 8:  # a heading of squeue's where there are several clusters
                continue
            job, state, name, node, elapsed, limit, end, reason = words
            known = Job(job, state, name, node, elapsed, limit, "" if end == "N/A" else end, reason)
            jobs |= {each.id: each for each in by_task(known)}
        return jobs

    def _sacct(self, arrays: Sequence[str]) -> list[Job]:
        """What accounting knows; nothing where there is none, or it fails."""
        if not arrays:
            return []
        try:
            fields = ("-o", SACCT_FIELDS, "-j", ",".join(arrays))
            done = run("sacct", "-n", "-X", "-P", *fields, patience_s=SACCT_PATIENCE_S)
        except SlurmUnavailable as error:
            log.debug("sacct: %s", error)
            return []
        jobs: list[Job] = []
        for line in done.stdout.splitlines():
            words = line.split("|")
            if len(words) < 7 or "." in words[0] or not words[1]:
                continue
            job, state, name, node, elapsed, limit, end = words[:7]
            jobs += by_task(
                Job(
                    job,
                    state.split()[0],
                    name,
                    node,
                    elapsed,
                    limit,
                    "" if end == "Unknown" else end,
                    state,
                )
            )
        return jobs


def by_task(job: Job) -> Iterator[Job]:
    """The job for each task that its id stands for: `17_[0-2,5%2]` is four of them."""
    array, _, tasks = job.id.partition("_")
    if not tasks.startswith("["):
        yield job
        return
    for part in tasks.strip("[]").partition("%")[0].split(","):
        first, _, last = part.partition("-")
        if first.isdigit():
            for task in range(int(first), int(last or first) + 1):
                yield Job(**vars(job) | {"id": f"{array}_{task}"})


def run(
    *command: str, check: bool = True, patience_s: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a client of Slurm, without what a user has set for looking at the queue.

    Raises:
        SlurmUnavailable: It is not there, hangs, or (with `check`) fails.
    """
    patience_s = patience_s or PATIENCE_S
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=patience_s, check=False,
            env=plain_environment(os.environ),
        )  # fmt: skip
    except FileNotFoundError:
        raise SlurmUnavailable(NOT_HERE.format(command[0])) from None
    except subprocess.TimeoutExpired:
        msg = f"{command[0]} has not answered for {patience_s:g} s"
        raise SlurmUnavailable(msg) from None
    except OSError as error:
        msg = f"{command[0]} cannot be run: {error}"
        raise SlurmUnavailable(msg) from None
    if check and done.returncode:
        raise SlurmUnavailable(explain(command[0], done))
    return done


def plain_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment without what changes the clients' answers."""
    return {name: value for name, value in variables.items() if not name.startswith(OF_USERS)}


def explain(program: str, done: subprocess.CompletedProcess[str]) -> str:
    """What a client said when it failed, on one line."""
    told = " ".join((done.stderr or done.stdout).split())
    return f"{program} failed with {done.returncode}: {told or 'no message'}"
