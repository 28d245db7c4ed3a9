"""Files that a cell reads: are they there, and the digests by which they enter the cell's key. Light imports only."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from types import SimpleNamespace

from edit_sweeps import catalogue, data_root, hub_cache, manifest, missing, requests
from edit_sweeps.cell import ARTEFACTS, Cell, Digests, Tree, digest
from edit_sweeps.config import study_folder
from edit_sweeps.launcher.resources import check_cluster
from edit_sweeps.text_shards import label

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parent.parent
RESUME = ("auto", "only_missing", "force")


def make_readable(trees: Sequence[Tree], refusal: type[Exception]) -> None:
    """Refuse configurations whose plain values or files are wrong; nothing heavy is imported.

    Raises:
        refusal: With every reason found.
    """
    reasons = check_common(trees)
    for tree in trees:
        reasons += check_values(tree) + check_cluster(tree)
    root = data_root.root()
    if root is not None and not root.is_dir():
        reasons.append(
            f"data_root={trees[0]['data_root']}: there is no such folder; `edit-sweeps data fetch` makes it"
        )
    try:
        if root is not None:
            manifest.read(root)
    except manifest.ManifestError as error:
        raise refusal(f"  {error}") from None
    absent = missing_in_data_root(trees)
    if absent:
        reasons.append(missing.explain(absent, trees[0]["data_root"]))
    with_edits = [tree for tree in trees if tree["editor"]["name"] != "none"]
    for tree in {dataset_kind(tree["dataset"]): tree for tree in with_edits}.values():
        if not set(catalogue.dataset_needs(tree["dataset"])) & set(absent):
            reasons += check_dataset(tree)
    reasons += check_task_data(trees)
    reasons += check_files(trees, absent)
    if reasons:
        raise refusal("\n".join(f"  {reason}" for reason in dict.fromkeys(reasons)))


def check_common(trees: Sequence[Tree]) -> list[str]:
    """What all cells of one command must have in common."""
    reasons = []
    if any(len({tree[key] for tree in trees}) > 1 for key in ("study", "cache_dir", "data_root")):
        reasons.append(
            "study, cache_dir and data_root cannot be swept: one command fills one study"
        )
    if len({tree["cluster"]["name"] for tree in trees}) > 1:
        reasons.append("cluster cannot be swept: the cells of one command run in one place")
    return reasons


def missing_in_data_root(trees: Sequence[Tree]) -> list[catalogue.Need]:
    """What the cells read and the data folder does not hold; nothing without one, when the hub is asked.

    Jobs then run with the offline flags, so only models may also come from the hub's cache.
    """
    if data_root.root() is None:
        return []
    return missing.of_cells(trees, caches=("models",))


def text_label(moments: Tree) -> str:
    """What stands for the text of second moments when it is on the hub."""
    return label(str(moments["source"]), moments["subset"], moments["split"])


def text_files(tree: Tree) -> dict[str, Path]:
    """Files with text that the cell's editor reads: setting -> path."""
    named = {}
    if tree["editor"].get("second_moment") and not tree["moments"].get("file"):
        named["moments.source"] = str(tree["moments"]["source"])
    named["editor.training.locality"] = (tree["editor"].get("training") or {}).get("locality", "")
    return {
        key: Path(name).expanduser()
        for key, name in named.items()
        if Path(name).suffix in catalogue.TEXT_FILES
    }


def check_files(trees: Sequence[Tree], absent: Collection[catalogue.Need]) -> list[str]:
    """Files that settings of moments and editor name and that are not there.

    Args:
        trees: Of the cells.
        absent: Named with the command that brings them already.
    """
    found: dict[str, None] = {}
    for tree in trees:
        for key, path in text_files(tree).items():
            if not path.is_file():
                found[f"{key}={path}: there is no such file"] = None
        for key in ("moments.file", "editor.contexts_file"):
            group, name = key.split(".")
            file = tree[group].get(name)
            if file and not Path(file).expanduser().is_file():
                found[f"{key}={file}: there is no such file"] = None
        file = tree["editor"].get("train_file")
        needs = catalogue.train_file_needs(file)
        if not file or data_root.existing_file(file) or set(needs) & set(absent):
            continue
        bring = missing.command(needs, data_root.root() or "FOLDER") if needs else ""
        advice = f"; {bring} brings it, then data_root=FOLDER" if needs else ""
        found[f"editor.train_file={file}: there is no such file{advice}"] = None
    return list(found)


def check_task_data(trees: Sequence[Tree]) -> list[str]:
    """Files and folders that `task.<name>.data` names and that are not there."""
    given = {
        (name, spec["data"]) for t in trees for name, spec in t["task"].items() if spec.get("data")
    }
    return [
        f"task.{name}.data={path}: there is no such file or folder"
        for name, path in sorted(given)
        if not Path(path).expanduser().exists()
    ]


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
    names = ("name", "format", "path", "order", "on_invalid", "target")
    return *(dataset[name] for name in names), dataset["skip"] > 0


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
    model = digests.once(
        ("model", repr(tree["model"])), lambda: digest_model(tree["model"], digests)
    )
    if model:
        found["model"] = model
    tokenizer = digest_tokenizer(tree["model"]["tokenizer"], digests)
    if tokenizer:
        found["tokenizer"] = tokenizer
    if tree["editor"]["name"] != "none":
        dataset = SimpleNamespace(**tree["dataset"])
        found["dataset"] = requests.digest(dataset)
        found |= {"repeated": "yes"} if requests.repeats(dataset, tree["num_edits"]) else {}
        found |= digest_editor(tree["editor"], digests)
        source = tree["moments"].get("file") or tree["moments"]["source"]
        if Path(source).expanduser().is_file():
            found["moments"] = digests.of(Path(source).expanduser())
        elif source == "miniature":
            found["moments"] = digest_world()
        elif catalogue.moments_needs(tree["moments"]):
            found["moments"] = text_label(tree["moments"])
        locality = text_files(tree).get("editor.training.locality")
        if locality:
            found["locality"] = digests.of(locality)
    tasks = digests.once(("task", repr(tree["task"])), lambda: digest_tasks(tree["task"], digests))
    return found | tasks


def digest_tasks(tasks: Tree, digests: Digests) -> dict[str, str]:
    """`task.<name>` -> what `digest_task` gives for it, where that is known."""
    found = {name: digest_task(spec, digests) for name, spec in tasks.items()}
    return {f"task.{name}": content for name, content in found.items() if content}


def digest_task(spec: Tree, digests: Digests) -> str | None:
    """Digest of a task's files and documents; None for a task of lm-eval's whose documents' commit is not known."""
    files = digest_task_files(spec["folder"], digests)
    if spec.get("data"):
        return digest([files, digests.of(Path(spec["data"]).expanduser())])
    needs = catalogue.task_needs(spec["name"], spec)
    if not needs:
        return files
    documents = [digest_need(need, digests) for need in needs]
    return digest([files, documents]) if files or any(documents) else None


def digest_task_files(folder: str | None, digests: Digests) -> str | None:
    """Digest of a folder of task files with what its documents are read by; None for lm-eval's own tasks."""
    if not folder:
        return None
    shipped = PACKAGE / "lm_tasks" / folder
    if folder == "miniature":
        data = sorted((PACKAGE / "miniature" / "data").glob("*.jsonl"))
        return digests.of(shipped, *(file for file in data if file.name != "requests.jsonl"))
    if shipped.is_dir():
        return digests.of(shipped, PACKAGE / "task_data.py")
    return digests.of(Path(folder).expanduser()) if Path(folder).expanduser().is_dir() else None


def digest_need(need: catalogue.Need, digests: Digests) -> str | None:
    """What stands for documents: the commit of a data set on the hub, the content of anything else; not its place."""
    if need.kind == "datasets":
        return digest_repository(need.kind, need.name, need.revision, digests)
    path = data_root.local_file(need.name)
    return digests.of(path) if path else None


def digest_repository(kind: str, hub_id: str, revision: str | None, digests: Digests) -> str | None:
    """`<hub id>@<commit>`; the content of a folder that was put into the data folder by hand; None if unknown."""
    commit = hub_cache.commit_of(kind, hub_id, revision)
    if commit:
        return f"{hub_id}@{commit}"
    local = data_root.local_model if kind == "models" else data_root.local_dataset
    folder = local(hub_id)
    if folder is None or data_root.entry(kind, hub_id):
        tell_unknown(kind, hub_id)
        return None
    return digest_model_folder(folder, digests) if kind == "models" else digests.of(folder)


@functools.cache
def tell_unknown(kind: str, hub_id: str) -> None:
    """Once a process: that a key cannot tell one state of a repository from another."""
    log.warning(
        "%s/%s: its commit is not known here, so the keys of cells do not tell when it changes on the hub; "
        "with a network, or from a data folder, they do",
        kind,
        hub_id,
    )


def digest_editor(editor: Tree, digests: Digests) -> dict[str, str]:
    """Digests of the files that the editor's own settings name."""
    found = {}
    for name, key in (("contexts", "contexts_file"), ("train", "train_file")):
        if editor.get(key):
            file = Path(editor[key]).expanduser()
            found[name] = digests.of(data_root.existing_file(editor[key]) or file)
    if editor.get("train_source") == "miniature":
        found["train"] = digest_world()
    return found


@functools.cache
def digest_world() -> str:
    """Digest of the beginning of the miniature's training text, which moments and contexts are made of."""
    from edit_sweeps.miniature import training_text

    return digest(training_text(200, seed=0))


def digest_model(model: Tree, digests: Digests) -> str | None:
    """Digest of a local model's files; of a hub model its commit, wherever it is read from; None if unknown."""
    name = str(model["pretrained"])
    if name.startswith("miniature://"):
        folder = PACKAGE / "miniature" / "checkpoints" / name.removeprefix("miniature://")
        return digests.of(
            *(folder / f for f in ("config.json", "model.safetensors", "tokenizer.json"))
        )
    if Path(name).expanduser().is_dir():
        return digest_model_folder(Path(name).expanduser(), digests)
    return digest_repository("models", name, model["revision"], digests)


def digest_tokenizer(name: str | None, digests: Digests) -> str | None:
    """What stands for a tokenizer that is not the model's own: its files, or its commit on the hub."""
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return digest_repository("models", name, None, digests)
    files = {file for pattern in catalogue.TOKENIZER_FILES for file in folder.glob(pattern)}
    return digests.of(*sorted(files))


def digest_model_folder(folder: Path, digests: Digests) -> str:
    """Digest of what a model is loaded from."""
    files = [*folder.glob("*.json"), *folder.glob("*.safetensors"), *folder.glob("tokenizer*")]
    return digests.of(*sorted(set(files)))
