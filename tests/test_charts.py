"""A line of a chart has one point for each number of edits, and lines are told apart by what differs."""

import pytest

from edit_sweeps import charts
from edit_sweeps.across_seeds import Estimate
from edit_sweeps.table import read_cells
from tests.synthetic_study import (
    COLLAPSED,
    COUNTS,
    FAILED,
    MISSING,
    TASKS,
    make_record,
    write_study,
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The synthetic study."""
    folder = write_study(tmp_path_factory.mktemp("outputs") / "synthetic")
    return folder


def save(folder, *records):
    for record in records:
        record.save(folder / "cells" / record.name)
    return folder


def test_series_are_told_apart_by_what_differs_and_only_by_that(tmp_path):
    lr = [
        make_record("rome", n, overrides={"editor.value.lr": v})
        for n in (1, 10)
        for v in (0.1, 0.5)
    ]
    rect = make_record(
        "memit", 1, regularizer={"name": "rect"}, edits={"name": "batch", "batch_size": 1}
    )
    save(tmp_path, make_record("none", 0), *lr, rect, make_record("memit", 1))
    series = charts.series_of(read_cells(tmp_path))
    labels = {"rome · sequential · editor.value.lr=0.1", "rome · sequential · editor.value.lr=0.5"}
    labels |= {"memit · rect · batch", "memit · sequential"}
    assert {one.label for one in series} == labels
    assert [len(one.cells) for one in series if "lr=0.1" in one.label] == [2]
    looks = [(one.color, tuple(one.dash)) for one in series]
    assert len(set(looks)) == 4
    assert len({one.color for one in series}) == 2, "the colour is the editor's"


def test_a_line_has_a_point_for_each_scored_cell_only(study):
    series = charts.series_of(read_cells(study))
    found = charts.points(series, charts.of_task("miniature_nli"), {})
    assert {(p["series"], p["edits"]) for p in found} == {
        (e, n) for e in ("rome", "memit") for n in COUNTS
    } - {FAILED, MISSING}
    assert {(p["series"], p["edits"]) for p in found if p["state"] == "collapsed"} == {COLLAPSED}
    assert {p["before"] for p in found} == {TASKS["miniature_nli"][1]}
    assert all(p["low"] < p["value"] < p["high"] for p in found)
    places = [p["x"] for p in found]
    assert len(set(places)) == len(places), "points of two series hide each other"


def test_seeds_are_one_point_with_the_interval_that_was_made_for_them(tmp_path):
    records = [make_record("rome", 10, seed) for seed in (0, 1, 2)]
    save(tmp_path, *records)
    series = charts.series_of(read_cells(tmp_path))
    measure, made = charts.of_task("miniature_ner"), Estimate(0.5, 0.2, 0.7, "seeds and documents")
    (point,) = charts.points(series, measure, {("rome", 10): made})
    values = [record.scores["miniature_ner"]["f1"].value for record in records]
    assert point["value"] == pytest.approx(sum(values) / 3, abs=1e-5)
    assert (point["low"], point["high"], point["over"]) == (0.2, 0.7, "seeds and documents")
    assert point["seeds"] == 3
    (bare,) = charts.points(series, measure, {})
    assert (bare["low"], bare["high"]) == pytest.approx((min(values), max(values)), abs=1e-5)
    assert bare["over"] == "lowest to highest seed"
