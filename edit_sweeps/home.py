"""The project's folder, and how the commands of `edit-sweeps` tell what is not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import typer

HOME_VARIABLE = "EDIT_SWEEPS_HOME"
USAGE_ERROR = 2


class NotFoundError(LookupError):
    """What was asked for is not there; the message says what is."""


@contextmanager
def without_traceback(*others: type[Exception]) -> Iterator[None]:
    """Show `NotFoundError` and the `others` as messages, with exit code 2."""
    kinds: tuple[type[Exception], ...] = (NotFoundError, *others)
    try:
        yield
    except kinds as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(USAGE_ERROR) from None


def find_home(start: Path | None = None) -> Path:
    """The project's folder: the nearest, from `start` upwards, with launch.py and conf/config.yaml.

    Args:
        start: Where to begin; the current folder by default.

    Raises:
        NotFoundError: There is none.
    """
    named = os.environ.get(HOME_VARIABLE)
    start = (start or Path.cwd()).resolve()
    for folder in [Path(named).expanduser()] if named else [start, *start.parents]:
        if (folder / "launch.py").is_file() and (folder / "conf" / "config.yaml").is_file():
            return folder
    where = f"{HOME_VARIABLE}={named}" if named else f"{start} and the folders above it"
    msg = (
        f"no edit_sweeps project (launch.py and conf/config.yaml) in {where}; go to one, or set "
        f"{HOME_VARIABLE} to its folder"
    )
    raise NotFoundError(msg)
