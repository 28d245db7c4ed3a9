"""The paper's numbers: all there, none other; found by the words of our records; laid beside a study's."""

import collections
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edit_sweeps.published import EDITORS, curve, everything, line, line_of, published
from edit_sweeps.record import Score
from tests.synthetic_study import make_record
from tests.test_presets import STUDIES

NUMBERS = Path(__file__).parents[2] / "shared" / "reference" / "paper_numbers.json"
SCRIPT = Path(__file__).parent.parent / "scripts" / "paper.py"
TASKS = {
    "reasoning", "nli", "open_domain_qa", "closed_domain_qa", "dialogue", "summarization", "ner", "sentiment",
}  # fmt: skip
# Keys of paper_numbers.json that are spelled otherwise there.
THERE = {"llama-7b": "llama-1-7b", "open_domain_qa": "open_qa", "closed_domain_qa": "closed_qa"}
PERCENT = "percent_above_"


def one(**setting):
    (point,) = published(**setting)
    return point


@pytest.mark.parametrize(
    ("value", "setting"),
    [  # read by hand from section 4 of the digest of the paper
        (0.924, {"figure": "base", "model": "llama-7b", "task": "reasoning"}),
        (0.0, {"figure": "sequential", "editor": "KN", "model": "gpt2-xl", "task": "nli"}),
        (0.103, {"figure": "sequential", "editor": "ROME", "model": "gpt2-xl", "num_edits": 20, "task": "reasoning"}),
        (0.112, {"figure": "sequential", "editor": "ROME", "model": "llama-7b", "num_edits": 10, "task": "ner"}),
        (0.105, {"figure": "batch", "editor": "MEND", "model": "gpt2-xl", "num_edits": 10, "task": "nli"}),
        (0.096, {"figure": "batch", "editor": "MEND", "model": "llama-7b", "num_edits": 20, "task": "closed_domain_qa"}),
        (0.552, {"figure": "batch", "editor": "MEMIT", "model": "gpt2-xl", "num_edits": 1000, "task": "reasoning"}),
        (0.212, {"figure": "batch", "editor": "MEMIT", "model": "llama-7b", "num_edits": 5, "task": "closed_domain_qa"}),
        (0.538, {"figure": "batch_sequential", "batch_size": 10, "num_edits": 500, "task": "sentiment"}),
        (0.003, {"figure": "batch_sequential", "batch_size": 50, "num_edits": 2500, "task": "reasoning"}),
        (0.461, {"figure": "batch_sequential", "batch_size": 2, "num_edits": 4, "task": "sentiment"}),
        (0.191, {"figure": "rect_general", "regularizer": "rect", "keep": 0.4, "num_edits": 20, "task": "sentiment"}),
        (0.844, {"figure": "rect_editing", "editor": "ROME", "model": "gpt2-xl", "regularizer": "rect", "keep": 0.4, "metric": "generalization"}),
        (0.371, {"figure": "rect_editing", "editor": "MEMIT", "model": "llama-7b", "regularizer": "pca", "metric": "reliability"}),
        (52245.3, {"figure": "weight_change", "num_edits": 10, "metric": "manhattan"}),
        (72.8, {"figure": "weight_change", "num_edits": 15, "metric": "percent_above_0.077"}),
    ],
)  # fmt: skip
def test_numbers_written_out_by_hand_are_found(value, setting):
    assert one(**setting).value == value


def test_every_number_says_where_it_was_read_and_how_well():
    assert len(everything()) == 718
    assert {(p.read_by, p.error) for p in everything()} == {("pixels", 0.005), ("eye", 0.01), ("print", 0.0)}  # fmt: skip
    assert {p.task for p in published(read_by="eye")} == {"ner"}
    assert {p.figure for p in published(read_by="print")} == {"weight_change"}
    assert all(p.source.endswith(".png") for p in everything())
    assert {p.task for p in everything()} == TASKS | {"edit", "weights"}


def test_a_setting_that_is_no_field_is_refused():
    with pytest.raises(
        TypeError, match=r"modle: not a field of Published, which has figure, model"
    ):
        published(modle="gpt2-xl")


# ---- paper_numbers.json, walked on its own: path of keys and place in the list -> number


def leaves(tree, path=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, key))
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            yield from leaves(value, (*path, place))
    elif isinstance(tree, int | float):
        yield path, tree


def numbers_of_the_paper(tree):
    axes = {"x", "batch", "editing_operations", "edits"}
    kept = {k: v for k, v in tree.items() if not k.startswith(("_", "trivial_baselines"))}
    return {path: value for path, value in leaves(kept) if not axes & set(path)}


def there(point, tree):
    """The path in paper_numbers.json at which a number of ours must stand."""
    model, task = THERE.get(point.model, point.model), THERE.get(point.task, point.task)
    task += "_by_eye" if point.read_by == "eye" else ""
    who = f"{point.editor}/{model}"
    series = {
        "none": "unregularized", "rect": f"rect_top{round(100 * (point.keep or 0))}", "random": "random40", "pca": "pca40",
    }[point.regularizer]  # fmt: skip
    match point.figure:
        case "base":
            return ("base", model, task)
        case "sequential" if point.editor == "KN":
            return ("instance_sequential", who, "all_tasks_after_1_edit")
        case "sequential":
            axis = tree["instance_sequential"][who]["x"]
            return ("instance_sequential", who, task, axis.index(point.num_edits))
        case "batch":
            axis = tree["batch_single"][who]["batch"]
            return ("batch_single", who, task, axis.index(point.num_edits))
        case "batch_sequential":
            who = f"MEMIT?/{model}"
            axis = [
                n * point.batch_size for n in tree["batch_sequential"][who]["editing_operations"]
            ]
            place = axis.index(point.num_edits)
            return ("batch_sequential", who, task, str(point.batch_size), place)
        case "rect_editing":
            place = tree["rect_editing"]["series"].index(series)
            return ("rect_editing", who, point.metric, place)
        case "rect_general":
            table = "rect_general_ROME_gpt2-xl"
            return (table, task, series, tree[table]["x"].index(point.num_edits))
        case "weight_change":
            table = "weight_change_ROME_gpt2-xl_layer17_printed_table"
            place = [row["edits"] for row in tree[table]].index(point.num_edits)
            return (table, place, point.metric.replace(PERCENT, "pct_delta_gt_"))


def test_every_number_of_the_digest_is_here_and_none_other():
    if not NUMBERS.exists():
        pytest.skip(
            f"{NUMBERS} is not there: the digest of the paper is not part of the repository"
        )
    tree = json.loads(NUMBERS.read_text(encoding="utf-8"))
    wanted = numbers_of_the_paper(tree)
    assert len(wanted) > 700
    found = collections.defaultdict(set)
    for point in everything():
        found[there(point, tree)].add(point.value)
    assert {path: {value} for path, value in wanted.items()} == found
    # One number of the digest stands for all eight tasks, for each of KN's models.
    assert len(everything()) == len(wanted) + 2 * (len(TASKS) - 1)


# ---- in the words of our records


def test_a_curve_is_named_as_our_records_name_it():
    rome = curve("gpt2-xl", "rome_identity", "sequential")
    assert rome.keys() == TASKS
    assert rome["sentiment"] == [(0, 0.556), (5, 0.562), (10, 0.352), (15, 0.331), (20, 0.012)]
    assert curve("gpt2-xl", "rome", "sequential") == rome
    memit = curve("gpt2-xl", "memit", "batch")
    assert [n for n, _ in memit["ner"]] == [1, 10, 100, 1000, 2000, 3000]
    assert [n for n, _ in curve("llama-7b", "mend", "batch")["ner"]] == [0, 5, 10, 15, 20]
    assert curve("gpt2-xl", "kn", "sequential")["dialogue"] == [(1, 0.0)]


def test_each_batch_size_is_a_line_of_its_own():
    thirty = curve("gpt2-xl", "memit", "batch_sequential", batch_size=30)
    assert [n for n, _ in thirty["nli"]] == [0, 300, 600, 900, 1200, 1500]
    assert curve("gpt2-xl", "memit", "batch_sequential") == {}
    assert curve("llama-7b", "memit", "batch_sequential", batch_size=3)["ner"][-1] == (12, 0.008)


def test_what_the_paper_did_not_run_has_no_curve():
    for model, editor, edits in [
        ("miniature", "rome", "sequential"),
        ("gpt2-xl", "alphaedit", "sequential"),
        ("gpt2-xl", "memit", "sequential"),
    ]:
        assert curve(model, editor, edits) == {}
    assert curve("gpt2-xl", "rome", "sequential", regularizer="low_rank") == {}, (
        "not the paper's PCA"
    )


def test_the_two_figures_of_unregularised_rome_are_told_apart():
    plain = {
        p.num_edits: p.value for p in line("gpt2-xl", "rome", "sequential") if p.task == "sentiment"
    }
    again = line("gpt2-xl", "rome", "sequential", figure="rect_general")
    again = {p.num_edits: p.value for p in again if p.task == "sentiment"}
    assert (plain[10], again[10]) == (0.352, 0.018)
    rect = curve("gpt2-xl", "rome", "sequential", regularizer="rect", keep=0.4)
    assert rect["sentiment"][-1] == (20, 0.191)
    assert (5, 0.119) in rect["summarization"]
    assert [n for n, _ in rect["open_domain_qa"]] == [0, 10, 15, 20], "a hidden marker is left out"


def test_every_line_of_the_figures_is_reached_by_our_names():
    names = {paper: ours for ours, paper in EDITORS.items()}
    seen = set()
    for point in everything():
        if point.metric == "released" and point.edits and point.regularizer != "pca":
            seen |= set(
                line(
                    point.model,
                    names[point.editor],
                    point.edits,
                    batch_size=point.batch_size,
                    regularizer=point.regularizer,
                    keep=point.keep,
                    figure=point.figure,
                )
            )
    lost = [p for p in everything() if p.metric == "released" and p not in seen]
    assert {(p.figure, p.regularizer) for p in lost} == {("base", "none"), ("rect_general", "pca")}


# ---- beside a study


@pytest.fixture(scope="module")
def paper():
    spec = importlib.util.spec_from_file_location("paper", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look for it there
    spec.loader.exec_module(module)
    yield module
    monkeypatch.undo()


def record(editor, num_edits, seed=0, value=0.5, **changes):
    """A made-up cell on gpt2-xl with one task of the paper."""
    model = {"model": {"name": "gpt2-xl", "pretrained": "x", "dtype": "float32"}}
    facts = {"dataset": {"name": "zsre_paper", "format": "zsre", "path": None, "target": "alt"}}
    made = make_record(editor, num_edits, seed, **model | facts | changes)
    made.scores["sentiment"] = {"released": Score(value, 872), "acc": Score(0.1, 872)}
    return made


def write(folder, *records):
    for made in records:
        made.save(folder / "cells" / made.name)
    return folder


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| sentiment")]


def test_our_mean_over_seeds_stands_beside_the_papers_number(paper, tmp_path):
    cells = [record("rome_identity", 10, seed, value) for seed, value in enumerate((0.3, 0.4, 0.5))]
    study = write(
        tmp_path / "study", record("none", 0, value=0.55), *cells, record("rome_identity", 7)
    )
    text = paper.comparison(study)
    assert rows(text) == [
        "| sentiment | released | 0 | 1 | 0.550 | 0.556 | −0.006 | 0.005 |",
        "| sentiment | released | 10 | 3 | 0.400 [0.300, 0.500] | 0.352 | +0.048 | 0.005 |",
    ]
    assert "## gpt2-xl, unedited" in text
    assert "## gpt2-xl, rome_identity (ROME), sequential, zsre_paper" in text


def test_a_seed_that_was_run_twice_is_one_of_ours(paper, tmp_path):
    cells = [record("rome_identity", 10, 0, value, task={n: {}}) for n, value in (("a", 0.3), ("b", 0.5))]  # fmt: skip
    cells[0].provenance["finished"] = "2026-02-02T00:00:00+00:00"
    (row,) = rows(paper.comparison(write(tmp_path / "study", *cells)))
    assert row.startswith("| sentiment | released | 10 | 1 | 0.300 | 0.352 |")


@pytest.mark.parametrize(
    "dataset", [{"name": "counterfact"}, {"name": "zsre", "target": "answers"}]
)
def test_cells_on_other_facts_are_named_and_not_compared(paper, tmp_path, dataset):
    batch = {"edits": {"name": "batch", "batch_size": 10}}
    theirs, other = record("memit", 10, **batch), record("memit", 10, 0, 0.1, dataset=dataset, **batch)  # fmt: skip
    text = paper.comparison(write(tmp_path / "study", theirs, other))
    assert rows(text) == ["| sentiment | released | 10 | 1 | 0.500 | 0.560 | −0.060 | 0.005 |"]
    assert f"target=alt): 1 cell of dataset={dataset['name']}" in text


def test_the_papers_scores_of_regularised_edits_stand_beside_20_edits_only(paper, tmp_path):
    rect = {"regularizer": {"name": "rect", "keep": 0.4}}
    cells = [record("rome_identity", n, **rect) for n in (5, 10, 15, 20)]
    for made in cells:
        made.scores["edit"] = {"efficacy_accuracy": Score(0.9, 100)}
    text = paper.comparison(write(tmp_path / "study", *cells))
    found = [line.split("|")[3].strip() for line in text.splitlines() if "efficacy_accuracy" in line]  # fmt: skip
    assert found == ["20"]


def test_a_capped_cell_is_named_and_not_compared(paper, tmp_path):
    capped = record("rome_identity", 5, num_edits_asked=[10, 20])
    text = paper.comparison(write(tmp_path / "study", capped))
    assert rows(text) == []
    assert "Capped" in text
    assert capped.name in text


def test_a_study_of_regularizers_is_held_against_the_papers_second_figure(paper, tmp_path):
    rect = {"regularizer": {"name": "rect", "keep": 0.4}}
    study = write(
        tmp_path / "study", record("rome_identity", 10), record("rome_identity", 20, **rect)
    )
    for name in ("rome_identity", "rect"):
        assert name in paper.comparison(study)
    assert [row.split("|")[6].strip() for row in rows(paper.comparison(study))] == [
        "0.018",
        "0.191",
    ]


def test_a_study_without_a_counterpart_says_so(paper, tmp_path):
    study = write(tmp_path / "study", make_record("rome", 10), make_record("none", 0))
    assert "No cell of this study has a score that the paper has too." in paper.comparison(study)


def test_the_lines_of_a_figure_are_those_of_the_model(paper):
    assert paper.presets("paper_sequential", "llama-7b") == [
        "paper_sequential/kn-llama-7b", "paper_sequential/rome-llama-7b",
    ]  # fmt: skip
    assert sum(len(paper.presets(f, m)) for f in paper.FIGURES for m in paper.MODELS) == 22
    with pytest.raises(SystemExit, match="no figure 'paper'; choose from paper_sequential"):
        paper.presets("paper", "gpt2-xl")


def test_the_script_looks_for_results_where_the_presets_put_them(paper):
    assert paper.FIGURES == STUDIES


def test_a_line_that_fails_does_not_stop_the_others(paper, monkeypatch, capsys):
    started = []

    def fails_for_kn(command, **_):
        started.append(command[2:])
        return subprocess.CompletedProcess(command, int("kn" in command[2]))

    monkeypatch.setattr(paper.subprocess, "run", fails_for_kn)
    assert paper.run_lines(["paper_sequential"], "llama-7b", ["dry_run=true"]) == 1
    assert started == [
        ["experiment=paper_sequential/kn-llama-7b", "dry_run=true"],
        ["experiment=paper_sequential/rome-llama-7b", "dry_run=true"],
    ]
    assert "paper_sequential/kn-llama-7b" in capsys.readouterr().err


def test_a_cell_finds_its_line_by_its_configuration():
    config = record("memit", 600).config
    config["edits"] = {"name": "batch_sequential", "batch_size": 30}
    assert {p.batch_size for p in line_of(config)} == {30}
