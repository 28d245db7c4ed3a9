"""Files that a cell reads: are they there, and the digests by which they enter the cell's key. Light imports only."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from edit_sweeps import requests
from edit_sweeps.cell import ARTEFACTS, Cell, Digests, Tree, digest
from edit_sweeps.config import study_folder

PACKAGE = Path(__file__).parent.parent
RESUME = ("auto", "only_missing", "force")


def make_readable(trees: Sequence[Tree], refusal: type[Exception]) -> None:
    """Refuse configurations whose plain values or files are wrong; nothing heavy is imported.

    Raises:
        refusal: With every reason found.
    """
    reasons: list[str] = []
    for tree in trees:
        reasons += check_values(tree)
    studies = {tree["study"] for tree in trees} | {tree["cache_dir"] for tree in trees}
    if len(studies) > 2:
        reasons.append("study and cache_dir cannot be swept: one command fills one study")
    with_edits = [tree for tree in trees if tree["editor"]["name"] != "none"]
    for tree in {dataset_kind(tree["dataset"]): tree for tree in with_edits}.values():
        reasons += check_dataset(tree)
    for key in ("moments.file", "editor.contexts_file", "editor.train_file"):
        group, name = key.split(".")
        files = {tree[group].get(name) for tree in trees} - {None}
        reasons += [
            f"{key}={file}: there is no such file"
            for file in sorted(files)
            if not Path(file).is_file()
        ]
    if reasons:
        raise refusal("\n".join(f"  {reason}" for reason in dict.fromkeys(reasons)))


def check_values(tree: Tree) -> list[str]:
    """What is wrong with the plain values of one cell."""
    reasons = []
    try:
        study_folder(tree["study"])
    except ValueError as error:
        reasons.append(str(error))
    none = tree["editor"]["name"] == "none"
    if not none and tree["num_edits"] < 1:
        reasons.append(
            f"num_edits={tree['num_edits']}: at least 1 with an editor; for the unedited model use editor=none"
        )
    if not none and tree["edits"]["batch_size"] < 1:
        reasons.append(f"edits.batch_size={tree['edits']['batch_size']}: at least 1")
    if tree["edits"]["name"] == "sequential" and tree["edits"]["batch_size"] != 1:
        reasons.append(
            f"edits=sequential writes one edit at a time; for batches of {tree['edits']['batch_size']} use "
            f"edits=batch_sequential edits.batch_size={tree['edits']['batch_size']}"
        )
    if none and not tree["task"]:
        reasons.append("editor=none with task=none measures nothing: choose a task or an editor")
    if tree["resume"] not in RESUME:
        reasons.append(f"resume={tree['resume']}: one of {', '.join(RESUME)}")
    if tree["impossible"] not in {"refuse", "drop"}:
        reasons.append(f"impossible={tree['impossible']}: refuse or drop")
    save = tree["save"] if isinstance(tree["save"], list) else [tree["save"]]
    wrong = [s for s in save if s not in {"none", None, *ARTEFACTS}]
    if wrong:
        reasons.append(
            f"save={','.join(map(str, wrong))}: none, {', '.join(ARTEFACTS)}, or several such as "
            "[delta,adapter]"
        )
    if tree["dataset"]["order"] not in {"sampled", "file"}:
        reasons.append(f"dataset.order={tree['dataset']['order']}: sampled or file")
    return reasons


def dataset_kind(dataset: Tree) -> tuple[object, ...]:
    """What one reading of the file can vouch for: hundreds of cells may skip to different requests of it."""
    return dataset["format"], dataset["path"], dataset["order"], dataset["skip"] > 0


def check_dataset(tree: Tree) -> list[str]:
    """Whether the edit requests can be read, every line of them."""
    try:
        requests.read_requests(SimpleNamespace(**tree["dataset"]))
    except (ValueError, OSError) as error:
        return [str(error)]
    return []


def check_counts(cells: Sequence[Cell]) -> list[str]:
    """Cells that want more requests than their data set has."""
    reasons = []
    for cell in cells:
        try:
            requests.check_count(SimpleNamespace(**cell.config["dataset"]), cell.num_edits)
        except ValueError as error:
            reasons.append(str(error))
    return reasons


def digest_inputs(tree: Tree, digests: Digests) -> dict[str, str]:
    """Content digests of everything outside the configuration that the cell's results depend on."""
    found: dict[str, str] = {}
    model = digest_model(tree["model"], digests)
    if model:
        found["model"] = model
    if tree["editor"]["name"] != "none":
        found["dataset"] = requests.digest(SimpleNamespace(**tree["dataset"]))
        found |= digest_editor(tree["editor"], digests)
        source = tree["moments"].get("file") or tree["moments"]["source"]
        if Path(source).is_file():
            found["moments"] = digests.of(Path(source))
        elif source == "miniature":
            found["moments"] = digest_world()
    for name, spec in tree["task"].items():
        folder = PACKAGE / "lm_tasks" / str(spec["folder"])
        if spec["folder"] == "miniature":
            data = sorted((PACKAGE / "miniature" / "data").glob("*.jsonl"))
            files = [file for file in data if file.name != "requests.jsonl"]
            found[f"task.{name}"] = digests.of(folder, *files)
        elif spec["folder"] and Path(spec["folder"]).is_dir():
            found[f"task.{name}"] = digests.of(Path(spec["folder"]))
    return found


def digest_editor(editor: Tree, digests: Digests) -> dict[str, str]:
    """Digests of the files that the editor's own settings name."""
    found = {}
    for name, key in (("contexts", "contexts_file"), ("train", "train_file")):
        if editor.get(key):
            found[name] = digests.of(Path(editor[key]))
    if editor.get("train_source") == "miniature":
        found["train"] = digest_world()
    return found


@functools.cache
def digest_world() -> str:
    """Digest of the beginning of the miniature's training text, which moments and contexts are made of."""
    from edit_sweeps.miniature import training_text

    return digest(training_text(200, seed=0))


def digest_model(model: Tree, digests: Digests) -> str | None:
    """Digest of a local model's files; of a hub model the commit that the local cache holds, if any."""
    name = str(model["pretrained"])
    folder = Path(name)
    if name.startswith("miniature://"):
        folder = PACKAGE / "miniature" / "checkpoints" / name.removeprefix("miniature://")
        return digests.of(
            *(folder / f for f in ("config.json", "model.safetensors", "tokenizer.json"))
        )
    if folder.is_dir():
        files = [*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("tokenizer*")]
        return digests.of(*sorted(set(files)))
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
    hub = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    ref = hub / f"models--{name.replace('/', '--')}" / "refs" / (model["revision"] or "main")
    return f"{name}@{ref.read_text(encoding='utf-8').strip()}" if ref.is_file() else None
