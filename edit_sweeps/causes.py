"""Whether an error is the machine's or the cell's: the first is tried again by itself, the second is not."""

from __future__ import annotations

import errno
import re
import subprocess

EXCEPTION = "exception"
INFRASTRUCTURE = "infrastructure"

MACHINE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE, errno.ENODEV,
    errno.EREMOTEIO if hasattr(errno, "EREMOTEIO") else errno.EIO,
}  # fmt: skip
"""Disk full, file system or network gone, no more file handles."""

DEVICE = re.compile(
    r"uncorrectable ECC|unspecified launch failure|launch timed out|devices? (is|are) busy or unavailable"
    r"|CUDA driver initialization failed|no CUDA GPUs are available|NVML|device has fallen off the bus",
    re.IGNORECASE,
)
"""What CUDA says of a card that is broken, taken or gone; running out of its memory is the cell's own doing."""
REQUEUE = "scontrol"
OF_RUST = re.compile(r"\(os error (\d+)\)")
"""How safetensors and tokenizers pass an error of the system on."""


def cause_of(error: BaseException) -> str:
    """`infrastructure` or `exception`; the causes of `error`, too, are looked at."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ConnectionError | TimeoutError):
            return INFRASTRUCTURE
        if isinstance(seen, OSError) and seen.errno in MACHINE:
            return INFRASTRUCTURE
        if cannot_queue_again(seen):
            return INFRASTRUCTURE
        if isinstance(seen, RuntimeError) and DEVICE.search(str(seen)):
            return INFRASTRUCTURE
        told = OF_RUST.search(str(seen))
        if told and int(told.group(1)) in MACHINE:
            return INFRASTRUCTURE
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return EXCEPTION


def cannot_queue_again(error: BaseException) -> bool:
    """Whether it is the call by which submitit queues a job again; the warning comes in the middle of a cell."""
    if isinstance(error, FileNotFoundError):
        return error.filename == REQUEUE
    if isinstance(error, subprocess.CalledProcessError | subprocess.TimeoutExpired):
        return not isinstance(error.cmd, str) and list(error.cmd)[:1] == [REQUEUE]
    return False
