"""W&B from the child's side: one record becomes one run. `python -m edit_sweeps.wandb_run FOLDER`.

Started by `edit_sweeps.tracking`, which limits its time; prints its outcome as a line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edit_sweeps.record import Record
from edit_sweeps.table import (
    EDIT,
    columns_of,
    headlines,
    mean_retention,
    short_config,
    tasks_lost,
)
from edit_sweeps.tracking import (
    Note,
    WandbSettings,
    already_mirrored,
    read_note,
    resolve_mode,
    run_id,
)

ALARM_MARGIN_S = 5
"""Should the parent be gone, the child ends by itself this long after the hard limit."""


@dataclass(frozen=True)
class Mirror:
    """What is to be mirrored and where to.

    Attributes:
        wandb: The module, imported in this process only.
        folder: The cell's folder.
        study: Name of the study.
    """

    wandb: Any
    folder: Path
    study: str
    record: Record
    settings: WandbSettings

    @property
    def home(self) -> Path:
        """Folder of the study; wandb's own files go to `wandb/` in it."""
        return self.folder.parent.parent


def main(arguments: Sequence[str] | None = None) -> None:
    """Mirror one cell and print the outcome."""
    parser = argparse.ArgumentParser(prog="python -m edit_sweeps.wandb_run", description=__doc__)
    parser.add_argument("folder", type=Path, help="the cell's folder")
    parser.add_argument("--study", required=True)
    parser.add_argument("--settings", default="{}", help="fields of WandbSettings, as JSON")
    given = parser.parse_args(arguments)
    settings = WandbSettings(**json.loads(given.settings))
    signal.alarm(math.ceil(settings.hard_timeout_s) + ALARM_MARGIN_S)
    found = mirror(given.folder.resolve(), given.study, settings)
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()
    os._exit(0)  # wandb's exit handlers may wait for a network that is not there


def mirror(folder: Path, study: str, settings: WandbSettings) -> Note:
    """Mirror the cell in `folder` from this process.

    Returns:
        `outcome`, `mode` (what was done in the end), and a `reason` when it was not online.
    """
    keep_files_in(folder.parent.parent)
    import wandb

    job = Mirror(wandb, folder, study, Record.load(folder), settings)
    mode, reason = choose_mode(wandb, resolve_mode(settings.mode))
    run = None
    if mode == "online":
        try:
            run = open_run(job, mode)
        except Exception as error:
            mode, reason = "offline", told(error)
            wandb.teardown()  # until then the id counts as in use
    if run is None:
        if already_mirrored(folder, mode):
            return {"outcome": "offline", "mode": mode, "reason": reason}
        run = open_run(job, mode)
    fill_run(run, job.record, with_history=not has_history(run, folder, mode))
    run.finish(exit_code=1 if job.record.state == "failed" else 0)
    wandb.teardown()
    return {"outcome": "pushed" if mode == "online" else mode, "mode": mode, "reason": reason}


def keep_files_in(home: Path) -> None:
    """Keep W&B's files below the study, away from a home folder's quota.

    Raises:
        PermissionError: The study cannot be written; wandb would silently use another place.
    """
    place = home / "wandb"
    place.mkdir(exist_ok=True)
    if not os.access(place, os.W_OK):
        msg = f"{place} cannot be written"
        raise PermissionError(msg)
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ.setdefault(name, str(place / ".cache"))


def choose_mode(wandb: Any, mode: str) -> tuple[str, str]:
    """`online` or `offline`, and why it is not online; looks for a key and never prompts."""
    if mode == "offline":
        return mode, ""
    try:
        has_key = bool(wandb.login(prompt=False, verify=False))
    except Exception as error:
        return "offline", told(error)
    return ("online", "") if has_key else ("offline", "no API key")


def told(error: BaseException) -> str:
    """Type and first line of an error; wandb raises its own, OSError, TypeError and more."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"


def open_run(job: Mirror, mode: str) -> Any:
    """Start the run of the record, or take up the one that the server has.

    Raises:
        Exception: Whatever wandb raises.
    """
    config, settings = flat_config(job.record, job.study), job.settings
    tags = [config["model"], config["editor"], config["dataset"], job.study, *settings.tags]
    return job.wandb.init(
        project=settings.project,
        entity=settings.entity,
        group=settings.group or job.study,
        job_type="baseline" if config["editor"] == "none" else "edit",
        id=run_id(job.study, job.folder),
        name="{model}/{editor}/n{num_edits}/s{seed}".format(**config),
        tags=[str(tag)[:64] for tag in dict.fromkeys(tags) if tag],
        config=config,
        dir=str(job.home),
        resume="allow",
        mode=mode,
        settings=slim_settings(job.wandb, settings),
    )


def slim_settings(wandb: Any, settings: WandbSettings) -> Any:
    """Our time limits, and nothing sent that the record does not hold (host, packages, code)."""
    wanted = {
        "init_timeout": settings.init_timeout_s,
        "finish_timeout": settings.finish_timeout_s,
        "finish_timeout_raises": True,
        "console": "off",
        "silent": True,
        "disable_git": True,
        "disable_code": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": 1.0,
    }
    known = wandb.Settings.model_fields  # names with x_ come and go between versions
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def has_history(run: Any, folder: Path, mode: str) -> bool:
    """Whether the run holds the cell's row already: a second one would be appended, not replaced.

    Online the server says so. Offline only the note of an earlier push can.
    """
    if mode == "online":
        return bool(run.resumed)
    return read_note(folder).get("outcome") in {"pushed", "offline"}


def fill_run(run: Any, record: Record, *, with_history: bool) -> None:
    """Log the metrics as the summary, and as one row of history unless the run has that already."""
    figures = {"num_edits": columns_of(short_config(record.config))["num_edits"], **metrics(record)}
    run.define_metric("num_edits")
    run.define_metric("*", step_metric="num_edits")
    if with_history:
        run.log(figures)
    run.summary.update(figures | {"state": record.state})


def flat_config(record: Record, study: str) -> dict[str, Any]:
    """Plain values on top, which W&B can filter and group by; the whole tree under `cfg`."""
    return columns_of(short_config(record.config)) | {
        "study": study,
        "cell": record.name,
        "key": record.key,
        "schema": record.schema_version,
        "overrides": record.overrides,
        "cfg": record.config,
        "versions": record.provenance.get("versions", {}),
    }


def metrics(record: Record) -> dict[str, float]:
    """The record's figures under their names in W&B; what is not known is left out."""
    return {
        name: float(value)
        for name, value in named_figures(record)
        if value is not None and math.isfinite(value)
    }


def named_figures(record: Record) -> Iterator[tuple[str, float | None]]:
    """The figures of `metrics` in order.

    `edit/<metric>`, `task/<task>/<metric>`; of each task's headline metric `delta/<task>` (edited
    minus baseline) and `retention/<task>`; `retention/mean`, `retention/tasks_lost`,
    `weights/rel_norm`, `time/<phase>` in seconds.
    """
    for task, scores in record.scores.items():
        place = EDIT if task == EDIT else f"task/{clean(task)}"
        for metric, score in scores.items():
            yield f"{place}/{clean(metric)}", score.value
    for task, (_, _, compared) in headlines(record).items():
        yield f"delta/{clean(task)}", compared.difference
        yield f"retention/{clean(task)}", compared.retention
    yield "retention/mean", mean_retention(record)
    yield "retention/tasks_lost", len(tasks_lost(record)) if record.comparisons else None
    yield "weights/rel_norm", relative_norm(record.weights)
    for phase, seconds in record.provenance.get("seconds", {}).items():
        yield f"time/{clean(phase)}", seconds


def clean(name: str) -> str:
    """`name` in letters, digits and underscores: W&B cannot sort or filter by anything else."""
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")


def relative_norm(weights: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Norm of all updates together over that of all edited matrices together; None without any."""
    update, original = (
        math.hypot(
            *(math.nan if norms[name] is None else norms[name] for norms in weights.values())
        )
        for name in ("update_norm", "original_norm")
    )
    return update / original if original else None


if __name__ == "__main__":
    main()
