"""Studies on the tests' Slurm: the command, the companion, waiting, and what an undisturbed run gives."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
QUICK = [
    f"hydra.searchpath=[file://{ROOT}/tests/standin]", "editor=standin", "task=none", "edit_scores.limit=2",
    "edit_scores.max_new_tokens=2", "wandb=disabled",
]  # fmt: skip
SLURM = ["cluster=slurm", "cluster.memory_gb=2", "cluster.signal_s=30", "cluster.time=20"]

FOREIGN = ("EDIT_SWEEPS_", "SQUEUE_", "SACCT_", "SINFO_", "WANDB_", "PYTHONPATH", "PYTHONSAFEPATH")
"""Variables of whoever runs the tests that must not reach the program."""


class Study:
    """A folder from which launch.py is called, with the cluster's environment.

    Args:
        folder: A new one.
        slurm: The tests' MiniSlurm; None: a machine without Slurm.
    """

    def __init__(self, folder, slurm=None, name="main"):
        self.folder, self.slurm, self.name = folder, slurm, name
        self.control = folder / "control"
        self.control.mkdir(parents=True, exist_ok=True)
        inherited = slurm.env if slurm else os.environ
        self.env = {
            **{name: value for name, value in inherited.items() if not name.startswith(FOREIGN)},
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    @property
    def path(self):
        return self.folder / "outputs" / self.name

    def start(self, *arguments, **variables):
        """launch.py as a process; what it prints is captured."""
        return subprocess.Popen(
            [sys.executable, str(ROOT / "launch.py"), *arguments],
            cwd=self.folder, env=self.env | variables, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def launch(self, *arguments, code=0, limit_s=300, **variables):
        """launch.py to its end; returns what it prints."""
        process = self.start(*arguments, **variables)
        shown, _ = process.communicate(timeout=limit_s)
        assert process.returncode == code, shown
        return shown

    @staticmethod
    def arguments(*more):
        """The stand-in editor on Slurm, quickly; later ones replace earlier ones."""
        known = {argument.partition("=")[0]: argument for argument in (*QUICK, *SLURM, *more)}
        return list(known.values())

    def submit(self, *arguments, code=0, **variables):
        """launch.py -m with cluster=slurm and the stand-in editor."""
        return self.launch("-m", *self.arguments(*arguments), code=code, **variables)

    def companion(self, *arguments, code=0, cwd=None):
        """edit-sweeps; returns what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "edit_sweeps", *arguments],
            cwd=cwd or self.folder, env=self.env | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def records(self):
        """Name -> record of every cell that has one."""
        files = sorted(self.path.glob("cells/*/record.json"))
        return {file.parent.name: json.loads(file.read_text()) for file in files}

    def results(self):
        """Name -> what tests compare."""
        return {name: record["result"] for name, record in self.records().items()}

    def submissions(self):
        """The submission files, the oldest first."""
        files = sorted(self.path.glob("submissions/*/submission.json"))
        return [json.loads(file.read_text()) for file in files]

    def jobs(self):
        """Slurm's ids of all arrays that were submitted, in order."""
        return [array["job"] for one in self.submissions() for array in one["arrays"]]

    def starts(self):
        """Name -> how often each cell was started."""
        return {
            file.parent.name: sum('"started"' in line for line in file.read_text().splitlines())
            for file in sorted(self.path.glob("cells/*/attempts.jsonl"))
        }

    def check(self, expected, starts):
        """Every cell has one record, equal to that of an undisturbed run, and was started so often.

        Args:
            expected: Name -> result.
            starts: Of each cell, by its number of edits; or one number for every cell.
        """
        assert self.results() == expected, self.log()
        counts = {name: self.starts().get(name, 0) for name in expected}
        if isinstance(starts, int):
            assert set(counts.values()) == {starts}, counts
        else:
            assert {edits_of(name): count for name, count in counts.items()} == starts
        for name, ends in self.ends().items():
            assert ends.count("done") == 1, f"{name} was done {ends.count('done')} times"
        assert not list(self.path.glob("cells/*/.*")), "nothing half written is left"
        assert not list(self.path.glob("cells/*/failure.json"))

    def attempts(self):
        """Name -> lines of each cell's attempts.jsonl."""
        files = sorted(self.path.glob("cells/*/attempts.jsonl"))
        return {f.parent.name: [json.loads(x) for x in f.read_text().splitlines()] for f in files}

    def ends(self):
        """Name -> how each of the cell's attempts ended, of those that did."""
        return {
            name: [line["how"] for line in lines if "ended" in line]
            for name, lines in self.attempts().items()
        }

    def states(self):
        """Number of edits -> state, as `edit-sweeps status` sees the cells."""
        rows = json.loads(self.companion("status", self.name, "--json"))["cells"]
        return {edits_of(row["name"]): row["state"] for row in rows}

    def edited(self):
        """What every process did, the first one first: its node, and after which edit it stood each time."""
        found, log = {}, self.control / "edits.log"
        for line in log.read_text().splitlines() if log.exists() else []:
            process, node, count = line.split()
            found.setdefault(process, (node, []))[1].append(int(count))
        return list(found.values())

    def log(self):
        """All that jobs printed, for messages."""
        files = sorted(self.path.glob("submissions/*/slurm/*_log.out"))
        return "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in files)

    def printed(self):
        """All that jobs printed, their shell's lines included."""
        files = sorted(self.path.glob("submissions/*/slurm/*.out"))
        return "\n".join(file.read_text() for file in files)

    def wait(self, timeout_s=180):
        """Until Slurm has nothing queued or running."""
        try:
            self.slurm.wait_until("empty queue", self._idle, timeout_s, every_s=0.2)
        except TimeoutError as error:
            error.add_note(self.slurm.run("squeue") + self.log())
            raise
        return self

    def _idle(self):
        return not self.slurm.run("squeue", "-h").strip()

    def hold(self, count):
        (self.control / f"at-{count}").unlink(missing_ok=True)
        (self.control / f"hold-{count}").touch()

    def release(self, count):
        (self.control / f"hold-{count}").unlink()

    def wait_at(self, count, timeout_s=120):
        """Until the stand-in editor holds after so many edits."""
        end = time.monotonic() + timeout_s
        while not (self.control / f"at-{count}").exists():
            assert time.monotonic() < end, f"never at {count} edits\n{self.log()}"
            time.sleep(0.05)

    def wait_until_gone(self, count):
        """Until the process that held there has ended."""
        process = Path("/proc") / (self.control / f"at-{count}").read_text()
        self.slurm.wait_until("the end of the process", lambda: not process.exists(), 60)

    def undisturbed(self, tmp_path_factory, *arguments):
        """Results of the same cells run here, in one process, without Slurm."""
        calm = Study(tmp_path_factory.mktemp("calm"), name=self.name)
        calm.launch("-m", *QUICK, *arguments)
        return calm.results()


def edits_of(name):
    """Number of edits of the cell of that name."""
    return int(name.split("-n")[-1].split("-")[0])
