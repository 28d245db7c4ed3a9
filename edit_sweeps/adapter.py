"""An edit as a LoRA adapter (Hu et al., arXiv 2106.09685) in peft's files, to be loaded on the unedited model.

    W' = W + B A,   W' - W = U S V^T,   B = U S^1/2,   A = S^1/2 V^T

The ledger keeps sums of updates and no factors, so the factors are found again: a singular value
decomposition in float64, cut where the rounding of the sums begins. What is cut is thus smaller than what
the sums themselves have lost. Nothing else is: an edit of higher rank has no adapter, never a worse one.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edit_sweeps.later import tensor_files, torch
from edit_sweeps.ledger import Ledger
from edit_sweeps.updates import LowRank

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS_FILE = "adapter_model.safetensors"
MARGIN = 2.0
"""Rounding is taken to be so many times larger than expected."""
SKETCH = 64
"""Columns of the first sketch of a matrix; four times as many in each that follows."""


class NoAdapterError(ValueError):
    """The edit cannot leave as an adapter; the message says why and what can be saved instead."""


def write_adapter(
    folder: Path, ledger: Ledger, *, writes: int, revision: str | None = None
) -> None:
    """Write the ledger's total change as `adapter_config.json` and `adapter_model.safetensors`.

    The factors are float32; float64 for a float64 model. Each module has its own rank; the scaling is 1.

    Args:
        folder: Written aside, then renamed; must not exist.
        ledger: All updates written, and finished.
        writes: Updates written to a matrix: each adds its rounding.
        revision: Of the unedited model on the hub, for the adapter's configuration.

    Raises:
        NoAdapterError: As `factors_of`; nothing is written.
    """
    factors = factors_of(ledger, writes)
    tensors = {}
    for path, factor in factors.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = factor.right.T.contiguous().cpu()
        tensors[f"base_model.model.{path}.lora_B.weight"] = factor.left.contiguous().cpu()
    aside = folder.with_name(f".{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    _write_config(aside, ledger, {p: f.left.shape[1] for p, f in factors.items()}, revision)
    tensor_files.save_file(tensors, aside / WEIGHTS_FILE, metadata={"format": "pt"})
    aside.rename(folder)


def factors_of(ledger: Ledger, writes: int) -> dict[str, LowRank]:
    """Balanced factors of the total change of every edited matrix, by the path of its module.

    A matrix whose change is all rounding is left out.

    Args:
        ledger: All updates written, and finished.
        writes: Updates written to a matrix.

    Raises:
        NoAdapterError: The change is not finite, is nothing at all, or has so high a rank that its
            factors hold no fewer numbers than itself.
    """
    factors: dict[str, LowRank] = {}
    dense = 0
    for name, delta in ledger.delta().items():
        after = ledger.model.parameter(name).detach().double()
        change = delta.double()
        if not (change.isfinite().all() and after.isfinite().all()):
            msg = f"no adapter: the change of {name} is not finite; save=model keeps what there is"
            raise NoAdapterError(msg)
        if ledger.model.is_transposed(name):
            after, change = after.T, change.T
        floor = rounding_floor(after, change, torch.finfo(delta.dtype).eps, writes)
        factor = factorise(change, floor)
        dense += change.numel()
        if factor.left.shape[1]:
            path = name.removesuffix(".weight")
            factors[path] = LowRank(factor.left.to(delta.dtype), factor.right.to(delta.dtype))
    if not factors:
        msg = "no adapter: the edit changed no weight by more than rounding, so there is nothing to save"
        raise NoAdapterError(msg)
    held = sum(f.left.numel() + f.right.numel() for f in factors.values())
    if held >= dense:
        path, widest = max(factors.items(), key=lambda item: item[1].left.shape[1])
        rank, rows, columns = widest.left.shape[1], len(widest.left), len(widest.right)
        msg = (
            f"no adapter: the edit is not low rank (rank {rank} of {min(rows, columns)} in {path}, "
            f"{rows} x {columns}), so that an adapter would hold {held:,} numbers and the changes "
            f"themselves are {dense:,}; use save=delta, which is smaller, or save=model"
        )
        raise NoAdapterError(msg)
    return factors


def rounding_floor(after: Tensor, change: Tensor, eps: float, writes: int) -> float:
    """About the largest singular value that rounding alone would leave in a change.

    Each write rounds each weight w anew, with deviation |w| eps / sqrt(12) at most; a matrix of
    independent entries has no larger norm than its largest row's and its largest column's together.

    Args:
        after: `[d_out, d_in]` edited matrix in float64.
        change: `[d_out, d_in]` edited minus unedited, in float64.
        eps: Of the precision in which updates were summed.
        writes: How often.
    """
    size = torch.maximum(after.abs(), (after - change).abs())
    deviation = size * (eps * math.sqrt(writes / 12))
    norm = deviation.norm(dim=0).max() + deviation.norm(dim=1).max()
    return MARGIN * norm.item()


def factorise(change: Tensor, floor: float) -> LowRank:
    """The part of `change` above `floor`, with the singular values' roots in both factors.

    A large matrix is first looked at through random combinations of its columns, refined by two steps of
    subspace iteration (Halko et al., arXiv 0909.4061, algorithm 4.4); once the smallest singular value
    seen is below the floor, all those above it have been.

    Args:
        change: `[d_out, d_in]` in float64.
        floor: Smallest singular value that counts.
    """
    generator, size = torch.Generator().manual_seed(0), SKETCH
    while 2 * size < min(change.shape):
        drawn = torch.randn(change.shape[1], size, generator=generator, dtype=torch.float64)
        basis = torch.linalg.qr(change @ drawn.to(change.device)).Q
        for _ in range(2):
            basis = torch.linalg.qr(change @ torch.linalg.qr(change.T @ basis).Q).Q
        inner, values, right = torch.linalg.svd(basis.T @ change, full_matrices=False)
        if values[-1] <= floor:
            return _balanced(basis @ inner, values, right, floor)
        size *= 4
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    return _balanced(left, values, right, floor)


def _balanced(left: Tensor, values: Tensor, right: Tensor, floor: float) -> LowRank:
    rank = int((values > floor).sum())
    root = values[:rank].sqrt()
    return LowRank(left[:, :rank] * root, right[:rank].T * root)


def _write_config(
    folder: Path, ledger: Ledger, ranks: Mapping[str, int], revision: str | None
) -> None:
    """Describe the adapter for peft; lora_alpha is the rank everywhere, so that B A is not scaled."""
    import peft

    most = max(ranks.values())
    own = {re.escape(path): rank for path, rank in ranks.items() if rank != most}
    config = peft.LoraConfig(
        r=most,
        lora_alpha=most,
        rank_pattern=own,
        alpha_pattern=dict(own),
        target_modules=list(ranks),
        fan_in_fan_out=any(ledger.model.is_transposed(f"{path}.weight") for path in ranks),
        task_type=peft.TaskType.CAUSAL_LM,
        inference_mode=True,
        base_model_name_or_path=ledger.model.network.name_or_path,
        revision=revision,
    )
    config.save_pretrained(folder)
