"""Half-lives are read off the curve, what lies outside the sweep is said so, and trends are tested over seeds."""

import csv
import math
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from scipy import stats

from edit_sweeps.across_seeds import Estimate
from edit_sweeps.curves import MEAN, Point
from edit_sweeps.survival import life_told, near_chance, survival_rows
from edit_sweeps.table import read_cells
from edit_sweeps.trends import (
    COLUMNS,
    Crossing,
    concordance,
    crossing,
    kendall_p,
    kendall_tau,
    life,
    page_p,
    rows_of,
    trend,
    trends_of,
    write_trends,
)
from tests.synthetic_seeds import write_seeds

COUNTS = (1, 10, 100, 1000)


def points(curves, task="nli", width=0.1):
    """Points of seeds whose scores and retention are `curves` `[seeds, counts]`."""
    curves = np.atleast_2d(np.asarray(curves, dtype=float))
    made = []
    for count, column in zip(COUNTS, curves.T, strict=False):
        mean = float(column.mean())
        found = Estimate(mean, mean - width, mean + width, "seeds and documents")
        values = {"score": column, "retention": column}
        seeds = tuple(range(len(column)))
        made.append(
            Point("rome", task, "acc", count, seeds, values, {}, dict.fromkeys(values, found), {})
        )
    return made


def test_a_half_life_is_interpolated_on_the_logarithm_of_edits():
    assert crossing(COUNTS, [1.0, 0.75, 0.25, 0.0]).edits == pytest.approx(math.sqrt(10 * 100))
    assert crossing((10, 20), [0.6, 0.4]).edits == pytest.approx(math.sqrt(200))
    assert crossing(COUNTS, [1.0, 0.75, 0.25, 0.0], 0.9).edits == pytest.approx(10**0.4)


def test_a_half_life_outside_the_sweep_is_a_bound():
    assert crossing(COUNTS, [1.0, 0.9, 0.8, 0.5]) == Crossing(1000.0, ">")
    assert crossing(COUNTS, [0.4, 0.9, 0.8, 0.5]) == Crossing(1.0, "<")
    assert crossing((1,), [0.8]).told() == ">1"
    assert [Crossing(x).told() for x in (56.66, 1234.5, 3.0)] == ["56.7", "1234", "3"]


def test_the_first_fall_counts_even_if_the_task_recovers():
    assert crossing(COUNTS, [1.0, 0.2, 0.9, 0.9]).edits < 10


def test_the_interval_of_a_half_life_holds_the_counts_at_which_the_curve_may_be_half():
    found = life(points([[1.0, 0.75, 0.25, 0.0]]))
    assert found.low.edits < found.at.edits < found.high.edits
    assert found.low == crossing(COUNTS, [0.9, 0.65, 0.15, -0.1])
    assert found.high == crossing(COUNTS, [1.1, 0.85, 0.35, 0.1])


def test_the_seeds_range_beside_the_half_life_of_their_mean():
    found = life(points([[1.0, 0.4, 0.2, 0.1], [1.0, 0.9, 0.8, 0.7], [1.0, 0.8, 0.4, 0.2]]))
    assert found.lowest == crossing(COUNTS, [1.0, 0.4, 0.2, 0.1])
    assert found.highest == Crossing(1000.0, ">")
    assert found.at == crossing(COUNTS, [1.0, 0.7, 1.4 / 3, 1 / 3])


def test_without_retention_there_is_no_half_life():
    bare = [
        Point(
            "rome", "ppl", "ppl", 1, (0,), {"score": np.ones(1)}, {}, {"score": Estimate(1.0)}, {}
        )
    ]
    assert life(bare) is None
    assert trend(bare) is None


def test_several_seeds_are_pages_test_both_ways():
    falls = [[0.9, 0.8, 0.6, 0.1], [0.9, 0.7, 0.65, 0.2], [0.8, 0.85, 0.5, 0.3]]
    found = trend(points(falls))
    expected = stats.page_trend_test(np.array(falls)[:, ::-1])
    assert (found.test, found.statistic) == ("page", expected.statistic)
    assert found.p == pytest.approx(2 * expected.pvalue)
    assert (found.falling, found.tau < -0.7) == (3, True)
    rises = trend(points(np.array(falls)[:, ::-1]))
    assert rises.p == pytest.approx(found.p)
    assert (rises.falling, rises.tau) == (0, pytest.approx(-found.tau))


def test_one_seed_is_kendalls_exact_test_and_few_points_prove_little():
    found = trend(points([[0.9, 0.8, 0.6, 0.1]]))
    assert (found.test, found.tau, found.p) == ("kendall", -1.0, pytest.approx(2 / 24))
    assert trend(points([[0.9, 0.1]])) is None
    assert trend(points([[0.5, 0.5, 0.5, 0.5]])) is None


def test_kendalls_p_with_ties_counts_orders():
    # Of the 24 orders of 3, 2, 0, 0 two fall all the way and two rise all the way.
    assert kendall_p(np.array([3.0, 2, 0, 0])) == (pytest.approx(4 / 24), "exact")
    values = np.array([0.3, 0.9, 0.2, 0.7, 0.1])
    expected = stats.kendalltau(range(5), values).pvalue
    assert kendall_p(values) == (pytest.approx(expected), "exact")
    assert kendall_p(np.arange(12.0))[1] == "exact"
    assert kendall_p(np.arange(12.0) // 2)[1] == "asymptotic"


def test_tau_is_scipys():
    values = np.random.default_rng(0).integers(0, 4, (50, 6)).astype(float)
    theirs = [stats.kendalltau(range(6), row).statistic for row in values]
    np.testing.assert_allclose(kendall_tau(values), np.nan_to_num(theirs), atol=1e-12)
    assert concordance(np.array([3.0, 2, 1])) == -3
    assert kendall_tau(np.ones(4)) == 0


def test_a_trend_is_adjusted_over_the_tasks_of_its_series():
    rng = np.random.default_rng(1)
    lines = [points(rng.random((3, 4)), task) for task in ("a", "b", "c")]
    mean = points(rng.random((3, 4)), MEAN)
    found = trends_of([point for line in (*lines, mean) for point in line])
    assert found["rome", MEAN][1] is None
    smallest = min((found["rome", task] for task in "abc"), key=lambda pair: pair[0].p)
    assert smallest[1] == pytest.approx(min(1.0, 3 * smallest[0].p))


def test_pages_test_raises_no_more_false_alarms_than_it_says():
    rng = np.random.default_rng(2)
    alarms = [trend(points(rng.random((3, 4)))).p < 0.05 for _ in range(400)]
    assert np.mean(alarms) < 0.07


def test_trends_csv_has_one_row_for_each_series_and_task(tmp_path):
    falling = points([[1.0, 0.7, 0.2, 0.1], [1.0, 0.6, 0.2, 0.0]])
    never = points([[1.0, 1.0, 0.99, 0.98]], "qa")
    with write_trends(tmp_path, {"m": [*falling, *never]}).open(newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames) == COLUMNS
        first, second = reader
    assert first["half_life_bound"] == ""
    assert (
        float(first["half_life_low"]) < float(first["half_life"]) < float(first["half_life_high"])
    )
    assert (second["half_life"], second["half_life_bound"]) == ("1000.0", ">")
    assert (second["half_life_high"], second["trend"]) == ("inf", "kendall")
    assert (first["trend"], first["method"]) == ("page", "exact")


def test_the_table_of_the_page_marks_sure_trends_and_tasks_at_chance(tmp_path):
    from edit_sweeps.charts import series_of
    from edit_sweeps.curves import curves

    folder = write_seeds(tmp_path)
    cells = read_cells(folder)
    (row,) = survival_rows(curves(folder, series_of(cells), cells), ["nli", "qa", "guess", "new"])
    nli, qa, guess, new = row.tasks
    assert (row.label, row.seeds) == ("rome", "3")
    assert 20 < float(qa.half) < 80
    assert (qa.mark, nli.mark, row.mean.mark) == ("↓", "↓", "↓")
    assert "Page's test" in qa.told
    assert "over seeds and documents" in qa.told
    assert (guess.half, new.told) == ("", "not scored")
    assert near_chance(cells, ["nli", "qa", "guess"]) == {"nli": False, "qa": False, "guess": True}


def among(point, *kept):
    """The point as it is when only these seeds have a score."""
    values = {name: column[list(kept)] for name, column in point.values.items()}
    mean = Estimate(float(values["retention"].mean()))
    return replace(point, seeds=kept, values=values, estimates=dict.fromkeys(values, mean))


def test_a_curve_ends_where_the_first_seed_goes_missing():
    whole = points([[1.0, 0.9, 0.4, 0.1]] * 4 + [[1.0, 0.95, 0.9, 0.9]])
    assert life(whole).at.bound == ""
    dead = [*whole[:2], among(whole[2], 4), among(whole[3], 4)]
    found = life(dead)
    assert found.at == Crossing(10.0, ">"), (
        "what the healthy seed does later is no news of the others"
    )
    assert (found.seeds, found.counts, found.highest) == (5, (1, 10), Crossing(10.0, ">"))
    assert trend(dead) is None, "two counts are left"
    assert trend(whole).falling == 5
    (row,) = rows_of(dead)
    assert (row["n_seeds"], row["n_seeds_fewest"], row["counts"]) == (5, 1, 4)
    assert (row["life_seeds"], row["life_counts"]) == (5, 2)
    assert "only up to 10 edits are all 5 seeds scored" in life_told(found, dead)


def test_a_seed_that_comes_in_later_changes_nothing():
    first = [[1.0, 0.8, 0.4, 0.1], [1.0, 0.7, 0.45, 0.2]]
    late = points([*first, [1.0, 1.0, 1.0, 1.0]])
    late[0] = among(late[0], 0, 1)
    alone = life(points(first, width=0.0))
    found = life(late)
    assert found.at.edits == pytest.approx(alone.at.edits)
    assert (found.seeds, found.counts) == (2, COUNTS)
    assert trend(late).p == trend(points(first)).p


def test_without_ties_pages_p_is_that_of_scipys_exact_table():
    rng = np.random.default_rng(4)
    for seeds, counts in ((2, 4), (5, 5), (3, 8)):
        values = rng.random((seeds, counts))
        sides = [stats.page_trend_test(v, method="exact") for v in (values, values[:, ::-1])]
        expected = min(1.0, 2 * min(side.pvalue for side in sides))
        assert page_p(values) == (pytest.approx(expected), "exact")


def test_with_ties_pages_p_counts_the_orders_of_what_was_seen():
    values = np.array([[0.9, 0.5, 0.5], [0.8, 0.8, 0.1]])
    ranks = stats.rankdata(values, axis=1)
    sums = [
        np.dot(a, (1, 2, 3)) + np.dot(b, (1, 2, 3))
        for a in permutations(ranks[0])
        for b in permutations(ranks[1])
    ]
    seen = (ranks @ (1, 2, 3)).sum()
    below = np.mean([total <= seen for total in sums])
    assert below == pytest.approx(1 / 9)
    assert page_p(values) == (pytest.approx(2 / 9), "exact")
    assert page_p(np.ones((2, 3))) == (1.0, "exact")
    table = 2 * stats.page_trend_test(values[:, ::-1], method="exact").pvalue
    assert table != pytest.approx(2 / 9), "which assumes that there are no ties"


def test_from_nine_counts_on_pages_p_is_approximate_and_says_so():
    falls = np.tile(np.arange(9.0)[::-1], (2, 1))
    assert page_p(falls)[1] == "asymptotic"
    assert page_p(falls[:, :8])[1] == "exact"
    assert page_p(falls)[0] < 0.01


def test_a_count_that_a_seed_lacks_is_not_bridged():
    found = points([[1.0, 0.9, 0.4, 0.1], [1.0, 0.9, 0.4, 0.1]])
    found[1] = among(found[1], 1)
    assert life(found).at == Crossing(1.0, ">")
