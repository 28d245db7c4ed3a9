"""Studies by name, path or part of a cell's name, found from any folder."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from edit_sweeps.home import NotFoundError, find_home


def studies(home: Path) -> list[Path]:
    """The folders of studies below `outputs/` of a folder, by name."""
    folders = sorted(p for p in (home / "outputs").glob("[!.]*/") if p.is_dir())
    return [p for p in folders if (p / "cells").is_dir() or (p / "plan.json").is_file()]


def known_studies() -> dict[str, Path]:
    """Every study in sight: below the current folder, those above it, and the project. The nearest of a name wins.

    Raises:
        NotFoundError: There is none, and no project either.
    """
    here = Path.cwd()
    homes = [here, *here.parents]
    found = {folder.name: folder for home in reversed(homes) for folder in studies(home)}
    try:
        project = find_home()
    except NotFoundError:
        if not found:
            raise
    else:
        found = {folder.name: folder for folder in studies(project)} | found
    return found


def find_study(name: str) -> Path:
    """The folder of a study; `outputs/name` and the path of a folder are understood too.

    Raises:
        NotFoundError: There is no such study; says which name is close.
    """
    folder = Path(name).expanduser()
    if "/" in name and ((folder / "cells").is_dir() or (folder / "plan.json").is_file()):
        return folder.resolve()
    known = known_studies()
    wanted = name.rstrip("/").removeprefix("./").removeprefix("outputs/")
    if wanted in known:
        return known[wanted]
    close = difflib.get_close_matches(wanted, known, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    msg = f"there is no study {name!r}{hint} Known: {', '.join(sorted(known)) or 'none yet, run launch.py'}"
    raise NotFoundError(msg)


def cells_of(study: Path) -> list[Path]:
    """Folders of a study's cells, by name; of those, too, that were asked for and have none yet."""
    names = {folder.name for folder in (study / "cells").glob("[!.]*/")}
    with contextlib.suppress(OSError, ValueError):
        plan = json.loads((study / "plan.json").read_text(encoding="utf-8"))
        names |= {str(row["name"]) for row in plan}
    return [study / "cells" / name for name in sorted(names)]


def find_cell(part: str, study: str | None = None) -> Path:
    """The folder of the one cell whose name has `part` in it, in one study or in all; it need not exist yet.

    Raises:
        NotFoundError: There is none, or more than one.
    """
    folders = [find_study(study)] if study else list(known_studies().values())
    cells = [cell for folder in folders for cell in cells_of(folder)]
    named = set(with_part([cell.name for cell in cells], part))
    found = [cell for cell in cells if cell.name in named]
    if len(found) == 1:
        return found[0]
    some = "\n".join(f"  {cell.parent.parent.name}: {cell.name}" for cell in found[:10])
    more = f"\n  and {len(found) - 10} more" if len(found) > 10 else ""
    if found:
        msg = f"{part!r} is in the names of {len(found)} cells; give more of one, or --study:\n{some}{more}"
    else:
        msg = f"no cell of {', '.join(folder.name for folder in folders)} has {part!r} in its name"
    raise NotFoundError(msg)


def with_part(names: Iterable[str], part: str) -> list[str]:
    """Names that are `part`, else those that have it as whole words, else those that have it anywhere."""
    names = list(names)
    return (
        [name for name in names if name == part]
        or [name for name in names if f"-{part}-" in f"-{name}-"]  # n30 is not n300
        or [name for name in names if part in name]
    )


def complete_study(incomplete: str) -> list[str]:
    """Names of studies that begin with `incomplete`."""
    try:
        return [name for name in sorted(known_studies()) if name.startswith(incomplete)]
    except NotFoundError:
        return []


def complete_cell(incomplete: str) -> list[str]:
    """Names of cells that begin with `incomplete`."""
    try:
        folders = list(known_studies().values())
    except NotFoundError:
        return []
    names = {cell.name for folder in folders for cell in cells_of(folder)}
    return sorted(name for name in names if name.startswith(incomplete))


Study = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="Its name, or its folder.", autocompletion=complete_study),
]
Cells = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CELL]...",
        help="Only these: names, or parts of one.",
        autocompletion=complete_cell,
    ),
]
