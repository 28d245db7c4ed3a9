"""Write the tables and pictures of docs/results-miniature.md from the studies that its presets filled.

python scripts/results.py [outputs/results outputs/results-llama]

What stands between the markers `<!-- NAME -->` and `<!-- end -->` of the page is replaced; the rest is left alone.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import altair as alt
import pandas as pd

from edit_sweeps.record import Score
from edit_sweeps.table import (
    EDIT,
    CellView,
    mean_retention,
    mean_retention_interval,
    read_cells,
    tasks_lost,
    tasks_tested,
)

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "results-miniature.md"
STUDIES = {"gpt2": "outputs/results", "llama": "outputs/results-llama"}
ORDER = (
    "none", "ft", "ft_l", "lora", "rome", "rome_identity", "r_rome", "memit", "memit_seq", "emmet", "pmet",
    "alphaedit", "encore", "mend", "ultraedit", "kn", "grace", "wise",
)  # fmt: skip
EDIT_METRICS = ("efficacy", "paraphrase", "neighborhood", "other_facts")
UNKNOWN = "–"


def dealt(cell: CellView) -> str:
    """How the edits were dealt out; one edit is one edit either way."""
    return "either" if cell.num_edits == 1 else cell.edits


def line(cell: CellView) -> dict[str, object]:
    """One cell as a row of the page."""
    assert cell.record is not None
    scores = cell.record.scores.get(EDIT, {})
    interval = mean_retention_interval(cell.record)
    return {
        "editor": cell.editor,
        "regularizer": cell.regularizer,
        "edits": dealt(cell),
        "num_edits": cell.num_edits,
        **{metric: value_of(scores.get(metric)) for metric in EDIT_METRICS},
        "retention": mean_retention(cell.record),
        "low": interval[0] if interval else None,
        "high": interval[1] if interval else None,
        "lost": len(tasks_lost(cell.record)),
        "tasks": len(tasks_tested(cell.record)),
        "state": cell.state,
    }


def value_of(score: Score | None) -> float | None:
    """The score's value."""
    return None if score is None else score.value


def read(study: Path) -> pd.DataFrame:
    """The scored cells of a study in the order of the page."""
    cells = [cell for cell in read_cells(study) if cell.scored and not cell.is_baseline]
    frame = pd.DataFrame([line(cell) for cell in cells])
    rank = {name: place for place, name in enumerate(ORDER)}
    frame["rank"] = frame.editor.map(lambda name: rank.get(name, len(rank)))
    return frame.sort_values(["rank", "regularizer", "edits", "num_edits"], ignore_index=True)


def table(rows: pd.DataFrame, first: Sequence[str]) -> Iterator[str]:
    """A Markdown table; `first` names the columns that say what was run."""
    yield (
        "| "
        + " | ".join([*first, "efficacy", "paraphrase", "neighborhood", "other facts"])
        + " | retention [95 %] | lost |"
    )
    yield "|" + "---|" * (len(first) + len(EDIT_METRICS) + 2)
    for _, row in rows.iterrows():
        cells = [str(row[name]) for name in first] + [told(row[name]) for name in EDIT_METRICS]
        kept = told(row.retention)
        if not pd.isna(row.low):
            kept += f" [{told(row.low)}, {told(row.high)}]"
        lost = f"{row.lost}/{row.tasks}" + (" collapsed" if row.state == "collapsed" else "")
        yield "| " + " | ".join([*cells, kept, lost]) + " |"


def told(value: object) -> str:
    """Two decimals; a dash for nothing."""
    return UNKNOWN if value is None or pd.isna(value) else f"{value:.2f}".replace("-", "−")


def picture(rows: pd.DataFrame, path: Path, title: str) -> None:
    """Mean retention over the number of edits, a small panel for each editor, all others in grey."""
    data = rows[rows.regularizer == "none"].copy()
    data = pd.concat(
        [
            data[data.edits != "either"],
            *(
                data[data.edits == "either"].assign(edits=how)
                for how in sorted(set(data.edits) - {"either"})
            ),
        ]
    )
    x = alt.X(
        "num_edits:Q",
        title="edits",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(values=[1, 10, 100, 300]),
    )
    y = alt.Y("retention:Q", title="retention", scale=alt.Scale(domain=[-0.1, 1.05], clamp=True))
    colour = alt.Color(
        "edits:N",
        title=None,
        scale=alt.Scale(domain=["sequential", "batch"], range=["#D55E00", "#0072B2"]),
    )
    base = alt.Chart(data)
    layers = (
        base.mark_line(point=True).encode(x=x, y=y, color=colour),
        base.mark_rule().encode(x=x, y="low:Q", y2="high:Q", color=colour),
    )
    panels = (
        alt.layer(*layers)
        .properties(width=125, height=90)
        .facet(facet=alt.Facet("editor:N", title=None, sort=list(ORDER)), columns=6)
        .properties(title=title)
    )
    panels.configure_view(stroke=None).configure_axis(gridOpacity=0.4).save(
        str(path), scale_factor=2
    )


def fill(page: str, name: str, text: str) -> str:
    """`page` with what stands between the marker `name` and the next end replaced.

    Raises:
        SystemExit: The page has no such marker.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not pattern.search(page):
        msg = f"{PAGE} has no marker <!-- {name} --> ... <!-- end -->"
        raise SystemExit(msg)
    return pattern.sub(lambda found: f"{found[1]}{text}\n{found[2]}", page)


def main() -> None:
    """Read the studies, write tables and pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="*", type=Path, default=list(map(Path, STUDIES.values())))
    parser.add_argument("--print", action="store_true", help="print the tables, write nothing")
    args = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    for name, study in zip(STUDIES, args.studies, strict=False):
        rows = read(study)
        plain = rows[rows.regularizer == "none"]
        regularized = rows[
            rows.editor.isin(rows[rows.regularizer != "none"].editor)
            & (rows.edits != "batch")
            & (rows.num_edits > 1)
        ]
        parts = {
            f"{name} editors": table(plain, ("editor", "edits", "num_edits")),
            f"{name} regularizers": table(regularized, ("editor", "regularizer", "num_edits")),
        }
        for marker, lines in parts.items():
            text = "\n".join(lines)
            if args.print:
                print(f"{marker}\n{text}\n")
            else:
                page = fill(page, marker, text)
        if not args.print:
            picture(rows, DOCS / f"results-{name}.png", f"Mean retention, miniature {name}")
    if not args.print:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
