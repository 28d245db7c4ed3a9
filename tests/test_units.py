"""Cells become units, units ask for resources, what several need becomes a job of its own."""

import json

import pytest

from edit_sweeps import prepared
from edit_sweeps.launcher import resources
from edit_sweeps.launcher.prerequisites import jobs_of
from edit_sweeps.launcher.submissions import Submission, read_all
from edit_sweeps.launcher.submit import draw_up
from edit_sweeps.launcher.units import Unit, group
from tests.made_up_cells import CLUSTER, made_up_cell


def grid(editors=("rome", "memit"), counts=(10, 1, 100), **options):
    return [made_up_cell(e, n, **options) for e in editors for n in counts]


def shape(units):
    return [
        [[f"{c.config['editor']['name']} {c.num_edits}" for c in chain] for chain in unit.chains]
        for unit in units
    ]


def test_cells_of_one_trajectory_are_one_unit_ascending():
    assert shape(group(grid())) == [
        [["rome 1", "rome 10", "rome 100"]],
        [["memit 1", "memit 10", "memit 100"]],
    ]


def test_group_none_runs_each_cell_alone():
    assert [len(unit.cells()) for unit in group(grid(), "none")] == [1] * 6


def test_group_model_loads_each_model_once():
    cells = [*grid(), *grid(("rome",), (1,), model="llama")]
    assert [len(unit.cells()) for unit in group(cells, "model")] == [6, 1]


@pytest.mark.parametrize("how", ["trajectory", "model"])
@pytest.mark.parametrize("largest", [1, 2, 4])
def test_no_unit_is_larger_than_asked_and_no_cell_is_lost_or_doubled(how, largest):
    units = group(grid(), how, largest)
    assert max(len(unit.cells()) for unit in units) <= largest
    assert sorted(c.key for unit in units for c in unit.cells()) == sorted(c.key for c in grid())


def test_a_unit_survives_its_file():
    unit = Unit([[made_up_cell(num_edits=3)]], [made_up_cell("mend")])
    again = Unit.load(json.loads(json.dumps(unit.as_tree())))
    assert again == unit
    assert again.cells()[0].key == unit.cells()[0].key


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        (90, 90), ("90", 90), ("4:00:00", 240), ("1:30", 2), ("1-00:00:00", 1440), ("2-12", 3600), ("0:00:01", 1),
        ("1-02:30", 1590),
    ],
)  # fmt: skip
def test_time_limits_as_slurm_writes_them(time, minutes):
    assert resources.to_minutes(time) == minutes


@pytest.mark.parametrize("time", ["soon", "0", "1:2:3:4", -5, "1.5h", None, ""])
def test_what_is_no_time_limit_is_refused(time):
    with pytest.raises(ValueError, match="is no time limit"):
        resources.to_minutes(time)


def test_a_model_says_what_it_asks_for_and_the_cluster_may_say_otherwise():
    cell = made_up_cell(resources={"memory_gb": 96}, cluster={"gpus": 2, "time": "30"})
    assert resources.of_cell(cell) == resources.Resources(30, 2, 8, 96.0)


def test_wrong_settings_are_told_with_what_is_allowed():
    cell = made_up_cell(
        cluster={"group": "editor", "max_losses": 0, "time": "soon", "units_per_gpu": 2, "gpus": 2}
    )
    told = "\n".join(resources.check_cluster(cell.config))
    for word in (
        "cluster.group=editor: one of trajectory, model, none",
        "cluster.max_losses=0: at least 1",
        "cluster.time=soon",
        "cluster.units_per_gpu=2 shares one GPU",
    ):
        assert word in told
    assert resources.check_cluster(made_up_cell().config) == []


def test_a_job_that_would_be_warned_before_it_has_begun_is_refused():
    told = resources.check_cluster(made_up_cell(cluster={"time": 2, "signal_s": 61}).config)
    assert "too short for a warning cluster.signal_s=61" in told[0]
    assert resources.check_cluster(made_up_cell(cluster={"time": 2, "signal_s": 60}).config) == []


# What several units need.


def test_a_baseline_that_several_units_need_is_a_job_of_its_own_that_they_wait_for():
    baseline = made_up_cell("none")
    first, *others = jobs_of([baseline, *grid()], {})
    assert (first.kind, first.provides) == ("baselines", [baseline.key])
    assert [job.needs for job in others] == [{baseline.key}] * 2


def test_a_baseline_that_one_unit_needs_is_run_first_by_that_unit():
    baseline = made_up_cell("none")
    (job,) = jobs_of([baseline, *grid(("rome",))], {})
    assert [cell.num_edits for cell in job.unit.cells()] == [0, 1, 10, 100]
    assert job.needs == set()


def test_a_baseline_on_its_way_is_waited_for_and_not_run_again():
    baseline = made_up_cell("none")
    jobs = jobs_of(grid(), {baseline.key: "afterok:17"})
    assert [job.kind for job in jobs] == ["cells", "cells"]
    assert all(job.needs == {baseline.key} for job in jobs)


def test_a_baseline_that_is_done_is_not_waited_for():
    assert all(not job.needs for job in jobs_of(grid(), {}))


def test_second_moments_that_two_units_share_are_made_once(tmp_path):
    cells = grid(task=False, moments=True, cache=tmp_path)
    first, *others = jobs_of(cells, {})
    assert (first.kind, len(first.unit.prepare), first.unit.cells()) == ("moments", 1, [])
    assert [job.needs for job in others] == [set(first.provides)] * 2


def test_moments_of_other_layers_over_one_text_are_one_job():
    cells = [
        made_up_cell(e, 1, seed=s, task=False, moments=True, layers=ls)
        for e, ls in (("rome", (3,)), ("memit", (3, 4, 5)))
        for s in (0, 1)
    ]
    first, *others = jobs_of(cells, {})
    assert len(first.unit.prepare) == len(first.provides) == 2
    assert [len(job.needs) for job in others] == [1] * 4


def test_what_is_prepared_already_is_not_prepared_again(tmp_path):
    cells = grid(task=False, moments=True, cache=tmp_path)
    prepared.mark(cells[0])
    assert jobs_of(cells, {})[0].kind == "moments", "a note without the store it vouches for"
    (tmp_path / "moments").mkdir()
    (tmp_path / "moments" / "x.safetensors").touch()
    assert {job.kind for job in jobs_of(cells, {})} == {"cells"}


def test_one_unit_alone_prepares_for_itself():
    (job,) = jobs_of(grid(("rome",), task=False, moments=True), {})
    assert (job.kind, job.unit.prepare) == ("cells", [])


def test_networks_are_jobs_apart_from_moments():
    training = {"steps": 3}
    cells = [made_up_cell("mend", 1, seed=s, task=False, training=training) for s in (0, 1)]
    cells += grid(task=False, moments=True)
    assert [job.kind for job in jobs_of(cells, {})][:2] == ["moments", "hypernets"]


# Arrays.


@pytest.fixture
def fresh_submission(tmp_path):
    return Submission.new(
        tmp_path / "outputs" / "main", command=["launch.py"], force=False, code={}
    )


def test_one_array_for_each_distinct_request_prerequisites_first(fresh_submission):
    cells = [made_up_cell("none"), *grid(), *grid(model="llama", resources={"memory_gb": 96})]
    drafts = draw_up(jobs_of(cells, {}), CLUSTER, fresh_submission, 1000)
    assert [(d.array.kind, len(d.array.tasks), d.resources.memory_gb) for d in drafts] == [
        ("baselines", 1, 64), ("cells", 2, 64), ("cells", 2, 96),
    ]  # fmt: skip


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_arrays_are_split_at_the_limit_and_nothing_is_lost(fresh_submission, limit):
    cells = [made_up_cell(seed=s, task=False) for s in range(7)]
    drafts = draw_up(jobs_of(cells, {}), CLUSTER, fresh_submission, limit)
    assert max(len(d.array.tasks) for d in drafts) <= limit
    names = [unit for d in drafts for task in d.array.tasks for unit in task.units]
    assert len(set(names)) == len(names) == 7
    ran = [cell for d in drafts for task in d.array.tasks for cell in task.cells]
    assert sorted(ran) == sorted(cell.name for cell in cells)
    assert len({d.array.name for d in drafts}) == len(drafts)


def test_several_units_share_a_task_when_they_are_packed(fresh_submission):
    cells = [made_up_cell(seed=s, task=False) for s in range(5)]
    (draft,) = draw_up(jobs_of(cells, {}), CLUSTER | {"units_per_gpu": 2}, fresh_submission, 1000)
    assert [len(task.units) for task in draft.array.tasks] == [2, 2, 1]


def test_a_submission_survives_its_file_and_half_made_ones_are_passed_over(fresh_submission):
    draw_up(jobs_of(grid(task=False), {}), CLUSTER, fresh_submission, 1000)
    fresh_submission.arrays[0].job = "17"
    fresh_submission.save()
    (fresh_submission.folder.parent / "20990101-000000-0000" / "units").mkdir(parents=True)
    (again,) = read_all(fresh_submission.study)
    assert again == fresh_submission
    assert [again.arrays[0].id_of(i) for i in range(2)] == ["17_0", "17_1"]
