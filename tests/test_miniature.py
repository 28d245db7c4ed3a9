"""The miniature: its world, its data files, its task files, its two checkpoints and how they are trained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from edit_sweeps import miniature
from edit_sweeps.miniature.build import data_files
from edit_sweeps.miniature.documents import document_stream
from edit_sweeps.miniature.relations import RELATIONS
from edit_sweeps.miniature.tasks import TASKS
from edit_sweeps.miniature.text import Document
from edit_sweeps.miniature.world import World, build_world, question_is_test

LM_TASKS = Path(miniature.__file__).parents[1] / "lm_tasks" / "miniature"
MULTIPLE_CHOICE = {"nli", "closed_domain_qa", "dialogue", "sentiment"}
ARCHITECTURES = ("gpt2", "llama")
N_DOCUMENTS = 6_000


@pytest.fixture(scope="module")
def world() -> World:
    return build_world()


@pytest.fixture(scope="module")
def documents(world: World) -> list[Document]:
    return list(islice(document_stream(world, 1), N_DOCUMENTS))


def rows(name: str) -> list[dict[str, Any]]:
    lines = (miniature.DATA / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# --- the world and its text ---


def test_the_world_and_its_text_are_deterministic(world: World) -> None:
    assert build_world() == world
    assert build_world(seed=1).facts != world.facts
    assert miniature.training_text(50, seed=3) == miniature.training_text(50, seed=3)
    assert miniature.training_text(50, seed=3) != miniature.training_text(50, seed=4)
    assert len(world.facts) > 1_500


def test_importing_the_miniature_is_light() -> None:
    code = (
        "import sys, edit_sweeps.miniature as m; m.training_text(2, seed=0);"
        "assert not {'torch', 'transformers', 'lm_eval'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_geography_is_consistent(world: World) -> None:
    for country in world.subjects["country"]:
        assert world.facts[world.facts[country, "capital"], "in_country"] == country
    for person in world.people:
        assert world.facts[person, "lives_in"] != world.facts[person, "born_in"]


def test_every_phrasing_has_one_place_for_the_subject() -> None:
    for relation in RELATIONS.values():
        trained = (*relation.phrasings, *relation.questions)
        unseen = (*relation.held_out, *relation.held_out_questions)
        assert all(text.count("{}") == 1 for text in (*trained, *unseen))
        assert not set(trained) & set(unseen)


# --- training and test text do not meet ---


def test_no_test_item_occurs_in_training_text(documents: list[Document]) -> None:
    text = "\n\n".join(document.text for document in documents)
    begun = {text for document in documents for text in _prompts(document.text)}
    assert len(begun) > 2_000
    # Both checks can fail: a training document is found by them.
    assert documents[0].text in text
    assert any(document.segments[0].text in begun for document in documents)
    n_checked = 0
    for task in TASKS:
        for item in rows(task):
            n_checked += 1
            assert f"{item['prompt']} {item['answer']}" not in text
            # Where somebody says where they go, a line has many replies: there only the reply is new.
            if not item["prompt"].endswith("\nA:"):
                assert item["prompt"] not in begun
    assert n_checked == 8 * 250


_MARKS = ("\nAnswer:", "\nSummary:", "\nEntities:", "\nSentiment:", "\nB:", "\nA:")


def _prompts(text: str) -> set[str]:
    """What stands before an answer in a training text."""
    return {text[: match.end()] for mark in _MARKS for match in re.finditer(re.escape(mark), text)}


def test_facts_whose_questions_are_test_items_are_never_asked_in_training(
    world: World, documents: list[Document]
) -> None:
    text = "\n".join(document.text for document in documents)
    asked = tested = 0
    for subject, name in world.facts:
        found = any(q.format(subject) in text for q in RELATIONS[name].questions)
        asked += found
        tested += question_is_test((subject, name))
        assert not (found and question_is_test((subject, name)))
    assert asked > 200
    assert tested > 250


def test_held_out_phrasings_never_occur_in_training(
    world: World, documents: list[Document]
) -> None:
    text = "\n".join(document.text for document in documents)
    n_checked = 0
    for relation in RELATIONS.values():
        for subject in world.subjects[relation.subject_kind]:
            for unseen in (*relation.held_out, *relation.held_out_questions):
                n_checked += 1
                assert unseen.format(subject) not in text
    assert n_checked > 4_000


# --- the data files ---


def test_data_files_are_what_the_world_gives(world: World) -> None:
    built = data_files(world)
    assert sorted(f.name for f in miniature.DATA.glob("*.jsonl")) == sorted(built)
    for name, expected in built.items():
        assert rows(name.removesuffix(".jsonl")) == expected


def test_requests_are_sound(world: World) -> None:
    requests = rows("requests")
    assert len(requests) >= 600
    assert len({(r["subject"], r["relation"]) for r in requests}) == len(requests)
    assert len({r["case_id"] for r in requests}) == len(requests)
    for request in requests:
        subject, name = request["subject"], request["relation"]
        assert request["prompt"].count("{}") == 1
        assert request["target_true"] == world.facts[subject, name] != request["target_new"]
        trained = {p.format(subject) for p in RELATIONS[name].phrasings}
        assert request["prompt"].format(subject) in trained
        assert len(request["paraphrases"]) == 2
        for probe in request["paraphrases"]:
            assert probe["prompt"] not in trained
            assert subject in probe["prompt"]
            assert probe["target"] == request["target_new"]
            assert probe["alternative"] == request["target_true"]


def test_probes_about_other_facts_are_true(world: World) -> None:
    n_checked = 0
    for request in rows("requests"):
        edited = (request["subject"], request["relation"])
        assert len(request["neighborhood"]) >= 3
        for kind in ("neighborhood", "other_facts"):
            for probe in request[kind]:
                n_checked += 1
                fact = (probe["subject"], probe["relation"])
                assert fact != edited
                assert (fact[0] == edited[0]) == (kind == "other_facts")
                assert fact[0] in probe["prompt"]
                assert world.facts[fact] == probe["target"] != probe["alternative"]
    assert n_checked > 4_000


@pytest.mark.parametrize("task", TASKS)
def test_items_are_distinct_and_answerable(task: str) -> None:
    items = rows(task)
    assert len(items) >= 200
    assert len({item["prompt"] for item in items}) == len(items)
    for item in items:
        assert item["answer"]
        assert ("choices" in item) == (task in MULTIPLE_CHOICE)
        if task in MULTIPLE_CHOICE:
            assert item["choices"][item["label"]] == item["answer"]
            assert len(set(item["choices"])) == len(item["choices"])


# --- the task files ---


@pytest.fixture(scope="module")
def lm_eval_tasks() -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=[str(LM_TASKS)], include_defaults=False)
    loaded: dict[str, Any] = manager.load([f"mini_{task}" for task in TASKS])["tasks"]
    return loaded


def headlines(tasks: dict[str, Any], answer: str | None) -> dict[str, float]:
    """Scores of a model that gives the right answers, or always the same one."""
    from lm_eval import evaluator
    from lm_eval.api.model import LM

    class Answers(LM):
        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            wanted = [r.doc["answer"] if answer is None else answer for r in requests]
            return [
                (-float(r.args[1] != f" {w}"), False) for r, w in zip(requests, wanted, strict=True)
            ]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [f" {r.doc['answer']}" if answer is None else answer for r in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            raise NotImplementedError

    found = evaluator.evaluate(Answers(), tasks, bootstrap_iters=0, log_samples=False)
    return {
        name: found["results"][name][f"{task.config.metadata['headline']},none"]
        for name, task in tasks.items()
    }


def test_the_right_answers_score_one(lm_eval_tasks: dict[str, Any]) -> None:
    assert headlines(lm_eval_tasks, None) == dict.fromkeys(lm_eval_tasks, 1.0)
    assert len(lm_eval_tasks) == len(TASKS)


def test_a_constant_answer_scores_what_it_deserves(lm_eval_tasks: dict[str, Any]) -> None:
    scores = headlines(lm_eval_tasks, "True")
    for task in TASKS:
        items = rows(task)
        if task in MULTIPLE_CHOICE:
            # Where the constant is no choice, all are alike and lm-eval takes the first.
            gold = [i["answer"] == "True" if task == "nli" else i["label"] == 0 for i in items]
            assert scores[f"mini_{task}"] == pytest.approx(sum(gold) / len(items))
        else:
            assert scores[f"mini_{task}"] == 0.0


def test_task_files_say_chance_and_headline(lm_eval_tasks: dict[str, Any]) -> None:
    for name, task in lm_eval_tasks.items():
        metadata = task.config.metadata
        n_choices = {len(i.get("choices", ())) for i in rows(name.removeprefix("mini_"))}
        assert metadata["chance"] == (1 / n_choices.pop() if n_choices != {0} else 0.0)
        assert metadata["headline"] in {m["metric"] for m in task.config.metric_list}


def test_entities_are_counted_one_by_one(lm_eval_tasks: dict[str, Any]) -> None:
    task = lm_eval_tasks["mini_ner"]
    document = {"answer": "Anna Kovac (person); Torvik (location)"}
    counts = task.process_results(document, [" Anna Kovac (person); Axitech (organization)"])
    assert counts == {"f1": (1, 1, 1), "invalid": 0.0}
    assert task.process_results(document, ["; (person"]) == {"f1": (0, 0, 2), "invalid": 1.0}
    assert task.aggregation()["f1"]([(1, 1, 1), (2, 0, 0)]) == pytest.approx(0.75)


def test_reasoning_reads_the_number_after_the_marks(lm_eval_tasks: dict[str, Any]) -> None:
    task = lm_eval_tasks["mini_reasoning"]
    document = {"answer": "3 + 4 = 7. #### 7"}
    assert task.process_results(document, [" #### 7"]) == {"exact_match": 1.0, "invalid": 0.0}
    assert task.process_results(document, [" 7"]) == {"exact_match": 0.0, "invalid": 1.0}


# --- the checkpoints ---


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpoints_are_ordinary_models_that_know_the_world(
    architecture: str, world: World
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    from edit_sweeps.miniature.figures import fact_recall

    folder = miniature.CHECKPOINTS / architecture
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert model.config.model_type == architecture
    assert len(tokenizer) == model.config.vocab_size
    assert {tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token} == {"<|endoftext|>"}
    assert fact_recall(model, tokenizer, world, held_out=False, n_facts=60) >= 0.95
    assert fact_recall(model, tokenizer, world, held_out=True, n_facts=60) >= 0.8


def test_checkpoints_are_small() -> None:
    files = [f for f in miniature.CHECKPOINTS.rglob("*") if f.is_file()]
    assert len(files) > 6
    assert sum(f.stat().st_size for f in files) < 8_000_000


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_checkpoints_reach_the_figures_beside_them(architecture: str) -> None:
    from edit_sweeps.miniature.figures import measure

    folder = miniature.CHECKPOINTS / architecture
    recorded = json.loads((folder / "figures.json").read_text())
    measured = measure(folder)
    for task, score in measured["tasks"].items():
        assert recorded["tasks"][task] == pytest.approx(score, abs=0.02)
        assert 0.75 <= score <= 0.98
    assert recorded["fact_recall"] == pytest.approx(measured["fact_recall"], abs=0.01)


# --- training ---


def test_training_is_deterministic() -> None:
    import torch

    from edit_sweeps.miniature.train import Recipe, train

    recipe = Recipe(steps=2, batch_size=2, tokenizer_documents=1_000, pool=60, compile=False)
    first, _ = train("gpt2", recipe, seed=5)
    second, _ = train("gpt2", recipe, seed=5)
    other, _ = train("gpt2", recipe, seed=6)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert any(not torch.equal(t, other.state_dict()[n]) for n, t in first.state_dict().items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_hidden_name_is_read_only_at_its_last_token_and_not_by_the_first_block(
    architecture: Any,
) -> None:
    import torch

    from edit_sweeps.miniature.masking import FirstBlockMask, subject_masks
    from edit_sweeps.miniature.network import blocks_of, build_network
    from edit_sweeps.miniature.packing import ROW_TOKENS

    torch.manual_seed(0)
    model = build_network(architecture, 100, 0).eval()
    first_block = FirstBlockMask(blocks_of(model)[0])
    everywhere, first_block.mask = subject_masks([[(3, 5)]])
    ids = torch.randint(1, 100, (1, ROW_TOKENS))
    changed = ids.clone()
    changed[0, 3] = ids[0, 3] % 99 + 1

    def first_outputs(tokens: torch.Tensor) -> list[torch.Tensor]:
        states = model(
            input_ids=tokens, attention_mask=everywhere, output_hidden_states=True
        ).hidden_states
        return list(states)

    plain, other = first_outputs(ids), first_outputs(changed)
    # The change reaches the name's last token in the first block, and what follows only after it.
    assert not torch.equal(plain[1][0, 5], other[1][0, 5])
    assert torch.equal(plain[1][0, 6:], other[1][0, 6:])
    assert not torch.equal(plain[2][0, 6:], other[2][0, 6:])


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    import torch

    from edit_sweeps.miniature.optimizer import orthogonalized

    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalized(torch.randn(3, 40, 16)))
    assert values.min() > 0.5
    assert values.max() < 1.5
