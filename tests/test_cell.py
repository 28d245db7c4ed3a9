"""What enters a cell's key, and what does not."""

import copy

import pytest

from edit_sweeps import cell as cells
from edit_sweeps.cell import Cell, Digests
from edit_sweeps.config import study_folder
from edit_sweeps.launcher.plan import make_cell
from tests.test_conf import composed


@pytest.fixture(scope="module")
def tree():
    from edit_sweeps.launcher.freezing import freeze

    return freeze(composed())


@pytest.fixture
def digests(tmp_path):
    return Digests(tmp_path / "digests.json")


def changed(tree, path, value):
    tree = copy.deepcopy(tree)
    node = tree
    *parents, last = path.split(".")
    for part in parents:
        node = node[part]
    node[last] = value
    return tree


@pytest.mark.parametrize(
    ("path", "value"),
    [("device", "cpu"), ("study", "other"), ("save", "delta"), ("resume", "force"), ("wandb.mode", "offline"),
     ("cache_dir", "elsewhere"), ("model.name", "renamed"), ("dry_run", True), ("dataset.on_invalid", "skip"),
     ("dataset.repeat", True)],
)  # fmt: skip
def test_what_changes_no_result_is_not_in_the_key(tree, digests, path, value):
    assert (
        make_cell(changed(tree, path, value), [], digests).key == make_cell(tree, [], digests).key
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [("num_edits", 2), ("seed", 1), ("editor.layer", 3), ("editor.value.lr", 0.1), ("model.dtype", "float64"),
     ("edits.batch_size", 5), ("eval.limit", 10), ("moments.tokens", 5), ("edit_scores.limit", 3)],
)  # fmt: skip
def test_what_changes_results_is_in_the_key(tree, digests, path, value):
    assert (
        make_cell(changed(tree, path, value), [], digests).key != make_cell(tree, [], digests).key
    )


def test_repeating_is_in_the_key_where_it_is_needed_and_shares_the_trajectory(tree, digests):
    def cell(n, repeat):
        tree_of_n = changed(changed(tree, "num_edits", n), "dataset.repeat", repeat)
        return make_cell(tree_of_n, [], digests)

    assert cell(10, True).key == cell(10, False).key
    assert cell(5000, True).key != cell(5000, False).key
    assert cell(5000, True).trajectory == cell(10, False).trajectory


def test_what_becomes_of_broken_requests_is_no_swept_column(tree, digests):
    given = ["dataset.on_invalid=skip", "dataset.repeat=true", "editor.train_on_invalid=skip"]
    assert make_cell(tree, given, digests).overrides == {}
    strict = changed(tree, "editor.train_on_invalid", "refuse")
    lenient = changed(tree, "editor.train_on_invalid", "skip")
    assert make_cell(strict, [], digests).key == make_cell(lenient, [], digests).key


def test_one_baseline_serves_every_editor_edit_count_seed_and_data_set(tree, digests):
    keys = set()
    for path, value in [
        ("num_edits", 100),
        ("seed", 3),
        ("editor.layer", 0),
        ("dataset.order", "file"),
    ]:
        keys.add(make_cell(changed(tree, path, value), [], digests).baseline)
    assert len(keys) == 1
    assert keys != {make_cell(changed(tree, "eval.limit", 10), [], digests).baseline}


def test_edit_counts_of_a_sequential_editor_share_a_trajectory_and_scoring_does_not_enter_it(
    tree, digests
):
    def trajectory(path, value):
        return make_cell(changed(tree, path, value), [], digests).trajectory

    same = {trajectory("num_edits", n) for n in (1, 10, 100)} | {trajectory("eval.limit", 5)}
    assert len(same) == 1
    assert trajectory("seed", 1) not in same
    assert trajectory("edits.batch_size", 10) not in same


def test_a_model_in_a_folder_enters_by_content_not_by_path(tree, digests, tmp_path):
    keys = []
    for name, content in [("a", "x"), ("b", "x"), ("c", "y")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_text(content)
        keys.append(
            make_cell(changed(tree, "model.pretrained", str(tmp_path / name)), [], digests).key
        )
    assert keys[0] == keys[1] != keys[2]


def test_a_cell_without_record_is_pending_and_a_failed_one_is_not_done(tree, digests, tmp_path):
    cell = make_cell(tree, [], digests)
    cell = Cell(cell.config, cell.identity, cell.overrides, tmp_path, cell.baseline)
    assert cell.state() == "pending"
    cell.folder.mkdir(parents=True)
    (cell.folder / cells.FAILURE_FILE).write_text("{}")
    assert cell.state() == "failed"
    (cell.folder / cells.RECORD_FILE).write_text('{"state": "collapsed"}')
    assert cell.state() == "collapsed"


def test_a_name_is_readable_and_safe_for_folders(tree, digests):
    cell = make_cell(changed(tree, "model.name", "a/b c"), [], digests)
    assert cell.name == f"a_b_c-rome-n1-s0-{cell.key}"
    assert "/" not in cell.name


def test_digests_notice_a_changed_file_and_remember_the_rest(tmp_path):
    file = tmp_path / "f"
    file.write_text("one")
    digests = Digests(tmp_path / "memory.json")
    first = digests.of(file)
    digests.save()
    assert Digests(tmp_path / "memory.json").of(file) == first
    file.write_text("three")
    assert Digests(tmp_path / "memory.json").of(file) != first


def test_overrides_hold_swept_keys_that_have_no_column(tree, digests):
    overrides = [
        "editor=rome",
        "num_edits=3",
        "editor.value.lr=0.1",
        "study=x",
        "wandb.mode=offline",
        "+task.x.y=1",
    ]
    assert make_cell(tree, overrides, digests).overrides == {
        "editor.value.lr": "0.1",
        "task.x.y": "1",
    }
    assert study_folder("x") == "outputs/x"
