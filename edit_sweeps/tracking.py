"""W&B from the sweep's side: mirror a record as a run, by a child process with a hard time limit.

Whatever wandb does (hang, crash, ask for a key) ends with the child, `edit_sweeps.wandb_run`, which
alone imports it. The record on disk is the truth and is never changed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from edit_sweeps.cell import FAILURE_FILE, RECORD_FILE
from edit_sweeps.record import SCHEMA_VERSION, write_json

log = logging.getLogger(__name__)

OUTCOME_FILE = "wandb.json"
MODES = ("auto", "online", "offline", "disabled")
Note = dict[str, Any]


@dataclass(frozen=True)
class WandbSettings:
    """How records are mirrored; `conf/wandb/*.yaml`.

    Attributes:
        mode: auto (WANDB_MODE if set, else online with an API key, else offline) | online |
            offline | disabled.
        project: W&B project.
        entity: W&B team or user; None is the key's own.
        group: Name under which runs are grouped; None is the study.
        tags: Besides model, editor, data set and study.
        hard_timeout_s: The child is killed after this.
        init_timeout_s: Time to start a run online before it is written offline instead.
        finish_timeout_s: Time to send what is left.
    """

    mode: str = "auto"
    project: str = "edit-sweeps"
    entity: str | None = None
    group: str | None = None
    tags: Sequence[str] = ()
    hard_timeout_s: float = 180.0
    init_timeout_s: float = 30.0
    finish_timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Refuse an unknown mode."""
        if self.mode not in MODES:
            msg = f"wandb.mode={self.mode!r} is unknown; allowed: {', '.join(MODES)}"
            raise ValueError(msg)


def push(folder: Path, study: str, settings: WandbSettings) -> str:
    """Mirror the cell in `folder` as a run; writes its wandb.json and nothing else in the folder.

    Never raises, and returns about a second after `hard_timeout_s` at the latest. A record that is
    mirrored already is left alone.

    Args:
        folder: The cell's folder, `outputs/<study>/cells/<name>`.
        study: Name of the study.
        settings: Where and how.

    Returns:
        pushed (it is on the server) | offline (it is in `outputs/<study>/wandb`) | skipped
        (disabled) | failed: reason.
    """
    mode = resolve_mode(settings.mode)
    if mode == "disabled":
        return "skipped"
    known = already_mirrored(folder, mode)
    if known:
        return known
    try:
        found = run_child(command(folder, study, settings), settings.hard_timeout_s)
    except OSError as error:
        found = {"outcome": f"failed: {error}"}
    if found["outcome"].startswith("failed"):
        log.warning("W&B: %s: %s (the record is safe)", folder.name, found["outcome"])
    note: Note = {"outcome": "", "mode": mode, "run_id": run_id(study, folder)} | found
    note |= {
        "where": where(settings),
        "record": record_digest(folder),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        write_json(folder / OUTCOME_FILE, note)
    except OSError as error:
        log.warning("W&B: cannot note the outcome for %s: %s", folder.name, error)
    return str(found["outcome"])


def where(settings: WandbSettings) -> Note:
    """Project, entity, group and tags: what a later push from elsewhere keeps to."""
    fields = ("project", "entity", "group")
    return {name: getattr(settings, name) for name in fields} | {"tags": list(settings.tags)}


def resolve_mode(mode: str) -> str:
    """`mode`, with auto following the variable WANDB_MODE where that is set."""
    wanted = os.environ.get("WANDB_MODE", "")
    return wanted if mode == "auto" and wanted in MODES else mode


def already_mirrored(folder: Path, mode: str) -> str | None:
    """The outcome on file, if it holds for this very record and `mode` could not better it."""
    note = read_note(folder)
    enough = {"pushed", "offline"} if mode == "offline" else {"pushed"}
    if note.get("record") != record_digest(folder) or note.get("outcome") not in enough:
        return None
    return str(note["outcome"])


def read_note(folder: Path) -> Note:
    """What the last push noted; empty before the first."""
    try:
        note: Note = json.loads((folder / OUTCOME_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note


def record_digest(folder: Path) -> str:
    """Digest of the bytes of the cell's record, or else of its failure; empty without either."""
    for name in (RECORD_FILE, FAILURE_FILE):
        if (folder / name).is_file():
            return hashlib.sha256((folder / name).read_bytes()).hexdigest()[:16]
    return ""


def run_id(study: str, folder: Path) -> str:
    """The run's id: the same for the same cell of the same study, whatever the host or the time.

    The study is part of it because a run belongs to one group, and the group is the study: a cell
    that two studies share is one run in each.
    """
    key = folder.name.rsplit("-", 1)[-1]
    identity = json.dumps([SCHEMA_VERSION, study, key], separators=(",", ":"))
    return hashlib.sha256(identity.encode()).hexdigest()[:16]


def command(folder: Path, study: str, settings: WandbSettings) -> list[str]:
    """The child's command line."""
    values = json.dumps(asdict(settings) | {"tags": list(settings.tags)})
    module = [sys.executable, "-m", "edit_sweeps.wandb_run"]
    return [*module, str(folder), "--study", study, "--settings", values]


def run_child(arguments: Sequence[str], limit_s: float) -> Note:
    """Run a child that prints its outcome as a line of JSON; at the limit kill it and its group.

    Its output goes to files, for a grandchild that holds a pipe open would outlast the limit. It
    has no terminal, so it can ask nothing.

    Raises:
        OSError: It could not be started.
    """
    environment = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true", **os.environ}
    paths = [str(Path(__file__).parent.parent), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
        code: int | None = None
        try:
            code = child.wait(limit_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end_group(child)
        return outcome_in(out) or {"outcome": f"failed: {how_it_ended(code, limit_s, err)}"}


def end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill whatever is left of the child's process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def outcome_in(out: IO[bytes]) -> Note | None:
    """The last line of `out` that is an outcome."""
    out.seek(0)
    for line in reversed(out.read().decode(errors="replace").splitlines()):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and "outcome" in value:
            return value
    return None


def how_it_ended(code: int | None, limit_s: float, err: IO[bytes]) -> str:
    """Why there is no outcome."""
    if code is None:
        return f"no end within {limit_s:g} s (wandb.hard_timeout_s); the process was killed"
    err.seek(0)
    lines = [line for line in err.read().decode(errors="replace").splitlines() if line.strip()]
    return f"exit status {code}: {lines[-1].strip()[:300] if lines else 'no message'}"
