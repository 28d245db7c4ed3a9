"""The documents of lm-eval's own tasks: from a file or folder of the user's, the data folder or the hub.

lm-eval's tasks call `datasets.load_dataset` with the hub's name of their data set. While a task is
built, `reading` puts itself in front of that function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit.core.utils import UncompletedJobError

from edit_sweeps import data_root, hub_cache, task_data
from edit_sweeps.task_data import SOURCES, SUFFIXES, TaskDataError

TaskFile = Mapping[str, Any]
"""What a task's YAML file says, includes resolved."""

BUILDERS = frozenset(
    {"json", "csv", "parquet", "arrow", "text", "xml", "webdataset"}
    | {"imagefolder", "audiofolder", "videofolder"}
)
"""Values of `dataset_path` that name a form of file and not a data set."""

HUB_ONLY = frozenset({"revision", "token", "trust_remote_code"})
"""Options of `load_dataset` that mean nothing for a local copy."""

FORMS: Mapping[tuple[str, str | None], str] = {
    **{(source.hub, source.subset): name for name, source in SOURCES.items() if source.hub},
    ("aps/super_glue", "boolq"): "boolq",
}
"""Hub's name and subset -> the source of `task_data` that knows in which forms it is published."""


@dataclass(frozen=True)
class HubData:
    """Data that a task needs and that can be fetched beforehand.

    Attributes:
        hub_id: Id of a data set on the hub; None for a file that is not there.
        subset: Of the data set.
        revision: Of the data set.
        file: Name below `files/` of the data folder; None for a data set on the hub.
    """

    hub_id: str | None
    subset: str | None = None
    revision: str | None = None
    file: str | None = None


def data_of(config: TaskFile) -> tuple[HubData, ...]:
    """What a task's file says about its data; nothing for packaged or local files and for `class:` tasks."""
    options = config.get("dataset_kwargs") or {}
    source = SOURCES.get(options.get("source", ""))
    if source is not None:
        splits = options.get("splits") or list(source.files)
        files = [HubData(None, file=source.files[s]) for s in splits if s in source.files]
        hub = [HubData(source.hub, source.subset, source.revision)] if source.hub else []
        return (*files, *([] if len(files) == len(splits) else hub))
    path = config.get("dataset_path")
    if not path or _is_local(path):
        return ()
    return (HubData(path, config.get("dataset_name"), options.get("revision")),)


@contextmanager
def reading(
    task: str, configs: Sequence[TaskFile], *, num_fewshot: int | None = None
) -> Iterator[None]:
    """Inside the block, `datasets.load_dataset` reads what is on this machine first.

    The order is: what `task.<name>.data` names (`task_data.given`), the data folder, the hub. The
    hub is not asked when a data folder is in force. A given folder is a copy of the hub's data set
    or holds `<split>.jsonl` files (or others of `task_data.SUFFIXES`); a given file stands for the
    split that is scored.

    Args:
        task: Its name, for messages.
        configs: What the files of its tasks say.
        num_fewshot: Examples in the prompt; None: as the files say.
    """
    import datasets

    theirs = datasets.load_dataset
    token = _READER.set(_Reader(task, tuple(configs), num_fewshot, theirs))

    # A task's module may hold on to this function after the block; then it is theirs again.
    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        reader = _READER.get()
        return theirs(path, name, **options) if reader is None else reader(path, name, options)

    datasets.load_dataset = load_dataset
    try:
        yield
    finally:
        datasets.load_dataset = theirs
        _READER.reset(token)


@dataclass(frozen=True)
class _Reader:
    """`datasets.load_dataset` for one task."""

    task: str
    configs: tuple[TaskFile, ...]
    num_fewshot: int | None
    theirs: Callable[..., Any]

    def __call__(self, path: str, name: str | None, options: Mapping[str, Any]) -> Any:
        if _is_local(path):
            return self.theirs(path, name, **options)
        given = task_data.given_path()
        config = next((c for c in self._stock() if _key(c) == (path, name)), None)
        if given is not None and config is not None:
            return self._given(Path(given).expanduser(), config, options)
        return self._elsewhere(path, name, options)

    def _stock(self) -> list[TaskFile]:
        return [c for c in self.configs if "custom_dataset" not in c and c.get("dataset_path")]

    def _given(self, path: Path, config: TaskFile, options: Mapping[str, Any]) -> Any:
        """The splits of a task from the user's file or folder."""
        kept = {k: v for k, v in options.items() if k not in HUB_ONLY}
        if not path.exists():
            msg = f"data={path} of the task {self.task!r}: there is no such file or folder"
            raise TaskDataError(msg)
        scored, shown = _splits(config)
        is_copy = path.is_dir() and _split_file(path, scored) is None
        known = {_key(c) if not is_copy else _key(c)[0] for c in self._stock()}
        if len(known) > 1:
            sets = ", ".join(sorted(str(k) for k in known))
            msg = (
                f"data={path}: the task {self.task!r} has several data sets ({sets}), of which one "
                "file or folder cannot stand for all; put them into a data folder (data_root=)"
            )
            raise TaskDataError(msg)
        if is_copy:
            return self.theirs(str(path), _key(config)[1], **kept)
        found = {scored: _rows(path, config, scored)}
        if shown is not None and shown != scored:
            found[shown] = self._examples(path, config, found[scored], options)
        return found

    def _examples(
        self, path: Path, config: TaskFile, scored: Any, options: Mapping[str, Any]
    ) -> Any:
        """The split that examples in the prompt are drawn from; empty when none are."""
        hub_id, subset = _key(config)
        score_split, split = _splits(config)
        assert split is not None
        if path.is_dir() and _split_file(path, split):
            return _rows(path, config, split)
        own = config.get("num_fewshot") or 0
        if not (own if self.num_fewshot is None else self.num_fewshot):
            return scored.select([])
        try:
            return self._elsewhere(hub_id, subset, options)[split]
        except TaskDataError as error:
            msg = (
                f"{error}; or give data= a folder with {split}.jsonl, for the examples in the "
                f"prompt, and {score_split}.jsonl; or set num_fewshot=0"
            )
            raise TaskDataError(msg) from error

    def _elsewhere(self, path: str, name: str | None, options: Mapping[str, Any]) -> Any:
        """A data set from the data folder, or from the hub at the commit in the key where none is in force."""
        kept = {k: v for k, v in options.items() if k not in HUB_ONLY}
        folder, title = data_root.local_dataset(path), f"{path} {name or ''}".strip()
        fetch = f"`edit-sweeps data fetch --task {self.task}`"
        if folder is None and data_root.root() is not None:
            msg = (
                f"the data set {title} of the task {self.task!r} is not in the data folder "
                f"{data_root.root()}; bring it with {fetch}, on a machine with a network"
            )
            raise TaskDataError(msg)
        try:
            if folder is not None:
                return self.theirs(str(folder), name, **kept)
            commit = hub_cache.commit_to_read("datasets", path, options.get("revision"))
            return self.theirs(
                path, name, **dict(options) | ({"revision": commit} if commit else {})
            )
        except UncompletedJobError:  # the job's time is up; that is no fault of the data
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            msg = (
                f"the data set {title} of the task {self.task!r} cannot be loaded from "
                f"{folder or 'the hub'} ({reason}); bring it with {fetch}, on a machine with a network"
            )
            raise TaskDataError(msg) from error


_READER: ContextVar[_Reader | None] = ContextVar("reader", default=None)


def _key(config: TaskFile) -> tuple[str, str | None]:
    return config["dataset_path"], config.get("dataset_name")


def _is_local(path: str) -> bool:
    """Whether `dataset_path` is a form of file or a folder, and no data set of the hub."""
    return path in BUILDERS or Path(path).expanduser().exists()


def _splits(config: TaskFile) -> tuple[str, str | None]:
    """The split that lm-eval scores, and the one it draws examples from."""
    fewshot = config.get("fewshot_config") or {}
    training, validation = config.get("training_split"), config.get("validation_split")
    scored = config.get("test_split") or validation
    if not scored:
        msg = f"the task {config.get('task')!r} names neither a test nor a validation split"
        raise TaskDataError(msg)
    shown = fewshot.get("split") or config.get("fewshot_split") or training or validation
    return scored, shown


def _split_file(folder: Path, split: str) -> Path | None:
    files = (folder / f"{split}{suffix}" for suffix in SUFFIXES if suffix)
    return next((file for file in files if file.is_file()), None)


def _rows(path: Path, config: TaskFile, split: str) -> Any:
    """The documents of a split, in the hub's form where another form of them is known.

    Raises:
        TaskDataError: They cannot be read, or do not fit.
    """
    from datasets import Dataset

    form = FORMS.get(_key(config))
    file = _split_file(path, split) if path.is_dir() else path
    assert file is not None
    if form is not None:
        with task_data.given(str(file)):
            return task_data.load(form, [split])[split]
    rows = list(task_data.read_rows(file))
    if not rows:
        msg = f"{file} holds no documents"
        raise TaskDataError(msg)
    return Dataset.from_list(rows)
