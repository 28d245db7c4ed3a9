"""What a unit asks a cluster for, and what all units may cost at most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edit_sweeps.cell import Cell, Tree

FORMS = (
    (r"(\d+)", ("minutes",)),
    (r"(\d+):(\d+)", ("minutes", "seconds")),
    (r"(\d+):(\d+):(\d+)", ("hours", "minutes", "seconds")),
    (r"(\d+)-(\d+)", ("days", "hours")),
    (r"(\d+)-(\d+):(\d+)", ("days", "hours", "minutes")),
    (r"(\d+)-(\d+):(\d+):(\d+)", ("days", "hours", "minutes", "seconds")),
)
"""Slurm's ways to write a time limit."""
ALLOWED = {
    "executor": ("local", "slurm"),
    "group": ("trajectory", "model", "none"),
    "on_drift": ("warn", "refuse"),
}
LEAST = {
    "max_cells_per_unit": 1, "units_per_gpu": 1, "max_parallel": 1, "max_array_size": 1, "signal_s": 1,
    "timeouts": 0, "max_losses": 1, "refresh_s": 0.1, "gpus": 0, "cpus": 1, "memory_gb": 0.001,
}  # fmt: skip
START_S = 60
"""Until Python listens to signals, on a slow file system."""
MINUTES = {"days": 1440, "hours": 60, "minutes": 1, "seconds": 1 / 60}


@dataclass(frozen=True)
class Resources:
    """One distinct request; units with equal ones share an array.

    Attributes:
        minutes: Time limit.
        gpus: GPUs of the job.
        cpus: Cores of each unit in it.
        memory_gb: Main memory of each unit in it.
    """

    minutes: int
    gpus: int
    cpus: int
    memory_gb: float

    def together(self, other: Resources) -> Resources:
        """What suffices for either."""
        return Resources(
            max(self.minutes, other.minutes),
            max(self.gpus, other.gpus),
            max(self.cpus, other.cpus),
            max(self.memory_gb, other.memory_gb),
        )


def of_cell(cell: Cell) -> Resources:
    """What the cell's model asks for, where the cluster does not say otherwise.

    Raises:
        ValueError: A time limit that is none.
    """
    return of_tree(cell.config)


def of_tree(config: Tree) -> Resources:
    """The same of a cell's configuration."""
    cluster, model = config["cluster"], config["model"]["resources"]
    wanted = {
        name: model[name] if cluster[name] is None else cluster[name]
        for name in ("gpus", "cpus", "memory_gb", "time")
    }
    return Resources(
        minutes=to_minutes(wanted["time"]),
        gpus=int(wanted["gpus"]),
        cpus=int(wanted["cpus"]),
        memory_gb=float(wanted["memory_gb"]),
    )


def of_cells(cells: Sequence[Cell]) -> Resources:
    """What suffices for each of them."""
    found = of_cell(cells[0])
    for cell in cells[1:]:
        found = found.together(of_cell(cell))
    return found


def to_minutes(time: object) -> int:
    """A time limit in whole minutes, rounded up.

    Raises:
        ValueError: It is none of Slurm's ways to write one, or not above zero.
    """
    for pattern, names in FORMS:
        match = re.fullmatch(pattern, str(time))
        if match:
            total = sum(int(v) * MINUTES[n] for v, n in zip(match.groups(), names, strict=True))
            if total > 0:
                return int(-(-total // 1))
    msg = (
        f"time={time} is no time limit: minutes such as 90, or Slurm's forms such as 4:00:00 or 1-12:00:00 "
        "(in YAML with quotation marks)"
    )
    raise ValueError(msg)


OURS = {"job-name", "dependency", "array", "signal", "output", "error", "chdir"}
"""Parameters of sbatch that states and prerequisites stand on."""


def check_cluster(config: Tree) -> list[str]:
    """What is wrong with the settings of `cluster` and `model.resources` in one cell."""
    cluster, model = config["cluster"], config["model"]["resources"]
    reasons = [
        f"cluster.{name}={cluster[name]}: one of {', '.join(allowed)}"
        for name, allowed in ALLOWED.items()
        if cluster[name] not in allowed
    ]
    values = {f"cluster.{name}": value for name, value in cluster.items()}
    values |= {f"model.resources.{name}": value for name, value in model.items()}
    for name, value in values.items():
        least = LEAST.get(name.rpartition(".")[2])
        if least is not None and value is not None and value < least:
            reasons.append(f"{name}={value}: at least {least:g}")
        if name.endswith(".time") and value is not None:
            try:
                to_minutes(value)
            except ValueError as error:
                reasons.append(f"{name.removesuffix('time')}{error}")
    taken = sorted({name.replace("_", "-") for name in cluster["extra"]} & OURS)
    if taken:
        reasons.append(
            f"cluster.extra.{taken[0]}: set by the program itself, to find its jobs and order them"
        )
    if not reasons and cluster["executor"] == "slurm":
        reasons += check_warning(config)
    gpus = model["gpus"] if cluster["gpus"] is None else cluster["gpus"]
    if cluster["units_per_gpu"] > 1 and gpus > 1:
        reasons.append(
            f"cluster.units_per_gpu={cluster['units_per_gpu']} shares one GPU between units, and model="
            f"{config['model']['name']} asks for {gpus}; use cluster.units_per_gpu=1"
        )
    return reasons


def check_warning(config: Tree) -> list[str]:
    """Whether a job has begun when it is warned of its end; the signal would kill one that has not."""
    minutes, warned = of_tree(config).minutes, config["cluster"]["signal_s"]
    if minutes * 60 >= warned + START_S:
        return []
    return [
        f"a time limit of {minutes} min is too short for a warning cluster.signal_s={warned} s before its end: at "
        f"least {START_S} s are needed for the start; ask for more time, or set cluster.signal_s"
    ]


def gpu_hours(requests: Sequence[Resources]) -> float:
    """GPU-hours if every job uses up its time limit."""
    return sum(r.gpus * r.minutes for r in requests) / 60
