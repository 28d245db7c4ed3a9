"""What a command turns into: cells, baselines, states, units; and what is refused before anything runs."""

import json

import pytest

from edit_sweeps.launcher import launch
from edit_sweeps.launcher.plan import Refusal, make_plan
from tests.test_conf import composed


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDIT_SWEEPS_CACHE", raising=False)


def grid(*points):
    return [(composed(*point), list(point)) for point in points]


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
    assert [[cell.num_edits for cell in unit] for unit in plan.units()] == [
        [0],
        [1, 10, 100],
        [1, 10, 100],
    ]


def test_a_unit_is_ascending_however_the_command_was_written():
    plan = make_plan(sweep(("rome",), (100, 1, 10)))
    assert [cell.num_edits for cell in plan.units()[1]] == [1, 10, 100]


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
