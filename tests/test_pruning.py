"""edit-sweeps prune: nothing goes that anybody could still use, whoever is killed and whatever happens meanwhile."""

import json
import os
import shutil
import time

import pytest

from edit_sweeps import claims
from edit_sweeps.launcher import pruning
from edit_sweeps.launcher.pruning import Found, find, remove, remove_one
from edit_sweeps.launcher.queue import Slurm, SlurmUnavailable
from edit_sweeps.launcher.submissions import SUBMITTED, Array, Submission, Task
from edit_sweeps.launcher.units import Unit
from edit_sweeps.record import Record
from tests.made_up_cells import made_up_cell

MONTH = 30 * 86400
DAY = 86400


def write_file(file, size=1024, age_s=MONTH):
    """A file that nobody has touched for so long, nor the folders it made."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(size))
    then = time.time() - age_s
    for path in (file, file.parent, file.parent.parent):
        os.utime(path, (then, then))


def finish(cell, state="done", errors=None):
    """Its record, or its failure."""
    record = Record(cell.key, cell.name, state, cell.config, errors=errors or {})
    record.provenance = {"finished": "2099-01-01T00:00:00+00:00"}
    record.save(cell.folder)


@pytest.fixture
def pruned(tmp_path, monkeypatch):
    """One submission of two cells of two trajectories, each with a prefix, a month old; Slurm has forgotten it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Slurm, "ask", lambda self, ids, older=(): {})
    monkeypatch.setattr(pruning, "arrays_alive", lambda study: set())
    study = tmp_path / "outputs" / "main"
    cells = [made_up_cell(seed=seed, study=study) for seed in (0, 1)]
    study.mkdir(parents=True)
    rows = [{"name": cell.name, "key": cell.key} for cell in cells]
    (study / "plan.json").write_text(json.dumps(rows))
    one = Submission.new(study, command=["launch.py"], force=False, code={"digest": "new"})
    one.time = "2026-01-01T00:00:00+00:00"
    one.arrays = [
        Array("es-main", "cells", [Task(["0000"], [c.name for c in cells])], 60, 1, [], "17", SUBMITTED)
    ]  # fmt: skip
    one.save()
    (one.folder / "units").mkdir()
    one.unit_file("0000").write_text(json.dumps(Unit([[cell] for cell in cells]).as_tree()))
    for cell in cells:
        write_file(study / "trajectories" / cell.trajectory / "000001" / "ledger.safetensors")
    for digest in ("new", "old"):
        write_file(study / "code" / digest / "module.py")
    write_file(one.folder / "slurm" / "17_0_log.out")
    return study, cells


def names(found, what):
    return {each.path.name for each in found if each.what == what}


def test_the_prefix_of_a_finished_trajectory_goes_and_that_of_a_lost_one_stays(pruned):
    study, (first, second) = pruned
    finish(first)
    assert names(find(study, DAY, logs=True), "prefixes") == {first.trajectory}
    everything = find(study, DAY, logs=True, unfinished=True)
    assert names(everything, "prefixes") == {first.trajectory, second.trajectory}


def test_of_a_failed_cell_it_goes_only_when_asked_for(pruned):
    study, (first, second) = pruned
    finish(first)
    finish(second, "failed", {"cell": "ValueError: no"})
    assert names(find(study, DAY, logs=False), "prefixes") == {first.trajectory}
    assert len(names(find(study, DAY, logs=False, unfinished=True), "prefixes")) == 2


def test_of_a_cell_that_was_never_submitted_nobody_knows_it_so_all_stay(pruned):
    study, (first, second) = pruned
    finish(first)
    finish(second)
    plan = json.loads((study / "plan.json").read_text())
    (study / "plan.json").write_text(json.dumps([*plan, {"name": "other-abc", "key": "abc"}]))
    assert not names(find(study, DAY, logs=False, unfinished=True), "prefixes")


def test_a_cell_that_somebody_runs_again_keeps_its_prefix_though_it_is_done(pruned):
    study, (first, second) = pruned
    finish(first)
    finish(second)
    with claims.hold(study / "claims", second.key):
        assert names(find(study, DAY, logs=False), "prefixes") == {first.trajectory}
    assert len(names(find(study, DAY, logs=False), "prefixes")) == 2


def test_copies_of_the_package_stay_while_a_submission_that_needs_them_is_open(pruned):
    study, (first, second) = pruned
    finish(first)
    assert names(find(study, DAY, logs=True), "code") == {"old"}
    assert not names(find(study, DAY, logs=True), "logs")
    finish(second)
    assert names(find(study, DAY, logs=True), "code") == {"old", "new"}
    assert names(find(study, DAY, logs=True), "logs") == {"slurm"}
    assert not names(find(study, DAY, logs=False), "logs")


def test_a_job_that_still_ends_keeps_its_code_and_logs_though_its_cells_are_done(
    pruned, monkeypatch
):
    study, cells = pruned
    for cell in cells:
        finish(cell)
    monkeypatch.setattr(pruning, "arrays_alive", lambda study: {"17"})
    found = find(study, 0, logs=True)
    assert names(found, "code") == {"old"}
    assert not names(found, "logs")


def test_where_slurm_does_not_answer_nothing_is_concluded(pruned, monkeypatch):
    study, cells = pruned
    for cell in cells:
        finish(cell)

    def silent(study):
        raise SlurmUnavailable("squeue failed")

    monkeypatch.setattr(pruning, "arrays_alive", silent)
    with pytest.raises(SlurmUnavailable):
        find(study, DAY, logs=True)


def test_claims_of_done_cells_go_and_others_stay(pruned):
    study, (first, second) = pruned
    finish(first)
    for cell in (first, second):
        claims.try_hold(study / "claims", cell.key).release()
    held = names(find(study, 0, logs=False), "claims")
    assert held == {f"{first.key}.1"}
    assert not names(find(study, DAY, logs=False), "claims")


def test_a_link_to_another_place_is_left_alone(pruned, tmp_path):
    study, cells = pruned
    for cell in cells:
        finish(cell)
        shutil.rmtree(study / "trajectories" / cell.trajectory)
    write_file(tmp_path / "elsewhere" / "000001" / "ledger.safetensors")
    (study / "trajectories" / "aaa").symlink_to(tmp_path / "elsewhere")
    assert not names(find(study, 0, logs=False), "prefixes")


def test_what_became_needed_since_it_was_shown_stays(pruned):
    study, (first, second) = pruned
    finish(first)
    finish(second)
    found = find(study, DAY, logs=False)
    (second.folder / "record.json").unlink()  # as `resume=force` and a new plan would have it
    told = remove(found, lambda folder: find(folder, DAY, logs=False))
    left = {p.name for p in (study / "trajectories").iterdir()}
    assert left == {second.trajectory}
    assert "left alone" in told


def test_only_what_was_shown_goes(pruned):
    study, (first, second) = pruned
    finish(first)
    found = find(study, DAY, logs=False)
    finish(second)
    remove(found, lambda folder: find(folder, DAY, logs=False))
    assert {p.name for p in (study / "trajectories").iterdir()} == {second.trajectory}


def test_nobody_plans_while_things_go(pruned):
    study, (first, second) = pruned
    finish(first)
    finish(second)
    seen = []

    def again(folder):
        seen.append(claims.who(folder / "claims", "planning"))
        return find(folder, DAY, logs=False)

    remove(find(study, DAY, logs=False), again)
    assert seen[0] is not None
    assert claims.who(study / "claims", "planning") is None


def test_killed_in_the_middle_it_leaves_nothing_that_looks_like_a_prefix(pruned, monkeypatch):
    study, (first, second) = pruned
    finish(first)
    finish(second)
    folder = study / "trajectories" / first.trajectory
    write_file(folder / "000001" / "traces.json")
    known = shutil.rmtree

    def dies(path, *_, **__):
        (path / "000001" / "ledger.safetensors").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        remove_one(folder)
    assert not folder.exists()
    monkeypatch.setattr(shutil, "rmtree", known)
    found = find(study, 0, logs=False)
    assert f".{first.trajectory}.removed" in names(found, "prefixes")
    remove(found, lambda each: find(each, 0, logs=False))
    assert list((study / "trajectories").iterdir()) == []


def test_the_table_sums_by_study_and_kind(pruned):
    study, _ = pruned
    found = [Found(study, study / "trajectories" / f"{i}", "prefixes", 1024) for i in range(3)]
    _, line, total = pruning.told_of(found).splitlines()
    assert line.split() == ["main", "prefixes", "3", "3.0", "KiB", "outputs/main/trajectories"]
    assert total == "3 files and folders, 3.0 KiB in all."
