"""`edit-sweeps apply`: a model and a file of requests become an edited model on disk, its scores beside it.

It is a cell of the study `apply` like any other: same checks, same resuming, same record. What was asked for is
then put into a folder of its own.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edit_sweeps import config as schema
from edit_sweeps.cell import ARTEFACTS
from edit_sweeps.edited_folder import ApplyError, Outcome, check_out, publish, tell
from edit_sweeps.offline import go_offline
from edit_sweeps.requests import RequestError, read_requests

OWN = {
    "model": "--model",
    "model.pretrained": "--model",
    "editor": "--editor",
    "task": "--tasks",
    "save": "--save",
    "dataset": "REQUESTS",
    "dataset.path": "REQUESTS",
    "dataset.format": "REQUESTS",
    "num_edits": "the number of requests",
}
"""Keys that overrides may not set, and what sets them."""
DEFAULTS = {"study": "apply", "wandb": "disabled", "dataset.order": "file"}
"""What overrides may set and is otherwise not as launch.py has it."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the command line asks for.

    Attributes:
        requests: JSON lines, as `dataset=jsonl` reads them.
        model: A name in conf/model/, a folder, or a hub id `owner/name`.
        editor: A name in conf/editor/.
        out: Folder for what comes of it.
        save: Some of `cell.ARTEFACTS`.
        batch: All requests at once, or one after the other; None: at once if the editor can.
        tasks: Names in conf/task/ with commas between them, or `none`.
        overrides: `key=value` as launch.py takes them.
    """

    requests: Path
    model: str
    editor: str
    out: Path
    save: tuple[str, ...] = ("model",)
    batch: bool | None = None
    tasks: str = "none"
    overrides: tuple[str, ...] = ()


def apply_requests(order: Order, home: Path) -> Outcome:
    """Edit, score and put everything into `order.out`; what is there already is not made again.

    Args:
        order: What is wanted; relative paths in its overrides begin at `home`.
        home: The project's folder, with conf/ and outputs/.

    Raises:
        ApplyError: Something in the order is wrong.
    """
    count = check_order(order, home)
    out, requests = order.out.resolve(), order.requests.resolve()
    option, place = model_option(order.model, home)
    with contextlib.chdir(home):
        values = {"dataset.path": str(requests)} | ({"model.pretrained": place} if place else {})
        config, overrides = compose_cell(
            order, home, [f"model={option}", f"num_edits={count}"], values
        )
        from edit_sweeps import launcher
        from edit_sweeps.launcher.freezing import Refusal, frozen
        from edit_sweeps.launcher.plan import make_plan

        go_offline(config.data_root)
        try:
            plan = make_plan([frozen(config, overrides)])
            cell = next(entry.cell for entry in plan.entries if not entry.cell.is_baseline)
            check_out(out, cell)
            if plan.todo():
                from edit_sweeps.launcher.checks import check

                check(plan)
        except Refusal as refusal:
            msg = f"refused, nothing was run.\n{refusal}"
            raise ApplyError(msg) from None
        if plan.dry_run:
            return Outcome(plan.describe())
        with contextlib.redirect_stdout(sys.stderr):  # the study's table; stdout is for the edit's
            launcher.carry_out(plan)
        if cell.state() not in {"done", "collapsed"}:
            return Outcome(f"The edit failed; {cell.folder.resolve() / 'cell.log'} says why.", 1)
        publish(cell, out, requests)
        return tell(cell, order.out)


def check_order(order: Order, home: Path) -> int:
    """Check what needs no configuration; returns the number of requests.

    Raises:
        ApplyError: Something is wrong with them, or with a name or an override.
    """
    if not order.requests.is_file():
        what = "is a folder" if order.requests.is_dir() else "does not exist"
        msg = f"{order.requests} {what}; give a file with one JSON object a line"
        raise ApplyError(msg)
    known(home, "editor", order.editor)
    for task in order.tasks.split(","):
        known(home, "task", task)
    wrong = [artefact for artefact in order.save if artefact not in ARTEFACTS]
    if wrong:
        msg = f"--save {wrong[0]}: one of {', '.join(ARTEFACTS)}"
        raise ApplyError(msg)
    if order.batch is not None and "edits" in map(key_of, order.overrides):
        msg = "edits=... and --batch or --sequential say the same thing; give one of them"
        raise ApplyError(msg)
    for override in order.overrides:
        if "=" not in override and not override.startswith("~"):
            msg = f"{override!r} is no override; write KEY=VALUE, such as editor.layer=5"
            raise ApplyError(msg)
        if key_of(override) in OWN:
            msg = f"{override}: {key_of(override)} is set by {OWN[key_of(override)]}"
            raise ApplyError(msg)
    source = {"name": "jsonl", "format": "jsonl", "order": "file", "skip": 0, "repeat": False}
    source |= {"on_invalid": "refuse", "target": None}
    try:
        return len(read_requests(SimpleNamespace(path=str(order.requests), **source)))
    except RequestError as error:
        raise ApplyError(str(error)) from None


def known(home: Path, group: str, name: str) -> None:
    """Refuse a name that `conf/<group>/` does not have.

    Raises:
        ApplyError: Says which is near, and all there are.
    """
    names = options(home, group)
    if name not in names or (group, name) == ("editor", "none"):
        flag = "--tasks" if group == "task" else f"--{group}"
        what = "is not known" if name not in names else "changes nothing"
        msg = f"{flag} {name} {what}{near(name, names)} Known: {', '.join(names)}"
        raise ApplyError(msg)


def options(home: Path, group: str) -> list[str]:
    """The names in `conf/<group>/`."""
    return sorted(file.stem for file in (home / "conf" / group).glob("*.yaml"))


def near(name: str, names: Sequence[str]) -> str:
    """The end of a sentence: `; did you mean ...?` where another one is near."""
    close = difflib.get_close_matches(name, [n for n in names if n != name], n=1)
    return f"; did you mean {close[0]}?" if close else "."


def key_of(override: str) -> str:
    """What an override sets."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def model_option(model: str, home: Path) -> tuple[str, str | None]:
    """The option of conf/model/ that `model` means and, for `custom`, where the model is.

    Raises:
        ApplyError: It is neither an option, nor a folder, nor a hub id.
    """
    names = [name for name in options(home, "model") if name != "custom"]
    if model in names:
        return model, None
    folder = Path(model).expanduser()
    if folder.is_dir():
        return "custom", str(folder.resolve())
    if model.startswith("miniature://") or (model.count("/") == 1 and model[0] not in "./~"):
        return "custom", model
    msg = (
        f"--model {model} is neither a name in conf/model/, nor a folder, nor a hub id such as "
        f"openai-community/gpt2{near(model, names)} Known: {', '.join(names)}"
    )
    raise ApplyError(msg)


def compose_cell(
    order: Order, home: Path, chosen: Sequence[str], values: dict[str, str]
) -> tuple[Any, list[str]]:
    """The configuration of the order's cell and the overrides it is made of.

    Args:
        order: What is wanted.
        home: The project's folder.
        chosen: Overrides that follow from the order.
        values: Key -> text that may hold anything, which Hydra's grammar does not allow for.

    Raises:
        ApplyError: Hydra refuses an override.
    """
    given = {key_of(override) for override in order.overrides}
    base = [
        *chosen,
        f"editor={order.editor}",
        f"task=[{order.tasks}]" if "," in order.tasks else f"task={order.tasks}",
        "dataset=jsonl",
        f"save=[{','.join(order.save)}]",
        *(f"{k}={v}" for k, v in DEFAULTS.items() if k not in given),
        *order.overrides,
    ]
    config = compose(home, base, values)
    guessed = []
    if "moments" not in given and not str(config.model.pretrained).startswith("miniature://"):
        guessed.append("moments=quick")
    editor = editor_class(config)
    if editor.attaches:
        msg = (
            f"--editor {order.editor} puts a module into the model and leaves no changed weights to save; use another "
            f"editor here, or score it with launch.py editor={order.editor}"
        )
        raise ApplyError(msg)
    if "edits" not in given:
        guessed.append(f"edits={'batch' if takes_batches(order, editor) else 'sequential'}")
    base += guessed
    shown = [*base, *(f"{key}={value}" for key, value in values.items())]
    return compose(home, base, values), shown


def editor_class(config: Any) -> Any:
    """The class of the editor of a configuration."""
    from hydra.utils import get_class

    return get_class(config.editor._target_)


def takes_batches(order: Order, editor: Any) -> bool:
    """Whether the requests are written as one batch."""
    return order.batch if order.batch is not None else not editor.one_at_a_time


def compose(home: Path, overrides: Sequence[str], values: dict[str, str]) -> Any:
    """What launch.py would compose of `overrides`, with `values` put in.

    Raises:
        ApplyError: Hydra's message.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    schema.register()
    try:
        with hydra.initialize_config_dir(str(home / "conf"), **schema.version_base()):
            config = hydra.compose("config", overrides=list(overrides))
        for key, value in values.items():
            OmegaConf.update(config, key, value)
    except (HydraException, OmegaConfBaseException) as error:
        reasons = dict.fromkeys(str(e).strip() for e in (error, error.__cause__) if e)
        msg = "\n".join(reasons).partition("Config search path")[0].strip()
        raise ApplyError(msg) from None
    return config
