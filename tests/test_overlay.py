"""The paper's curves stand beside ours where both have one, and nowhere else."""

import shutil
import subprocess

import pytest

from edit_sweeps import published
from edit_sweeps.charts import series_of
from edit_sweeps.overlay import panels, published_points
from edit_sweeps.record import Score
from edit_sweeps.report import write_report
from edit_sweeps.table import read_cells
from tests.synthetic_study import make_record

XL = {"model": {"name": "gpt2-xl", "pretrained": "openai-community/gpt2-xl", "dtype": "float32"}}


FACTS = {"dataset": {"name": "zsre_paper", "format": "zsre", "path": None, "target": "alt"}}


def save(folder, editor, num_edits, seed=0, value=0.5, **changes):
    record = make_record(editor, num_edits, seed, **XL | FACTS | changes)
    record.scores = {
        task: {"acc": Score(0.6, 50, 0.5, 0.7, 0.5, 0.0, headline=True), "released": score}
        for task, score in {
            "nli": Score(value, 50, value - 0.1, value + 0.1, 0.5, 0.0),
            "sentiment": Score(value, 50, value - 0.1, value + 0.1, 0.5, 0.0),
        }.items()
    } | {"edit": record.scores.get("edit", {})}
    record.comparisons = {}
    record.save(folder / "cells" / record.name)


@pytest.fixture
def study(tmp_path):
    save(tmp_path, "none", 0)
    for count in (5, 10, 20):
        for seed in (0, 1):
            save(tmp_path, "rome_identity", count, seed, value=0.5 - count / 100 + seed / 50)
    save(tmp_path, "ft", 10)
    return tmp_path


def drawn(study):
    return panels(series_of(read_cells(study)))


def test_each_common_task_shows_the_papers_points_and_the_mean_of_ours(study):
    found = drawn(study)
    assert list(found) == ["nli", "sentiment"]
    data = found["sentiment"]["datasets"]
    theirs = {point["x"]: point["value"] for point in data["published"]}
    assert theirs == {5: 0.562, 10: 0.352, 15: 0.331, 20: 0.012}
    assert {point["series"] for point in data["published"]} == {"rome_identity"}
    ours = {p["edits"]: p["value"] for p in data["points"] if p["series"] == "rome_identity"}
    assert ours == pytest.approx({5: 0.46, 10: 0.41, 20: 0.31})
    assert all("±0.005" in point["how"] for point in data["published"])


def test_capped_cells_other_editors_and_other_models_have_no_paper_beside_them(tmp_path):
    save(tmp_path, "rome_identity", 8, num_edits_asked=[10])
    save(tmp_path, "ft", 10)
    assert drawn(tmp_path) == {}
    assert published_points(series_of(read_cells(tmp_path))) == []


@pytest.mark.parametrize(
    "dataset", [{"name": "counterfact"}, {"name": "zsre", "target": "answers"}]
)
def test_cells_that_wrote_other_facts_are_not_held_against_the_paper(study, dataset):
    save(study, "rome_identity", 10, value=0.9, dataset=dataset)
    found = drawn(study)["sentiment"]["datasets"]
    label = "rome_identity · zsre_paper"
    for data in ("published", "points"):
        assert {p["series"] for p in found[data] if p["series"].startswith("rome")} == {label}


def test_zsre_with_the_counterfactual_answer_is_the_papers_data_set(tmp_path):
    save(tmp_path, "rome_identity", 10, dataset={"name": "zsre", "target": "alt"})
    assert "sentiment" in drawn(tmp_path)


def test_beside_regularised_series_rome_is_held_against_the_figure_about_them(study):
    save(study, "rome_identity", 20, regularizer={"name": "rect", "keep": 0.4})
    found = published_points(series_of(read_cells(study)))
    second = {
        (p.task, p.num_edits): p.value
        for p in published.published(figure="rect_general", regularizer="none", model="gpt2-xl")
    }
    plain = {(p["task"], p["x"]): p["value"] for p in found if "rect" not in p["series"] and p["x"]}
    assert plain
    assert plain == {key: value for key, value in second.items() if key[1]}


def test_the_page_has_a_section_for_it_only_where_there_is_something(study, tmp_path_factory):
    assert "Beside the paper" in write_report(study).read_text()
    other = tmp_path_factory.mktemp("other")
    save(other, "ft", 10)
    assert "Beside the paper" not in write_report(other).read_text()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_a_browser_draws_the_crosses(study, tmp_path):
    page = write_report(study)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", "--enable-logging=stderr"]  # fmt: skip
    done = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'browser'}", "--virtual-time-budget=20000", f"file://{page}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
