"""The table says what the records say, no more, and hides nothing that failed or is missing."""

import csv
from dataclasses import replace

import pytest

from edit_sweeps.record import Comparison, Record, Score
from edit_sweeps.statistics import compare, holm, make_score, ratio
from edit_sweeps.table import (
    headline,
    loss_is_sure,
    mean_retention,
    mean_retention_interval,
    p_holm,
    read_cells,
    rows,
    tasks_lost,
    tasks_lost_by_holm,
    tasks_tested,
    write_table,
)
from tests.synthetic_study import (
    COLLAPSED,
    COUNTS,
    FAILED,
    MISSING,
    TASKS,
    make_record,
    write_study,
)

COLUMNS = [
    "cell",
    "state",
    "model",
    "editor",
    "regularizer",
    "dataset",
    "edits",
    "batch_size",
    "num_edits",
    "seed",
    "overrides",
    "task",
    "metric",
    "n",
    "value",
    "low",
    "high",
    "baseline",
    "difference",
    "difference_low",
    "difference_high",
    "p",
    "p_holm",
    "chance",
    "retention",
    "ratio",
    "invalid",
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The synthetic study, with its table written."""
    folder = write_study(tmp_path_factory.mktemp("outputs") / "synthetic")
    write_table(folder)
    return folder


def save(folder, *records):
    for record in records:
        record.save(folder / "cells" / record.name)
    return folder


def test_the_table_has_one_row_for_each_cell_task_and_metric(study):
    with (study / "table.csv").open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == COLUMNS
        found = list(reader)
    keys = [(row["cell"], row["task"], row["metric"]) for row in found]
    assert len(keys) == len(set(keys))
    scored = 2 * len(COUNTS) - 2
    assert len(found) == (1 + scored) * 2 * len(TASKS) + scored * 5 + 2
    row = next(
        r
        for r in found
        if (r["editor"], r["num_edits"], r["task"], r["metric"])
        == ("rome", "10", "miniature_nli", "acc")
    )
    record = Record.load(study / "cells" / row["cell"])
    score, compared = (
        record.scores["miniature_nli"]["acc"],
        record.comparisons["miniature_nli"]["acc"],
    )
    numbers = {
        "n": score.n, "value": score.value, "low": score.low, "high": score.high, "chance": score.chance,
        "invalid": score.invalid, "baseline": compared.baseline, "difference": compared.difference,
        "difference_low": compared.low, "difference_high": compared.high, "retention": compared.retention, "p": compared.p,
        "p_holm": p_holm(record)["miniature_nli"], "ratio": ratio(compared),
    }  # fmt: skip
    assert {name: float(row[name]) for name in numbers} == numbers
    text = ("state", "model", "regularizer", "dataset", "edits", "batch_size", "seed", "overrides")
    assert [row[name] for name in text] == [
        "done",
        "miniature",
        "none",
        "miniature",
        "sequential",
        "1",
        "0",
        "",
    ]
    assert {r["metric"] for r in found if r["task"] == "edit"} == {
        "efficacy",
        "paraphrase",
        "neighborhood",
        "other_facts",
        "score",
    }


def test_cells_without_scores_have_one_row_and_their_state(study):
    found = {(r["editor"], r["num_edits"]): r for r in rows(study) if r["task"] is None}
    assert {cell: row["state"] for cell, row in found.items()} == {
        FAILED: "failed",
        MISSING: "missing",
    }
    for row in found.values():
        assert [name for name in COLUMNS[COLUMNS.index("task") :] if row[name] is not None] == []
    collapsed = [r for r in rows(study) if r["state"] == "collapsed"]
    assert {(r["editor"], r["num_edits"]) for r in collapsed} == {COLLAPSED}
    assert all(r["value"] is not None for r in collapsed)


def test_the_baseline_shows_nothing_that_it_ignores(tmp_path):
    save(tmp_path, make_record("none", 7, seed=3))
    (row, *_) = rows(tmp_path)
    ignored = ("dataset", "edits", "batch_size", "num_edits", "seed")
    assert [row[name] for name in ignored] == ["", "", None, 0, 0]


def test_a_study_without_a_plan_shows_its_records_and_a_plan_may_come_from_outside(tmp_path):
    record = make_record(
        "rome", 1, overrides={"editor.value.lr": 0.5, "editor.layers": [1, 2], "a": "b"}
    )
    save(tmp_path, record)
    assert {r["overrides"] for r in rows(tmp_path)} == {
        "a=b editor.layers=[1,2] editor.value.lr=0.5"
    }
    short = {"model": "m", "editor": "ft", "regularizer": None, "num_edits": 5}
    planned = [{"name": "m-ft-n5-s0-x", "key": "x", "state": "running", "config_short": short}]
    extra = [r for r in rows(tmp_path, planned) if r["editor"] == "ft"]
    assert [(r["state"], r["num_edits"], r["regularizer"]) for r in extra] == [
        ("running", 5, "none")
    ]
    (tmp_path / "plan.json").write_text("[{")
    assert len(rows(tmp_path)) == len(rows(tmp_path, []))


def test_a_planned_done_cell_whose_record_is_gone_is_missing(tmp_path):
    planned = [{"name": "m-ft-n5-s0-x", "state": "done", "config_short": {"editor": "ft"}}]
    assert [view.state for view in read_cells(tmp_path, planned)] == ["missing"]


def test_an_unreadable_record_is_a_failed_cell_and_not_a_crash(tmp_path):
    good, torn, old = (make_record("rome", n) for n in (1, 2, 3))
    save(tmp_path, good, torn, replace(old, schema_version=0))
    (tmp_path / "cells" / torn.name / "record.json").write_text('{"key": ')
    views = {view.cell: view for view in read_cells(tmp_path)}
    assert [views[r.name].state for r in (good, torn, old)] == ["done", "failed", "failed"]
    assert "cannot be read" in views[torn.name].error
    assert "resume=force" in views[old.name].error


def test_a_failed_task_has_a_row_without_metric(tmp_path):
    record = make_record("rome", 1)
    del record.scores["miniature_ner"]
    record.errors["miniature_ner"] = "Traceback\nKeyError: 'x'"
    save(tmp_path, record)
    (row,) = [r for r in rows(tmp_path) if r["task"] == "miniature_ner"]
    assert (row["state"], row["metric"], row["value"]) == ("done", None, None)


def test_unknown_figures_are_empty_fields(tmp_path):
    record = make_record("rome", 1)
    record.scores["edit"]["efficacy"] = Score(None, 3)
    save(tmp_path, record)
    with write_table(tmp_path).open(newline="") as file:
        (row,) = [r for r in csv.DictReader(file) if r["metric"] == "efficacy"]
    assert (row["n"], row["value"], row["low"]) == ("3", "", "")
    assert not list(tmp_path.glob(".table*")), "the file written aside is still there"


def test_what_counts_as_a_sure_loss():
    score, rises = Score(0.5, 10), Score(9.0, 10, aggregation="perplexity")

    def compared(low, high):
        return Comparison(0.6, -0.1, low, high, None, None, 10)

    cases = {
        (-0.2, -0.01): True,
        (-0.2, 0.0): False,
        (-0.2, 0.1): False,
        (0.1, 0.2): False,
        (None, None): False,
    }
    assert {c: loss_is_sure(score, compared(*c)) for c in cases} == cases
    assert loss_is_sure(rises, compared(0.1, 0.2))
    assert not loss_is_sure(rises, compared(-0.2, -0.1))


def test_the_interval_of_mean_retention_is_that_of_independent_tasks():
    record = Record("k", "n", "done", {})
    for task, base, chance in (("a", 0.8, 0.0), ("b", 0.9, 0.5)):
        record.scores[task] = {"acc": Score(0.7, 50, chance=chance, headline=True)}
        kept = (0.7 - chance) / (base - chance)
        record.comparisons[task] = {
            "acc": Comparison(base, 0.7 - base, 0.6 - base, 0.8 - base, None, kept, 50)
        }
    low, high = mean_retention_interval(record)
    # Half widths .1/.8 and .1/.4 of two retentions, added in quadrature, halved by the mean.
    half = (0.125**2 + 0.25**2) ** 0.5 / 2
    assert (low, high) == pytest.approx((0.6875 - half, 0.6875 + half))
    record.comparisons["a"]["acc"] = replace(record.comparisons["a"]["acc"], low=None)
    assert mean_retention_interval(record) is None
    assert mean_retention_interval(make_record("none", 0)) is None


def test_headline_figures_leave_the_edits_and_side_metrics_out():
    record = make_record("rome", 30)
    kept = [c.retention for task in TASKS for c in record.comparisons[task].values()]
    assert mean_retention(record) == pytest.approx(sum(kept) / len(TASKS))
    assert set(tasks_lost(record)) <= set(TASKS)
    assert (
        len(tasks_lost(record))
        == sum(c.high < 0 for t in TASKS for c in record.comparisons[t].values())
        > 0
    )
    assert mean_retention(make_record("none", 0)) is None
    assert headline({"a": Score(1, 1), "b": Score(1, 1, headline=True)}) == "b"
    assert headline({"a": Score(1, 1), "b": Score(1, 1)}) == "a"
    assert headline({}) is None


def test_holm_is_over_the_headlines_of_one_cell_and_counts_fewer_losses_than_the_intervals(
    tmp_path,
):
    record = make_record("rome", 30)
    for place, (task, (metric, *_)) in enumerate(TASKS.items()):
        found = record.comparisons[task]
        found[metric] = replace(
            found[metric], difference=-0.1, low=-0.2, high=-0.01, p=0.004 * place + 0.001
        )
        found["nll"] = replace(found[metric], p=1e-9)
    tests = [record.comparisons[task][metric].p for task, (metric, *_) in TASKS.items()]
    assert p_holm(record) == dict(zip(TASKS, holm(tests), strict=True))
    assert len(tasks_lost(record)) == 8
    assert tasks_lost_by_holm(record) == list(TASKS)[:2]  # .001 x 8, .005 x 7, then .009 x 6 > .05
    better = record.comparisons["miniature_reasoning"]
    better["exact_match"] = replace(better["exact_match"], difference=0.1, low=0.01, high=0.2)
    assert tasks_lost_by_holm(record) == list(TASKS)[1:2]
    save(tmp_path, record)
    table = [row for row in rows(tmp_path) if row["task"] in TASKS]
    assert {row["metric"] for row in table if row["p_holm"] is None} == {"nll"}
    untested = record.comparisons["miniature_ner"]
    untested["f1"] = replace(untested["f1"], p=None)
    assert "miniature_ner" not in p_holm(record)
    assert p_holm(record)["miniature_reasoning"] == pytest.approx(0.007), "a family of seven now"


def broken(before, after, aggregation="bits_per_byte"):
    """A record with one task, whose documents score `before` and then `after`."""
    old, new = (
        make_score({str(i): [x, 10.0] for i in range(20)}, aggregation, headline=True)
        for x in (before, after)
    )
    record = Record("k", "n", "collapsed", {})
    record.scores = {"perplexity": {aggregation: new}}
    record.comparisons = {"perplexity": {aggregation: compare(old, new)}}
    return record


@pytest.mark.parametrize("after", [float("nan"), float("-inf")])
def test_a_finite_perplexity_that_is_finite_no_more_is_lost(after, tmp_path):
    record = broken(-5.0, after)
    assert tasks_lost(record) == tasks_lost_by_holm(record) == ["perplexity"]
    save(tmp_path, record)
    (stored,) = read_cells(tmp_path)
    assert tasks_lost(stored.record) == ["perplexity"], "null in the file is NaN"
    was_broken = broken(float("nan"), float("nan"))
    assert tasks_lost(was_broken) == tasks_tested(was_broken) == []
    assert tasks_lost(broken(-5.0, -5.0)) == []
    assert tasks_tested(broken(-5.0, -5.0)) == ["perplexity"]


def test_a_task_without_documents_is_not_lost():
    record = broken(-5.0, float("nan"))
    record.scores = {"perplexity": {"bits_per_byte": Score(None, 0, headline=True)}}
    assert tasks_lost(record) == []
