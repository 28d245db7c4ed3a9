"""Read a `.wandb` file back: what wandb really wrote, without wandb's own (private, changing) reader.

A file is a 7-byte header (`:W&B`, 0xBEE1, version 0) and a LevelDB log: blocks of 32 KiB, each piece
`crc32 u32, length u16, kind u8, data`, kind 1 = whole, 2 = first, 3 = middle, 4 = last. A record put together
is a protobuf `wandb_internal.Record`.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEAD = 32768, 7


@dataclass
class Run:
    """One run as it stands in the file."""

    id: str = ""
    group: str = ""
    job_type: str = ""
    name: str = ""
    project: str = ""
    tags: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None


def pieces(data: bytes):
    """The records' bytes; stops at a torn tail."""
    assert data[:HEAD] == struct.pack("<4sHB", b":W&B", 0xBEE1, 0), "not a .wandb file"
    at, parts = HEAD, []
    while at + HEAD <= len(data):
        room = BLOCK - at % BLOCK
        if room < HEAD:
            at += room
            continue
        crc, size, kind = struct.unpack_from("<IHB", data, at)
        if kind == 0:
            at += room
            continue
        body = data[at + HEAD : at + HEAD + size]
        if len(body) < size:
            return
        assert zlib.crc32(body, zlib.crc32(bytes([kind]))) == crc, f"broken piece at {at}"
        parts.append(body)
        at += HEAD + size
        if kind in {1, 4}:
            yield b"".join(parts)
            parts = []


def read(path: Path) -> Run:
    """The run in `path`."""
    from wandb.proto import wandb_internal_pb2 as pb

    run = Run()

    def items(updates) -> dict[str, Any]:
        return {".".join(u.nested_key) or u.key: json.loads(u.value_json) for u in updates}

    for data in pieces(path.read_bytes()):
        record = pb.Record.FromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                found = record.run
                run.id, run.group, run.job_type = found.run_id, found.run_group, found.job_type
                run.name, run.project, run.tags = (
                    found.display_name,
                    found.project,
                    tuple(found.tags),
                )
                run.config |= items(found.config.update)
            case "config":
                run.config |= items(record.config.update)
            case "history":
                run.history.append(items(record.history.item))
            case "summary":
                run.summary |= items(record.summary.update)
            case "metric":
                run.metrics[record.metric.name or record.metric.glob_name] = (
                    record.metric.step_metric
                )
            case "exit":
                run.exit_code = record.exit.exit_code
    return run


def runs_below(study: Path) -> list[Run]:
    """All runs in `study/wandb`, offline ones and others, oldest first."""
    return [read(path) for path in sorted((study / "wandb").glob("*run-*/run-*.wandb"))]
