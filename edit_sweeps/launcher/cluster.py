"""`cluster=slurm`: a plan to job arrays, and what its user is told."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from edit_sweeps import provenance
from edit_sweeps.cell import Cell
from edit_sweeps.claims import Held
from edit_sweeps.launcher import resources, settling, submit
from edit_sweeps.launcher.freezing import Refusal
from edit_sweeps.launcher.plan import Plan
from edit_sweeps.launcher.prerequisites import jobs_of
from edit_sweeps.launcher.queue import Slurm, SlurmUnavailable
from edit_sweeps.launcher.states import FINISHED, LIVE
from edit_sweeps.launcher.submissions import Submission
from edit_sweeps.launcher.work import forget_prefixes

log = logging.getLogger(__name__)


def hand_over(plan: Plan) -> int:
    """Submit what is to run of `plan` and return at once, or stay with `cluster.wait=true`.

    Returns:
        How many cells failed or were lost, with `cluster.wait=true`; else 0.

    Raises:
        Refusal: Slurm is not there or refuses; what was submitted before that is told.
    """
    slurm, cells = Slurm(), [entry.cell for entry in plan.entries]
    try:
        slurm.require()
        with settling.planning(plan.study) as held:
            settling.settle(plan, slurm)
            plan.save()
            submission = None
            if plan.todo():
                submission = submit_cells(plan.study, plan.todo(), slurm, held, force=plan.force)
    except SlurmUnavailable as error:
        raise Refusal(f"  {error}") from error
    except submit.SubmissionError as error:
        raise Refusal(f"  {error}") from error
    print(tell(plan, submission))  # noqa: T201
    if not plan.cluster["wait"]:
        return 0
    from edit_sweeps.launcher.following import follow

    try:
        return follow(plan.study, [cell.name for cell in cells], every_s=plan.cluster["refresh_s"])
    except KeyboardInterrupt:
        print("\nDetached; the jobs go on. The same command attaches again.", file=sys.stderr)  # noqa: T201
        raise SystemExit(130) from None


def submit_cells(
    study: Path, cells: Sequence[Cell], slurm: Slurm, held: Held, *, force: bool
) -> Submission:
    """Submit cells of one study; `held` is the claim of planning.

    Raises:
        SubmissionError: sbatch refused an array.
        SlurmUnavailable: Slurm does not answer.
    """
    config = cells[0].config
    submission = Submission.new(
        study.absolute(), command=sys.argv, force=force, code=provenance.code_identity()
    )
    live = settling.coming(study, slurm)
    drafts = drafts_of(submission, cells, live, slurm)
    if force:
        forget_prefixes(cells)
    submit.submit(submission, drafts, config, live, held)
    return submission


def drafts_of(
    submission: Submission, cells: Sequence[Cell], live: dict[str, str], slurm: Slurm
) -> list[submit.Draft]:
    """The arrays that these cells become."""
    cluster = cells[0].config["cluster"]
    jobs = jobs_of(cells, live, how=cluster["group"], largest=cluster["max_cells_per_unit"])
    limit = cluster["max_array_size"] or slurm.max_array_size()
    return submit.draw_up(jobs, cluster, submission, limit)


def rehearse(plan: Plan) -> str:
    """The arrays that would be submitted, what they cost at most, and what `sbatch --test-only` says of them."""
    slurm = Slurm()
    try:
        slurm.require()
        settling.settle(plan, slurm)
        live = settling.coming(plan.study, slurm)
    except SlurmUnavailable as error:
        return f"{plan.describe()}\nSlurm cannot be asked: {error}"
    cells = plan.todo()
    if not cells:
        return plan.describe()
    config = cells[0].config
    submission = Submission.new(plan.study.absolute(), command=[], force=plan.force, code={})
    drafts = drafts_of(submission, cells, live, slurm)
    lines = [f"  {line}" for draft in drafts for line in describe(draft)]
    spent = [draft.resources for draft in drafts for _ in draft.array.tasks]
    cost = f"At most {resources.gpu_hours(spent):.1f} GPU-hours, if every job used up its time."
    verdicts = [f"  {line}" for line in submit.try_out(drafts, config, slurm)]
    units = [job.unit for draft in drafts for jobs in draft.jobs for job in jobs]
    return "\n".join(
        [plan.describe(units), "arrays:", *lines, cost, "sbatch --test-only says:", *verdicts]
    )


def describe(draft: submit.Draft) -> list[str]:
    """A line on an array."""
    array, wanted = draft.array, draft.resources
    cells = sum(len(task.cells) for task in array.tasks)
    asks = (
        f"{many(wanted.gpus, 'GPU')}, {many(wanted.cpus, 'core')}, {wanted.memory_gb:g} GB, "
        f"{wanted.minutes} min"
    )
    after = f", after {many(len(draft.needs), 'prerequisite')}" if draft.needs else ""
    tasks = many(len(array.tasks), "task")
    return [f"{array.kind}: {tasks}, {many(cells, 'cell')}, each task {asks}{after}"]


def many(count: float, what: str) -> str:
    """`1 task`, `2 tasks`."""
    return f"{count:g} {what}{'' if count == 1 else 's'}"


def tell(plan: Plan, submission: Submission | None) -> str:
    """What was submitted, what was not and why, and how to see progress."""
    live = [entry for entry in plan.entries if entry.state in LIVE and not entry.todo]
    left = [entry for entry in plan.entries if entry.why.startswith(settling.LOST_TOO_OFTEN)]
    lines = [f"{entry.cell.name} is not submitted: {entry.why}" for entry in left]
    if live:
        lines.append(f"{many(len(live), 'cell')} queued or running already, left alone.")
    if submission is None:
        done = sum(entry.state in FINISHED for entry in plan.entries)
        lines.append(f"Nothing to submit: {done} of {len(plan.entries)} cells are done.")
    else:
        cells = sum(len(task.cells) for array in submission.arrays for task in array.tasks)
        jobs = sum(len(array.tasks) for array in submission.arrays)
        lines.append(
            f"Submitted {many(cells, 'cell')} as {many(jobs, 'job')} of study {plan.study.name}:"
        )
        lines += [describe_array(submission, i) for i in range(len(submission.arrays))]
    name = plan.study.name
    lines += [
        f"Progress: edit-sweeps status {name} --watch",
        f"Then:     edit-sweeps report {name}      (the same command again submits what is lost or failed)",
    ]
    return "\n".join(lines)


def describe_array(submission: Submission, number: int) -> str:
    """A line on a submitted array."""
    array = submission.arrays[number]
    after = (
        f" after {', '.join(each.partition(':')[2] for each in array.after)}" if array.after else ""
    )
    tasks, gpus = many(len(array.tasks), "task"), many(array.gpus, "GPU")
    return f"  {array.job}: {array.kind}, {tasks}, {gpus}, {array.minutes} min{after}"
