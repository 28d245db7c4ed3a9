"""What a study found is said in words, and what could not be told is said too."""

from dataclasses import replace

import pytest

from edit_sweeps import charts, summary
from edit_sweeps.record import Record
from edit_sweeps.report import print_summary
from edit_sweeps.statistics import VALUE_ONLY, compare, make_score
from edit_sweeps.table import read_cells
from tests.synthetic_study import make_record, write_study


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The synthetic study."""
    folder = write_study(tmp_path_factory.mktemp("outputs") / "synthetic")
    return folder


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


def test_a_dead_models_perplexity_is_lost_and_what_has_no_interval_is_not_counted():
    values = {str(i): [-5.0, 10.0] for i in range(20)}
    before = make_score(values, "bits_per_byte", headline=True)
    after = make_score(
        {key: [float("nan"), 10.0] for key in values}, "bits_per_byte", headline=True
    )
    bare = [replace(before, value=v, samples={}, aggregation=VALUE_ONLY) for v in (0.2, 0.0)]
    record = Record("k", "n", "collapsed", {})
    record.scores = {"ppl": {"bits_per_byte": after}, "open_qa": {"released": bare[1]}}
    record.comparisons = {
        "ppl": {"bits_per_byte": compare(before, after)},
        "open_qa": {"released": compare(*bare)},
    }
    assert list(summary.loss_told([record])) == [
        "1 of 1 tasks lost (1 by Holm)",
        "not tested, without an interval: open_qa",
    ]
    assert summary.difference_told(compare(before, after)) == "unedited 0.72, no finite score now"


def test_a_finding_at_a_count_that_some_seeds_lack_says_so(tmp_path):
    cells = [
        make_record("rome", n, seed) for n, seeds in ((1, 3), (10, 1)) for seed in range(seeds)
    ]
    for record in cells:
        record.save(tmp_path / "cells" / record.name)
    (one,) = charts.series_of(read_cells(tmp_path))
    (told,) = summary.findings(one.label, one.cells)
    assert "rome at 10 edits:" in told
    assert "only 1 of 3 seeds have scores there" in told
