"""`edit-sweeps`, the companion of launch.py: studies that have run, and one edit at once. The work is elsewhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from edit_sweeps import cli_data, cli_studies
from edit_sweeps.home import HOME_VARIABLE, find_home, without_traceback
from edit_sweeps.studies import Study, find_study, known_studies

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Studies that python launch.py runs or has run: folders below outputs/ of the current folder, of one above "
    f"it, or of the project, which is found from any folder inside it or named by {HOME_VARIABLE}.",
)
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_studies.app)


@app.callback()
def main() -> None:
    """Keeps the commands' names even while there is one only."""


@app.command()
def report(study: Study) -> None:
    """Write report.html and table.csv of a study anew and print its summary."""
    with without_traceback():
        folder = find_study(study)
    from edit_sweeps.report import print_summary, write_report

    path = write_report(folder)
    print(print_summary(folder))
    print(f"Report: {path}\nTable:  {folder / 'table.csv'}")


@app.command("list")
def list_studies() -> None:
    """List the studies with the number of their cells in each state."""
    with without_traceback():
        found = list(known_studies().values())
    from edit_sweeps.summary import counted
    from edit_sweeps.table import read_cells

    found.sort()
    width = max((len(folder.name) for folder in found), default=0)
    for folder in found:
        print(f"{folder.name:{width}}  {counted(read_cells(folder))}")
    if not found:
        print("No studies yet; python launch.py makes one.")


@app.command()
def apply(
    requests: Annotated[
        Path,
        typer.Argument(
            metavar="REQUESTS", help="JSON lines: case_id, subject, prompt, target_new."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="As launch.py takes them: editor.layer=5"),
    ] = None,
    *,
    model: Annotated[str, typer.Option(help="A name in conf/model/, a folder, or a hub id.")],
    editor: Annotated[str, typer.Option(help="A name in conf/editor/.")],
    out: Annotated[Path, typer.Option(help="Folder for the edited model and its scores.")],
    save: Annotated[list[str], typer.Option(help="model, adapter or delta; several times.")] = [  # noqa: B006
        "model"
    ],
    batch: Annotated[
        bool | None,
        typer.Option(
            "--batch/--sequential",
            help="All requests at once, or one after the other; at once if the editor can.",
        ),
    ] = None,
    tasks: Annotated[str, typer.Option(help="Also score these of conf/task/: a,b")] = "none",
) -> None:
    """Write the facts of REQUESTS into a model and save it to OUT, with scores before and after.

    The work is a cell of the study `apply`; the same command again goes on or does nothing.
    """
    from edit_sweeps.apply import Order, apply_requests
    from edit_sweeps.edited_folder import ApplyError

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    with without_traceback(ApplyError):
        order = Order(
            requests=requests,
            model=model,
            editor=editor,
            out=out,
            save=tuple(dict.fromkeys(save)),
            batch=batch,
            tasks=tasks,
            overrides=tuple(overrides or ()),
        )
        outcome = apply_requests(order, find_home())
    print(outcome.text)
    raise typer.Exit(outcome.code)
