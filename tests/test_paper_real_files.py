"""The paper's tasks on real data: trivial baselines on the files beside the project, and on full sets in a data folder."""

import csv
import json
import os
from pathlib import Path

import pytest

from edit_sweeps import data_root
from edit_sweeps.lm_tasks.paper.metrics import _numbers
from edit_sweeps.task_data import TaskDataError
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec
from tests.paper_documents import REAL, bench_of

pytest_plugins = ["tests.paper_bench"]

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real task data in {REAL}")
FULL = os.environ.get("EDIT_SWEEPS_DATA")


def lines(name):
    return [json.loads(line) for line in (REAL / name).read_text(encoding="utf-8").splitlines()]


def table(name):
    with (REAL / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


CONSTANT = {
    # task: (file, constant answer, documents, share told by the issue, gold of each document)
    "sentiment": ("sst2_dev.tsv", " positive", 872, 0.509, lambda: [r["label"] == "1" for r in table("sst2_dev.tsv")]),
    "closed_domain_qa": ("boolq_dev.500.jsonl", " yes", 500, 0.630, lambda: [r["answer"] for r in lines("boolq_dev.500.jsonl")]),
    "nli": ("rte_train.500.tsv", " True", 500, 0.490, lambda: [r["label"] == "entailment" for r in table("rte_train.500.tsv")]),
    "dialogue": ("mutual_dev", " A", 200, 0.260, lambda: [json.loads(p.read_text())["answers"] == "A" for p in (REAL / "mutual_dev").glob("*.txt")]),
}  # fmt: skip


@needs_real
@pytest.mark.parametrize("task", CONSTANT)
def test_a_constant_answer_scores_the_exact_share_of_the_real_file(task, written):
    file, answer, n, told, gold = CONSTANT[task]
    share = sum(gold()) / len(gold())
    assert share == pytest.approx(told, abs=5e-4)
    scores = written(bench_of({task: REAL / file}), lambda request: answer)[task]
    for metric in ("acc", "released"):
        assert (scores[metric].value, scores[metric].n) == (share, n)
        assert scores[metric].invalid == 0.0


@needs_real
def test_all_of_gsm8k_is_read_and_an_oracle_scores_one(written):
    bench = bench_of({"reasoning": REAL / "gsm8k_test.jsonl"})
    score = written(bench, lambda r: f" {r.doc['number']}.")["reasoning"]
    for metric in ("exact_match", "released"):
        assert (score[metric].value, score[metric].n, score[metric].invalid) == (1.0, 1319, 0.0)
    gold = [d["number"] for d in bench.built["reasoning"].tasks["paper_reasoning"].eval_docs]
    assert all(len(_numbers(number)) == 1 for number in gold)
    plain = written(bench, lambda r: f" {r.doc['number'].replace(',', '')}")["reasoning"]
    assert plain["exact_match"].value == 1.0
    # The released scorer wants the comma as the data have it.
    commas = sum("," in number for number in gold)
    assert commas > 10
    assert plain["released"].value == pytest.approx(1 - commas / 1319)


@needs_real
def test_natural_questions_without_passages_are_read_and_answered(written):
    bench = bench_of({"open_domain_qa_closed_book": REAL / "nq_open_dev.jsonl"})
    scores = written(bench, lambda r: f" {r.doc['answer'][-1]}")["open_domain_qa_closed_book"]
    for metric in ("exact_match", "f1"):
        assert (scores[metric].value, scores[metric].n, scores[metric].invalid) == (1.0, 3610, 0.0)
    nothing = written(bench, lambda r: "")["open_domain_qa_closed_book"]
    assert (nothing["exact_match"].value, nothing["exact_match"].invalid) == (0.0, 1.0)


@needs_real
def test_questions_without_a_passage_are_no_documents_of_the_papers_open_qa():
    spec = TaskSpec("paper_open_domain_qa", folder="paper", data=str(REAL / "nq_open_dev.jsonl"))
    message = Bench({"open_domain_qa": spec}, EvalSettings()).errors["open_domain_qa"]
    assert "document 0: is not of the form of 'nq_open_passages'" in message


WHOLE = {
    # task: (constant answer, share in reference/paper.md, documents)
    "sentiment": (" positive", 0.509, {872}),
    "closed_domain_qa": (" yes", 0.622, {3270, 3267}),
    "nli": (" True", 0.502, {2490, 2489}),
    "dialogue": (" A", 0.239, {886}),
}


@pytest.mark.skipif(
    not FULL, reason="EDIT_SWEEPS_DATA does not name a data folder with the full sets"
)
@pytest.mark.parametrize("task", WHOLE)
def test_a_constant_answer_scores_the_papers_share_of_the_full_set(task, written):
    answer, share, sizes = WHOLE[task]
    with data_root.using(Path(FULL)):
        bench = Bench({task: TaskSpec(f"paper_{task}", folder="paper")}, EvalSettings())
    if task in bench.errors and TaskDataError.__name__ in bench.errors[task]:
        pytest.skip(f"{FULL}: {bench.errors[task]}")
    acc = written(bench, lambda request: answer)[task]["acc"]
    assert acc.n in sizes
    assert acc.value == pytest.approx(share, abs=5e-4)
