"""The documents of tasks: one form whatever the published form, local files first, errors that name the document."""

import json
import shutil

import pandas as pd
import pytest
from submitit.core.utils import UncompletedJobError

from edit_sweeps import data_root
from edit_sweeps.task_data import SOURCES, TaskDataError, given, load, read_rows
from tests.paper_documents import write


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("documents"))


def documents(source, path, split="validation"):
    with given(str(path)):
        return load(source, [split])[split].to_list()


def test_every_source_reads_its_published_form(files):
    n = {name: len(documents(name, files[name])) for name in SOURCES}
    assert n == {
        "gsm8k": 4, "rte": 4, "nq_open": 3, "nq_open_passages": 4, "boolq": 4, "mutual": 4, "samsum": 3,
        "conll2003": 3, "sst2": 3,
    }  # fmt: skip


def test_words_numbers_and_strings_of_labels_are_one_form(tmp_path):
    rows = [{"sentence1": "a", "sentence2": "b", "label": x} for x in ("entailment", 0, "0")]
    (tmp_path / "rte.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [d["label"] for d in documents("rte", tmp_path / "rte.jsonl")] == [0, 0, 0]
    rows = [{"question": "q", "passage": "p", "answer": True}, {"question": "q", "passage": "p", "label": 1}]  # fmt: skip
    (tmp_path / "boolq.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [d["label"] for d in documents("boolq", tmp_path / "boolq.jsonl")] == [1, 1]
    rows = [{"tokens": ["Oslo", "won"], "ner_tags": t} for t in ([5, 0], ["B-LOC", "O"])]
    pd.DataFrame(rows[:1]).to_parquet(tmp_path / "conll.parquet")
    (tmp_path / "conll.jsonl").write_text(json.dumps(rows[1]))
    wanted = [{"tokens": ["Oslo", "won"], "tags": ["B-LOC", "O"]}]
    assert documents("conll2003", tmp_path / "conll.parquet") == wanted
    assert documents("conll2003", tmp_path / "conll.jsonl") == wanted


def test_lists_of_a_parquet_file_are_read(tmp_path):
    frame = pd.DataFrame([{"question": "q", "answer": ["a", "b"], "output": ["one", "two"]}])
    frame.to_parquet(tmp_path / "nq.parquet")
    (found,) = documents("nq_open_passages", tmp_path / "nq.parquet")
    assert found == {"question": "q", "answer": ["a", "b"], "passage": "one"}


def test_quotation_marks_and_blanks_of_glue_stay_and_article_marks_go(files):
    assert documents("rte", files["rte"])[0]["sentence1"].startswith('"We won," said')
    assert documents("sst2", files["sst2"])[0]["sentence"] == "a warm and quiet film . "
    assert documents("conll2003", files["conll2003"])[0]["tokens"] == ["Marlow", "Quill", "visited", "Oslo"]  # fmt: skip


def test_dialogues_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for n in (10, 2, 1):
        (tmp_path / f"dev_{n}.txt").write_text(json.dumps({"id": n}))
    assert [row["id"] for row in read_rows(tmp_path)] == [1, 2, 10]


def test_a_given_folder_has_a_file_for_each_split_and_a_file_is_the_scored_split(tmp_path, files):
    text = {s: json.dumps({"dialogue": s, "summary": "s"}) for s in ("train", "validation")}
    for split, line in text.items():
        (tmp_path / f"{split}.jsonl").write_text(line)
    with given(str(tmp_path)):
        found = load("samsum", ["train", "validation"])
    assert {split: rows[0]["dialogue"] for split, rows in found.items()} == {s: s for s in text}
    with data_root.using(tmp_path), given(files["mutual"]):
        assert len(load("mutual", ["validation"])["validation"]) == 4


def test_the_data_folder_is_read_where_nothing_is_given(tmp_path, files):
    place = tmp_path / "files" / "paper" / "test-OpenDomainQA.jsonl"
    place.parent.mkdir(parents=True)
    shutil.copy(files["nq_open_passages"], place)
    hub = tmp_path / "datasets" / "knkarthick" / "samsum"
    hub.mkdir(parents=True)
    pd.DataFrame([{"dialogue": "A: hi", "summary": "Hi."}]).to_csv(hub / "validation.csv")
    with data_root.using(tmp_path):
        assert len(load("nq_open_passages", ["validation"])["validation"]) == 4
        assert load("samsum", ["validation"])["validation"][0]["summary"] == "Hi."


@pytest.mark.parametrize(
    ("source", "text", "message"),
    [
        ("samsum", '{"dialogue": "a", "summary": "s"}\n{"dialog": "a"}', "document 1: .*KeyError.*its keys are dialog"),
        ("samsum", '{"dialogue": "a", "summary": "s"}\n\n{"dia', "line 3: is not JSON .*dia"),
        ("samsum", "[1]", "document 0: .*its keys are none"),
        ("samsum", "", "holds no documents"),
        ("gsm8k", '{"question": "q", "answer": "no number"}', "document 0: .*#### "),
        ("gsm8k", '{"question": "q", "answer": "#### many"}', "document 0: .*many"),
        ("gsm8k", '{"question": "q", "answer": "#### 1,2345"}', "document 0: .*1,2345.*not one number"),
        ("boolq", '{"question": "q", "passage": "p", "label": -1}', "document 0: .*test set without labels"),
        ("mutual", '{"article": "a", "options": ["b", "c", "d", "e"], "answers": "BC"}', "answer 'BC'"),
        ("samsum", '{"dialogue": null, "summary": null}', "document 0: .*'dialogue', got None"),
        ("rte", '{"sentence1": "a", "sentence2": "b", "label": -1}', "test set without labels"),
        ("nq_open", '{"question": "q", "answer": "a"}', "a list of answers is needed"),
        ("nq_open_passages", '{"question": "q", "answer": ["a"], "output": [" "]}', "passage is empty.*nq_open"),
        ("nq_open_passages", '{"question": "q", "answer": ["a"]}', "KeyError"),
        ("mutual", '{"article": "a", "options": ["b"], "answers": "A"}', "four options"),
        ("conll2003", '{"tokens": ["a"], "ner_tags": ["B-X"]}', "1 tokens with the tags"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_place(tmp_path, source, text, message):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(TaskDataError, match=f"rows.jsonl.*{message}"):
        documents(source, tmp_path / "rows.jsonl")


def test_a_blank_document_is_left_out_of_examples_and_refused_where_it_is_scored(tmp_path, caplog):
    """SAMSum's training split has one on the hub."""
    rows = [{"dialogue": "A: hi", "summary": "Hi."}, {"dialogue": None, "summary": "Nothing."}]
    both = "\n".join(map(json.dumps, rows))
    (tmp_path / "train.jsonl").write_text(both)
    (tmp_path / "test.jsonl").write_text(json.dumps(rows[0]))
    with given(str(tmp_path)):
        assert len(load("samsum", ["train", "test"])["train"]) == 1
        assert "left out" in caplog.text
        assert "train.jsonl, document 1" in caplog.text
        (tmp_path / "test.jsonl").write_text(both)
        with pytest.raises(TaskDataError, match=r"test\.jsonl, document 1"):
            load("samsum", ["train", "test"])


def test_a_document_of_another_form_is_refused_among_examples_too(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"dialog": "A: hi"}')
    with given(str(tmp_path)), pytest.raises(TaskDataError, match=r"train\.jsonl, document 0"):
        load("samsum", ["train", "test"])


def test_a_path_that_is_not_there_and_a_folder_without_the_split_are_named(tmp_path):
    with pytest.raises(TaskDataError, match=r"nowhere: there is no such file or folder"):
        documents("samsum", tmp_path / "nowhere")
    with pytest.raises(TaskDataError, match=r"none of validation.jsonl, .*, and no .txt files"):
        documents("samsum", tmp_path)
    (tmp_path / "rows.json").write_text('{"data": []}')
    with pytest.raises(TaskDataError, match="holds a JSON dict; a list of documents is needed"):
        documents("samsum", tmp_path / "rows.json")
    (tmp_path / "rows.xml").write_text("<a/>")
    with pytest.raises(TaskDataError, match=r"is none of \.jsonl"):
        documents("samsum", tmp_path / "rows.xml")


def test_without_a_network_the_message_says_what_to_do():
    with pytest.raises(TaskDataError, match="edit-sweeps data fetch"):
        load("mutual", ["validation"])
    with pytest.raises(TaskDataError, match=r"knkarthick/samsum, validation.*task.<name>.data=FILE"):  # fmt: skip
        load("samsum", ["validation"])


def test_the_end_of_a_jobs_time_is_no_fault_of_the_documents(monkeypatch):
    def out_of_time(*_, **__):
        raise UncompletedJobError

    monkeypatch.setattr("datasets.load_dataset", out_of_time)
    with pytest.raises(UncompletedJobError):
        load("rte", ["train"])
