"""Made-up documents of the paper's eight tasks, in the forms in which the data sets are published."""

import json
from pathlib import Path

from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec

REAL = Path(__file__).parents[2] / "shared" / "data" / "tasks"
"""Real files, on machines that have them."""

SOUND = {
    "reasoning": "exact_match", "reasoning_cot": "exact_match", "nli": "acc", "open_domain_qa": "exact_match",
    "open_domain_qa_closed_book": "exact_match", "closed_domain_qa": "acc", "dialogue": "acc", "summarization": "rouge",
    "ner": "f1", "sentiment": "acc",
}  # fmt: skip
"""Key of a task -> its sound metric."""

GSM8K = [
    ("Ann has 3 pens and buys 15. How many?", "3 + 15 = <<3+15=18>>18 pens.\n#### 18"),
    ("A lorry brings 2,000 bricks and 125 more. How many?", "2000 + 125 = 2125.\n#### 2,125"),
    ("It was 4 degrees and fell by 7. How cold?", "4 - 7 = -3.\n#### -3"),
    ("Two cats and three dogs. How many animals?", "2 + 3 = 5.\n#### 5"),
]
RTE = [
    ('"We won," said Ingrid Thistledown of Oslo.', "Ingrid Thistledown is from Oslo.", "entailment"),
    ("The bridge was built in 1901.", "The bridge was built by Marlow.", "not_entailment"),
    ("Halden sold its mill.", "Halden owned a mill.", "entailment"),
    ("Rain fell on Velmora.", "Velmora was dry.", "not_entailment"),
]  # fmt: skip
TIDE = "\n\nThe Tide, a novel, is by Moor. Moor was born in Oslo."
NQ_PASSAGES = [
    {"question": "who wrote the tide?", "answer": ["Moor"], "output": [TIDE]},
    {"question": "who painted it?", "answer": ["Lee", "Ada Moor"], "output": ["\nAda Moor did."]},
    {"question": "who wrote the tide?", "answer": ["Moor"], "output": [TIDE, "unused"]},
    {"question": "what is the capital?", "answer": ["Oslo"], "output": ["It is a port."]},
]
NQ = [
    {"question": "who wrote the tide", "answer": ["Ada Moor", "Moor"]},
    {"question": "what is the capital", "answer": ["Oslo"]},
    {"question": "when did j. k. lee die", "answer": ["May 18 , 2018"]},
]
BOOLQ = [
    ("is oslo a port", True, "Oslo is a port."),
    ("is velmora a port", False, "Velmora lies in the hills."),
    ("did they move", False, "The answer: nobody moved."),
    ("is salt white", True, "Salt is white."),
]
MUTUAL = [("m : shall we go ?", "B"), ("f : it rains .", "C"), ("m : hello .", "A"), ("f : bye .", "D")]  # fmt: skip
SAMSUM = [
    ("Ann: I'll bring cake.\r\nBo: Great!", "Ann will bring cake."),
    ("Bo: Late again.\r\nAnn: No problem.", "Bo is late."),
    ("Ann: Film tonight?\r\nBo: Yes.", "They will watch a film."),
]
CONLL = """-DOCSTART- -X- -X- O

Marlow NNP B-NP B-PER
Quill NNP I-NP I-PER
visited VBD B-VP O
Oslo NNP B-NP B-LOC

Trinidad NNP B-NP B-LOC
and CC I-NP I-LOC
Tobago NNP I-NP I-LOC
beat VBD B-VP O
Halden NNP B-NP B-ORG
Ostravia NNP B-NP B-LOC
, , O O
2-0 CD B-NP O
. . O O

Talks NNS B-NP O
resumed VBD B-VP O
. . O O
"""
SST2 = [("a warm and quiet film . ", 1), ("dull from start to end . ", 0), ("never less than fine ", 1)]  # fmt: skip


def write(folder):
    """One file or folder for each source; returns source -> path."""
    options = ["m : yes .", "m : no .", "m : perhaps .", "m : why ?"]
    lines = {
        "gsm8k": [{"question": q, "answer": a} for q, a in GSM8K],
        "nq_open_passages": NQ_PASSAGES,
        "nq_open": NQ,
        "boolq": [{"question": q, "title": "T", "answer": a, "passage": p} for q, a, p in BOOLQ],
        "samsum": [{"id": str(n), "dialogue": d, "summary": s} for n, (d, s) in enumerate(SAMSUM)],
    }
    for name, rows in lines.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    rte = [f"{n}\t{a}\t{b}\t{label}" for n, (a, b, label) in enumerate(RTE)]
    (folder / "rte.tsv").write_text("\n".join(["index\tsentence1\tsentence2\tlabel", *rte]) + "\n")
    sst2 = [f"{text}\t{label}" for text, label in SST2]
    (folder / "sst2.tsv").write_text("\n".join(["sentence\tlabel", *sst2]) + "\n")
    (folder / "conll2003.txt").write_text(CONLL)
    (folder / "mutual").mkdir()
    for n, (article, answer) in enumerate(MUTUAL, 1):
        row = {"answers": answer, "options": options, "article": article, "id": f"dev_{n}"}
        (folder / "mutual" / f"dev_{n}.txt").write_text(json.dumps(row))
    return {path.stem: str(path) for path in folder.iterdir()}


SOURCES = {
    "reasoning": "gsm8k", "reasoning_cot": "gsm8k", "nli": "rte", "open_domain_qa": "nq_open_passages",
    "open_domain_qa_closed_book": "nq_open", "closed_domain_qa": "boolq", "dialogue": "mutual",
    "summarization": "samsum", "ner": "conll2003", "sentiment": "sst2",
}  # fmt: skip
"""Key of a task -> source of its documents."""


def bench_of(data, *, limit=None):
    """A bench of the paper's tasks `data` (key -> file, None for what the program finds itself)."""
    specs = {
        key: TaskSpec(f"paper_{key}", folder="paper", data=path and str(path), limit=limit)
        for key, path in data.items()
    }
    bench = Bench(specs, EvalSettings(batch_size=4))
    assert not bench.errors, bench.errors
    return bench
