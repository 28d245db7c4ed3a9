"""An editor of milliseconds whose course a test can disturb from outside: by files in the folder where jobs run.

    control/hold-5     after 5 edits it leaves control/at-5 and waits until the file is gone
    control/kill-5     after 5 edits it takes the file away and kills its process
    control/fail-5     after 5 edits it takes the file away and raises
    control/full-5     after 5 edits it takes the file away and raises what a full disk raises
    control/fail-prepare   preparing raises
    control/pause      seconds to sleep at every edit
    control/edits.log  what it leaves: a line an edit with the process, the node, and how many edits are done

Nothing of that is in its settings: a disturbed cell and an undisturbed one have one key, and must have one result.
"""

import errno
import hashlib
import os
import signal
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from edit_sweeps.editors.base import Editor, Prepared, Trace
from edit_sweeps.updates import LowRank

CONTROL = Path("control")


@dataclass(frozen=True, kw_only=True)
class Standin(Editor):
    """Writes a small pseudo-random update for each request; which one depends on the request and the model only."""

    layer: int
    size: float = 1e-3
    second_moment: bool = False

    def prepare(self, model, stores):
        """Pretends to need second moments, so that several units share a prerequisite."""
        if self.second_moment:
            if (CONTROL / "fail-prepare").exists():
                raise ValueError("told to fail while preparing")
            stores.moments.get(model, [self.layer])
        return Prepared()

    def edit(self, model, requests, ledger, state):
        name = model.parameter_name(self.layer)
        d_out, d_in = model.matrix(self.layer).shape
        total = state.tensors.get("total", torch.zeros(1))
        for request in requests:
            text = hashlib.sha256(request.case_id.encode()).digest()
            draw = torch.Generator().manual_seed(int.from_bytes(text[:6], "big"))
            left, right = (torch.randn(n, 1, generator=draw) for n in (d_out, d_in))
            total = total + left.mean()
            ledger.write(name, LowRank(self.size * left, right + total))
        state.tensors["total"] = total
        state.edits_done += len(requests)
        disturb(state.edits_done)
        return [Trace(request.case_id, steps=1) for request in requests]


def disturb(count):
    with (CONTROL / "edits.log").open("a") if CONTROL.is_dir() else nullcontext() as log:
        if log:
            log.write(f"{os.getpid()} {os.environ.get('SLURMD_NODENAME', '-')} {count}\n")
    pause = CONTROL / "pause"
    if pause.exists():
        time.sleep(float(pause.read_text()))
    if (CONTROL / f"hold-{count}").exists():
        (CONTROL / f"at-{count}").write_text(str(os.getpid()))
        while (CONTROL / f"hold-{count}").exists():
            time.sleep(0.05)
    if (CONTROL / f"kill-{count}").exists():
        (CONTROL / f"kill-{count}").unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (CONTROL / f"full-{count}").exists():
        (CONTROL / f"full-{count}").unlink()
        raise OSError(errno.ENOSPC, "told that the disk is full")
    if (CONTROL / f"fail-{count}").exists():
        (CONTROL / f"fail-{count}").unlink()
        raise ValueError(f"told to fail after {count} edits")
