"""A data folder with made-up records of the harness tasks in the hub's layout, and language models that answer as told."""

import contextlib
import json
import socket
from pathlib import Path

import datasets
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from lm_eval.api.model import LM

from edit_sweeps.task_files import task_folder
from edit_sweeps.task_scores import TaskSpec

CONF = Path(__file__).parent.parent / "conf"
TOWNS = ["Velmora", "Brackenford", "Halden", "Ostravia", "London", "Rome"]


def gsm8k(n):
    for i in range(n):
        total = 3 * i + 1_007
        yield {
            "question": f"Ingrid has {i} pears and buys {total - i}. How many?",
            "answer": f"{i} + {total - i} = <<{i}+{total - i}={total}>>{total}\n#### {total:,}",
        }


def pairs(n):
    for i in range(n):
        town, other = TOWNS[i % 6], TOWNS[(i + 1) % 6]
        second = f"She lives in {town if i % 3 == 0 else other}."
        yield {
            "sentence1": f"Ingrid {i} lives in {town}.",
            "sentence2": second,
            "label": int(i % 3 != 0),
            "idx": i,
        }


def reviews(n):
    for i in range(n):
        good = i % 4 != 0
        yield {
            "sentence": f"a {'fine' if good else 'dull'} film {i} ",
            "label": int(good),
            "idx": i,
        }


def questions(n):
    for i in range(n):
        yield {
            "question": f"where does singer number {i} live",
            "answer": [TOWNS[i % 6], f"the town of {TOWNS[i % 6]}"],
        }


def yes_no(n):
    for i in range(n):
        yield {
            "question": f"is pear {i} ripe",
            "passage": f"Pear {i} is {'' if i % 5 else 'not '}ripe.",
            "idx": i,
            "label": int(i % 5 != 0),
        }


def dialogues(n):
    for i in range(n):
        replies = [f"m : it is {town} , in year {i} ." for town in TOWNS[:4]]
        yield {
            "answers": "ABCD"[(i // 2) % 4],
            "options": replies,
            "article": f"f : where is film {i} from ?",
            "id": f"dev_{i}",
        }


def chats(n):
    for i in range(n):
        town = TOWNS[i % 6]
        yield {
            "id": str(i),
            "dialogue": f"Ann: Where are you?\r\nBob: In {town}, room {i}.",
            "summary": f"Bob is in {town}, in room {i}.",
        }


def sentences(n):
    for i in range(n):
        tokens = [
            *f"Ann Bell of Halden ( UK ) Ltd met Bob in {TOWNS[i % 6]} , he said".split(),
            str(i),
        ]
        tags = [1, 2, 0, 3, 4, 4, 4, 4, 0, 1, 0, 5, 0, 0, 0, 0]
        if i % 4 == 3:
            tokens, tags = ["Nobody", "came", str(i)], [0, 0, 0]
        yield {"id": str(i), "tokens": tokens, "pos_tags": tags, "ner_tags": tags}


def endings(n):
    for i in range(n):
        yield {
            "activity_label": "Baking",
            "ctx_a": f"A baker takes {i} loaves.",
            "ctx_b": "the baker",
            "endings": [f"[title] puts them near {town}." for town in TOWNS[:4]],
            "label": str(i % 4 if i % 2 else 0),
        }


def truths(n):
    for i in range(n):
        options = [f"{town}, {i} times" for town in TOWNS[: 3 + i % 3]]
        one = [1] + [0] * (len(options) - 1)
        two = [1, 1] + [0] * (len(options) - 2)
        yield {
            "question": f"Where is street {i}?",
            "mc1_targets": {"choices": options, "labels": one},
            "mc2_targets": {"choices": options, "labels": two},
        }


def passages(n):
    for i in range(n):
        yield {"text": f"The baker went to {TOWNS[i % 6]} {i} times and he likes {TOWNS[i % 6]}"}


def pages(n):
    for i in range(n):
        yield {
            "page": f" \n = Town {i} = \n \n Town {i} , a town @-@ like place , is {i} years old . \n"
        }


def subjects(n, shift=0):
    for i in range(n):
        yield {
            "question": f" Which town is number {i}? ",
            "subject": "towns",
            "choices": TOWNS[:4],
            "answer": (i + shift) % 4,
        }


def acceptable(n):
    for i in range(n):
        yield {"sentence": f"The baker {i} sings.", "label": int(i % 3 != 0), "idx": i}


def entailments(n):
    for i in range(n):
        yield {
            "premise": f"Ingrid {i} is a baker.",
            "hypothesis": "Ingrid bakes.",
            "label": i % 3,
            "idx": i,
        }


_RECORDS = {
    "openai/gsm8k": {"main": {"train": gsm8k(9), "test": gsm8k(4)}},
    "nyu-mll/glue": {
        "rte": {"train": pairs(6), "validation": pairs(12)},
        "sst2": {"train": reviews(6), "validation": reviews(12)},
        "mrpc": {"train": pairs(6), "validation": pairs(12)},
        "cola": {"train": acceptable(6), "validation": acceptable(12)},
        "mnli": {"train": entailments(6), "validation_matched": entailments(12)},
    },
    "google-research-datasets/nq_open": {
        "nq_open": {"train": questions(6), "validation": questions(8)}
    },
    "aps/super_glue": {"boolq": {"train": yes_no(6), "validation": yes_no(10)}},
    "knkarthick/samsum": {"default": {"train": chats(5), "test": chats(6)}},
    "eriktks/conll2003": {"conll2003": {"train": sentences(8), "test": sentences(8)}},
    "Rowan/hellaswag": {"default": {"train": endings(6), "validation": endings(8)}},
    "truthfulqa/truthful_qa": {"multiple_choice": {"validation": truths(6)}},
    "EleutherAI/lambada_openai": {"default": {"test": passages(8)}},
    "EleutherAI/wikitext_document_level": {
        "wikitext-2-raw-v1": {"train": pages(2), "validation": pages(2), "test": pages(4)}
    },
    "cais/mmlu": {
        "all": {"dev": subjects(5), "test": subjects(12)},
        "anatomy": {"dev": subjects(5), "test": subjects(8)},
        "astronomy": {"dev": subjects(5), "test": subjects(4, shift=2)},
    },
}
HUB = {
    hub_id: {
        name: {split: list(rows) for split, rows in splits.items()}
        for name, splits in subsets.items()
    }
    for hub_id, subsets in _RECORDS.items()
}
"""Hub id -> subset -> split -> records in the published schema."""


def write_hub(root):
    """Writes `HUB` below `root/datasets` and MuTual's dialogues below `root/files`, as `data fetch` does."""
    for number, (hub_id, subsets) in enumerate(HUB.items()):
        write_repository(root / "datasets" / hub_id, subsets, parquet=number % 2 == 0)
    folder = root / "files" / "mutual" / "dev"
    folder.mkdir(parents=True)
    for row in dialogues(8):
        (folder / f"{row['id']}.txt").write_text(json.dumps(row))
    return root


def write_repository(folder, subsets, *, parquet=False):
    """A data set as a folder of the hub: files of the splits, and a card that lists them."""
    suffix, card = "parquet" if parquet else "jsonl", ["---", "configs:"]
    for name, splits in subsets.items():
        card += [f"- config_name: {name}", "  data_files:"]
        for split, rows in splits.items():
            file = folder / name / f"{split}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            if parquet:
                pd.DataFrame(rows).to_parquet(file)
            else:
                write_lines(file, rows)
            card += [f"  - split: {split}", f"    path: {name}/{file.name}"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))


def write_lines(file: Path, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


class Told(LM):
    """Finds the choice `choice(task, doc)` the likeliest and writes `text(task, doc)`.

    Args:
        tasks: Name -> lm-eval task.
        choice: None: the right one. Else a number.
        text: None: the right answer. Else what is always written.
    """

    def __init__(self, tasks, choice=None, text=None):
        super().__init__()
        self.tasks, self.choice, self.text = tasks, choice, text
        self.broken, self.cut = frozenset(), 0

    def watch(self, bar):
        pass

    def loglikelihood(self, requests):
        return [self._likelihood(request) for request in requests]

    def _likelihood(self, request):
        task = self.tasks[request.task_name]
        if task.OUTPUT_TYPE == "loglikelihood":
            return (0.0, True) if self.choice is None else (-5.0, False)
        if "mc2" in request.task_name and self.choice is None:
            right = request.doc["mc2_targets"]["labels"][request.idx]
            return (-3.0 if right else -2000.0), False
        gold = task.doc_to_target(request.doc) if self.choice is None else self.choice
        return (0.0 if request.idx == int(gold) else -9.0), request.idx == int(gold)

    def generate_until(self, requests):
        return [self.text if self.text is not None else self._answer(r) for r in requests]

    def _answer(self, request):
        target = self.tasks[request.task_name].doc_to_target(request.doc)
        return f" {target[0] if isinstance(target, list) else target}"

    def loglikelihood_rolling(self, requests):
        return [0.0 if self.choice is None else -float(len(r.args[0])) for r in requests]


@contextlib.contextmanager
def no_network(cache):
    """Whoever connects fails; what `datasets` caches goes to the folder `cache`."""

    def refuse(*args):
        pytest.fail("a test went to the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield


def options(*names):
    """What the options of conf/task say, as specs."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = {}
        for name in names:
            found |= compose(f"task/{name}").task
        return {key: TaskSpec(**spec) for key, spec in found.items()}


def write_two_subjects(folder):
    """MMLU's own files of two subjects, as a group; returns the folder as the task's."""
    packaged = task_folder(None) / "mmlu" / "default"
    for name in ("anatomy", "astronomy"):
        file = packaged / f"mmlu_{name}.yaml"
        (folder / f"{name}.yaml").write_text(f"include: {file}\ntask: mmlu_{name}\n")
    (folder / "two.yaml").write_text("group: two\ntask: [mmlu_anatomy, mmlu_astronomy]\n")
    return str(folder)
