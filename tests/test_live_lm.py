"""lm-eval's view of a live model: the harness's own log-likelihoods, and no trace afterwards."""

import logging
import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from lm_eval.models.huggingface import HFLM
from tqdm import tqdm

from edit_sweeps import live_lm
from edit_sweeps.untouched import untouched_rng

pytest_plugins = ["tests.task_folder"]


def test_log_likelihoods_are_those_of_the_harness_bit_for_bit(everything, tiny):
    requests = everything.built["shots"].requests
    theirs = HFLM(tiny.network, tokenizer=tiny.tokenizer, batch_size=3, softmax_dtype="float32")
    with live_lm.live(tiny, batch_size=3, max_length=128) as lm:
        mine = lm.loglikelihood(requests)
    assert mine == theirs.loglikelihood(requests, disable_tqdm=True)
    assert len({ll for ll, _ in mine}) > 15


@dataclass
class Request:
    args: tuple


def test_a_generation_row_stops_on_its_own_and_answers_as_if_alone(everything, tiny_model):
    model = tiny_model("llama")
    options = {"until": list("aeinor "), "max_gen_toks": 40}
    prompts = [request.args[0] for request in everything.built["writing"].requests]
    requests = [Request((prompt, options)) for prompt in prompts]
    passes = []
    model.network.register_forward_hook(lambda *_: passes.append(1))
    with live_lm.quiet(), live_lm.live(model, batch_size=20, max_length=128) as lm:
        together = lm.generate_until(requests)
        steps = len(passes)
        alone, own_steps = [], []
        for request in requests:
            passes.clear()
            alone += lm.generate_until([request])
            own_steps.append(len(passes))
    assert together == alone
    assert steps == max(own_steps) < 40
    assert len(set(own_steps)) > 3


def global_draws():
    """What the global generators would give next; nothing is taken from them."""
    with untouched_rng():
        return torch.rand(3).tolist(), random.random(), np.random.random_sample()  # noqa: NPY002


def test_scoring_leaves_no_trace(everything, tiny_model):
    model = tiny_model("gpt2")
    network, tokenizer = model.network, model.tokenizer
    network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.detach() * 2)
    assert network.config.tie_word_embeddings
    network.transformer.h[0].train()
    weights = {name: p.clone() for name, p in network.named_parameters()}
    padding, tokenizer.padding_side = (tokenizer.pad_token, tokenizer.padding_side), "right"
    tokenizer.pad_token = None
    try:
        before = global_draws()
        assert everything.score(model).errors == {}
        assert global_draws() == before
        assert (tokenizer.pad_token, tokenizer.padding_side) == (None, "right")
        assert len(tokenizer) == network.config.vocab_size
    finally:
        tokenizer.pad_token, tokenizer.padding_side = padding
    assert {n: m.training for n, m in network.transformer.h.named_children()} == {
        str(i): i == 0 for i in range(4)
    }
    assert not network.training
    now = dict(network.named_parameters())
    assert now.keys() == weights.keys()
    assert "lm_head.weight" in now
    assert all(torch.equal(now[name], weight) for name, weight in weights.items())
    assert "tie_weights" not in vars(network)


def test_nothing_is_said_where_there_is_no_terminal(everything, tiny, capfd):
    logging.getLogger("lm_eval").setLevel(logging.INFO)
    everything.score(tiny)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("lm_eval").level == logging.INFO


def test_the_bar_counts_every_answer(everything, tiny, capsys):
    for task in ("choice", "writing", "prose"):
        requests = everything.built[task].requests
        with live_lm.live(tiny, batch_size=3, max_length=128) as lm, tqdm(total=99) as bar:
            lm.watch(bar)
            getattr(lm, requests[0].request_type)(requests)
            assert bar.n == len(requests), task
    assert "Running" not in capsys.readouterr().err


def test_prompts_that_are_too_long_are_counted(make, tiny):
    bench = make("choice", "writing", settings={"batch_size": 3, "max_length": 16})
    found = bench.score(tiny)
    assert found.errors == {}
    lengths = [len(tiny.tokenizer.encode(r.args[0])) for r in bench.built["writing"].requests]
    assert found.cut["writing"] == sum(n > 16 - 12 for n in lengths) > 0
    assert 0 < found.cut["choice"] < len(bench.built["choice"].requests)


def test_an_answer_as_long_as_the_window_gets_half_of_it(everything, tiny, caplog):
    requests = [
        replace(r, arguments=(r.args[0], {"until": [], "max_gen_toks": 64}))
        for r in everything.built["writing"].requests
    ]
    seen = []
    tiny.network.register_forward_hook(lambda *_: seen.append(1))
    with live_lm.live(tiny, batch_size=20, max_length=64) as lm, caplog.at_level("WARNING"):
        answers = lm.generate_until(requests)
    assert len(seen) == 32
    assert all(answers)
    assert "64 new tokens asked for in a window of 64: answers get 32" in caplog.text
