"""Table and page say what the records say, no more, and hide nothing that failed or is missing."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
import subprocess
from dataclasses import replace

import pytest

from edit_sweeps import charts, summary
from edit_sweeps.across_seeds import Estimate
from edit_sweeps.record import Comparison, Record, Score
from edit_sweeps.report import print_summary, short_names, write_report
from edit_sweeps.statistics import holm, ratio
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
    """The synthetic study, with its report written."""
    folder = write_study(tmp_path_factory.mktemp("outputs") / "synthetic")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def page(study):
    return (study / "report.html").read_text(encoding="utf-8")


def embedded(page: str, name: str):
    return json.loads(
        re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, re.DOTALL)[
            1
        ]
    )


def save(folder, *records: Record):
    for record in records:
        record.save(folder / "cells" / record.name)
    return folder


# The table


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


# The charts


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


def test_every_chart_is_valid_vega_lite_and_draws_its_points(page):
    import vl_convert

    specs = embedded(page, "charts")
    assert len(specs) == len(TASKS) + 5 + 1
    for name, spec in specs.items():
        vl_convert.vegalite_to_vega(spec)
        assert f'id="{name}"' in page
        assert len(spec["datasets"]["points"]) == 2 * len(COUNTS) - 2
    svg = vl_convert.vegalite_to_svg(specs["chart-0"] | {"width": 300})
    assert svg.count('aria-roledescription="point"') == 2 * len(COUNTS) - 2


# The page


class Checker(html.parser.HTMLParser):
    """Finds tags that do not match, and whatever a browser would fetch."""

    VOID = frozenset({"meta", "input", "br", "link", "img"})

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.seen = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.fetched += [v for k, v in attrs if k in {"src", "href", "srcset", "data", "action"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


def test_the_page_is_whole_and_fetches_nothing(page):
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.fetched == []
    assert checker.seen.count("figure") == len(TASKS) + 5
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert len(page.encode()) < 2_000_000


def test_the_page_shows_what_failed_collapsed_and_is_missing(page):
    assert "11 cells: 8 done, 1 collapsed, 1 failed, 1 missing" in page
    assert "ValueError: layer 9: the model has 4 &lt;blocks&gt;" in page
    assert page.count('class="void" colspan="9"') == 2
    table = embedded(page, "rows")
    assert "num_edits" in table["columns"]
    assert "dataset" not in table["columns"], "it is the same in all edited cells"
    assert all(
        len(row) - 1 + len(table["cells"][row[0]]) == len(table["columns"]) for row in table["rows"]
    )


def test_text_of_records_cannot_become_markup(tmp_path):
    evil = "</script><script>alert(1)</script>"
    record = make_record("rome", 1, overrides={"x": evil})
    record.scores[evil] = record.scores.pop("miniature_ner")
    record.errors["miniature_ner"] = evil
    page = write_report(
        save(tmp_path / evil.replace("/", ""), record, make_record("rome", 1))
    ).read_text()
    assert "<script>alert" not in page
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.seen.count("script") == 4


def test_an_empty_study_and_one_without_tasks_have_a_page(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "nothing has run yet" in write_report(tmp_path / "empty").read_text()
    record = make_record("rome", 1)
    record.scores, record.comparisons = (
        {"edit": x["edit"]} for x in (record.scores, record.comparisons)
    )
    page = write_report(save(tmp_path / "edits", record)).read_text()
    assert "efficacy 0.99" in page
    assert "tasks lost" not in page
    assert len(embedded(page, "charts")) == 5


def test_short_names_drop_what_all_share():
    assert short_names(["miniature_open_qa", "miniature_ner"]) == {
        "miniature_open_qa": "open qa",
        "miniature_ner": "ner",
    }
    assert short_names(["a_b", "a_b_c"]) == {"a_b": "b", "a_b_c": "b c"}
    assert short_names(["gsm8k", "miniature_ner"]) == {
        "gsm8k": "gsm8k",
        "miniature_ner": "miniature ner",
    }
    assert short_names(["a_b"]) == {"a_b": "a b"}
    assert short_names([]) == {}


def test_the_finding_of_a_series_is_that_of_its_last_scored_cell(study):
    told = {
        one.label: list(summary.findings(one.label, one.cells))
        for one in charts.series_of(read_cells(study))
    }
    assert told["rome"] == [
        "rome at 300 edits: efficacy 0.60 [0.55, 0.66]; 8 of 8 tasks lost (8 by Holm); mean retention 0.02; the model collapsed."
    ]
    assert told["memit"] == [
        "memit at 100 edits: efficacy 0.95 [0.90, 0.99]; 8 of 8 tasks lost (8 by Holm); mean retention 0.87; no scores at 300."
    ]


def test_the_summary_has_a_line_for_each_cell(study):
    lines = print_summary(study).splitlines()
    assert len(lines) == 1 + 11 + 1 + 1
    line = next(text for text in lines if "-rome-n100-" in text)
    assert line.split()[1:] == ["done", "0.72", "0.69", "0.70", "0.31", "8/8"]
    failed = next(text for text in lines if "-memit-n30-" in text)
    assert failed.split()[1:] == ["failed", *["–"] * 5]
    assert lines[-1].endswith("ValueError: layer 9: the model has 4 <blocks>")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="Chromium is not installed: the page was not drawn"
)
def test_a_browser_draws_every_chart_without_an_error(study, page, tmp_path):
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--dump-dom",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", f"file://{study / 'report.html'}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.count('class="marks"') == len(embedded(page, "charts"))
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
