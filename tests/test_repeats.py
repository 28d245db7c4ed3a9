"""A seed that was run twice is one seed in every curve, test and finding, and the page says what was left out."""

from dataclasses import replace

import pytest

from edit_sweeps import charts
from edit_sweeps.curves import curves, edit_estimates
from edit_sweeps.record import Score
from edit_sweeps.repeats import joined, latest, left_out
from edit_sweeps.report import print_summary, write_report
from edit_sweeps.statistics import compare, make_score
from edit_sweeps.summary import findings
from edit_sweeps.table import mean_retention, read_cells, rows
from edit_sweeps.trends import trends_of
from tests.synthetic_study import make_record

COUNTS = {1: 0.9, 10: 0.85, 30: 0.8, 100: 0.6, 300: 0.55}
BEFORE = make_score({str(i): [float(i < 180)] for i in range(200)}, chance=0.5, headline=True)


def cell(count, tasks, *, day=1, seed=0, efficacy=0.9, **settings):
    """A cell that finished on that day; `tasks` maps names to the share of right answers."""
    made = make_record("rome", count, seed, task={name: {} for name in tasks}, **settings)
    made.provenance["finished"] = f"2026-01-{day:02}T00:00:00+00:00"
    made.scores = {"edit": {"efficacy": Score(efficacy, count)}}
    made.comparisons = {}
    for name, share in tasks.items():
        right = {str(i): [float(i < 200 * share)] for i in range(200)}
        made.scores[name] = {"acc": make_score(right, chance=0.5, headline=True)}
        made.comparisons[name] = {"acc": compare(BEFORE, made.scores[name]["acc"])}
    return made


def study(folder, *records):
    for record in records:
        record.save(folder / "cells" / record.name)
    return folder


def points_of(folder):
    cells = read_cells(folder)
    return curves(folder, charts.series_of(cells), cells)


@pytest.fixture
def twice(tmp_path):
    """`task=nli`, and later `task=[nli,ner]`, of the same seed."""
    once = [cell(n, {"nli": share}) for n, share in COUNTS.items()]
    again = [cell(n, {"nli": share, "ner": share}, day=2) for n, share in COUNTS.items()]
    assert len({record.name for record in once + again}) == 10
    return study(tmp_path, *once, *again)


def test_a_seed_with_another_list_of_tasks_is_one_seed(twice):
    points = points_of(twice)
    assert {(p.task, p.edits): p.seeds for p in points} == {
        (task, n): (0,) for task in ("nli", "ner", "mean") for n in COUNTS
    }
    found, _ = trends_of(points)["rome", "nli"]
    assert found.test == "kendall", "there is one seed, so it is not Page's test"
    assert {e.covers for p in points for e in p.estimates.values()} == {"documents"}


def test_the_charts_have_one_point_for_it(twice):
    series = charts.series_of(read_cells(twice))
    for measure in (charts.of_task("nli"), charts.of_edits("efficacy")):
        assert [p["seeds"] for p in charts.points(series, measure, {})] == [1] * 5
    assert edit_estimates(series[0].cells, "efficacy") == {}, "one seed has no interval over seeds"
    assert len(charts.trade_off_points(series[0])) == 5


def test_the_tables_keep_what_the_curves_leave_out_and_page_and_terminal_say_so(twice):
    assert sum(row["task"] == "nli" for row in rows(twice)) == 10
    said = "5 cells left out of the curves"
    assert said in print_summary(twice)
    assert said in write_report(twice).read_text(encoding="utf-8")


def test_the_cell_that_finished_last_counts_whatever_its_name(tmp_path):
    for names in ("ab", "ba"):
        late, early = cell(10, {"nli": 0.6}, day=2), cell(10, {"nli": 0.8}, day=1)
        late.config["editor"] = {**late.config["editor"], "layer": 3}
        late.name, early.name = names
        folder = study(tmp_path / names, late, early)
        point = next(p for p in points_of(folder) if p.task == "nli")
        assert point.seeds == (0,)
        assert point.estimates["score"].value == pytest.approx(0.6)


def test_tasks_scored_in_one_of_the_cells_only_are_all_kept(tmp_path):
    nli, ner = cell(10, {"nli": 0.7}), cell(10, {"ner": 0.8}, day=2)
    folder = study(tmp_path, nli, ner)
    cells = read_cells(folder)
    assert {p.task: p.seeds for p in points_of(folder)} == {
        "nli": (0,), "ner": (0,), "mean": (0,),
    }  # fmt: skip
    assert left_out(cells) == [], "the edits were scored twice with the same outcome"
    (told,) = findings("rome", cells)
    assert "2 of 2 tasks lost" in told
    assert "mean of" not in told
    kept = [mean_retention(record) for record in (nli, ner)]
    assert mean_retention(joined(cells)) == pytest.approx(sum(kept) / 2)


def test_edits_that_came_out_differently_are_told(tmp_path):
    folder = study(tmp_path, cell(10, {"nli": 0.7}), cell(10, {"ner": 0.8}, day=2, efficacy=0.5))
    assert len(left_out(read_cells(folder))) == 1


def test_seeds_counts_and_series_do_not_stand_in_for_each_other(tmp_path):
    other = cell(10, {"nli": 0.7}, dataset={"name": "counterfact", "format": "x", "path": None})
    records = [cell(n, {"nli": 0.7}, seed=s) for n in (1, 10) for s in (0, 1)]
    swept = replace(cell(10, {"nli": 0.7}), overrides={"editor.layer": 3}, name="swept")
    cells = read_cells(study(tmp_path, other, swept, *records))
    assert left_out(cells) == []
    assert len(charts.series_of(cells)) == 3
    plain = [c for c in cells if c.dataset == "miniature" and not c.overrides]
    assert len(latest(plain, lambda _: True)) == 4
