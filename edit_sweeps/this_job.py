"""The Slurm job this process is part of, from its environment; nothing outside one."""

import os
from pathlib import Path


def job_id() -> str:
    """`17_3` in a task of an array, `17` in another job; empty outside Slurm."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}", "") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


def restarts() -> int:
    """How often the job was queued again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0") or 0)


def rank() -> tuple[int, int]:
    """Number of this process among those of the job, and how many there are."""
    return int(os.environ.get("SLURM_PROCID", "0")), int(os.environ.get("SLURM_NTASKS", "1"))


def others_run() -> bool:
    """Whether another process of this job, of another rank, still runs on this machine."""
    mine = f"SLURM_PROCID={rank()[0]}".encode()
    job = f"SLURM_JOB_ID={os.environ.get('SLURM_JOB_ID', '')}".encode()
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = file.read_bytes().split(b"\0")
        except OSError:  # ended, or of somebody else
            continue
        ranked = any(each.startswith(b"SLURM_PROCID=") for each in variables)
        if job in variables and ranked and mine not in variables:
            return True
    return False
