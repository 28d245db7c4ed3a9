"""What is refused before any cell runs: editors, layers, weights, lengths, task names. Without torch: docs/slurm.md."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from hydra.utils import get_class

from edit_sweeps import data_root, missing
from edit_sweeps.building import build_editor, build_regularizer, pick
from edit_sweeps.cell import Cell, digest
from edit_sweeps.launcher import inputs
from edit_sweeps.launcher.freezing import Refusal
from edit_sweeps.launcher.plan import Plan
from edit_sweeps.model_facts import ModelFacts, ModelSource, describe_model, tokenizer_file
from edit_sweeps.offline import is_offline
from edit_sweeps.requests import EditRequest, load_requests
from edit_sweeps.tasks import TaskSpec, task_names_exist

if TYPE_CHECKING:
    from tokenizers import Tokenizer

log = logging.getLogger(__name__)


def check(plan: Plan) -> None:
    """Look at every cell that is to run; mutates `plan` where `impossible=drop` takes cells out.

    Raises:
        Refusal: With every reason found.
    """
    with data_root.using(plan.data_root):
        drop_clashes(plan)
        reasons = look_at(plan.todo())
    if reasons:
        raise Refusal("\n".join(f"  {reason}" for reason in dict.fromkeys(reasons)))


def look_at(cells: Sequence[Cell]) -> list[str]:
    """Every reason against running these cells."""
    absent = missing_off_line(cells)
    if absent:
        return absent
    reasons = inputs.check_counts([cell for cell in cells if not cell.is_baseline])
    reasons += check_tasks_exist(cells)
    facts: dict[str, ModelFacts | None] = {}
    for cell in cells:
        model = cell.config["model"]
        key = digest(model)
        if key in facts:
            continue
        try:
            facts[key] = describe_model(SimpleNamespace(**model))
        except (ValueError, LookupError, OSError) as error:
            facts[key] = None
            reasons.append(f"model={model['name']} ({model['pretrained']}): {one_line(error)}")
    built: dict[str, list[str]] = {}  # hundreds of cells may have one and the same editor
    for cell in cells:
        known = facts[digest(cell.config["model"])]
        depth = known.n_layers if known else 0
        mark = digest([cell.config["editor"], cell.config["regularizer"], depth])
        if mark not in built:
            built[mark] = check_editor(cell, depth)
        reasons += built[mark] or clashes(cell)
    if not reasons:
        reasons = check_lengths(cells)
    return reasons


def missing_off_line(cells: Sequence[Cell]) -> list[str]:
    """What is not on this machine, when flags keep the hub from being asked; the plan has looked with a data folder."""
    if data_root.root() is not None or not is_offline():
        return []
    absent = missing.of_cells([cell.as_asked() for cell in cells], caches=("models", "datasets"))
    return [missing.explain(absent, None)] if absent else []


def check_lengths(cells: Sequence[Cell]) -> list[str]:
    """Requests that do not fit into a model's window with target or probes; contexts come on top of that."""
    reasons: list[str] = []
    seen: set[str] = set()
    read: dict[str, tuple[Tokenizer, int] | None] = {}
    for cell in sorted(cells, key=lambda cell: -cell.num_edits):
        config = cell.config
        mark = digest([config["model"], config["dataset"], config["seed"]])
        if cell.is_baseline or mark in seen:
            continue  # a smaller edit count writes a prefix of the same requests
        seen.add(mark)
        model = digest(config["model"])
        if model not in read:  # once for all seeds: a large one takes a second to read
            read[model] = _reader(SimpleNamespace(**config["model"]))
        reader = read[model]
        if reader is None:
            continue
        tokenizer, window = reader
        requests = load_requests(
            SimpleNamespace(**config["dataset"]), cell.num_edits, config["seed"]
        )
        texts = [(request.case_id, text) for request in requests for text in texts_of(request)]
        sizes = count_tokens(tokenizer, [text for _, text in texts])
        long = {case: n for (case, _), n in zip(texts, sizes, strict=True) if n > window}
        if long:
            case, size = next(iter(long.items()))
            reasons.append(
                f"dataset={config['dataset']['name']}: {len(long)} requests do not fit into the window of "
                f"model={config['model']['name']}, which is {window} tokens; the first is case_id={case} with "
                f"{size} tokens in its prompt or a probe. Shorten it or leave it out"
            )
    return reasons


def _reader(source: ModelSource) -> tuple[Tokenizer, int] | None:
    """A model's tokenizer and its window in tokens; None where only transformers can make the tokenizer."""
    file = tokenizer_file(source)
    if file is None:
        log.debug("%s has no tokenizer.json; its job counts tokens", source.pretrained)
        return None
    return read_tokenizer(file), describe_model(source).max_length


def read_tokenizer(file: Path) -> Tokenizer:
    """A tokenizer.json that cuts and pads nothing."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def count_tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, special ones included."""
    return [len(encoding.ids) for encoding in tokenizer.encode_batch(list(texts))]


def texts_of(request: EditRequest) -> list[str]:
    """All that the model must read of a request, with the longer of the answers it is compared by."""
    probes = itertools.chain(
        request.paraphrases, request.neighborhood, request.other_facts, request.portability
    )
    pairs = [(request.text, request.target_new, request.target_true)]
    pairs += [(probe.prompt, probe.target, probe.alternative) for probe in probes]
    return [f"{prompt} {max(answer, other or '', key=len)}" for prompt, answer, other in pairs]


def drop_clashes(plan: Plan) -> None:
    """Take out of a grid with `impossible=drop` what its editors cannot do, and say so."""
    for entry in list(plan.entries):
        if not entry.todo or entry.cell.config["impossible"] != "drop":
            continue
        for reason in clashes(entry.cell):
            log.warning("%s is left out: %s", entry.cell.name, reason)
            plan.entries.remove(entry)


def check_editor(cell: Cell, n_layers: int) -> list[str]:
    """Whether the editor and the regularizer can be built, and the editor fits the model."""
    name = cell.config["editor"]["name"]
    try:
        editor = build_editor(cell.config)
        build_regularizer(cell.config)
        if n_layers:
            editor.check(n_layers)
    except Exception as error:  # Hydra wraps whatever a constructor raises
        return [f"editor={name}: {one_line(error.__cause__ or error)}"]
    return []


def clashes(cell: Cell) -> list[str]:
    """At most one reason why the editor cannot do what the rest of the cell asks for."""
    name = cell.config["editor"]["name"]
    editor = get_class(cell.config["editor"]["_target_"])
    if editor.attaches and cell.config["regularizer"].get("_target_"):
        return [
            f"editor={name} puts a module into the model and writes no update that "
            f"regularizer={cell.config['regularizer']['name']} could change; use regularizer=none"
        ]
    if editor.attaches and cell.asked_artefacts():
        return [
            f"editor={name} puts a module into the model, so there are no changed weights to keep: "
            f"save={','.join(sorted(cell.asked_artefacts()))} is not possible; use save=none"
        ]
    if "adapter" in cell.asked_artefacts():
        parts = {"editor": editor} | regularizer_class(cell)
        dense = [f"{group}={cell.config[group]['name']}" for group, c in parts.items() if c.dense]
        if dense:
            return [
                f"{' with '.join(dense)} changes matrices in full rank, and save=adapter keeps low-rank "
                "changes only; use save=delta or save=model"
            ]
    size = cell.config["edits"]["batch_size"]
    if editor.one_at_a_time and size > 1 and not cell.is_baseline:
        return [
            f"editor={name} writes one edit at a time and cannot take edits={cell.config['edits']['name']} "
            f"with batches of {size}; use edits=sequential"
        ]
    return []


def regularizer_class(cell: Cell) -> dict[str, Any]:
    """The class of the cell's regularizer; empty for none."""
    target = cell.config["regularizer"].get("_target_")
    return {"regularizer": get_class(target)} if target else {}


def check_tasks_exist(cells: Sequence[Cell]) -> list[str]:
    """Task names that lm-eval does not know."""
    specs = {name: spec for cell in cells for name, spec in cell.config["task"].items()}
    if not specs:
        return []
    try:
        task_names_exist({name: pick(TaskSpec, spec) for name, spec in specs.items()})
    except (ValueError, LookupError, OSError) as error:
        return [one_line(error)]
    return []


def one_line(error: BaseException) -> str:
    """The message of `error` on one line."""
    return " ".join(str(error).split()) or type(error).__name__
