"""The schema of `conf/`: types and defaults of every key that is not an editor's own, and the resolvers used there."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

CONF = Path(__file__).parent.parent / "conf"
SCHOOLS = ("default", "authors", "easyedit")
"""Options of `tuned`: whose published values an editor runs with."""


@dataclass
class ResourcesConfig:
    """What a job with this model asks a cluster for; `cluster.gpus=2` and the like replace a value for all models.

    Attributes:
        gpus: GPUs of one job.
        cpus: CPU cores of one job.
        memory_gb: Main memory of one job, not of the GPU.
        time: Limit of one job: minutes, or as Slurm writes it ("4:00:00", "1-00:00:00").
    """

    gpus: int = 1
    cpus: int = 8
    memory_gb: float = 64.0
    time: Any = "8:00:00"


@dataclass
class ModelConfig:
    """A model to edit.

    Attributes:
        name: The option's name; part of cell names.
        pretrained: Hub id, folder, or `miniature://gpt2 | llama`.
        revision: Branch, tag or commit on the hub.
        dtype: float64 | float32 | bfloat16 | float16.
        attention: transformers' attn_implementation (`eager`, `sdpa` ...); null leaves the choice to it.
        device_map: Passed through to transformers, for models that need several devices.
        tokenizer: Folder or hub id, when it is not the model's own.
        resources: What a job on a cluster asks for; no part of a cell's key.
    """

    name: str = MISSING
    pretrained: str = MISSING
    revision: str | None = None
    dtype: str = "float32"
    attention: str | None = None
    device_map: Any = None
    tokenizer: str | None = None
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)


@dataclass
class EditsConfig:
    """How the edits are dealt out: `batch_size` of them are written at a time."""

    name: str = MISSING
    batch_size: int = MISSING


@dataclass
class DatasetConfig:
    """Where edit requests come from.

    Attributes:
        name: The option's name.
        format: Key of `datasets.forms.FORMS`.
        path: The file; null for formats that need none.
        order: `sampled`: request i is the i-th of one seeded permutation; `file`: file order.
        skip: With `order=file`: requests passed over at the start.
        repeat: Start over when the data set is used up.
        on_invalid: `refuse` a file with a broken request, or `skip` such requests and count them.
        target: For forms with several answers to choose from: which one is written.
        cap: A cell that asks for more requests than there are writes all there are, labelled so.
    """

    name: str = MISSING
    format: str = MISSING
    path: str | None = None
    order: str = "sampled"
    skip: int = 0
    repeat: bool = False
    on_invalid: str = "refuse"
    target: str | None = None
    cap: bool = False


@dataclass
class MomentsConfig:
    """Where second moments come from; see `edit_sweeps.moments.MomentSettings`."""

    name: str = MISSING
    source: str = "miniature"
    subset: str | None = None
    split: str = "train"
    field: str = "text"
    tokens: int = 40_000
    max_length: int = 128
    batch_size: int = 16
    dtype: str = "float32"
    seed: int = 0
    file: str | None = None


@dataclass
class TaskConfig:
    """One lm-eval task; see `edit_sweeps.task_scores.TaskSpec`."""

    name: str = MISSING
    folder: str | None = None
    num_fewshot: int | None = None
    limit: Any = None
    headline: str | None = None
    chance: float | None = None
    data: str | None = None


@dataclass
class EvalConfig:
    """How all tasks are scored; see `edit_sweeps.task_scores.EvalSettings`."""

    batch_size: int = 32
    limit: Any = None
    seed: int = 1234
    max_length: int | None = None


@dataclass
class EditScoresConfig:
    """How the edits are scored; see `edit_sweeps.edit_scores.EditScoreSettings`."""

    limit: int | None = None
    max_new_tokens: int = 8
    batch_size: int = 64
    seed: int = 0


@dataclass
class WandbConfig:
    """How records are mirrored; see `edit_sweeps.tracking.WandbSettings`."""

    name: str = MISSING
    mode: str = "auto"
    project: str = "edit-sweeps"
    entity: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    hard_timeout_s: float = 180.0
    init_timeout_s: float = 30.0
    finish_timeout_s: float = 60.0


@dataclass
class ClusterConfig:
    """Where cells run; docs/slurm.md explains every key to its user.

    Attributes:
        name: The option's name.
        executor: `local`: in this process; `slurm`: job arrays through submitit.
        partition: Slurm's; so are account, qos and constraint.
        gpus: Of one job; null: what the model asks for (`model.resources`). So are cpus, memory_gb and time.
        setup: Lines of shell before Python starts (`module load ...`).
        container: What Python is started through: `apptainer exec --nv image.sif`.
        python: The interpreter in the job; null: the one that runs now.
        srun_args: Arguments of srun, for example of a container plugin.
        extra: Any other parameter of sbatch: name -> value.
        group: Which cells share a job: those of one editing run (`trajectory`), of one `model`, or `none`.
        max_cells_per_unit: At most so many cells in a unit.
        units_per_gpu: So many units run side by side in one job and share its GPU.
        max_parallel: At most so many tasks of an array run at once.
        max_array_size: Tasks of an array at most; null: asked of Slurm.
        wait: Stay and show progress until all has ended; Ctrl-C leaves the jobs alone.
        refresh_s: Seconds between two looks while waiting.
        timeouts: How often a job that runs into its time limit is queued again.
        max_losses: How often in a row a cell may be lost (killed, node gone) before it is left to `edit-sweeps retry`.
        signal_s: Seconds before the end of its time at which a job is warned.
        on_drift: `warn` or `refuse` when the code in the job is not the code at submission.
        snapshot: Jobs run from a copy of the package made at submission.
    """

    name: str = MISSING
    executor: str = "local"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | None = None
    cpus: int | None = None
    memory_gb: float | None = None
    time: Any = None
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    python: str | None = None
    srun_args: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    group: str = "trajectory"
    max_cells_per_unit: int | None = None
    units_per_gpu: int = 1
    max_parallel: int | None = None
    max_array_size: int | None = None
    wait: bool = False
    refresh_s: float = 10.0
    timeouts: int = 3
    max_losses: int = 3
    signal_s: int = 120
    on_drift: str = "warn"
    snapshot: bool = False


@dataclass
class Config:
    """One cell, with everything around it. `conf/config.yaml` holds the comments a user reads.

    `editor` has no schema here: the editor's dataclass is its own. The plan fills in `tuned_source`, and
    `num_edits_asked`: the larger counts that a cell stands for since `dataset.cap` brought them down to `num_edits`.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    editor: Any = MISSING
    edits: EditsConfig = field(default_factory=EditsConfig)
    regularizer: Any = MISSING
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    task: dict[str, TaskConfig] = field(default_factory=dict)
    moments: MomentsConfig = field(default_factory=MomentsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    edit_scores: EditScoresConfig = field(default_factory=EditScoresConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tuned: str = "default"
    tuned_source: str = ""
    num_edits: int = 1
    num_edits_asked: list[int] = field(default_factory=list)
    seed: int = 0
    study: str = "main"
    device: str = "auto"
    save: Any = "none"
    resume: str = "auto"
    dry_run: bool = False
    impossible: str = "refuse"
    cache_dir: str = "outputs/.cache"
    data_root: str | None = None


def study_folder(study: str) -> str:
    """`outputs/<study>`.

    Raises:
        ValueError: The name would leave `outputs/`, or is not a plain folder name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}", str(study)):
        msg = (
            f"study={study!r} is not a name for a folder below outputs/. Allowed: letters, digits and "
            "_ . + -, not starting with a dot, at most 100 characters; for example study=rome-layers"
        )
        raise ValueError(msg)
    return f"outputs/{study}"


def launch_folder(study: str) -> str:
    """Where Hydra may write before the plan looks at the name: `outputs/.refused` for one it will refuse."""
    try:
        return study_folder(study)
    except ValueError:
        return "outputs/.refused"


def describe_groups() -> str:
    """The groups of `conf/` with their options, for `--help`; of `tuned` what a user chooses between."""
    lines = []
    for folder in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "local"):
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        if folder.name == "tuned":  # the rest is chosen by editor and model
            names = [name for name in SCHOOLS if name in names]
        inner = [
            (sub.name, sorted(f.stem for f in sub.glob("*.yaml"))) for sub in sub_folders(folder)
        ]
        names += [f"{name}/{{{','.join(options)}}}" for name, options in inner]
        lines.append(f"{folder.name}: {', '.join(names)}")
    return "\n".join(lines)


def sub_folders(group: Path) -> list[Path]:
    """Folders of options inside a group, such as the lines of the paper's figures; not those of `tuned`."""
    return sorted(path for path in group.iterdir() if path.is_dir() and group.name != "tuned")


def if_miniature(model: str, then: Any, otherwise: Any) -> Any:
    """What a preset takes for the miniatures, and what for every other model; `model` is the option's name."""
    return then if str(model).startswith("miniature") else otherwise


def version_base() -> dict[str, str]:
    """What Hydra 1.3 must be told to behave as itself, and Hydra 1.4 warns of."""
    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def register() -> None:
    """Make the schema and the resolvers known to Hydra; call before `hydra.main`."""
    ConfigStore.instance().store(name="base_config", node=Config)
    # Since OmegaConf 2.4 this name means what `register_new_resolver` meant, of which it warns.
    add = getattr(OmegaConf, "register_resolver", None)
    if add is None or "replace" not in inspect.signature(add).parameters:
        add = OmegaConf.register_new_resolver
    add("if_miniature", if_miniature, replace=True)
    add("launch_folder", launch_folder, replace=True)
    add("conf_groups", describe_groups, replace=True)
