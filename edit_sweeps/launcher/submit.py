"""Jobs to Slurm through submitit: arrays of equal requests, prerequisites first, every step on disk before the next."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edit_sweeps.cell import Tree
from edit_sweeps.launcher import drift
from edit_sweeps.launcher.prerequisites import KINDS, Job
from edit_sweeps.launcher.queue import Slurm, SlurmUnavailable
from edit_sweeps.launcher.resources import Resources
from edit_sweeps.launcher.submissions import REFUSED, SUBMITTED, Array, Submission, Task
from edit_sweeps.offline import offline_environment
from edit_sweeps.record import write_json

if TYPE_CHECKING:
    from edit_sweeps.claims import Held
    from edit_sweeps.launcher.queue import Slurm

log = logging.getLogger(__name__)

PLAIN = ("partition", "account", "qos", "constraint")
"""Settings that go to sbatch as they are."""
SETTLED = {
    f"SBATCH_{name}"
    for name in (
        "JOB_NAME", "ARRAY_INX", "SIGNAL", "OUTPUT", "ERROR", "OPEN_MODE", "REQUEUE", "NO_REQUEUE", "WAIT", "TIMELIMIT",
        "MEM_PER_NODE", "MEM_PER_CPU", "MEM_PER_GPU", "GPUS", "GPUS_PER_NODE", "GPUS_PER_TASK", "CPUS_PER_GPU",
    )
}  # fmt: skip
"""Variables that sbatch would take instead of what the script says."""


class SubmissionError(RuntimeError):
    """sbatch refused something; says what it said and what was submitted before."""


@dataclass
class Draft:
    """An array before it has an id.

    Attributes:
        resources: What each of its tasks asks for.
        jobs: Those of each task.
        needs: Prerequisites of all its tasks.
    """

    array: Array
    resources: Resources
    jobs: list[list[Job]]
    needs: set[str] = field(default_factory=set)


def draw_up(jobs: Sequence[Job], cluster: Tree, submission: Submission, limit: int) -> list[Draft]:
    """Sort jobs into arrays: one for each kind, distinct request and set of prerequisites.

    Args:
        jobs: Prerequisites before what needs them.
        cluster: The group `cluster` of the configuration.
        submission: Gets the arrays; their units are numbered in its order.
        limit: Tasks of an array at most.
    """
    alike: dict[tuple[int, Resources, tuple[str, ...]], list[Job]] = {}
    for job in jobs:
        mark = (KINDS.index(job.kind), job.unit.resources, tuple(sorted(job.needs)))
        alike.setdefault(mark, []).append(job)
    drafts: list[Draft] = []
    number = 0
    for (kind, resources, needs), same in sorted(alike.items(), key=lambda item: item[0][0]):
        side_by_side = cluster["units_per_gpu"] if KINDS[kind] == "cells" else 1
        tasks = list(pieces(same, side_by_side))
        for part in pieces(tasks, limit):
            array = Array(
                name=f"es-{submission.study.name}-{submission.id}-{len(drafts)}",
                kind=KINDS[kind],
                tasks=[],
                minutes=resources.minutes,
                gpus=resources.gpus,
            )
            for task in part:
                names = [f"{number + i:04d}" for i in range(len(task))]
                number += len(task)
                array.tasks.append(
                    Task(
                        units=names,
                        cells=[cell.name for job in task for cell in job.unit.cells()],
                        provides=[need for job in task for need in job.provides],
                        counts=[len(job.unit.cells()) for job in task],
                    )
                )
            drafts.append(Draft(array, resources, part, set(needs)))
    submission.arrays = [draft.array for draft in drafts]
    return drafts


def pieces(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of at most `size`."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def write_units(submission: Submission, drafts: Sequence[Draft]) -> None:
    """Freeze what each unit runs."""
    submission.unit_file("0").parent.mkdir(parents=True, exist_ok=True)
    for draft in drafts:
        for task, jobs in zip(draft.array.tasks, draft.jobs, strict=True):
            for name, job in zip(task.units, jobs, strict=True):
                write_json(submission.unit_file(name), job.unit.as_tree(), indent=None)


def submit(
    submission: Submission,
    drafts: Sequence[Draft],
    config: Tree,
    live: Mapping[str, str],
    held: Held,
) -> None:
    """Hand every array to Slurm, in order; `submission` gets the ids and is saved after each.

    Args:
        submission: With its arrays; written here before anything is submitted.
        drafts: Of `draw_up`.
        config: Of one cell: `cluster`, `data_root`.
        live: Prerequisite -> condition such as `afterok:17_0`, of those submitted earlier.
        held: The claim of planning: who was stopped for minutes and lost it must not submit any more.

    Raises:
        SubmissionError: sbatch refused an array. Those before it stay submitted; the rest is marked refused.
    """
    write_units(submission, drafts)
    submission.save()
    code = drift.snapshot(submission.study) if config["cluster"]["snapshot"] else None
    ids = dict(live)
    for number, draft in enumerate(drafts):
        array = draft.array
        array.after = sorted({ids[need] for need in draft.needs})
        try:
            if not held.is_ours():
                msg = "another process took over, because this one was stopped for minutes; repeat the command"
                raise RuntimeError(msg)
            array.job = submit_array(submission, draft, config, code)
        except Exception as error:
            known, how = withdraw(array.name)
            for later in submission.arrays[number + (not known) :]:
                later.state = REFUSED
            submission.save()
            msg = f"array {array.name} {how}: {error}"
            raise SubmissionError(msg) from error
        array.state = SUBMITTED
        submission.save()
        for index, task in enumerate(array.tasks):
            condition = "afterany" if array.kind == "cells" else "afterok"
            ids |= dict.fromkeys(task.provides, f"{condition}:{array.id_of(index)}")


def submit_array(submission: Submission, draft: Draft, config: Tree, code: Path | None) -> str:
    """Submit one array; returns its Slurm id."""
    from edit_sweeps.launcher.job import UnitRunner

    executor = make_executor(submission.folder / "slurm", draft, config, code)
    folder = str(submission.folder.absolute())
    runners = [UnitRunner(folder, tuple(task.units)) for task in draft.array.tasks]
    with clean_environment(config["cluster"]), executor.batch():
        jobs = [executor.submit(runner) for runner in runners]
    return str(jobs[0].job_id).partition("_")[0]


def make_executor(folder: Path, draft: Draft, config: Tree, code: Path | None) -> Any:
    """Submitit's executor with everything that the array asks for."""
    import submitit

    cluster = config["cluster"]
    python = cluster["python"] or sys.executable
    executor = submitit.SlurmExecutor(
        folder=folder.absolute(),
        max_num_timeout=cluster["timeouts"],
        python=" ".join(filter(None, (cluster["container"], python))),
    )
    executor.update_parameters(**parameters(draft, config, code))
    return executor


def parameters(draft: Draft, config: Tree, code: Path | None) -> dict[str, Any]:
    """Submitit's names for what the array asks for."""
    cluster, wanted = config["cluster"], draft.resources
    side_by_side = max(len(task.units) for task in draft.array.tasks)
    memory = wanted.memory_gb * side_by_side
    found: dict[str, Any] = {
        "job_name": draft.array.name,
        "time": wanted.minutes,
        "cpus_per_task": wanted.cpus,
        "ntasks_per_node": side_by_side,
        "mem": f"{int(memory * 1024)}MB",
        "signal_delay_s": cluster["signal_s"],
        "stderr_to_stdout": True,
        "wckey": None,
        "array_parallelism": cluster["max_parallel"] or len(draft.array.tasks),
        "srun_args": ["--kill-on-bad-exit=0", *cluster["srun_args"]],
        "setup": [*cluster["setup"], *exports(config, code)],
    }
    found |= {name: cluster[name] for name in PLAIN if cluster[name]}
    if wanted.gpus:
        found["gpus_per_node"] = wanted.gpus
    extra: dict[str, Any] = {"requeue": True, "chdir": str(Path.cwd())}
    if draft.array.after:
        extra |= {
            "dependency": ",".join(draft.array.after),
            "kill-on-invalid-dep": "yes",
        }
    return found | {"additional_parameters": extra | cluster["extra"]}


def exports(config: Tree, code: Path | None) -> list[str]:
    """Lines of shell that make the job see the package that was used here, and only the data folder.

    `python -m` puts the folder it starts in before PYTHONPATH, and in a clone that folder has the package, too: with
    PYTHONSAFEPATH the snapshot comes first, and the folder last.
    """
    package = code or Path(drift.PACKAGE).parent.absolute()
    values = {
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONSAFEPATH": "1",
        **offline_environment(config["data_root"]),
    }
    here = shlex.quote(str(Path.cwd()))
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return [
        *lines,
        f'export PYTHONPATH={shlex.quote(str(package))}"${{PYTHONPATH:+:$PYTHONPATH}}":{here}',
    ]


def withdraw(name: str) -> tuple[bool, str]:
    """Cancel what Slurm took though sbatch failed: without submitit's last step such a job only waits and fails.

    Returns:
        Whether it is certain that Slurm has no such job now; where it is not, the array stays `intended` and is
        looked for by its name. And a word on that.
    """
    slurm = Slurm()
    try:
        job = slurm.find(name)
        if job is None:
            return True, "was refused and not submitted"
        slurm.cancel([job])
    except SlurmUnavailable:
        return False, "was perhaps submitted, what comes after it was not"
    return True, f"was taken as job {job} in spite of an error, and cancelled"


@contextlib.contextmanager
def clean_environment(cluster: Tree) -> Iterator[None]:
    """Hide from sbatch what would win over the script: variables of a Slurm job around this process, SBATCH_... ones.

    Kept are those that a user sets for sbatch and the configuration leaves open (SBATCH_ACCOUNT with account=null,
    SBATCH_RESERVATION ...), and where Slurm's configuration is.
    """
    import submitit

    settled = SETTLED | {f"SBATCH_{name.upper()}" for name in PLAIN if cluster[name]}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or (name.startswith("SBATCH_") and name not in settled)
    }
    hidden = {name: os.environ.pop(name) for name in settled & os.environ.keys()}
    try:
        with contextlib.ExitStack() as inside:
            if "SLURM_JOB_ID" in os.environ:
                inside.enter_context(submitit.helpers.clean_env())
                os.environ.update(kept)
            yield
    finally:
        os.environ.update(hidden)


def try_out(drafts: Sequence[Draft], config: Tree, slurm: Slurm) -> list[str]:
    """What `sbatch --test-only` says of each distinct request; nothing is submitted."""
    told = []
    for draft in {(d.resources, d.array.kind): d for d in drafts}.values():
        with tempfile.TemporaryDirectory() as folder, clean_environment(config["cluster"]):
            executor = make_executor(Path(folder), draft, config, None)
            text = executor._make_submission_file_text("true", "test")  # noqa: SLF001
            script = Path(folder) / "test.sh"
            script.write_text(text, encoding="utf-8")
            told.append(f"{draft.array.kind}: {slurm.test_only(script)}")
    return told
