"""What a command turns into: cells, baselines, states, units; and what is refused before anything runs."""

import json

import pytest

from edit_sweeps.cell import Digests
from edit_sweeps.launcher import launch
from edit_sweeps.launcher.freezing import Refusal, frozen
from edit_sweeps.launcher.plan import make_plan
from tests.test_conf import composed


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDIT_SWEEPS_CACHE", raising=False)


def grid(*points):
    return [frozen(composed(*point), list(point)) for point in points]


def sweep(editors=("rome", "memit"), counts=(1, 10, 100), *rest):
    return grid(*[(f"editor={e}", f"num_edits={n}", *rest) for e in editors for n in counts])


def refusal(*overrides):
    """What the command says when it is refused, before any heavy check."""
    with pytest.raises(Refusal) as caught:
        make_plan(grid(overrides))
    return str(caught.value)


def test_the_first_sweep_is_six_cells_and_one_baseline_in_three_units():
    plan = make_plan(sweep())
    assert [cell.num_edits for cell in plan.todo()] == [0, 1, 10, 100, 1, 10, 100]
    assert [[cell.num_edits for cell in unit.cells()] for unit in plan.units()] == [
        [0],
        [1, 10, 100],
        [1, 10, 100],
    ]


def test_a_unit_is_ascending_however_the_command_was_written():
    plan = make_plan(sweep(("rome",), (100, 1, 10)))
    assert [cell.num_edits for cell in plan.units()[1].cells()] == [1, 10, 100]


def test_the_baseline_of_a_grid_is_not_repeated_for_editor_none():
    plan = make_plan(
        grid(("editor=none", "num_edits=1"), ("editor=none", "num_edits=10"), ("num_edits=1",))
    )
    assert len(plan.entries) == 2
    assert plan.entries[0].cell.is_baseline


def test_a_cell_without_tasks_has_no_baseline():
    plan = make_plan(grid(("task=none",)))
    assert [cell.is_baseline for cell in plan.todo()] == [False]


def test_done_cells_are_skipped_failed_ones_retried_and_force_runs_all():
    for cell in (plan := make_plan(sweep())).todo():
        cell.folder.mkdir(parents=True)
        if cell.num_edits == 10:
            (cell.folder / "failure.json").write_text("{}")
        else:
            (cell.folder / "record.json").write_text('{"state": "done"}')
    assert [cell.num_edits for cell in make_plan(sweep()).todo()] == [10, 10]
    assert make_plan(sweep(("rome", "memit"), (1, 10, 100), "resume=only_missing")).todo() == []
    forced = make_plan(sweep(("rome", "memit"), (1, 10, 100), "resume=force"))
    assert len(forced.todo()) == len(plan.entries) == 7


def test_a_cell_that_lacks_a_task_runs_again_and_counts_as_failed():
    (baseline, cell) = make_plan(grid(())).todo()
    for done, errors in ((baseline, {}), (cell, {"mini_ner": "no such file", "save=adapter": "x"})):
        done.folder.mkdir(parents=True)
        record = {"state": "done", "result": {"errors": errors}}
        (done.folder / "record.json").write_text(json.dumps(record))
    plan = make_plan(grid(()))
    assert [c.key for c in plan.todo()] == [cell.key]
    assert plan.failed() == 1
    assert "failed before: mini_ner" in plan.describe()
    assert make_plan(grid(("resume=only_missing",))).todo() == []


def test_a_done_cell_that_lacks_what_save_asks_for_runs_again():
    (baseline, cell) = make_plan(grid(())).todo()
    for done in (baseline, cell):
        done.folder.mkdir(parents=True)
        (done.folder / "record.json").write_text('{"state": "done"}')
    assert make_plan(grid(())).todo() == []
    assert [c.key for c in make_plan(grid(("save=delta",))).todo()] == [cell.key]
    (cell.folder / "delta.safetensors").write_bytes(b"")
    assert make_plan(grid(("save=delta",))).todo() == []
    assert [c.key for c in make_plan(grid(("save=[delta,model]",))).todo()] == [cell.key]


def test_a_baseline_computed_for_one_study_serves_another():
    baseline = make_plan(grid(())).todo()[0]
    kept = baseline.folder.parent.parent.parent / ".cache" / "baselines" / baseline.key
    kept.mkdir(parents=True)
    (kept / "record.json").write_text('{"state": "done"}')
    plan = make_plan(grid(("study=second",)))
    assert [entry.state for entry in plan.entries] == ["done", "pending"]


def test_the_plan_of_a_study_keeps_cells_of_earlier_commands():
    make_plan(sweep(("rome",), (1,))).save()
    make_plan(sweep(("memit",), (1,))).save()
    rows = json.loads((make_plan(sweep()).study / "plan.json").read_text())
    assert [row["config_short"]["editor"] for row in rows] == ["none", "rome", "memit"]


def test_dry_run_shows_cells_and_units_and_writes_nothing(capsys, tmp_path):
    launch(sweep(("rome", "memit"), (1, 10), "dry_run=true"))
    shown = capsys.readouterr().out
    assert shown.count("pending") == 5
    assert "unit 3" in shown
    assert not list(tmp_path.rglob("plan.json"))


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("num_edits=0",), "use editor=none"),
        (("edits=sequential", "edits.batch_size=5"), "edits=batch_sequential edits.batch_size=5"),
        (("editor=none", "task=none"), "measures nothing"),
        (("resume=again",), "one of auto, only_missing, force"),
        (("save=weights",), r"none, delta, model"),
        (("dataset=jsonl",), "dataset.path"),
        (("dataset=jsonl", "dataset.path=nowhere.jsonl"), "nowhere.jsonl"),
        (("moments.file=nowhere.safetensors",), "no such file"),
        (("editor.contexts_file=nowhere.json",), "no such file"),
        (("model=custom",), "model.pretrained"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_a_word_of_help(overrides, says):
    assert says in refusal(*overrides)


def test_all_reasons_are_told_at_once():
    with pytest.raises(Refusal) as caught:
        make_plan(grid(("num_edits=0",), ("resume=again",)))
    assert "use editor=none" in str(caught.value)
    assert "only_missing" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("editor.layer=99",), "99"),
        (("num_edits=100000",), "dataset.repeat=true"),
        (("editor=rome", "edits=batch", "num_edits=3"), "one edit at a time"),
        (("model=custom", "model.pretrained=no/such-model", "editor.layer=1"), "no/such-model"),
        (("task=custom", "task.custom.name=gsm9k"), "gsm9k"),
        (("+editor.v_stepz=3",), "v_stepz"),
        (("model.dtype=float3",), "float3"),
    ],
)  # fmt: skip
def test_what_needs_the_model_to_know_is_refused_before_anything_runs(
    overrides, says, capsys, tmp_path
):
    with pytest.raises(SystemExit) as stop:
        launch(grid(overrides))
    assert stop.value.code == 2
    shown = capsys.readouterr().err
    assert says in shown
    assert "Traceback" not in shown
    assert not list(tmp_path.rglob("cells"))


def test_a_grid_can_leave_out_what_its_editors_cannot_do(capsys, caplog):
    points = [(f"editor={e}", "edits=batch", "num_edits=3") for e in ("rome", "memit")]
    with pytest.raises(SystemExit):
        launch(grid(*[(*point, "dry_run=true") for point in points]))
    assert "one edit at a time" in capsys.readouterr().err
    launch(grid(*[(*point, "dry_run=true", "impossible=drop") for point in points]))
    shown = capsys.readouterr().out
    assert "miniature-memit-n3" in shown
    assert "rome" not in shown
    assert "is left out: editor=rome writes one edit at a time" in caplog.text
    assert "impossible=perhaps: refuse or drop" in refusal("impossible=perhaps")


def capped(*counts, editor="memit", edits="batch", **more):
    rest = [f"{key}={value}" for key, value in more.items()]
    return make_plan(
        grid(*[(f"editor={editor}", f"edits={edits}", f"num_edits={n}", *rest) for n in counts])
    )


def small_data(tmp_path, requests=4):
    file = tmp_path / "facts.jsonl"
    lines = (
        {"case_id": i, "subject": f"S{i}", "prompt": "{} is", "target_new": "x"}
        for i in range(requests)
    )
    file.write_text("\n".join(map(json.dumps, lines)))
    return {"dataset": "jsonl", "dataset.path": file, "dataset.cap": "true"}


def test_counts_beyond_the_data_set_become_one_capped_cell_that_says_so(tmp_path, caplog):
    plan = capped(2, 5, 6, **small_data(tmp_path))
    (two, four) = [cell for cell in plan.todo() if not cell.is_baseline]
    assert (two.num_edits, two.config["num_edits_asked"]) == (2, [])
    assert (four.num_edits, four.config["num_edits_asked"]) == (4, [5, 6])
    assert four.config["edits"]["batch_size"] == 4, "edits=batch is all edits at once"
    assert "num_edits=5, 6 capped to 4" in plan.describe()
    assert "has 4 requests: num_edits=5, 6 capped to 4 (dataset.cap)" in caplog.text


def test_a_capped_cell_is_the_cell_of_that_count(tmp_path):
    data = small_data(tmp_path)
    keys = [[cell.key for cell in capped(n, **data).todo()] for n in (4, 9)]
    assert keys[0] == keys[1]
    uncapped = capped(4, **data | {"dataset.cap": "false"})
    assert [cell.key for cell in uncapped.todo()] == keys[0]
    both = [cell for cell in capped(4, 9, **data).todo() if not cell.is_baseline]
    assert [cell.config["num_edits_asked"] for cell in both] == [[9]]


def test_what_is_skipped_is_not_there_to_be_edited(tmp_path):
    data = small_data(tmp_path) | {"dataset.order": "file", "dataset.skip": 1}
    plan = capped(9, editor="rome", edits="sequential", **data)
    assert [cell.num_edits for cell in plan.todo()] == [0, 3]
    assert plan.todo()[1].config["edits"]["batch_size"] == 1


def test_a_batch_is_not_larger_than_what_there_is(tmp_path):
    data = small_data(tmp_path) | {"edits.batch_size": 50}
    assert (
        capped(100, edits="batch_sequential", **data).todo()[1].config["edits"]["batch_size"] == 4
    )


def test_a_repeated_data_set_is_not_capped_and_without_the_option_nothing_is(tmp_path):
    data = small_data(tmp_path)
    repeated = capped(9, **data | {"dataset.repeat": "true"})
    assert [cell.num_edits for cell in repeated.todo()] == [0, 9]
    plan = capped(9, **data | {"dataset.cap": "false"})
    assert [cell.num_edits for cell in plan.todo()] == [0, 9], (
        "and refused when the counts are checked"
    )


def test_capping_is_no_column_and_no_part_of_a_baseline(tmp_path):
    baseline, cell = capped(9, **small_data(tmp_path)).todo()
    assert "dataset.cap" not in cell.overrides
    assert baseline.config["num_edits_asked"] == []
    assert baseline.key == make_plan(grid(())).todo()[0].key


def test_what_the_plan_fills_in_cannot_be_given():
    (_, cell) = make_plan(grid(("num_edits_asked=[7]",))).todo()
    assert cell.config["num_edits_asked"] == []


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        ("", ["d3eace51ef", "d9feb8657f"]),
        ("editor=memit num_edits=10", ["d3eace51ef", "1435cd6fb5"]),
        ("editor=ft num_edits=5 seed=3", ["d3eace51ef", "fe112223f8"]),
        ("editor=memit edits=batch num_edits=7 task=[miniature,none]", ["d3eace51ef", "fb9bb144b0"]),
    ],
)  # fmt: skip
def test_keys_are_those_of_studies_on_disk(overrides, keys):
    """A change of these needs a reason: everybody's cells run again."""
    assert [entry.cell.key for entry in make_plan(grid(overrides.split())).entries] == keys


def test_one_planning_looks_at_a_file_once(tmp_path):
    file, digests = tmp_path / "f", Digests(tmp_path / "digests.json")
    file.write_text("one")
    first = digests.of(file)
    file.write_text("three")
    assert digests.of(file) == first
    assert Digests(tmp_path / "digests.json").of(file) != first


def test_a_reason_against_many_cells_is_told_with_a_few_of_them():
    with pytest.raises(Refusal) as caught:
        make_plan(grid(*[("model=custom", f"seed={s}") for s in range(9)]))
    lines = str(caught.value).splitlines()
    assert [line.partition(":")[0].strip() for line in lines[:3]] == [
        f"model=custom seed={s}" for s in range(3)
    ]
    assert lines[3:] == ["  ... and 6 more for the same reason"]
