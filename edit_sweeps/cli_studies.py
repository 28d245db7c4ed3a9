"""`edit-sweeps status | logs | cancel | retry | collect | prune | push`: studies while they run and after."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from edit_sweeps.home import NotFoundError, without_traceback
from edit_sweeps.studies import (
    Cells,
    Study,
    complete_cell,
    complete_study,
    find_cell,
    find_study,
    with_part,
)

app = typer.Typer()

FAILED = ("failed", "lost")


def complete_state(incomplete: str) -> list[str]:
    """States that begin with `incomplete`."""
    from edit_sweeps.launcher.states import STATES

    return [state for state in STATES if state.startswith(incomplete)]


@app.command()
def status(
    study: Study,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Stay until all has ended.")] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2)] = 10.0,
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="Only cells that are done, collapsed, running, pending, failed, lost or missing; several times.",
            autocompletion=complete_state,
        ),
    ] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="Short for --state failed --state lost.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Finished cells of large studies, too.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Where every cell of a study is: done, running, pending, failed, lost, with time, host, job and log.

    Only reads; jobs may run meanwhile. With --watch the exit code is 1 if cells are failed, lost or missing at the
    end; Ctrl-C stops looking and nothing else.
    """
    from edit_sweeps.launcher import showing
    from edit_sweeps.launcher.states import STATES, look

    only = {*(state or ()), *(FAILED if failed else ())}
    if only - set(STATES):
        unknown = ", ".join(sorted(only - set(STATES)))
        raise typer.BadParameter(f"{unknown}; allowed: {', '.join(STATES)}", param_hint="'--state'")
    if watch and (only or everything or as_json):
        raise typer.BadParameter(
            "it shows the whole study; leave out --state, --failed, --all and --json",
            param_hint="'--watch'",
        )
    with without_traceback():
        folder = find_study(study)
    if watch:
        from edit_sweeps.launcher.following import follow

        try:
            bad = follow(folder, None, every)
        except KeyboardInterrupt:
            raise typer.Exit from None
        raise typer.Exit(1 if bad else 0)
    with without_traceback(ValueError, OSError):
        looks = look(folder)
    if as_json:
        shown = [each for each in looks if not only or each.state in only]
        cells = [asdict(each) | {"log": str(each.log) if each.log else None} for each in shown]
        print(json.dumps({"study": str(folder), "cells": cells}, indent=1))
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(showing.live_view(folder, looks, everything=everything, only=only))
    else:
        print(showing.text_view(folder, looks, everything=everything, only=only))


@app.command()
def logs(
    cell: Annotated[
        str,
        typer.Argument(
            metavar="CELL", help="Its name, or part of it.", autocompletion=complete_cell
        ),
    ],
    *,
    study: Annotated[
        str | None,
        typer.Option(help="Where to look; everywhere by default.", autocompletion=complete_study),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", help="Of the end of the log.", min=1)] = 50,
    follow: Annotated[
        bool,
        typer.Option("--follow", "-f", help="Stay until the cell has ended, and show what comes."),
    ] = False,
) -> None:
    """Why a cell failed, and the end of its log; of the job's own log where the cell never began.

    With --follow the exit code is 1 if the cell is failed, lost or missing at the end; Ctrl-C only stops looking.
    """
    from edit_sweeps.launcher.following import BAD
    from edit_sweeps.launcher.reading_logs import follow_log, story_of

    with without_traceback():
        folder = find_cell(cell, study)
    print(story_of(folder, lines))
    if not follow:
        return
    try:
        state = follow_log(folder, partial(print, end="", flush=True), pause_s=0.5, look_s=5.0)
    except KeyboardInterrupt:
        raise typer.Exit from None
    print(f"{folder.name}: {state}")
    raise typer.Exit(1 if state in BAD else 0)


@app.command()
def cancel(
    study: Study,
    cells: Cells = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Cancel the queued and running jobs of a study, or those that have some cells. What is done is kept."""
    from edit_sweeps.launcher.queue import Slurm, SlurmUnavailable
    from edit_sweeps.launcher.stopping import jobs_of, note_stop, told_of

    with without_traceback(SlurmUnavailable):
        folder = find_study(study)
        slurm = Slurm()
        names = names_of(folder, cells)
        jobs = jobs_of(folder, names, slurm)
        if not jobs:
            print(f"Nothing to cancel: no job of {folder.name} is queued or running.")
            return
        print(told_of(jobs, names))
        if not yes:
            typer.confirm("Cancel them?", abort=True)
        slurm.cancel(list(jobs))
        note_stop(folder, jobs)
    print(
        f"Cancelled {len(jobs)} jobs. The same launch.py command submits again what they had not done."
    )


@app.command()
def retry(
    study: Study,
    cells: Cells = None,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what.")] = False,
) -> None:
    """Submit failed and lost cells again, as they were frozen at their last submission."""
    from edit_sweeps.launcher.queue import SlurmUnavailable
    from edit_sweeps.launcher.retrying import retry as again
    from edit_sweeps.launcher.submit import SubmissionError

    with without_traceback(SlurmUnavailable, SubmissionError):
        folder = find_study(study)
        print(again(folder, names_of(folder, cells), dry_run=dry_run))


@app.command()
def collect(
    study: Annotated[
        list[str],
        typer.Argument(
            metavar="STUDY...", help="Names, or folders.", autocompletion=complete_study
        ),
    ],
    *,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The study's own by default; needed for several."),
    ] = None,
) -> None:
    """Write results.csv, results.parquet (a row for each cell, task and metric) and cells.csv, also while jobs run."""
    from edit_sweeps.launcher.collecting import collect as gather

    with without_traceback(ValueError, OSError):
        folders = list(dict.fromkeys(find_study(name) for name in study))
        if to is None and len(folders) > 1:
            msg = "several studies are collected into one table; say where: --to FOLDER"
            raise ValueError(msg)
        print(gather(folders, to or folders[0]))


@app.command()
def prune(
    study: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STUDY]...", help="All studies by default.", autocompletion=complete_study
        ),
    ] = None,
    *,
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only what was not touched for so long: 12h, 30d.")
    ] = "7d",
    include_logs: Annotated[
        bool, typer.Option("--logs", help="Slurm's logs and scripts of finished submissions, too.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Prefixes of failed and lost cells, too.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what, and how much.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove stored prefixes of editing runs whose cells are all done, and code and claims that no job needs.

    Records, samples and saved edits stay, and so does all that a queued, running or missing cell could use.
    A prefix that is wanted again later is computed again.
    """
    from edit_sweeps.launcher import pruning
    from edit_sweeps.launcher.queue import SlurmUnavailable
    from edit_sweeps.studies import known_studies

    with without_traceback(ValueError, OSError, SlurmUnavailable):
        limit = pruning.age(older_than)
        folders = [find_study(name) for name in study] if study else list(known_studies().values())

        def find(folder: Path) -> list[pruning.Found]:
            return pruning.find(folder, limit, logs=include_logs, unfinished=everything)

        found = [each for folder in folders for each in find(folder)]
        print(pruning.told_of(found))
        if not found or dry_run:
            return
        if not yes:
            typer.confirm("Remove them?", abort=True)
        print(pruning.remove(found, find))


@app.command()
def push(
    study: Study,
    *,
    mode: Annotated[str, typer.Option(help="online | offline | auto")] = "online",
    project: Annotated[
        str | None,
        typer.Option(help="W&B project; that of the jobs' offline runs, else edit-sweeps."),
    ] = None,
    entity: Annotated[
        str | None, typer.Option(help="W&B team or user; that of the offline runs, else the key's.")
    ] = None,
) -> None:
    """Mirror a study's records to W&B from here, for jobs whose nodes have no network. Again: only what is new.

    A run that a job has written off line gets the same id; nothing is there twice.
    """
    from edit_sweeps.launcher.pushing import push_study

    with without_traceback(ValueError):
        folder = find_study(study)
        outcome = push_study(folder, mode=mode, project=project, entity=entity)
    print(outcome.text)
    raise typer.Exit(1 if outcome.failed else 0)


def names_of(folder: Path, parts: list[str] | None) -> set[str] | None:
    """Full names of cells from parts of them; None for none given.

    Raises:
        NotFoundError: A part is in no cell's name.
    """
    if not parts:
        return None
    from edit_sweeps.launcher.states import known_cells

    known = known_cells(folder)
    found: set[str] = set()
    for part in parts:
        named = with_part(known, part)
        if not named:
            msg = f"no cell of {folder.name} has {part!r} in its name"
            raise NotFoundError(msg)
        found |= set(named)
    return found
