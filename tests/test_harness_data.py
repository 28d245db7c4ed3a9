"""Where the suites' documents come from: the data folder, files of one's own, never the network."""

import datasets
import pytest

from edit_sweeps import data_root, task_files
from edit_sweeps.stock_data import HubData
from edit_sweeps.task_data import TaskDataError
from edit_sweeps.task_files import check_task, datasets_of, find_file, load_tasks
from edit_sweeps.task_scores import EvalSettings, TaskSpec
from edit_sweeps.tasks import build_task
from tests.hub_folder import (
    HUB,
    no_network,
    options,
    subjects,
    write_hub,
    write_lines,
    write_two_subjects,
)


@pytest.fixture(scope="module", autouse=True)
def offline(tmp_path_factory):
    with no_network(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_hub(tmp_path_factory.mktemp("data"))


@pytest.fixture
def two_subjects(tmp_path):
    return write_two_subjects(tmp_path)


def test_needed_data_are_told_from_the_files_alone(two_subjects):
    assert datasets_of("rte", None) == (HubData("nyu-mll/glue", "rte"),)
    assert datasets_of("hellaswag", None) == (HubData("Rowan/hellaswag"),)
    assert datasets_of("mutual", "loglikelihood") == (HubData(None, file="mutual/dev"),)
    (samsum,) = datasets_of("samsum", "loglikelihood")
    assert samsum == HubData("knkarthick/samsum")
    (conll,) = datasets_of("conll2003", "loglikelihood")
    assert (conll.hub_id, conll.revision) == ("eriktks/conll2003", "refs/convert/parquet")
    (pages,) = datasets_of("perplexity", "perplexity")
    assert pages == HubData("EleutherAI/wikitext_document_level", "wikitext-2-raw-v1")
    assert datasets_of("mini_nli", "miniature") == ()
    subsets = [data.subset for data in datasets_of("two", two_subjects)]
    assert subsets == ["anatomy", "astronomy"]


def test_mmlu_is_found_without_the_whole_index(monkeypatch):
    def no_index(folder):
        pytest.fail("the index takes 20 seconds")

    monkeypatch.setattr(task_files, "_manager", no_index)
    check_task("mmlu", None)
    needed = datasets_of("mmlu", None)
    assert len(needed) == 57
    assert {data.hub_id for data in needed} == {"cais/mmlu"}
    assert find_file("mmlu_anatomy", None).name == "mmlu_anatomy.yaml"


def test_all_that_the_options_need_is_in_the_folder_of_this_test(root):
    names = ("ll8", "hellaswag", "truthfulqa", "lambada", "wikitext", "glue_alphaedit")
    specs = options(*names, "perplexity")
    needed = {data for spec in specs.values() for data in datasets_of(spec.name, spec.folder)}
    assert len(needed) > 10
    assert {data.hub_id for data in needed if data.hub_id} == set(HUB)
    with data_root.using(root):
        assert all(data_root.local_file(data.file) for data in needed if data.file)


def test_what_is_not_in_the_data_folder_is_named_with_the_command_that_brings_it(tmp_path):
    with data_root.using(tmp_path):
        with pytest.raises(TaskDataError, match=r"Rowan/hellaswag.*data fetch --task hellaswag"):
            load_tasks("hellaswag", None)
        with pytest.raises(TaskDataError, match=r"nyu-mll/glue rte.*data fetch --task rte"):
            load_tasks("rte", None)


def test_load_dataset_is_as_before_after_tasks_are_built(root):
    before = datasets.load_dataset
    with data_root.using(root):
        load_tasks("rte", None)
        with pytest.raises(TaskDataError):
            load_tasks("arc_easy", None)
    assert datasets.load_dataset is before


def test_a_file_stands_for_the_scored_split(tmp_path):
    rows = list(HUB["Rowan/hellaswag"]["default"]["validation"])
    write_lines(tmp_path / "mine.jsonl", rows[:3])
    built = build_task(TaskSpec("hellaswag", data=str(tmp_path / "mine.jsonl")), EvalSettings())
    assert len({r.doc_id for r in built.requests}) == 3


def test_a_copy_of_the_hubs_data_set_can_be_given(root, two_subjects):
    spec = TaskSpec("rte", data=str(root / "datasets/nyu-mll/glue"))
    assert len(build_task(spec, EvalSettings()).requests) == 24
    group = TaskSpec("two", folder=two_subjects, data=str(root / "datasets/cais/mmlu"))
    assert len(build_task(group, EvalSettings()).requests) == 48


def test_examples_in_the_prompt_need_a_split_of_their_own(tmp_path, root):
    rows = list(HUB["openai/gsm8k"]["main"]["test"])
    write_lines(tmp_path / "test.jsonl", rows)
    file = str(tmp_path / "test.jsonl")
    with (
        data_root.using(tmp_path),
        pytest.raises(TaskDataError, match=r"folder with train\.jsonl"),
    ):
        build_task(TaskSpec("gsm8k", data=file), EvalSettings())
    none = build_task(TaskSpec("gsm8k", data=file, num_fewshot=0), EvalSettings())
    with data_root.using(root):
        mixed = build_task(TaskSpec("gsm8k", data=file), EvalSettings())
    write_lines(tmp_path / "train.jsonl", HUB["openai/gsm8k"]["main"]["train"])
    both = build_task(TaskSpec("gsm8k", data=str(tmp_path)), EvalSettings())
    shots = [built.requests[0].args[0].count("Question:") for built in (none, mixed, both)]
    assert shots == [1, 6, 6]


def test_one_file_cannot_stand_for_several_data_sets(two_subjects, tmp_path):
    write_lines(tmp_path / "rows.jsonl", subjects(3))
    spec = TaskSpec("two", folder=two_subjects, data=str(tmp_path / "rows.jsonl"))
    with pytest.raises(TaskDataError, match=r"anatomy.*astronomy"):
        build_task(spec, EvalSettings())


def test_files_that_are_not_there_or_hold_nothing_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    for file, message in (("none.jsonl", "no such file"), ("empty.jsonl", "no documents")):
        with pytest.raises(TaskDataError, match=message):
            build_task(TaskSpec("hellaswag", data=str(tmp_path / file)), EvalSettings())
