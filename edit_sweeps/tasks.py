"""A task to score: what is asked for, and the task built with all its requests.

Building once matters: lm-eval draws other few-shot examples each time it builds, and takes seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edit_sweeps.task_files import check_task, load_tasks

CUSTOM = "custom"
"""The key of `conf/task/custom.yaml`."""


@dataclass(frozen=True)
class TaskSpec:
    """One task to score.

    Attributes:
        name: lm-eval's name of a task; a group or tag counts as one task over all its documents.
        folder: Shipped folder of task files ("miniature"), a path, or None for lm-eval's own tasks.
        num_fewshot: Examples in the prompt; None leaves it to the task.
        limit: Documents (an integer, or a fraction below 1), drawn with the seed of `EvalSettings`;
            a smaller draw is part of a larger one. None leaves it to `EvalSettings`.
        headline: Metric that stands for the task; None: `headline` of the task's `metadata`, else
            its first metric.
        chance: What guessing scores in the headline; None: `chance` of the task's `metadata`,
            else 1 / number of choices, or 0 for generated answers.
        data: A file or folder with the documents (`task_data`, `stock_data`); None: the data
            folder, else the hub.

    Raises:
        ValueError: A limit that is neither.
    """

    name: str
    folder: str | None = None
    num_fewshot: int | None = None
    limit: int | float | None = None
    headline: str | None = None
    chance: float | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        check_limit(self.limit, f"limit of task {self.name}")


@dataclass(frozen=True)
class EvalSettings:
    """How all tasks are scored.

    Attributes:
        batch_size: Rows of a forward pass. A fixed number: answers move with it in their last
            digits.
        seed: Of the draw of documents and of few-shot examples.
        limit: As in `TaskSpec`, for tasks that have none of their own.
        max_length: Tokens of prompt and answer; None: the model's. Longer prompts lose their
            beginning.

    Raises:
        ValueError: A batch size that is not a positive integer, or a limit that is none.
    """

    batch_size: int = 32
    seed: int = 1234
    limit: int | float | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if type(self.batch_size) is not int or self.batch_size < 1:
            msg = f"eval.batch_size={self.batch_size!r} must be a positive integer, not 'auto'"
            raise ValueError(msg)
        check_limit(self.limit, "eval.limit")


@dataclass(frozen=True)
class BuiltTask:
    """A task with its requests, ready to be scored again and again.

    Attributes:
        spec: What was asked for.
        tasks: Name -> lm-eval `Task`; several for a group.
        documents: Name -> numbers of the documents drawn, ascending; None: all.
        prompt_hash: Digest of all prompts and choices.
    """

    spec: TaskSpec
    tasks: dict[str, Any]
    documents: dict[str, list[int] | None]
    prompt_hash: str

    @property
    def requests(self) -> list[Any]:
        """lm-eval's requests, in order."""
        return [request for task in self.tasks.values() for request in task.instances]


def task_names_exist(specs: Mapping[str, TaskSpec]) -> None:
    """Refuse tasks that do not exist, before any model is loaded.

    Raises:
        LookupError: An unknown name; says which names are alike.
        ValueError: An unknown folder, or two tasks of one name.
    """
    for spec in record_names(specs).values():
        check_task(spec.name, spec.folder)


def record_names(specs: Mapping[str, TaskSpec]) -> dict[str, TaskSpec]:
    """The tasks by the names they have in records: their keys, or lm-eval's name of a custom task.

    Raises:
        ValueError: A custom task has the name of another one.
    """
    named = {spec.name if key == CUSTOM else key: spec for key, spec in specs.items()}
    if len(named) < len(specs):
        msg = (
            f"task.custom.name={specs[CUSTOM].name} is already in this cell; leave one of the two "
            "out, or score them in two cells: task=custom,other"
        )
        raise ValueError(msg)
    return named


def build_task(spec: TaskSpec, settings: EvalSettings) -> BuiltTask:
    """Load a task and build its requests.

    Raises:
        LookupError: An unknown name.
        Exception: Whatever the task's own code or its data raise.
    """
    from edit_sweeps import task_data
    from edit_sweeps.live_lm import quiet

    limit = settings.limit if spec.limit is None else spec.limit
    documents: dict[str, list[int] | None] = {}
    digest = hashlib.sha256()
    # lm-eval's bars cannot be turned off while it builds; they go where nobody looks.
    with quiet(), task_data.given(spec.data), contextlib.redirect_stderr(io.StringIO()):
        tasks = load_tasks(spec.name, spec.folder, num_fewshot=spec.num_fewshot)
        for name, task in tasks.items():
            if spec.num_fewshot is not None:
                task.set_config("num_fewshot", spec.num_fewshot)
            task.set_fewshot_seed(settings.seed)
            documents[name] = draw(len(task.eval_docs), limit, settings.seed)
            task.build_all_requests(samples=documents[name])
            _freeze(task)
            for request in task.instances:
                digest.update(repr(request.args).encode())
    return BuiltTask(spec, tasks, documents, digest.hexdigest()[:16])


def draw(n_documents: int, limit: float | None, seed: int) -> list[int] | None:
    """Numbers of the documents to score, ascending: the first `limit` of one seeded permutation.

    So a smaller limit draws a part of what a larger one draws. None stands for all documents.
    """
    if limit is None:
        return None
    wanted = math.ceil(n_documents * limit) if limit < 1 else int(limit)
    if wanted >= n_documents:
        return None
    return sorted(np.random.default_rng(seed).permutation(n_documents)[:wanted].tolist())


def check_limit(limit: float | None, name: str) -> None:
    """Refuse what is neither None, a positive integer nor a fraction between 0 and 1.

    Raises:
        ValueError: Names the setting.
    """
    whole = type(limit) is int and limit > 0
    if limit is not None and not whole and not (type(limit) is float and 0 < limit < 1):
        msg = f"{name}={limit!r} must be a number of documents, a fraction between 0 and 1, or null"
        raise ValueError(msg)


def _freeze(task: Any) -> None:
    """Make lm-eval use the requests that `task` holds, and leave aggregation to us.

    `evaluate` would build all requests anew, with other few-shot examples each time; and one
    overflow in an aggregation (the perplexity of a model that blew up) would lose the task's
    documents.
    """

    def reset(**_: Any) -> None:
        for request in task.instances:
            request.resps, request.filtered_resps = [], {}

    task.build_all_requests = reset
    task.aggregation = lambda: defaultdict(lambda: len)
