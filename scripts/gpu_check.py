"""Every editor on a GPU: `make gpu-check`. Says so and fails where there is none.

Two parts. First `pytest -m gpu`: tiny models of five families in float64, the weights that each editor writes on the
GPU against those it writes on the CPU. Then models with the shape of GPT-2 XL (float32) and of LLaMA-3 8B (bfloat16)
and random weights: each editor writes one edit, then ten, with the values published for that model; seconds, peak
memory, and what the model's dtype lost of the update. Random weights say nothing of an edit's effect.

    python scripts/gpu_check.py [--write]      --write: the tables go into docs/benchmarks.md
    python scripts/gpu_check.py --rehearse     the second part small and on the CPU: proves this script, no GPU
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from edit_sweeps import config as schema
from edit_sweeps.building import build_editor
from edit_sweeps.editors.base import Editor, Stores
from edit_sweeps.ledger import Ledger
from edit_sweeps.model import DTYPES, EditableModel
from edit_sweeps.moments import MomentSettings
from edit_sweeps.requests import load_requests

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
EDITORS = sorted(f.stem for f in (ROOT / "conf" / "editor").glob("*.yaml") if f.stem != "none")
QUICK = {"mend": ["editor.train_steps=2", "editor.training.validation=10"]}
"""Overrides of an editor whose preparation would take hours: its edits are measured, not its training."""
OPEN = {"ft_l": {"max_change": 5e-5}}
"""What no published value of an editor gives for one of the models."""
SHAPES = ("gpt2-xl", "llama-3-8b")
NO_GPU = 2


@dataclass(frozen=True)
class Shape:
    """A model with random weights.

    Attributes:
        title: Of its table.
        model: Option of `conf/model` whose published values the editors take.
        dtype: Key of `DTYPES`.
        family: transformers' model_type.
        sizes: Of its configuration.
        moment_layers: Where the located editors write; few, since the eigendecomposition of each takes its time.
    """

    title: str
    model: str
    dtype: str
    family: str
    sizes: dict[str, Any]
    moment_layers: tuple[int, ...]


GPT2_XL = Shape(
    "GPT-2 XL shape, float32", "gpt2-xl", "float32", "gpt2",
    {"n_embd": 1600, "n_layer": 48, "n_head": 25, "n_positions": 1024, "vocab_size": 50257},
    (13, 14, 15, 16, 17),
)  # fmt: skip
LLAMA_8B = Shape(
    "LLaMA-3 8B shape, bfloat16", "llama-3-8b", "bfloat16", "llama",
    {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
     "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 8192},
    (4, 5),
)  # fmt: skip
_SMALL_GPT2 = {**GPT2_XL.sizes, "n_embd": 40, "n_head": 5, "n_inner": 60, "vocab_size": 3000}
_SMALL_LLAMA = {**LLAMA_8B.sizes, "hidden_size": 32, "intermediate_size": 48, "vocab_size": 3000}
REHEARSAL = (
    Shape("small GPT-2, float32", "gpt2-xl", "float32", "gpt2", _SMALL_GPT2, (13, 14)),
    Shape("small LLaMA, bfloat16", "llama-3-8b", "bfloat16", "llama", _SMALL_LLAMA, (4, 5)),
)


def build_model(shape: Shape, device: torch.device) -> EditableModel:
    """Random weights, made on the device itself; the miniature's tokenizer."""
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = AutoConfig.for_model(shape.family, **ids, **shape.sizes)
    with device:
        network = AutoModelForCausalLM.from_config(config, dtype=DTYPES[shape.dtype])
    home = ROOT / "edit_sweeps" / "miniature" / "checkpoints"
    tokenizer = AutoTokenizer.from_pretrained(
        home / ("gpt2" if shape.family == "gpt2" else "llama")
    )
    return EditableModel(network.eval().requires_grad_(requires_grad=False), tokenizer)


def editor_for(name: str, shape: Shape) -> Editor:
    """With the values published for the model, but where it needs second moments in the layers that have them."""
    base = [f"editor={name}", f"model={shape.model}", *QUICK.get(name, [])]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        tree: Any = OmegaConf.to_container(compose("config", overrides=base).editor)
    if "context_starts" in tree:  # whole words to the model's own tokenizer, not to the miniature's
        starts = len(tree["context_starts"])
        tree["context_lengths"] = [[n, count * starts] for n, count in tree["context_lengths"]]
        tree["context_starts"] = [""]
    key = "layers" if "layers" in tree else "layer"
    for path, value in OPEN.get(name, {}).items():
        tree[path] = value if tree[path] == "???" else tree[path]
    if tree.get("second_moment") or tree.get(key) == "???":
        tree[key] = list(shape.moment_layers) if key == "layers" else shape.moment_layers[0]
    return build_editor({"editor": tree})


def measure(
    name: str, model: EditableModel, shape: Shape, stores: Stores, more: int
) -> Iterator[str]:
    """One row of the table: an editor's preparation, one edit, `more` of them, memory, size and cast loss."""
    editor = editor_for(name, shape)
    place = {"format": "miniature", "path": None, "order": "sampled", "skip": 0, "repeat": False}
    place |= {"name": "miniature", "on_invalid": "refuse", "target": None}
    dataset = SimpleNamespace(**place)
    requests = load_requests(dataset, 1 + more, 0)
    start = time.perf_counter()
    prepared = editor.prepare(model, stores)
    yield f"{time.perf_counter() - start:.1f}"
    ledger, state = Ledger(model), editor.start(model, prepared)
    reset_peak(model.device)
    try:
        seconds = [timed(model.device, editor, model, requests[:1], ledger, state)]
        size = 1 if editor.one_at_a_time else more
        total = 0.0
        for first in range(1, 1 + more, size):
            batch = requests[first : first + size]
            total += timed(model.device, editor, model, batch, ledger, state)
        norms = ledger.norms().values()
        bad = [
            row for row in norms if not all(map(torch.isfinite, map(torch.tensor, row.values())))
        ]
        if bad:
            message = f"{name} wrote numbers that are not finite: {bad[0]}"
            raise ArithmeticError(message)
        yield f"{seconds[0]:.2f}"
        yield f"{total / more:.2f}" + (" (one by one)" if size == 1 else " (a batch)")
        yield peak(model.device)
        yield f"{max((row['relative'] for row in norms), default=0):.1e}" if norms else "–"
        yield f"{max((row['cast_loss'] for row in norms), default=0):.2f}" if norms else "–"
    finally:
        ledger.revert()


def timed(device: torch.device, editor: Editor, model: EditableModel, *rest: Any) -> float:
    """Seconds of one call of `edit`, everything on the device finished."""
    start = time.perf_counter()
    editor.edit(model, *rest)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def reset_peak(device: torch.device) -> None:
    """Forget what memory earlier editors needed."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> str:
    """GiB on the device since `reset_peak`, the model's own weights included."""
    if device.type != "cuda":
        return "–"
    return f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f}"


def table(shape: Shape, device: torch.device, editors: list[str], more: int) -> Iterator[str]:
    """The Markdown table of one shape: each editor writes one edit, then `more` of them."""
    model = build_model(shape, device)
    yield f"### {shape.title}"
    heads = ["editor", "prepare s", "first edit s", f"s an edit of {more}", "peak GiB"]
    yield "| " + " | ".join([*heads, "largest relative update", "cast loss"]) + " |"
    yield "|---|---|---|---|---|---|---|"
    tokens = 10 * model.d_in(0)
    with tempfile.TemporaryDirectory() as cache:
        stores = Stores.at(MomentSettings(tokens=tokens), Path(cache))
        start = time.perf_counter()
        stores.moments.get(model, list(shape.moment_layers))
        note = f"Second moments of layers {list(shape.moment_layers)}: {tokens:,} tokens, "
        note += f"{time.perf_counter() - start:.0f} s with their eigendecompositions."
        for name in editors:
            try:
                row = list(measure(name, model, shape, stores, more))
            except (RuntimeError, ValueError, ArithmeticError) as error:
                row = [f"FAILED: {' '.join(str(error).split())[:120]}", *["–"] * 5]
            yield "| " + " | ".join([name, *row]) + " |"
    yield ""
    yield note


def machine(device: torch.device) -> str:
    """What the numbers are of."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    return f"{card or platform.machine()}, {versions}, {datetime.now(UTC):%Y-%m-%d}"


def tiny_against_cpu() -> int:
    """The first part; pytest's exit status."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "tests/test_gpu.py"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def main() -> int:
    """Run both parts; the exit status says whether every check held."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rehearse", action="store_true", help="second part, small, on the CPU")
    parser.add_argument("--write", action="store_true", help=f"tables into {PAGE.name}")
    parser.add_argument("--editors", default=",".join(EDITORS), help="comma-separated")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="comma-separated")
    args = parser.parse_args()
    for given, there in ((args.shapes, SHAPES), (args.editors, EDITORS)):
        unknown = set(given.split(",")) - set(there)
        if unknown:
            parser.error(f"{', '.join(sorted(unknown))}: choose of {', '.join(there)}")
    if args.write and (args.shapes, args.editors) != (",".join(SHAPES), ",".join(EDITORS)):
        parser.error("--write writes the whole page: leave out --shapes and --editors")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    schema.register()
    if not args.rehearse and not torch.cuda.is_available():
        print("NO GPU: torch finds no CUDA device here, so nothing was checked.", file=sys.stderr)
        return NO_GPU
    device = torch.device("cpu" if args.rehearse else "cuda")
    failed = False if args.rehearse else tiny_against_cpu() != 0
    part_one = "some FAILED" if failed else "equal to 1e-6 (MEND's float32 network: 1e-5)"
    told = (
        "rehearsal: no GPU figures" if args.rehearse else f"tiny models against the CPU: {part_one}"
    )
    lines = [f"{machine(device)}; {told}", ""]
    print(lines[0])
    for shape in REHEARSAL if args.rehearse else (GPT2_XL, LLAMA_8B):
        if shape.model in args.shapes.split(","):
            for line in table(shape, device, args.editors.split(","), 2 if args.rehearse else 10):
                print(line, flush=True)
                lines.append(line)
            lines.append("")
            reset_peak(device)
    if args.write and not args.rehearse:
        page, text = PAGE.read_text(encoding="utf-8"), "\n".join(lines)
        marked = re.compile(r"(<!-- gpu -->\n).*?(<!-- end -->)", re.DOTALL)
        PAGE.write_text(marked.sub(lambda m: f"{m[1]}{text}\n{m[2]}", page), encoding="utf-8")
    return int(failed or any("FAILED" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
