"""Second moments E[k k^T] of the keys of a layer, as eigendecompositions: collect, store, look up.

ROME and MEMIT weigh an update by the inverse of the uncentred second moment C of the keys over
ordinary text (arXiv 2202.05262, eq. 2; arXiv 2210.07229, eq. 14). One eigendecomposition serves
every multiple of C.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from edit_sweeps import claims
from edit_sweeps.data_files import file_digest
from edit_sweeps.hooks import capture
from edit_sweeps.later import tensor_files, torch
from edit_sweeps.moment import Moment
from edit_sweeps.record import write_json
from edit_sweeps.texts import existing_file, pieces, read_texts, source_digest
from edit_sweeps.tokens import Batch

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

log = logging.getLogger(__name__)

FORMAT = 1
"""Part of every digest; raised when the way of collecting changes."""

FOLD_TOKENS = 65_536
"""Tokens summed in `MomentSettings.dtype` before the sum is folded into float64."""

ASYMMETRY = 1e-4
"""Largest |C - C^T| of a given second moment, relative to its largest entry."""


@dataclass(frozen=True)
class MomentSettings:
    """Which text a second moment is taken over, and how.

    Attributes:
        source: A key of `texts.NAMED` (`miniature`), a .txt or .jsonl file, or a data set on the
            Hugging Face hub.
        tokens: Budget: so many tokens are used, or all there are.
        file: safetensors file with parameter name -> `[d_in, d_in]`; nothing is collected then.
        max_length: Documents are cut into pieces of at most so many tokens.
        batch_size: Pieces in one forward pass.
        dtype: In which key products are summed; `float32` or `float64`.
        seed: Of the order of documents.
        field: Which field of an object is its text.
        split: Of a data set on the hub.
        subset: Of a data set on the hub.
    """

    source: str = "miniature"
    tokens: int = 40_000
    file: str | None = None
    max_length: int = 128
    batch_size: int = 16
    dtype: str = "float32"
    seed: int = 0
    field: str = "text"
    split: str = "train"
    subset: str | None = None


class MomentStore:
    """Second moments on disk, under a digest of all that matters; safe with several processes.

    Args:
        settings: Which text, and how.
        cache_dir: `moments/` in it is made and used.

    Raises:
        ValueError: A setting outside its range.
    """

    def __init__(self, settings: MomentSettings, cache_dir: Path) -> None:
        _check(settings)
        self.settings = settings
        self._folder = Path(cache_dir) / "moments"

    def get(self, model: EditableModel, layers: Sequence[int]) -> dict[int, Moment]:
        """Second moments of layers of the *unedited* model; one pass collects all that are missing.

        A second process that wants the same waits for the first, then reads its files.

        Args:
            model: Must be unedited.
            layers: Any order; repeated ones are given once.

        Returns:
            Layer -> moment, on the CPU.

        Raises:
            ValueError: A source or file that cannot be used.
            RuntimeError: The model has been edited, and something must be collected.
        """
        if not layers:
            return {}
        base = self._base(model)
        paths = {layer: self._path(base, model, layer) for layer in layers}
        if not all(path.exists() for path in paths.values()):
            self._folder.mkdir(parents=True, exist_ok=True)
            with locked(self._folder, _digest(base)):
                missing = [layer for layer, path in paths.items() if not path.exists()]
                if missing:
                    self._make(model, base, {layer: paths[layer] for layer in missing})
        return {layer: _load(path) for layer, path in paths.items()}

    def _base(self, model: EditableModel) -> dict[str, Any]:
        """All that a moment depends on but the layer."""
        file = self.settings.file
        if file is not None:
            return {"format": FORMAT, "file": file_digest(existing_file(file, "moments.file"))}
        tokenizer = json.loads(model.tokenizer.backend_tokenizer.to_str())
        settings = asdict(self.settings) | {"source": source_digest(self.settings)}
        return {
            "format": FORMAT,
            "model": model.fingerprint(),
            "tokenizer": _digest({**tokenizer, "padding": None, "truncation": None}),
            **settings,
        }

    def _path(self, base: Mapping[str, Any], model: EditableModel, layer: int) -> Path:
        which = {"parameter": model.parameter_name(layer), "d_in": model.d_in(layer)}
        return self._folder / f"{_digest({**base, **which})}.safetensors"

    def _make(
        self, model: EditableModel, base: Mapping[str, Any], paths: Mapping[int, Path]
    ) -> None:
        """Read or collect the moments of layers, decompose and store them."""
        started = time.monotonic()
        if self.settings.file is not None:
            file = existing_file(self.settings.file, "moments.file")
            sums, tokens = _read_file(file, model, list(paths)), 0
        else:
            if model.fingerprint_now() != model.fingerprint():
                msg = "second moments are of the unedited model; revert the ledger before asking"
                raise RuntimeError(msg)
            sums, tokens = collect(model, list(paths), self.settings)
        home = _home(model.device)
        for layer, path in paths.items():
            log.info("eigendecomposition of the second moment of layer %d", layer)
            moment = Moment.from_matrix(sums.pop(layer).to(home), tokens)
            facts = {**base, "parameter": model.parameter_name(layer), "tokens_used": tokens}
            facts["pretrained"] = str(model.network.name_or_path)  # for `missing`
            _store(path, moment, {**facts, "seconds": time.monotonic() - started})


def collect(
    model: EditableModel, layers: Sequence[int], settings: MomentSettings
) -> tuple[dict[int, Tensor], int]:
    """Mean of k k^T over the tokens of a text, for several layers in one forward pass.

    Padding is left out; special tokens that the tokenizer puts in front of a document are in, as in
    ROME's code. The forward pass ends at the last of the layers.

    Returns:
        Layer -> `[d_in, d_in]` in float64 on the CPU, and the number of tokens used.

    Raises:
        ValueError: The source has no text.
    """
    modules = {layer: model.mlp_out(layer) for layer in layers}
    precision = getattr(torch, settings.dtype)
    last = modules[max(layers)]
    recent = {
        layer: torch.zeros(model.d_in(layer), model.d_in(layer), dtype=precision, device=w.device)
        for layer, w in ((layer, model.matrix(layer)) for layer in layers)
    }
    total = {layer: torch.zeros(s.shape, dtype=torch.float64) for layer, s in recent.items()}
    used = folded = 0
    with tqdm(total=settings.tokens, desc="second moments", unit="token", disable=None) as bar:
        for batch in _batches(model, settings):
            with (
                torch.no_grad(),
                capture(modules, inputs=True, rows=len(batch.ids), stop_after=last) as keys,
            ):
                model.network(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
            for layer, key in keys.items():
                real = key[batch.mask.to(key.device).bool()].to(precision)
                recent[layer].addmm_(real.T, real)
            count = int(batch.mask.sum())
            used += count
            bar.update(count)
            if used - folded >= FOLD_TOKENS:
                _fold(total, recent)
                folded = used
    _fold(total, recent)
    if used == 0:
        msg = f"moments.source={settings.source} has no text to take second moments over"
        raise ValueError(msg)
    if used < settings.tokens:
        log.warning(
            "moments.source=%s ended after %d tokens; moments.tokens=%d were asked for",
            settings.source,
            used,
            settings.tokens,
        )
    return {layer: s / used for layer, s in total.items()}, used


def _batches(model: EditableModel, settings: MomentSettings) -> Iterator[Batch]:
    return pieces(
        model.tokenizer,
        read_texts(settings),
        length=min(settings.max_length, model.max_length),
        batch_size=settings.batch_size,
        budget=settings.tokens,
        device=model.device,
    )


def _fold(total: dict[int, Tensor], recent: dict[int, Tensor]) -> None:
    """Add the recent sums to the total ones and start the recent ones again."""
    for layer, part in recent.items():
        total[layer] += part.to("cpu", torch.float64)
        part.zero_()


def _read_file(path: Path, model: EditableModel, layers: Sequence[int]) -> dict[int, Tensor]:
    """Second moments that the user gives.

    Raises:
        ValueError: A name is missing, or a matrix has the wrong shape, is not finite or not
            symmetric.
    """
    found = {}
    with _opened(path) as file:
        names = sorted(file.keys())
        for layer in layers:
            name, d_in = model.parameter_name(layer), model.d_in(layer)
            if name not in names:
                msg = f"moments.file={path} has no {name}; it has {', '.join(names) or 'nothing'}"
                raise ValueError(msg)
            matrix = file.get_tensor(name).double()
            if matrix.shape != (d_in, d_in):
                msg = f"moments.file={path}: {name} is {list(matrix.shape)}, not [{d_in}, {d_in}]"
                raise ValueError(msg)
            if not matrix.isfinite().all():
                msg = f"moments.file={path}: {name} has entries that are not finite"
                raise ValueError(msg)
            if (matrix - matrix.T).abs().max() > ASYMMETRY * matrix.abs().max():
                msg = f"moments.file={path}: {name} is not symmetric, so it is no second moment"
                raise ValueError(msg)
            found[layer] = matrix
    return found


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        msg = f"moments.file={path} is not a safetensors file ({error})"
        raise ValueError(msg) from error


def _store(path: Path, moment: Moment, facts: Mapping[str, Any]) -> None:
    """Write the manifest, then the tensors, each aside and renamed: the tensors mean done."""
    write_json(path.with_suffix(".json"), dict(facts))
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    tensors = {
        "eigenvalues": moment.eigenvalues.cpu(),
        "eigenvectors": moment.eigenvectors.cpu().contiguous(),
    }
    tensor_files.save_file(tensors, aside, metadata={"tokens": str(moment.tokens)})
    aside.replace(path)


def _load(path: Path) -> Moment:
    with safe_open(path, "pt") as file:
        tokens = int(file.metadata()["tokens"])
        return Moment(file.get_tensor("eigenvalues"), file.get_tensor("eigenvectors"), tokens)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Hold a claim between processes of all machines; says so when another one has it."""

    def tell(owner: claims.Owner) -> None:
        log.info("%s is working on what this process needs too; waiting for it", owner)

    with claims.hold(folder / "claims", name, on_wait=tell):
        yield


def _home(device: torch.device) -> torch.device:
    """The device itself where it has float64, else the CPU."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except TypeError:
        return torch.device("cpu")
    return device


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:24]


def _check(settings: MomentSettings) -> None:
    for name in ("tokens", "max_length", "batch_size"):
        if getattr(settings, name) < 1:
            msg = f"moments.{name}={getattr(settings, name)} must be at least 1"
            raise ValueError(msg)
    if settings.dtype not in {"float32", "float64"}:
        msg = f"moments.dtype={settings.dtype} must be float32 or float64: sums need the precision"
        raise ValueError(msg)
