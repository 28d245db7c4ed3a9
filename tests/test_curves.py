"""Curves are means over seeds with intervals that say what they cover; samples are read where they lie."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from edit_sweeps.charts import series_of
from edit_sweeps.curves import (
    COLUMNS,
    MEAN,
    curves,
    edit_estimates,
    estimates_of,
    values_of,
    write_curves,
)
from edit_sweeps.draws import Bootstrap, pick, read_samples
from edit_sweeps.record import Comparison, Record, Score
from edit_sweeps.statistics import make_score
from edit_sweeps.table import headlines, mean_retention, read_cells
from tests.synthetic_seeds import TASKS, write_seeds
from tests.synthetic_study import make_record


def points_of(folder):
    cells = read_cells(folder)
    return curves(folder, series_of(cells), cells)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_seeds(tmp_path_factory.mktemp("outputs") / "seeds")


@pytest.fixture(scope="module")
def points(study):
    return {(point.task, point.edits): point for point in points_of(study)}


def records(study, count):
    views = [v for v in read_cells(study) if v.num_edits == count and not v.is_baseline]
    return [view.record for view in views]


def test_a_point_is_the_mean_of_its_seeds(study, points):
    assert set(points) == {(task, n) for task in (*TASKS, MEAN) for n in (1, 10, 30, 100)}
    mine = [headlines(record)["nli"] for record in records(study, 30)]
    point = points["nli", 30]
    assert point.seeds == (0, 1, 2)
    assert point.estimates["score"].value == pytest.approx(np.mean([s.value for _, s, _ in mine]))
    assert point.estimates["retention"].value == pytest.approx(
        np.mean([c.retention for *_, c in mine])
    )
    assert point.baseline == pytest.approx(mine[0][2].baseline)
    for name, found in point.estimates.items():
        assert found.low < found.value < found.high, name
        assert found.covers == "seeds and documents"


def test_the_mean_over_tasks_is_that_of_the_records_and_leaves_tasks_at_chance_out(study, points):
    kept = [mean_retention(record) for record in records(study, 10)]
    mean = points[MEAN, 10]
    assert "retention" not in points["guess", 10].values
    assert dict(mean.tasks) == {"score": 3, "retention": 2, "ratio": 3}
    assert mean.estimates["retention"].value == pytest.approx(np.mean(kept))


def test_a_task_that_failed_once_is_left_out_of_the_mean_at_every_count(tmp_path):
    folder = write_seeds(tmp_path, seeds=1, counts=(1, 10))
    (record,) = records(folder, 10)
    del record.scores["qa"]
    Record.save(record, folder / "cells" / record.name)
    means = [point for point in points_of(folder) if point.task == MEAN]
    assert [point.tasks["retention"] for point in means] == [1, 1]


def test_one_seed_has_the_records_interval_and_says_so(tmp_path):
    folder = write_seeds(tmp_path, seeds=1, counts=(10,))
    point = next(point for point in points_of(folder) if point.task == "qa")
    (score,) = [headlines(record)["qa"][1] for record in records(folder, 10)]
    found = point.estimates["score"]
    assert (found.value, found.low, found.high, found.covers) == (
        score.value,
        score.low,
        score.high,
        "documents",
    )
    assert point.estimates["retention"].covers == "documents"


def test_the_retention_of_one_seed_is_as_sure_as_resampling_documents_says(tmp_path):
    folder = write_seeds(tmp_path, seeds=1, counts=(30,), n=400)
    point = next(point for point in points_of(folder) if point.task == "qa")
    (record,) = records(folder, 30)
    baseline = next(view.record for view in read_cells(folder) if view.is_baseline)
    before, after = (
        np.array(
            list(
                Record.load(folder / "cells" / r.name, samples=True)
                .scores["qa"]["acc"]
                .samples.values()
            )
        )[:, 0]
        for r in (baseline, record)
    )
    draws = np.random.default_rng(3).integers(0, 400, (2000, 400))
    kept = after[draws].mean(axis=1) / before[draws].mean(axis=1)
    low, high = np.quantile(kept, [0.025, 0.975])
    found = point.estimates["retention"]
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_without_samples_the_intervals_of_the_records_are_used(tmp_path, points):
    folder = write_seeds(tmp_path)
    for file in folder.glob("cells/*/samples.json"):
        file.unlink()
    for point in points_of(folder):
        for name, found in point.estimates.items():
            sampled = points[point.task, point.edits].estimates[name]
            assert found.value == pytest.approx(sampled.value)
            assert found.high - found.low > 0.5 * (sampled.high - sampled.low)


def test_scores_stay_shares_and_all_wrong_is_not_surely_zero(tmp_path):
    folder = tmp_path
    baseline = make_record("none", 0)
    cells = [make_record("rome", 5, seed) for seed in (0, 1)]
    for record in (baseline, *cells):
        wrong = {str(place): [0.0] for place in range(9)}
        record.scores = {"qa": {"acc": make_score(wrong, chance=0.0, headline=True)}}
        record.comparisons = {}
        record.save(folder / "cells" / record.name)
    (point, _) = points_of(folder)
    found = point.estimates["score"]
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.299, abs=0.001), "Wilson's interval of nine documents"


def test_a_cell_is_paired_with_the_baseline_that_its_record_names(tmp_path):
    folder = write_seeds(tmp_path, seeds=2, counts=(10,))
    cells = read_cells(folder)
    other = next(view for view in cells if view.is_baseline).record
    wrong = replace(other, name="miniature-none-other", key="other")
    wrong.scores = {
        task: {"acc": replace(m["acc"], samples={str(i): [0.0] for i in range(60)}, value=0.0)}
        for task, m in other.scores.items()
    }
    wrong.save(folder / "cells" / wrong.name)
    again = {(p.task, p.edits): p.estimates for p in points_of(folder)}
    (folder / "cells" / wrong.name / "record.json").unlink()
    assert again == {(p.task, p.edits): p.estimates for p in points_of(folder)}


def test_edits_of_several_seeds_have_students_interval_within_0_and_1(study):
    (series,) = series_of(read_cells(study))
    found = edit_estimates(series.cells, "efficacy")
    assert set(found) == {1, 10, 30, 100}
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in found.values())
    assert edit_estimates(series.cells[:1], "efficacy") == {}


def test_ratio_and_retention_are_left_out_where_a_seed_has_none():
    scores = [Score(0.4, 9, chance=0.5), Score(0.3, 9, chance=0.5)]
    compared = [
        Comparison(0.5, -0.1, None, None, None, None, 9),
        Comparison(None, None, None, None, None, None, 0),
    ]
    assert set(values_of(scores, compared)) == {"score"}
    assert values_of(scores[:1], compared[:1])["ratio"] == pytest.approx([0.8])


def test_only_the_wanted_metric_is_read_and_any_json_is_understood(tmp_path):
    stored = {
        "a": {"x": {"0": [1.0], "1": [0.0]}, "acc": {"0": [0.5]}, "y": {}},
        "b": {}, "c": {"acc": {"d/0": [1.0, 2.0]}}, "e": {"f1": {"0": [3.0]}},
    }  # fmt: skip
    wanted = {"a": "acc", "b": "acc", "c": "acc", "e": "acc"}
    expected = {"a": {"0": [0.5]}, "c": {"d/0": [1.0, 2.0]}}
    assert pick(json.dumps(stored), wanted) == expected
    assert pick(json.dumps(stored, indent=1), wanted) == expected
    stored["a"]["x"] = {'}odd{"': [1.0], "},": [2.0]}
    assert pick(json.dumps(stored), wanted) == expected
    assert pick("{}", wanted) == {}
    with pytest.raises(ValueError, match="Expecting"):
        pick('{"a": {"x": {"0": [1', wanted)
    (tmp_path / "samples.json").write_text("{")
    assert read_samples(tmp_path, {"a": ("acc", Score(0.5, 1))}) == {}


def test_the_same_documents_are_drawn_for_every_cell(study):
    cells = [view for view in read_cells(study) if not view.is_baseline][:2]
    bootstrap = Bootstrap()
    for view in cells:
        found = read_samples(study / "cells" / view.cell, {"nli": ("acc", Score(0.5, 60))})["nli"]
        from edit_sweeps.aggregations import AGGREGATIONS

        bootstrap(found, found.ids, AGGREGATIONS["mean"])
    assert len(bootstrap.times) == 1


def test_curves_csv_has_a_row_for_each_point(study, tmp_path):
    points = points_of(study)
    with write_curves(tmp_path, {"miniature": points}).open(newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        table = list(reader)
    assert len(table) == len(points) == 16
    row = next(row for row in table if (row["task"], row["num_edits"]) == ("guess", "10"))
    assert (row["retention"], row["retention_tasks"], row["n_seeds"]) == ("", "0", "3")
    assert float(row["ratio"]) > 0
    assert set(estimates_of(points, "nli")) == {("rome", n) for n in (1, 10, 30, 100)}
