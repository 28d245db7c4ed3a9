"""Training of MEND's hyper-network: edit, look at what the edited model says, learn from it.

Mitchell et al. (arXiv 2110.11309), algorithm 1: the loss is `edit_weight` times the NLL of the target on
the edited model plus `locality_weight` times KL(before || after) on other text.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from edit_sweeps.editors.gradients import Pairs, edit_gradients, raised, row_means, target_nll
from edit_sweeps.editors.mend_data import PROBES, Asked, Material
from edit_sweeps.editors.settings import check_positive
from edit_sweeps.later import torch
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import IGNORE, Line

if TYPE_CHECKING:
    from torch import Tensor, nn

    from edit_sweeps.editors.hypernet import HyperNetwork
    from edit_sweeps.model import EditableModel

log = logging.getLogger(__name__)

SAVE_EVERY_S = 60.0
"""A killed training loses at most this much."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a hyper-network is trained.

    Attributes:
        lr: Of Adam for the network.
        step_size_lr: Of Adam for the step sizes alpha.
        edits: Requests written together in one trial.
        accumulate: Trials in one update.
        at_once: Trials in one forward pass; memory only, but for rounding.
        edit_weight: Of the NLL of the edited fact.
        locality_weight: Of the KL on other text.
        grad_clip: Bound on the norm of the gradient of one update.
        validate_every: Updates between two validations.
        patience: Updates without a better validation loss after which training ends.
        validation: Requests set aside for it.
        locality: `probes` (neighborhood and other facts of the training requests), `miniature`, a
            .txt or .jsonl file, or a data set on the hub.
        locality_rows: Locality texts a request.
        locality_field: Which field of an object is its text.
        locality_split: Of a data set on the hub.
        locality_subset: Of a data set on the hub.
        seed: Of the starting values, the split and the draws.
    """

    lr: float = 1e-6
    step_size_lr: float = 1e-4
    edits: int = 1
    accumulate: int = 10
    at_once: int = 10
    edit_weight: float = 0.1
    locality_weight: float = 1.0
    grad_clip: float = 100.0
    validate_every: int = 100
    patience: int = 2000
    validation: int = 100
    locality: str = PROBES
    locality_rows: int = 1
    locality_field: str = "text"
    locality_split: str = "train"
    locality_subset: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse settings that cannot be.

        Raises:
            ValueError: Says which.
        """
        names = ("lr", "step_size_lr", "edits", "accumulate", "at_once", "grad_clip")
        more = ("validate_every", "patience", "validation", "locality_rows")
        check_positive(self, (*names, *more), where="editor.training")
        for name in ("edit_weight", "locality_weight"):
            if not getattr(self, name) >= 0:
                msg = f"editor.training.{name}={getattr(self, name)} must not be negative"
                raise ValueError(msg)


@dataclass(frozen=True)
class Losses:
    """Of the trials of one pass.

    Attributes:
        edit: `[trials]`, NLL of what the edits should have changed.
        locality: `[trials]`, KL where they should have changed nothing.
    """

    edit: Tensor
    locality: Tensor

    def total(self, settings: TrainingSettings) -> Tensor:
        """`[trials]`, weighted sum."""
        edit = settings.edit_weight * self.edit
        return edit + settings.locality_weight * self.locality.to(edit.device)


def edit_pairs(
    model: EditableModel, requests: Sequence[EditRequest], names: Sequence[str], group: int
) -> tuple[dict[str, Pairs], Tensor]:
    """Pairs of requests that are edited `group` at a time; within a group the loss is their mean.

    Returns:
        Weight -> pairs, and `[tokens]` the group that each token is of.
    """
    lines = [Line(r.prompt, r.subject, r.target_new) for r in requests]
    found = edit_gradients(model, lines, names, reduction="sum")
    groups = found.rows // group
    sizes = torch.bincount(torch.arange(len(requests)) // group)
    share = 1 / sizes[groups][:, None]
    pairs = {
        name: Pairs(pair.inputs, pair.deltas * share.to(pair.deltas))
        for name, pair in found.pairs.items()
    }
    return pairs, groups


@contextmanager
def edited(
    model: EditableModel, update: Mapping[str, Pairs], groups: Tensor, owner: Tensor
) -> Iterator[None]:
    """Each row of a forward pass sees its own edited model; gradients reach the update.

    The update stays low rank: `W x + sum_t delta~_t (x~_t . x)` is added to what a module puts out.

    Args:
        model: Not mutated.
        update: Weight -> factors of the updates of all groups.
        groups: `[tokens]`, ascending: the group that each token's factors are of.
        owner: `[rows]`, the group whose edited model a row is shown to.
    """
    with ExitStack() as hooks:
        for name, pair in update.items():
            module = model.network.get_submodule(name.removesuffix(".weight"))
            left, right = (_padded(x, groups) for x in (pair.deltas, pair.inputs))
            place = owner.to(left.device)
            hook = _adds(left[place], right[place])
            handle = module.register_forward_hook(hook, with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def losses(
    model: EditableModel,
    update: Mapping[str, Pairs],
    groups: Tensor,
    outer: Asked,
    locality: Asked,
) -> Losses:
    """Edit and locality loss of every group under its update; differentiable in the update."""
    n_groups = int(outer.owner.max()) + 1
    with edited(model, update, groups, outer.owner):
        nll = _mean_nll(_logits(model, outer), outer)
    with torch.no_grad():
        before = _asked_logprobs(_logits(model, locality), locality)[0]
    with edited(model, update, groups, locality.owner):
        after, row = _asked_logprobs(_logits(model, locality), locality)
    each = (before.exp() * (before - after)).sum(-1)
    kl = row_means(each, row, len(locality.ids))
    return Losses(
        row_means(nll, outer.owner.to(nll.device), n_groups),
        row_means(kl, locality.owner.to(kl.device), n_groups),
    )


def _logits(model: EditableModel, rows: Asked) -> Tensor:
    out = model.network(input_ids=rows.ids, attention_mask=rows.mask, use_cache=False)
    logits: Tensor = out.logits
    return logits


def _mean_nll(logits: Tensor, rows: Asked) -> Tensor:
    """`[rows]`."""
    return row_means(*target_nll(logits, rows.labels), len(rows.ids))


def _asked_logprobs(logits: Tensor, rows: Asked) -> tuple[Tensor, Tensor]:
    """`[asked, vocab]` log-probabilities, and `[asked]` the row of each."""
    row, column = (rows.labels.to(logits.device) != IGNORE).nonzero(as_tuple=True)
    return raised(logits[row, column]).log_softmax(-1), row


def _padded(flat: Tensor, groups: Tensor) -> Tensor:
    """`[tokens, width]` as `[groups, most tokens, width]`, zeros behind a group's last token."""
    sizes = torch.bincount(groups)
    column = torch.arange(len(groups)) - (sizes.cumsum(0) - sizes)[groups]
    out = flat.new_zeros(len(sizes), int(sizes.max()), flat.shape[1])
    return out.index_put((groups.to(flat.device), column.to(flat.device)), flat)


def _adds(left: Tensor, right: Tensor) -> Callable[..., Any]:
    """A hook that adds the update `[rows, tokens, d_out]` x `[rows, tokens, d_in]` of each row."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        given: Tensor = args[0] if args else next(iter(kwargs.values()))
        x = given.unflatten(0, (len(left), -1)) if given.dim() == 2 else given
        near = x.to(left.dtype) @ right.to(x.device).mT
        return output + (near @ left.to(x.device)).to(output.dtype).reshape(output.shape)

    return hook


@dataclass
class Course:
    """How far a training has come; stored with the network, so that it goes on where it was.

    Attributes:
        step: Updates made.
        best_step: After how many the validation loss was lowest.
        best_loss: That loss.
        efficacy: There: share of validation edits whose new answer beats the old.
        locality: There: KL on text that should not change.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float = float("inf")
    efficacy: float = 0.0
    locality: float = 0.0


def train(
    model: EditableModel, network: HyperNetwork, material: Material, steps: int, file: Path
) -> Course:
    """Train until `steps` updates are made or validation has not improved for `patience` of them.

    Args:
        model: Unedited; not mutated.
        network: Mutated: holds the best state in the end.
        material: What to train on.
        steps: Updates at most.
        file: Where an unfinished training is kept; it goes on from there, to equal weights on the
            same machine. Removed by the caller.

    Raises:
        RuntimeError: No validation loss was ever finite.
    """
    settings = material.settings
    rest = [p for n, p in network.named_parameters() if n != "step_sizes"]
    optimizer = torch.optim.Adam(
        [
            {"params": rest, "lr": settings.lr},
            {"params": [network.step_sizes], "lr": settings.step_size_lr},
        ]
    )
    course, best = _resume(file, network, optimizer)
    saved = time.monotonic()
    with tqdm(total=steps, initial=course.step, desc="MEND", unit="update", disable=None) as bar:
        while course.step < steps and course.step - course.best_step < settings.patience:
            _update(model, network, optimizer, material, course.step)
            course.step += 1
            bar.update()
            if course.step % settings.validate_every == 0 or course.step == steps:
                if validate(model, network, material, course):
                    best = {k: v.detach().clone() for k, v in network.state_dict().items()}
                bar.set_postfix_str(
                    f"efficacy {course.efficacy:.2f} locality KL {course.locality:.3f}"
                )
            if time.monotonic() - saved > SAVE_EVERY_S:
                _keep(file, network, optimizer, course, best)
                saved = time.monotonic()
    if not best:
        file.unlink(missing_ok=True)
        msg = (
            f"the training of MEND diverged: no finite validation loss in {course.step} updates; lower "
            f"editor.training.lr={settings.lr} or editor.training.step_size_lr={settings.step_size_lr}"
        )
        raise RuntimeError(msg)
    network.load_state_dict(best)
    return course


def validate(
    model: EditableModel, network: HyperNetwork, material: Material, course: Course
) -> bool:
    """Measure on the requests set aside; true, and noted in `course`, when it is the best so far."""
    names, group = list(network.shapes), material.settings.edits
    held = material.split.validation
    requests = held[: max(len(held) // group, 1) * group]
    with torch.no_grad():
        pairs, groups = edit_pairs(model, requests, names, group)
        update = network(pairs)
        outer = material.outer(requests, "validation")
        found = losses(model, update, groups, outer, material.locality(requests, "validation"))
        nlls = []
        for rows in (material.answers(requests, new=True), material.answers(requests, new=False)):
            with edited(model, update, groups, rows.owner):
                nlls.append(_mean_nll(_logits(model, rows), rows))
    loss = found.total(material.settings).mean().item()
    if not loss < course.best_loss:
        return False
    known = len(nlls[1]) == len(nlls[0])
    course.best_step, course.best_loss = course.step, loss
    course.locality = found.locality.mean().item()
    course.efficacy = (nlls[0] < nlls[1]).float().mean().item() if known else float("nan")
    return True


def _update(
    model: EditableModel,
    network: HyperNetwork,
    optimizer: torch.optim.Optimizer,
    material: Material,
    step: int,
) -> None:
    """One update from `accumulate` trials, `at_once` of them in a forward pass."""
    settings = material.settings
    requests = material.draw(step)
    optimizer.zero_grad()
    size = settings.at_once * settings.edits
    for start in range(0, len(requests), size):
        part = requests[start : start + size]
        pairs, groups = edit_pairs(model, part, list(network.shapes), settings.edits)
        network.observe(pairs)
        seed = f"{step}/{start}"
        with torch.enable_grad():
            outer, locality = material.outer(part, seed), material.locality(part, seed)
            found = losses(model, network(pairs), groups, outer, locality)
            (found.total(settings).sum() / settings.accumulate).backward()
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), settings.grad_clip)
    if norm.isfinite():
        optimizer.step()
    else:
        log.warning("update %d has no finite gradient and is left out", step)


def _keep(
    file: Path,
    network: HyperNetwork,
    optimizer: torch.optim.Optimizer,
    course: Course,
    best: Mapping[str, Tensor],
) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state | {"course": asdict(course), "best": dict(best)}, aside)
    aside.replace(file)


def _resume(
    file: Path, network: HyperNetwork, optimizer: torch.optim.Optimizer
) -> tuple[Course, dict[str, Tensor]]:
    """The state that `_keep` left; a fresh one without."""
    if not file.exists():
        return Course(), {}
    state = torch.load(file, weights_only=True, map_location=network.step_sizes.device)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    course = Course(**state["course"])
    log.info("going on with the training of MEND after %d updates", course.step)
    return course, state["best"]
