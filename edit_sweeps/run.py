"""The path of the data: edit the model, score the edits, score the tasks, compare, write the record."""

from __future__ import annotations

import logging
import shutil
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from edit_sweeps import data_root, prepared, provenance
from edit_sweeps.adapter import NoAdapterError, write_adapter
from edit_sweeps.building import build_editor, build_regularizer, pick
from edit_sweeps.causes import INFRASTRUCTURE, cause_of
from edit_sweeps.cell import RECORD_FILE, Cell, digest
from edit_sweeps.edit_scores import EditScoreSettings, score_edits
from edit_sweeps.edited_probes import drop_edited_probes, superseded
from edit_sweeps.editors.base import Stores
from edit_sweeps.editors.reading import keys_at_first_token
from edit_sweeps.ledger import Ledger
from edit_sweeps.model import EditableModel, load_model
from edit_sweeps.moments import MomentSettings
from edit_sweeps.record import Comparison, Record, Score
from edit_sweeps.requests import EditRequest, count_requests, left_out, load_requests
from edit_sweeps.statistics import compare
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec, health
from edit_sweeps.trajectory import Trajectory

log = logging.getLogger(__name__)

PLAIN_TEXTS = (
    "The capital of the country is a large city on the river.",
    "She works for a company that makes shoes and lives in a small town.",
    "Question: How many apples does he have now?\nAnswer: He has 12 apples.",
)
"""Fixed texts on which a model's loss is watched; the miniatures never saw such text and get their own."""


@dataclass
class Session:
    """What stays in memory between cells: the model while it is the same, and the built tasks.

    Attributes:
        device: From the configuration.
        model: Unedited between cells; None before the first and after a failure.
        benches: Built tasks by digest of their configuration.
    """

    device: str
    model: EditableModel | None = None
    identity: str = ""
    healthy: dict[str, Any] = field(default_factory=dict)
    benches: dict[str, Bench] = field(default_factory=dict)

    def load(self, config: Mapping[str, Any]) -> EditableModel:
        """The model of `config`, loaded if the one in memory is another."""
        wanted = digest(config["model"])
        if self.model is None or self.identity != wanted:
            self.drop()
            self.model = load_model(SimpleNamespace(**config["model"]), self.device)
            self.identity = wanted
            self.healthy = health(self.model, health_texts(config))
        return self.model

    def drop(self) -> None:
        """Forget the model: after a failure nobody knows what state its weights are in."""
        self.model = None
        self.identity = ""

    def bench(self, config: Mapping[str, Any]) -> Bench:
        """The tasks of `config`, built once."""
        wanted = digest([config["task"], config["eval"]])
        if wanted not in self.benches:
            specs = {name: pick(TaskSpec, spec) for name, spec in config["task"].items()}
            self.benches[wanted] = Bench(specs, pick(EvalSettings, config["eval"]))
        return self.benches[wanted]


def run_unit(
    cells: Iterable[Cell], session: Session, *, force: bool = False, submission: str = ""
) -> Iterable[Record]:
    """Run cells of one trajectory, in ascending num_edits; yields each record once it is on disk.

    An exception in a cell is recorded with its traceback; the others go on with a fresh model.

    Args:
        cells: Of one trajectory, none of them done, or done and lacking an artefact.
        session: Keeps the model between cells.
        force: Compute again what is done.
        submission: Id of the submission that the cells belong to; empty outside Slurm.

    Raises:
        UncompletedJobError: submitit's, at the end of a job's time; it is not the cell's fault.
    """
    for cell in cells:
        attempt = provenance.begin(cell.folder, submission)
        how = "interrupted"
        try:
            with provenance.log_to(cell.folder / "cell.log"):
                record = run_or_record(cell, session, attempt, again=force)
            how = how_it_ended(record)
        finally:
            attempt.end(how)
        yield record


def run_or_record(
    cell: Cell, session: Session, attempt: provenance.Attempt, *, again: bool
) -> Record:
    """The cell's record, or that of its failure; both are on disk, if the disk takes them."""
    try:
        with data_root.using(cell.config["data_root"]):
            return run_cell(cell, session, attempt, again=again)
    except Exception as error:
        if type(error).__name__ == "UncompletedJobError":  # submitit is light, but not needed here
            raise
        session.drop()
        log.exception("cell %s failed", cell.name)
        record = new_record(cell)
        record.state = "failed"
        record.errors["cell"] = traceback.format_exc()
        record.provenance = attempt.finish() | {"cause": cause_of(error)}
        try:
            record.save(cell.folder)
        except OSError as full:
            log.error("the failure of %s could not be written either: %s", cell.name, full)
        return record


def how_it_ended(record: Record) -> str:
    """The end of an attempt: done | collapsed | failed | infrastructure."""
    if record.state == "failed" and record.provenance.get("cause") == INFRASTRUCTURE:
        return INFRASTRUCTURE
    return record.state


def run_cell(
    cell: Cell, session: Session, attempt: provenance.Attempt, *, again: bool = False
) -> Record:
    """Run one cell from the unedited model to the record on disk.

    Args:
        cell: Not done, or done and lacking something that can be added.
        session: Has the unedited model before and after.
        attempt: Its seconds are added to.
        again: Compute everything, whatever is there.

    Raises:
        Exception: Whatever went wrong; the model in `session` must then be dropped.
    """
    config = cell.config
    if not again and (cell.folder / RECORD_FILE).exists() and not cell.failed_tasks():
        return complete(cell, session)
    with attempt.timed("load"):
        model = session.load(config)
        bench = session.bench(config)
    record = new_record(cell)
    ledger = new_ledger(cell, model)
    if not cell.is_baseline:
        edit_and_score(cell, ledger, record, attempt)
    record.health = judge(health(model, health_texts(config)), session.healthy)
    with attempt.timed("tasks"):
        results = bench.score(model)
    attempt.seconds |= {f"task/{name}": s for name, s in results.seconds.items()}
    record.scores |= results.scores
    record.errors |= results.errors
    record.counts |= {f"prompts_cut/{task}": n for task, n in results.cut.items() if n}
    record.comparisons |= compare_tasks(record, load_baseline(cell))
    record.state = "collapsed" if record.health["collapsed"] else "done"
    record.errors |= save_artefacts(cell, model, ledger)
    ledger.revert()
    record.provenance = attempt.finish(model) | {"prompt_hashes": results.prompt_hashes}
    record.save(cell.folder)
    if cell.is_baseline:
        store_baseline(cell)
    return record


def edit_and_score(cell: Cell, ledger: Ledger, record: Record, attempt: provenance.Attempt) -> None:
    """Write the cell's requests and score them before and after; fills `record`."""
    requests, record.counts = choose_requests(cell)
    record.counts["keys_at_first_token"] = keys_at_first_token(ledger.model, requests)
    settings = pick(EditScoreSettings, cell.config["edit_scores"])
    with attempt.timed("edit_scores"):
        before = score_edits(ledger.model, requests, settings)
    with attempt.timed("edit"):
        record.traces = write_edits(cell, ledger, requests)
    record.weights = ledger.norms()
    with attempt.timed("edit_scores"):
        after = score_edits(ledger.model, requests, settings)
    record.scores["edit"] = after
    record.comparisons["edit"] = compare_all(before, after)


def write_edits(cell: Cell, ledger: Ledger, requests: list[EditRequest]) -> list[dict[str, Any]]:
    """Write `requests` through `ledger`, from the longest stored prefix on; returns each edit's course."""
    config = cell.config
    editor = build_editor(config)
    stores = Stores.at(pick(MomentSettings, config["moments"]), Path(config["cache_dir"]))
    trajectory = Trajectory(
        trajectory_folder(cell),
        model=ledger.model,
        editor=editor,
        ledger=ledger,
        prepared=editor.prepare(ledger.model, stores),
        batch_size=int(config["edits"]["batch_size"]),
    )
    prepared.mark(cell)
    traces = trajectory.advance(requests)
    ledger.finish()
    return traces


def choose_requests(cell: Cell) -> tuple[list[EditRequest], dict[str, int]]:
    """The cell's requests, without probes about what the cell itself edits, and what was counted."""
    dataset = SimpleNamespace(**cell.config["dataset"])
    drawn = load_requests(dataset, cell.num_edits, cell.config["seed"])
    requests, dropped = drop_edited_probes(drawn)
    counts = {
        "requests": len(requests),
        "probes_dropped": dropped,
        "superseded": len(superseded(requests)),
        "requests_repeated": max(0, len(requests) - count_requests(dataset) + dataset.skip),
    }
    return requests, counts | left_out(dataset)


def health_texts(config: Mapping[str, Any]) -> list[str]:
    """Texts of the kind the model was trained on."""
    if str(config["model"]["pretrained"]).startswith("miniature://"):
        from edit_sweeps.miniature import training_text

        return training_text(16, seed=1)
    return list(PLAIN_TEXTS)


def judge(now: dict[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """`now` with `collapsed` decided against the unedited model.

    A model whose loss on these texts was high before any edit has collapsed only when its loss rose by more
    than 2 nats a token beyond that as well.
    """
    if now["collapsed"] and now["finite_weights"] and now["finite_logits"]:
        now["collapsed"] = now["nll"] > before["nll"] + 2.0
    return now | {"nll_before": before["nll"]}


def compare_tasks(record: Record, baseline: Record | None) -> dict[str, dict[str, Comparison]]:
    """Each task's scores against the baseline's on the same documents; empty without a baseline."""
    if baseline is None:
        return {}
    return {
        task: compare_all(baseline.scores[task], scores)
        for task, scores in record.scores.items()
        if task in baseline.scores
    }


def compare_all(before: Mapping[str, Score], after: Mapping[str, Score]) -> dict[str, Comparison]:
    """Metric by metric."""
    return {m: compare(before[m], score) for m, score in after.items() if m in before}


def load_baseline(cell: Cell) -> Record | None:
    """The unedited model's record with its samples; None for the baseline itself or when there is none."""
    if cell.is_baseline or not cell.config["task"]:
        return None
    own = (cell.study / "cells").glob(f"*-{cell.baseline}")
    for folder in (baseline_folder(cell), *own):  # the study's own outlives another cache_dir
        if (folder / RECORD_FILE).exists():
            return Record.load(folder, samples=True)
    log.warning("no baseline for %s: its scores stand without differences", cell.name)
    return None


def baseline_folder(cell: Cell) -> Path:
    """Where the baseline of `cell` is kept for all studies."""
    return Path(cell.config["cache_dir"]) / "baselines" / cell.baseline


def store_baseline(cell: Cell) -> None:
    """Keep a copy of the baseline's record for all studies, if it is whole."""
    if cell.failed_tasks():
        log.warning("%s lacks %s: not kept for other studies", cell.name, cell.failed_tasks())
        return
    Record.load(cell.folder, samples=True).save(baseline_folder(cell))


def trajectory_folder(cell: Cell) -> Path:
    """Where the prefixes of the cell's trajectory lie."""
    return cell.study / "trajectories" / cell.trajectory


def new_record(cell: Cell) -> Record:
    """A record that knows its cell and nothing else."""
    config = {
        k: v
        for k, v in cell.config.items()
        if k not in {"wandb", "cluster", "dry_run", "resume", "impossible"}
    }
    return Record(cell.key, cell.name, "running", config, overrides=cell.overrides)


def new_ledger(cell: Cell, model: EditableModel) -> Ledger:
    """A ledger over the unedited `model` with the cell's regularizer."""
    return Ledger(model, build_regularizer(cell.config), seed=int(cell.config["seed"]))


def complete(cell: Cell, session: Session) -> Record:
    """Add to a done cell what it lacks: differences from a baseline that came later, artefacts."""
    if cell.lacks_comparisons():
        record = Record.load(cell.folder, samples=True)
        record.comparisons |= compare_tasks(record, load_baseline(cell))
        record.save(cell.folder)
    if cell.missing_artefacts():
        return rebuild_artefacts(cell, session)
    return Record.load(cell.folder, samples=True)


def rebuild_artefacts(cell: Cell, session: Session) -> Record:
    """Bring back the weights of a done cell from its stored prefix and save them; nothing is scored."""
    ledger = new_ledger(cell, session.load(cell.config))
    write_edits(cell, ledger, choose_requests(cell)[0])
    refused = save_artefacts(cell, ledger.model, ledger)
    ledger.revert()
    record = Record.load(cell.folder, samples=True)
    if refused:
        record.errors |= refused
        record.save(cell.folder)
    return record


def save_artefacts(cell: Cell, model: EditableModel, ledger: Ledger) -> dict[str, str]:
    """Write what `save` asks for into the cell's folder, each aside and renamed.

    Returns:
        `save=<what>` -> why the edit cannot be saved so; said in the artefact's place too.
    """
    from safetensors.torch import save_file

    missing, refused = cell.missing_artefacts(), dict[str, str]()
    if "delta" in missing:
        aside = cell.folder / ".delta.safetensors"
        save_file({k: v.contiguous().cpu() for k, v in ledger.delta().items()}, aside)
        aside.replace(cell.folder / "delta.safetensors")
    if "model" in missing:
        folder = cell.folder / ".model"
        shutil.rmtree(folder, ignore_errors=True)
        model.network.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        folder.rename(cell.folder / "model")
    if "adapter" in missing:
        writes = -(-cell.num_edits // int(cell.config["edits"]["batch_size"]))
        revision = cell.config["model"]["revision"]
        try:
            write_adapter(cell.folder / "adapter", ledger, writes=writes, revision=revision)
        except NoAdapterError as error:
            log.warning("%s", error)
            refused["save=adapter"] = str(error)
            note = cell.refusal("adapter")
            note.parent.mkdir(exist_ok=True)
            note.write_text(f"{error}\n", encoding="utf-8")
    return refused
