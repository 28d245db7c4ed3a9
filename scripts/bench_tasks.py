"""What scoring tasks costs beside the model: `make bench`. Ratios within one run mean something.

Eight tasks at three checkpoints of one editing run, by this project's `Bench` and by `lm_eval.simple_evaluate` on
the same weights and documents: equal scores, seconds of each, and the share of `Bench`'s time that is spent outside
the model's forward passes and decoding. `simple_evaluate` gets its best conditions: a ready index of the one folder,
no bootstrap, the same batch size.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import composed
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from edit_sweeps import live_lm
from edit_sweeps.building import build_editor, pick
from edit_sweeps.editors.base import Stores
from edit_sweeps.ledger import Ledger
from edit_sweeps.live_lm import quiet
from edit_sweeps.model import EditableModel, load_model
from edit_sweeps.moments import MomentSettings
from edit_sweeps.requests import load_requests
from edit_sweeps.task_files import task_folder
from edit_sweeps.task_scores import Bench, EvalSettings, TaskSpec

CHECKPOINTS = (0, 5, 10)


class Stopwatch:
    """Seconds spent in the model (forward passes for log-likelihoods, decoding)."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what `LiveLM` asks of the network inside the block."""
        kept = {name: getattr(live_lm.LiveLM, name) for name in ("_model_call", "_model_generate")}
        try:
            for name, method in kept.items():
                setattr(live_lm.LiveLM, name, self._timed(method))
            yield
        finally:
            for name, method in kept.items():
                setattr(live_lm.LiveLM, name, method)

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            start = time.perf_counter()
            try:
                return method(*args, **options)
            finally:
                self.seconds += time.perf_counter() - start

        return call


def by_harness(
    model: EditableModel, specs: dict[str, TaskSpec], size: int
) -> dict[str, dict[str, float]]:
    """Task -> metric -> score, as a user of lm-eval would score a network in memory."""
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        lm = HFLM(pretrained=model.network, tokenizer=model.tokenizer, batch_size=size)
        folders = {str(task_folder(spec.folder)) for spec in specs.values()}
        found = simple_evaluate(
            model=lm,
            tasks=[spec.name for spec in specs.values()],
            task_manager=TaskManager(include_path=sorted(folders), include_defaults=False),
            bootstrap_iters=0,
            log_samples=False,
        )
    return {
        name: {
            metric.split(",")[0]: float(value)
            for metric, value in found["results"][spec.name].items()
            if metric.endswith(",none") and "stderr" not in metric
        }
        for name, spec in specs.items()
    }


def checkpoints(model: EditableModel, config: dict[str, Any]) -> Iterator[int]:
    """Bring the model to each number of `CHECKPOINTS` edits, and give it."""
    editor = build_editor(config)
    with tempfile.TemporaryDirectory() as cache:
        stores = Stores.at(pick(MomentSettings, config["moments"]), Path(cache))
        ledger, state = Ledger(model), editor.start(model, editor.prepare(model, stores))
    requests = load_requests(SimpleNamespace(**config["dataset"]), CHECKPOINTS[-1], 0)
    done = 0
    for count in CHECKPOINTS:
        for request in requests[done:count]:
            editor.edit(model, [request], ledger, state)
        done = count
        yield count


def main() -> None:
    """Run the bench; fails where the two ways give different scores."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--device", default="auto")
    args = arguments.parse_args()
    config = composed("editor=rome", "editor.layer=2")
    model = load_model(SimpleNamespace(**config["model"]), args.device)
    specs = {name: pick(TaskSpec, spec) for name, spec in config["task"].items()}
    settings = pick(EvalSettings, config["eval"])
    start = time.perf_counter()
    bench = Bench(specs, settings)
    print(f"  eight tasks built in {time.perf_counter() - start:.1f} s, once")
    differing, ratios = 0, []
    for count in checkpoints(model, config):
        watch, start = Stopwatch(), time.perf_counter()
        with watch.watching():
            ours = bench.score(model).scores
        mine, start = time.perf_counter() - start, time.perf_counter()
        theirs = by_harness(model, specs, settings.batch_size)
        harness = time.perf_counter() - start
        shared = [(task, m) for task, metrics in ours.items() for m in metrics if m in theirs[task]]
        off = [(t, m) for t, m in shared if abs((ours[t][m].value or 0.0) - theirs[t][m]) > 1e-9]
        differing += len(off)
        ratios.append(harness / mine)
        print(
            f"  after {count:>2} edits: Bench {mine:5.1f} s ({100 * (1 - watch.seconds / mine):.0f} % outside the "
            f"model), simple_evaluate {harness:5.1f} s, ratio {harness / mine:.2f}; {len(shared)} scores compared, "
            f"{len(off)} differ {off or ''}"
        )
    print(f"  simple_evaluate takes {statistics.median(ratios):.2f} times as long (median)")
    if differing:
        raise SystemExit("the two ways of scoring do not agree")


if __name__ == "__main__":
    main()
