"""What costs time and memory: `make bench`. Ratios within one run mean something; seconds are this machine's.

Prints, for the miniature and for a random GPT-2 small: seconds per edit and the share of them outside forward and
backward passes, tokens per second of the second moments, seconds per task, peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import torch
from hydra import compose, initialize_config_dir
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from edit_sweeps import config as schema
from edit_sweeps.building import build_editor, pick
from edit_sweeps.editors.base import Stores
from edit_sweeps.launcher.freezing import freeze
from edit_sweeps.ledger import Ledger
from edit_sweeps.model import EditableModel, load_model
from edit_sweeps.moments import MomentSettings
from edit_sweeps.requests import load_requests
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec

ROOT = Path(__file__).parent.parent
GPT2_SMALL = {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024}


class Passes:
    """Seconds spent in forward passes of the network or its blocks, and in backward passes."""

    def __init__(self, model: EditableModel) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._start = 0.0
        self.model = model

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count inside the block."""
        modules = [self.model.network, *self.model.blocks]
        handles = [m.register_forward_pre_hook(self._enter) for m in modules]
        handles += [m.register_forward_hook(self._leave, always_call=True) for m in modules]
        backward = torch.autograd.backward
        gradient = torch.autograd.grad

        def timed(function):  # noqa: ANN001, ANN202
            def call(*args: object, **kwargs: object) -> object:
                self._enter()
                try:
                    return function(*args, **kwargs)
                finally:
                    self._leave()

            return call

        torch.autograd.backward, torch.autograd.grad = timed(backward), timed(gradient)
        try:
            yield
        finally:
            torch.autograd.backward, torch.autograd.grad = backward, gradient
            for handle in handles:
                handle.remove()

    def _enter(self, *_: object) -> None:
        if self._depth == 0:
            self._start = time.perf_counter()
        self._depth += 1

    def _leave(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._start


def composed(*overrides: str) -> dict:
    """The configuration of a cell."""
    schema.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return freeze(compose("config", overrides=list(overrides)))


def random_gpt2_small(folder: Path) -> str:
    """A GPT-2 small with random weights and the miniature's tokenizer; returns its folder."""
    tokenizer = AutoTokenizer.from_pretrained(
        ROOT / "edit_sweeps" / "miniature" / "checkpoints" / "gpt2"
    )
    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("gpt2", vocab_size=50257, **GPT2_SMALL)
    )
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def bench_editor(config: dict, edits: int, stores: Stores, device: str) -> None:
    """Time `edits` edits dealt out as `config` says."""
    model = load_model(SimpleNamespace(**config["model"]), device)
    editor = build_editor(config)
    prepared = editor.prepare(model, stores)
    ledger, state = Ledger(model), editor.start(model, prepared)
    requests = load_requests(SimpleNamespace(**config["dataset"]), edits + 1, 0)
    size = int(config["edits"]["batch_size"])
    editor.edit(model, requests[:1], ledger, state)  # warm
    passes = Passes(model)
    start = time.perf_counter()
    with passes.watched():
        for first in range(1, edits + 1, size):
            editor.edit(model, requests[first : first + size], ledger, state)
    total = time.perf_counter() - start
    print(
        f"  {config['editor']['name']:<7} batch {size:<3} {total / edits:8.3f} s an edit, "
        f"{100 * (1 - passes.seconds / total):4.0f} % outside forward and backward"
    )


def bench_moments(config: dict, layers: list[int], device: str) -> Stores:
    """Tokens per second of the second moments of `layers`, their eigendecompositions included."""
    model = load_model(SimpleNamespace(**config["model"]), device)
    settings = pick(MomentSettings, config["moments"])
    stores = Stores.at(settings, Path(tempfile.mkdtemp()))
    start = time.perf_counter()
    stores.moments.get(model, layers)
    seconds = time.perf_counter() - start
    print(
        f"  second moments of {len(layers)} layers: {settings.tokens / seconds:,.0f} tokens/s ({seconds:.1f} s)"
    )
    return stores


def bench_tasks(config: dict, device: str) -> None:
    """Seconds for each task, built once; the second scoring is what each further cell costs."""
    model = load_model(SimpleNamespace(**config["model"]), device)
    start = time.perf_counter()
    specs = {name: pick(TaskSpec, spec) for name, spec in config["task"].items()}
    bench = Bench(specs, pick(EvalSettings, config["eval"]))
    built = time.perf_counter() - start
    for again in ("first", "again"):
        seconds = bench.score(model).seconds
        shown = "  ".join(f"{name.removeprefix('mini_')} {s:.1f}" for name, s in seconds.items())
        print(f"  tasks ({again}, s): {shown}  sum {sum(seconds.values()):.1f}")
    print(f"  tasks built in {built:.1f} s")


def main() -> None:
    """Run the bench."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    arguments.add_argument("--edits", type=int, default=10)
    args = arguments.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as folder:
        small = random_gpt2_small(Path(folder))
        gpt2_small = ["model=custom", f"model.pretrained={small}", "moments.tokens=10000"]
        contexts = ["editor.context_source=miniature"]
        models = {
            "miniature": ([], "2", "[0,1,2]"),
            "random GPT-2 small": ([*gpt2_small, *contexts], "4", "[2,3,4]"),
        }
        for name, (overrides, layer, layers) in models.items():
            print(name)
            rest = [o for o in overrides if not o.startswith("editor.")]
            config = composed(*rest, f"editor.layer={layer}")
            stores = bench_moments(config, json.loads(layers), args.device)
            for editor in ("rome", "r_rome"):
                bench_editor(
                    composed(f"editor={editor}", f"editor.layer={layer}", *overrides),
                    args.edits,
                    stores,
                    args.device,
                )
            for size in (1, args.edits):
                cell = composed(
                    "editor=memit",
                    f"editor.layers={layers}",
                    "edits=batch_sequential",
                    f"edits.batch_size={size}",
                    *overrides,
                )
                bench_editor(cell, args.edits, stores, args.device)
            if name == "miniature":
                bench_tasks(config, args.device)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
