"""Run the paper's figures line by line, and lay the published numbers beside ours.

python scripts/paper.py run --model gpt2-xl --figures paper_sequential,paper_batch [overrides of launch.py]
python scripts/paper.py table outputs/paper-sequential

`run` starts `launch.py experiment=<figure>/<line>` for every preset of that model in conf/experiment/, goes on after
one that fails, and makes the table of each study. `table` prints it and writes it to paper.md in the study's folder.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from edit_sweeps.published import (
    EDIT_METRICS,
    EDITORS,
    METRIC,
    Published,
    line_of,
    on_its_facts,
    published,
)
from edit_sweeps.record import Score
from edit_sweeps.repeats import latest
from edit_sweeps.table import EDIT, CellView, read_cells

HOME = Path(__file__).parent.parent
PRESETS = HOME / "conf" / "experiment"
FIGURES = {
    "paper_sequential": "paper-sequential",
    "paper_batch": "paper-batch",
    "paper_batch_sequential": "paper-batch-sequential",
    "rect": "paper-rect",
}
"""Figure, the name of its preset -> the study that its lines fill."""
MODELS = ("gpt2-xl", "llama-7b")
EDITS_OF_RECT_EDITING = 20
"""The figure of the edits' scores does not say how many edits; 20 is inferred: docs/reproducing.md."""
TABLE = "paper.md"
NOTE = (
    "Ours: mean over seeds, and the range where there are several. Paper: read off its figures, a single run; the last "
    "column is what the reading leaves open. What to expect of the differences: docs/reproducing.md."
)


def main() -> None:
    """Parse the command line and do what it says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="every line of the figures")
    run.add_argument("--model", default="gpt2-xl", choices=MODELS)
    run.add_argument("--figures", default=",".join(FIGURES), help="comma-separated")
    run.add_argument("overrides", nargs="*", help="passed on to launch.py")
    table = commands.add_parser("table", help="ours beside the paper's")
    table.add_argument("study", type=Path, help="such as outputs/paper-sequential")
    args = parser.parse_args()
    if args.command == "run":
        raise SystemExit(run_lines(args.figures.split(","), args.model, args.overrides))
    print(write_table(args.study))


def presets(figure: str, model: str) -> list[str]:
    """The lines of a figure for one model, as `experiment=` wants them.

    Raises:
        SystemExit: There is no such figure.
    """
    if figure not in FIGURES:
        msg = f"no figure {figure!r}; choose from {', '.join(FIGURES)}"
        raise SystemExit(msg)
    files = sorted((PRESETS / figure).glob("*.yaml"))
    return [f"{figure}/{file.stem}" for file in files if f"-{model}" in file.stem]


def run_lines(figures: Sequence[str], model: str, overrides: Sequence[str]) -> int:
    """Start every line, one after the other; returns 1 when one of them failed."""
    lines = [preset for figure in figures for preset in presets(figure, model)]
    given = [value for key, _, value in (o.partition("=") for o in overrides) if key == "study"]
    failed = []
    for number, preset in enumerate(lines, 1):
        print(f"[{number}/{len(lines)}] experiment={preset}", flush=True)
        command = [sys.executable, "launch.py", f"experiment={preset}", *overrides]
        if subprocess.run(command, cwd=HOME, check=False).returncode:
            failed.append(preset)
    for study in dict.fromkeys(given or [FIGURES[figure] for figure in figures]):
        if "dry_run=true" not in overrides and (HOME / "outputs" / study).is_dir():
            print(write_table(HOME / "outputs" / study))
    if failed:
        print(f"Not all cells of these are done: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def write_table(study: Path) -> str:
    """The text of `comparison`, also written into the study's folder.

    Raises:
        SystemExit: There is no such study.
    """
    if not study.is_dir():
        msg = f"there is no study {study}"
        raise SystemExit(msg)
    text = comparison(study)
    (study / TABLE).write_text(text, encoding="utf-8")
    return text


@dataclass(frozen=True)
class Compared:
    """One row of the table: our scores over seeds beside the paper's number."""

    task: str
    metric: str
    num_edits: int
    ours: tuple[float, ...]
    paper: Published


def comparison(study: Path) -> str:
    """The tables of a study as Markdown, a section for each line of the paper's figures."""
    scored = [cell for cell in read_cells(study) if cell.scored]
    regularized = any(cell.regularizer != "none" for cell in scored)
    sections: dict[str, list[CellView]] = {}
    for cell in scored:
        sections.setdefault(heading(cell), []).append(cell)
    parts = [f"# {study.name} beside arXiv 2401.04700", NOTE]
    for title, cells in sections.items():
        rows = list(compare(cells, regularized=regularized))
        if rows:
            parts.append("\n".join([f"## {title}\n", *markdown(rows)]))
    if len(parts) == 2:
        parts.append("No cell of this study has a score that the paper has too.")
    capped = sorted({cell.cell for cell in scored if asked(cell)})
    elsewhere = [c.dataset for c in scored if not c.is_baseline and not wrote_papers_facts(c)]
    if elsewhere:
        names = ", ".join(sorted(set(elsewhere)))
        parts.append(
            "Not compared, since they did not write the paper's facts (dataset=zsre_paper, or zsre with "
            f"target=alt): {len(elsewhere)} cell{'s'[: len(elsewhere) != 1]} of dataset={names}"
        )
    if capped:
        parts.append(
            "Capped by `dataset.cap` and not compared, since the paper's counts are larger: "
            + ", ".join(capped)
        )
    return "\n\n".join(parts) + "\n"


def heading(cell: CellView) -> str:
    """What a section is about: everything but seed and number of edits."""
    if cell.is_baseline:
        return f"{cell.model}, unedited"
    how = f"{cell.edits} of {cell.batch_size}" if cell.edits == "batch_sequential" else cell.edits
    editor = f"{cell.editor} ({EDITORS.get(cell.editor, 'not in the paper')})"
    parts = [cell.model, editor, how, cell.dataset]
    if cell.regularizer != "none":
        parts.append(f"regularizer={cell.regularizer}")
    return ", ".join([*parts, *filter(None, [cell.overrides])])


def wrote_papers_facts(cell: CellView) -> bool:
    """Whether a cell wrote the paper's facts."""
    return cell.record is not None and on_its_facts(cell.record.config)


def asked(cell: CellView) -> list[int]:
    """The counts that a capped cell was asked for."""
    return list(cell.record.config.get("num_edits_asked") or []) if cell.record else []


def compare(cells: Sequence[CellView], *, regularized: bool) -> Iterator[Compared]:
    """Our cells of one line, joined over seeds, with what the paper has at the same count.

    A seed that was run twice counts once: the cell that finished last.
    """
    numbers = {cell.cell: numbers_for(cell, regularized=regularized) for cell in cells}
    for point in dict.fromkeys(point for found in numbers.values() for point in found):
        metric = EDIT_METRICS.get(point.metric, point.metric)
        on_line = [cell for cell in cells if point in numbers[cell.cell]]
        scores = {cell.cell: score_of(cell, point.task, metric) for cell in on_line}
        values: dict[int, list[float]] = {}
        for cell in latest(on_line, lambda cell, scores=scores: scores[cell.cell] is not None):
            score = scores[cell.cell]
            if score is not None and score.value is not None:
                values.setdefault(cell.num_edits, []).append(score.value)
        for count, found in values.items():
            yield Compared(point.task, metric, count, tuple(found), point)


def score_of(cell: CellView, task: str, metric: str) -> Score | None:
    """A score of a cell; None where it has none."""
    return cell.record.scores.get(task, {}).get(metric) if cell.record else None


def numbers_for(cell: CellView, *, regularized: bool) -> list[Published]:
    """What the paper has for a cell: its tasks, and for studies of regularizers its edits."""
    if cell.record is None or asked(cell):
        return []
    if cell.is_baseline:
        return published(figure="base", model=cell.model)
    if not wrote_papers_facts(cell):
        return []
    config = cell.record.config
    points = line_of(config, "rect_general" if regularized else None)
    points = [point for point in points if point.num_edits == cell.num_edits]
    in_figure = cell.edits == "sequential" and cell.num_edits == EDITS_OF_RECT_EDITING
    if regularized and in_figure:
        points += [
            point
            for point in published(
                figure="rect_editing",
                model=cell.model,
                editor=EDITORS.get(cell.editor),
                regularizer=cell.regularizer,
                keep=config["regularizer"].get("keep"),
                task=EDIT,
            )
            if point.metric in EDIT_METRICS
        ]
    return points


def markdown(rows: Sequence[Compared]) -> Iterator[str]:
    """The rows as a table, by task and number of edits."""
    yield "| task | metric | edits | seeds | ours | paper | difference | ± |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (row.metric != METRIC, row.task, row.num_edits)):
        mean = fmean(row.ours)
        ours = three(mean)
        if len(row.ours) > 1:
            ours += f" [{three(min(row.ours))}, {three(max(row.ours))}]"
        yield (
            f"| {row.task} | {row.metric} | {row.num_edits} | {len(row.ours)} | {ours} | {three(row.paper.value)} | "
            f"{three(mean - row.paper.value, sign='+')} | {three(row.paper.error)} |"
        )


def three(value: float, sign: str = "") -> str:
    """Three decimals, with a real minus."""
    return f"{value:{sign}.3f}".replace("-", "−")


if __name__ == "__main__":
    main()
