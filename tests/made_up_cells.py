"""Cells put together by hand: as much of a configuration as planning on a cluster looks at."""

from pathlib import Path

from edit_sweeps.cell import Cell, digest

RESOURCES = {"gpus": 1, "cpus": 8, "memory_gb": 64.0, "time": "8:00:00"}
CLUSTER = {
    "executor": "slurm", "partition": None, "account": None, "qos": None, "constraint": None, "gpus": None, "cpus": None,
    "memory_gb": None, "time": None, "setup": [], "container": None, "python": None, "srun_args": [], "extra": {},
    "group": "trajectory", "max_cells_per_unit": None, "units_per_gpu": 1, "max_parallel": None, "max_array_size": None,
    "wait": False, "refresh_s": 10.0, "timeouts": 3, "max_losses": 3, "signal_s": 120, "on_drift": "warn",
    "snapshot": False,
}  # fmt: skip


def made_up_cell(
    editor="rome", num_edits=1, *, model="gpt2", seed=0, task=True, study="outputs/main", cache="cache",
    resources=None, cluster=None, moments=False, training=None, layers=(3,),
):  # fmt: skip
    """A cell whose identity follows from the arguments; `editor="none"` is the baseline of the same model and tasks."""
    tasks = {"nli": {"name": "nli"}} if task else {}
    scoring = {"model": {"pretrained": model}, "task": tasks}
    none = editor == "none"
    settings = {
        "name": editor,
        "second_moment": moments,
        "layers": list(layers),
        "training": training,
    }
    identity = scoring | (
        {} if none else {"editor": settings, "seed": seed, "num_edits": num_edits, "moments": {"source": "text"}}
    )  # fmt: skip
    config = {
        "model": {"name": model, "pretrained": model, "resources": RESOURCES | (resources or {})},
        "editor": settings, "num_edits": num_edits, "seed": seed, "task": tasks, "cache_dir": str(cache), "save": "none",
        "cluster": CLUSTER | (cluster or {}), "data_root": None, "device": "cpu", "resume": "auto",
    }  # fmt: skip
    return Cell(config, identity, {}, Path(study), digest(scoring))
