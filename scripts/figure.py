"""Draw the figures of the README and the docs from a study's table.csv.

python scripts/figure.py outputs/curve/table.csv docs/first_sweep.png --title "GPT-2 miniature"
"""

from __future__ import annotations

import argparse
from pathlib import Path

import altair as alt
import pandas as pd

COLOURS = ["#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
HEADLINE = {
    "mini_reasoning": "exact_match", "mini_nli": "acc", "mini_open_domain_qa": "exact_match",
    "mini_closed_domain_qa": "acc", "mini_dialogue": "acc", "mini_summarization": "rouge",
    "mini_ner": "f1", "mini_sentiment": "acc", "edit": "efficacy",
}  # fmt: skip


def panel(rows: pd.DataFrame, task: str, editors: list[str]) -> alt.Chart:
    """One task: score against number of edits, a line for each editor, the unedited model dotted."""
    x = alt.X(
        "num_edits:Q",
        title="edits",
        scale=alt.Scale(type="log"),
        axis=alt.Axis(values=[1, 10, 100, 300]),
    )
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1]))
    colour = alt.Color(
        "editor:N",
        sort=editors,
        scale=alt.Scale(domain=editors, range=COLOURS[: len(editors)]),
        title=None,
    )
    base = alt.Chart(rows)
    layers = [
        base.mark_line(point=True).encode(x=x, y=y, color=colour),
        base.mark_rule().encode(x=x, y="low:Q", y2="high:Q", color=colour),
    ]
    if task != "edit":
        layers.append(base.mark_rule(strokeDash=[3, 3], color="#555").encode(y="mean(baseline):Q"))
    title = (
        "efficacy of the edits" if task == "edit" else task.removeprefix("mini_").replace("_", " ")
    )
    return alt.layer(*layers).properties(width=170, height=130, title=title)


def main() -> None:
    """Read the table, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", default="")
    args = parser.parse_args()
    table = pd.read_csv(args.table)
    edited = table[(table.editor != "none") & table.value.notna()]
    editors = list(dict.fromkeys(edited.sort_values("cell", ascending=False).editor))
    panels = [
        panel(edited[(edited.task == task) & (edited.metric == metric)], task, editors)
        for task, metric in HEADLINE.items()
    ]
    chart = alt.concat(*panels, columns=5).properties(title=args.title)
    chart = chart.configure_view(stroke=None).configure_axis(grid=True, gridOpacity=0.4)
    chart.save(str(args.picture), scale_factor=2)


if __name__ == "__main__":
    main()
