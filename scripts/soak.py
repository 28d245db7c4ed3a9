"""500 cells on a small Slurm of this machine's own, disturbed at random: none lost, none done twice. `make soak`.

Every few seconds a process of a job is killed, a task cancelled or queued again, a node lost, or the same command given
twice at once. Ends when every cell is done; then compares with an undisturbed run in one process.
"""

import argparse
import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.mini_slurm import MiniSlurm  # noqa: E402
from tests.slurm_study import Study  # noqa: E402

GRID = [
    "seed=range(0,{trajectories})",
    "num_edits=1,2,3,4,5",
    "edit_scores.limit=1",
    "edit_scores.max_new_tokens=1",
]
CLUSTER = [
    "cluster.group=model",
    "cluster.max_cells_per_unit={unit}",
    "cluster.max_losses=1000",
    "cluster.cpus=1",
]


class Trouble(threading.Thread):
    """Disturbs the cluster until told to stop; counts what it did."""

    def __init__(self, slurm: MiniSlurm, every_s: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.slurm, self.every_s, self.draw = slurm, every_s, random.Random(seed)
        self.done: collections.Counter[str] = collections.Counter()
        self.error: BaseException | None = None
        self.stop = threading.Event()

    def run(self) -> None:
        """Every few seconds one of the ways to disturb; what goes wrong with that is kept in `error`."""
        ways = [self.kill, self.kill, self.cancel, self.requeue, self.lose_a_node]
        try:
            while not self.stop.wait(self.draw.uniform(0.5, 1.5) * self.every_s):
                way = self.draw.choice(ways)
                self.done[way.__name__] += way()
        except BaseException as error:
            self.error = error

    def running(self) -> str | None:
        """Id of a running task."""
        jobs = self.slurm.run(
            "squeue", "-h", "-r", "-t", "RUNNING", "-o", "%i", check=False
        ).split()
        return self.draw.choice(jobs) if jobs else None

    def kill(self) -> bool:
        """SIGKILL to the Python of a job, wherever it is."""
        mark = b"submitit.core._submit"
        pids = []
        for pid in self.slurm.processes():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if mark in words and b"srun" not in words.split(b"\0")[0]:
                pids.append(pid)
        if not pids:
            return False
        try:
            os.kill(self.draw.choice(pids), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def cancel(self) -> bool:
        """Scancel of a running task; whether it was cancelled."""
        job = self.running()
        return bool(job) and self.took("scancel", job) and self.becomes(job, "CANCELLED")

    def requeue(self) -> bool:
        """Scontrol requeue of a running task; whether it was queued again."""
        job = self.running()
        before = self.restarts(job) if job else 0
        return bool(job) and self.took("scontrol", "requeue", job) and self.restarts(job) > before

    def took(self, *command: str) -> bool:
        """Whether Slurm did not refuse."""
        try:
            self.slurm.run(*command)
        except subprocess.CalledProcessError:  # it has just ended
            return False
        return True

    def becomes(self, job: str, state: str) -> bool:
        """Whether the task ends so within half a minute."""
        try:
            self.slurm.wait_until(state, lambda: self.slurm.states(job) == {job: state}, 30)
        except TimeoutError:
            return False
        return True

    def restarts(self, job: str) -> int:
        """How often the task was queued again."""
        try:
            return int(self.slurm.field(job, "Restarts"))
        except (subprocess.CalledProcessError, StopIteration):
            return 0

    def lose_a_node(self) -> bool:
        """A node is gone with all that runs there, and comes back."""
        if self.draw.random() < 0.5:  # half as often as the others
            return False
        name = self.draw.choice(self.slurm.layout.names)
        self.slurm.kill_node(name)
        self.slurm.run(
            "scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=soak", check=False
        )
        time.sleep(2)
        self.slurm.resume_node(name)
        return True


def soak(options: argparse.Namespace) -> int:
    """Run it; returns the exit code."""
    words = {"trajectories": options.cells // 5, "unit": options.unit}
    grid, cluster = ([word.format(**words) for word in part] for part in (GRID, CLUSTER))
    folder = Path(tempfile.mkdtemp(prefix="soak", dir="/tmp"))
    begin, rounds = time.monotonic(), 0
    with MiniSlurm(cpus=2) as slurm:
        study = Study(folder / "rough", slurm)
        trouble = Trouble(slurm, options.every, options.seed)
        trouble.start()
        while len(study.records()) < options.cells and rounds < options.rounds:
            rounds += 1
            both = [study.start("-m", *study.arguments(*grid, *cluster)) for _ in range(2)]
            shown = [process.communicate()[0] for process in both]
            if any(process.returncode for process in both):
                print("\n".join(shown))
                return 1
            print(
                f"[{time.monotonic() - begin:5.0f} s] round {rounds}: {len(study.records())} done; {told(shown)}",
                flush=True,
            )
            study.wait(timeout_s=1800)
        trouble.stop.set()
        trouble.join()
    if trouble.error is not None:
        raise trouble.error
    disturbed_s = time.monotonic() - begin
    calm = Study(folder / "calm")
    calm.launch(
        "-m",
        *[word for word in study.arguments(*grid) if not word.startswith("cluster")],
        limit_s=3600,
    )
    return judge(study, calm, options.cells, rounds, disturbed_s, trouble.done)


def told(shown: list[str]) -> str:
    """What the two submitters said, in a few words."""
    lines = [line for each in shown for line in each.splitlines()]
    return "; ".join(line for line in lines if line.startswith(("Submitted", "Nothing to submit")))


def judge(
    study: Study,
    calm: Study,
    cells: int,
    rounds: int,
    seconds: float,
    done: collections.Counter[str],
) -> int:
    """Print the figures; 1 if a cell is lost, was done twice, or differs."""
    expected, found = calm.results(), study.results()
    lost = expected.keys() - found.keys()
    different = [name for name in found if found[name] != expected.get(name)]
    starts = twice = 0
    for file in study.path.glob("cells/*/attempts.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        starts += sum("started" in line for line in lines)
        twice += sum(line.get("how") == "done" for line in lines) > 1
    jobs = sum(len(array["tasks"]) for one in study.submissions() for array in one["arrays"])
    print(
        f"{cells} cells, {jobs} jobs submitted in {rounds} rounds by two at once, {seconds:.0f} s; disturbed "
        + ", ".join(f"{name} {count}" for name, count in sorted(done.items()))
    )
    print(
        f"{starts} starts of cells; {len(lost)} lost, {twice} done twice, {len(different)} different from the calm run"
    )
    return 1 if lost or twice or different or len(expected) != cells else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=500, help="a multiple of 5")
    parser.add_argument("--unit", type=int, default=25, help="cells of one job")
    parser.add_argument(
        "--every", type=float, default=4.0, help="seconds between two disturbances, on average"
    )
    parser.add_argument("--rounds", type=int, default=100, help="given up after so many")
    parser.add_argument("--seed", type=int, default=0)
    sys.exit(soak(parser.parse_args()))
