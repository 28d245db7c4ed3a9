"""`edit-sweeps data`: bringing models and data sets into one folder, for machines without a network."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edit_sweeps.home import find_home, without_traceback

VARIABLE = "EDIT_SWEEPS_DATA"
DEFAULT_FOLDER = "outputs/.data"

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Models, tasks, edit data and text in one folder, for machines without a network: docs/airgapped.md.",
)

Folder = Annotated[
    Path | None,
    typer.Option(
        "--to",
        "--in",
        metavar="FOLDER",
        help=f"The data folder; by default that of {VARIABLE}, else {DEFAULT_FOLDER} of the project.",
    ),
]
Several = list[str] | None


@app.command()
def fetch(
    model: Annotated[Several, typer.Option(help="In conf/model/, or a hub id[@revision].")] = None,
    task: Annotated[
        Several, typer.Option(help="In conf/task/, a task of lm-eval's, or a hub id[:subset].")
    ] = None,
    dataset: Annotated[Several, typer.Option(help="In conf/dataset/.")] = None,
    moments: Annotated[
        Several, typer.Option(help="In conf/moments/, or a hub id[:subset[:split]] of text.")
    ] = None,
    tokenizer: Annotated[
        Several, typer.Option(help="A hub id[@revision]: its tokenizer without its weights.")
    ] = None,
    to: Folder = None,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what, and how much.")
    ] = False,
) -> None:
    """Bring what these options need into the data folder; each can be given several times.

    The same command again brings only what is missing.
    """
    from edit_sweeps import fetch as fetching
    from edit_sweeps.data_order import needs_of_options
    from edit_sweeps.hub import FetchError
    from edit_sweeps.manifest import ManifestError

    logging.basicConfig(format="%(levelname)s %(message)s", level="WARNING")
    asked = {"model": model, "task": task, "dataset": dataset, "moments": moments}
    asked |= {"tokenizer": tokenizer}
    with without_traceback(FetchError, ManifestError):
        wanted = needs_of_options(
            {group: split(names) for group, names in asked.items()}, find_home()
        )
        if not wanted:
            msg = "nothing is asked for; give --model, --task, --dataset, --moments or --tokenizer"
            raise FetchError(msg)
        for option in (option for option, needs in wanted.items() if not needs):
            print(
                f"{option}: nothing to fetch; it comes with this package or reads a file of yours"
            )
        needs = list(dict.fromkeys(need for needs in wanted.values() for need in needs))
        root = folder_of(to)
        failed = 0
        for outcome in fetching.fetch(root, needs, dry_run=dry_run):
            if isinstance(outcome, FetchError):
                failed += 1
                typer.echo(f"Error: {outcome}", err=True)
            else:
                print(describe(outcome))
    if failed:
        raise typer.Exit(1)
    if not dry_run:
        print(
            f"To use it: export {VARIABLE}={shlex.quote(str(root))}   (or data_root={root} on the command line)"
        )


@app.command("list")
def list_entries(folder: Folder = None) -> None:
    """List what the data folder holds, with sizes, revisions and licences as their sources state them."""
    from edit_sweeps import manifest

    root = folder_of(folder)
    with without_traceback(manifest.ManifestError):
        entries = manifest.read(root)
    width = max((len(place) for place in entries), default=0)
    for place, entry in entries.items():
        parts = in_short([part for part in entry.parts if part != manifest.EVERYTHING])
        commit = (entry.commit or "-")[:10]
        print(f"{place:{width}}  {readable(entry.size):>9}  {commit:10}  {entry.licence}{parts}")
    for place in manifest.unlisted(root, entries):
        print(f"{place:{width}}  put there by hand")
    total = readable(sum(entry.size for entry in entries.values()))
    print(f"{root}: {total}" if entries else f"Nothing has been fetched into {root} yet.")


@app.command()
def check(folder: Folder = None) -> None:
    """Compare every file of the data folder with the digest it was fetched with; exit code 1 if one differs."""
    from edit_sweeps import manifest

    root = folder_of(folder)
    with without_traceback(manifest.ManifestError):
        entries = manifest.read(root)
    found = list(manifest.damaged(root, entries, deep=True))
    for sentence in found:
        print(sentence)
    count = sum(len(entry.files) for entry in entries.values())
    print(f"{root}: {len(found)} of {count} files are not as fetched.")
    if found:
        print("Remove them and give the same `edit-sweeps data fetch` again.")
        raise typer.Exit(1)


def folder_of(given: Path | None) -> Path:
    """The data folder that is meant, with its whole path."""
    named = os.environ.get(VARIABLE)
    with without_traceback():
        chosen = given or (Path(named) if named else find_home() / DEFAULT_FOLDER)
    return chosen.expanduser().resolve()


def describe(outcome: object) -> str:
    """One line on what became of one place."""
    from edit_sweeps.fetch import Outcome

    assert isinstance(outcome, Outcome)
    size = "size unknown" if outcome.size is None else readable(outcome.size)
    did = {"there": "there already", "brought": f"brought, {size}", "wanted": f"to fetch, {size}"}
    line = f"{outcome.place}: {did[outcome.done]}; licence: {outcome.licence}"
    if outcome.changed:
        line += f"\n  CHANGED at the source since it was fetched before:{in_short(outcome.changed)}"
    return line


def split(names: Several) -> list[str]:
    """Values of an option that can be given several times, or with commas."""
    return [name for text in names or () for name in text.split(",") if name]


def in_short(names: Sequence[str]) -> str:
    """The first three names; nothing for none."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"  {', '.join(names[:3])}{more}" if names else ""


def readable(size: int) -> str:
    """A number of bytes for people."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
