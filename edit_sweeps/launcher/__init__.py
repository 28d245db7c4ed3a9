"""From composed configurations to results: plan, check, run what is missing, report."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from edit_sweeps.launcher.cluster import hand_over, rehearse
from edit_sweeps.launcher.freezing import Composed, Refusal, frozen
from edit_sweeps.launcher.plan import Plan, make_plan
from edit_sweeps.launcher.queue import Slurm
from edit_sweeps.launcher.settling import planning, settle
from edit_sweeps.launcher.states import LIVE
from edit_sweeps.offline import go_offline

log = logging.getLogger(__name__)


def launch_one(config: DictConfig, overrides: Sequence[str]) -> None:
    """Plan and run the cell of a configuration that Hydra has composed; see `launch`."""
    go_offline(config.data_root)
    launch([frozen(config, overrides)])


def launch(composed: Sequence[Composed]) -> bool:
    """Plan the study's cells and run what is missing.

    Args:
        composed: The cells, of `launcher.composing.compose` or `freezing.frozen`.

    Returns:
        Whether the cells have ended; on Slurm they have only been submitted.

    Raises:
        SystemExit: 2 when a cell is refused (nothing has run then), 1 when a cell failed.
    """
    go_offline(next((cell.tree["data_root"] for cell in composed if cell.tree), None))
    try:
        plan = make_plan(composed)
        if plan.todo():
            from edit_sweeps.launcher.checks import check

            check(plan)
    except Refusal as refusal:
        print(f"Refused, nothing was run.\n{refusal}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    on_slurm = plan.cluster["executor"] == "slurm"
    if plan.dry_run:
        print(rehearse(plan) if on_slurm else plan.describe())  # noqa: T201
        return True
    try:
        failed = hand_over(plan) if on_slurm else carry_out(plan)
    except Refusal as refusal:
        print(refusal, file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(  # noqa: T201
            "\nStopped. What was computed is kept; the same command goes on from here.",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    if failed:
        raise SystemExit(1)
    return plan.cluster["wait"] or not on_slurm


def carry_out(plan: Plan) -> int:
    """Run the units of `plan`, write report and table, print the summary; returns how many cells failed."""
    with planning(plan.study):
        settle(plan, Slurm())
        plan.save()
    todo = plan.todo()
    live = [entry for entry in plan.entries if entry.state in LIVE and not entry.todo]
    if live:
        log.info("%d cells are queued or running on Slurm and left to it", len(live))
    if todo:
        from edit_sweeps.launcher.local import run_units

        log.info("%s", plan.headline())
        run_units(plan.units(), device=plan.device, force=plan.force)
    elif not live:
        print(f"Nothing to do: all {len(plan.entries)} cells of {plan.study} are done.")  # noqa: T201
    from edit_sweeps.report import print_summary, write_report

    report = plan.study / "report.html"
    if todo or not report.exists():
        report = write_report(plan.study)
    print(print_summary(plan.study))  # noqa: T201
    print(f"Report: {report}\nTable:  {plan.study / 'table.csv'}")  # noqa: T201
    return plan.failed()
