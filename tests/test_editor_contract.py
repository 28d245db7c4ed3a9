"""What holds for every editor that `conf/editor/` names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf

from edit_sweeps import editors
from edit_sweeps.config import ModelConfig
from edit_sweeps.editors.base import Editor, Stores, Trace
from edit_sweeps.ledger import Ledger
from edit_sweeps.miniature import CHECKPOINTS
from edit_sweeps.model import load_model
from edit_sweeps.moments import MomentSettings
from edit_sweeps.requests import EditRequest, load_requests
from edit_sweeps.tokens import score_targets
from edit_sweeps.trajectory import Trajectory

CONF = Path(__file__).parent.parent / "conf"
FILES = {path.stem: path for path in sorted((CONF / "editor").glob("*.yaml"))}
WRITING = sorted(set(FILES) - {"none"})
CHOSEN = {"layer": 1, "layers": [1, 2], "max_change": 0.01}
"""For what a configuration leaves open."""
QUICK = {"steps": 3, "context_source": "miniature", "train_steps": 2}
"""Replaces a field of this name in every configuration: these tests look at form, not effect."""
NO_EFFECT: dict[str, str] = {
    "ultraedit": "a single edit of one token has nothing to be normalised by: tests/test_ultraedit.py",
    "mend": "training takes minutes: the slow test of tests/test_mend.py",
    "kn": "the new answer gains but need not win: tests/test_kn.py",
}
"""Editor -> why the test of effect on the trained miniature is not for it; say where its own is."""


def settings_of(name, **changes):
    """The configuration of an editor with nothing left open, without its name."""
    tree = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    open_keys = [key for key, value in tree.items() if value == "???"]
    assert set(open_keys) <= set(CHOSEN), f"say in CHOSEN what to take for {open_keys}"
    tree |= {key: CHOSEN[key] for key in open_keys}
    tree |= {key: value for key, value in QUICK.items() if key in tree}
    if "value" in tree:
        tree["value"] |= {"steps": 3}
    return {key: value for key, value in (tree | changes).items() if key != "name"}


def build(name, **changes) -> Editor:
    return instantiate(settings_of(name, **changes))


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return Stores.at(MomentSettings(tokens=3000), tmp_path_factory.mktemp("cache"))


def run(editor, model, requests, store):
    """Everything in a batch, or one at a time; the traces and the ledger."""
    ledger = Ledger(model)
    state = editor.start(model, editor.prepare(model, store))
    size = 1 if editor.one_at_a_time else len(requests)
    traces = []
    for start in range(0, len(requests), size):
        traces += editor.edit(model, requests[start : start + size], ledger, state)
    return traces, ledger, state


NAMED = (
    "none ft ft_l rome r_rome rome_identity memit memit_seq emmet pmet alphaedit encore kn mend "
    "ultraedit lora grace wise"
)
"""Methods the program promises; more may come, none may go."""
ONLY_SOME = {
    "test_check_refuses_impossible_values_and_contexts": "value",
    "test_another_context_seed_gives_another_edit": "context_source",
}
"""Contract -> the setting whose editors it is about."""


def test_there_are_editors_to_look_at():
    """Every file is an editor, every editor has a file, and every contract below is run over all of them."""
    assert set(NAMED.split()) <= set(FILES)
    assert set(FILES) == {p.stem for p in (CONF / "editor").iterdir()}
    for module in pkgutil.iter_modules(editors.__path__):
        importlib.import_module(f"{editors.__name__}.{module.name}")
    built = {get_class(OmegaConf.load(path)._target_) for path in FILES.values()}
    assert {c for c in subclasses(Editor) if not inspect.isabstract(c)} == built
    contracts = {
        name: set(mark.args[1])
        for name, test in globals().items()
        for mark in getattr(test, "pytestmark", [])
        if name.startswith("test_") and mark.args[0] == "name"
    }
    assert len(contracts) >= 9
    for name, seen in contracts.items():
        if name in ONLY_SOME:
            assert seen == {n for n in WRITING if ONLY_SOME[name] in settings_of(n)}, name
            assert len(seen) > 3
        elif name == "test_an_edit_of_a_trained_model_makes_the_new_answer_likelier_than_the_old":
            assert seen | set(NO_EFFECT) == set(WRITING)
        else:
            assert seen in (set(FILES), set(WRITING)), name
    assert set(NO_EFFECT) < set(WRITING) == set(FILES) - {"none"}


def subclasses(kind):
    """The program's own; other test files define editors too."""
    found = {c for child in kind.__subclasses__() for c in {child} | subclasses(child)}
    return {c for c in found if c.__module__.startswith("edit_sweeps.")}


@pytest.mark.parametrize("name", FILES)
def test_the_configuration_has_exactly_the_fields_of_the_class(name):
    tree = OmegaConf.to_container(OmegaConf.load(FILES[name]))
    assert tree["name"] == name
    assert FILES[name].read_text().startswith("# "), "the first line says the paper"
    nodes = [(tree, {"name", "_target_"})]
    nodes += [(v, {"_target_"}) for v in tree.values() if isinstance(v, dict)]
    for node, extra in nodes:
        target = get_class(node["_target_"])
        assert is_dataclass(target)
        assert set(node) - extra == {f.name for f in fields(target)}
        assert all(f.kw_only for f in fields(target))


def test_no_method_imports_another():
    """What two methods share lies in a module of its own that no configuration names."""
    methods = {OmegaConf.load(path)._target_.rpartition(".")[0] for path in FILES.values()}
    assert len(methods) >= 4
    for method in methods:
        tree = ast.parse(Path(find_spec(method).origin).read_text())
        named = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert not named & (methods - {method}), method


@pytest.mark.parametrize("name", FILES)
def test_an_editor_is_frozen_and_refuses_unknown_keys(name):
    editor = build(name)
    assert isinstance(editor, Editor)
    with pytest.raises(FrozenInstanceError):
        editor.one_more = 1
    with pytest.raises(Exception, match="unexpected keyword argument 'stepz'"):
        build(name, stepz=3)


def test_one_configuration_of_each_class_says_its_defaults():
    """`Rome(layer=1)` in a notebook is `editor=rome editor.layer=1`."""
    same = {}
    for path in FILES.values():
        given = OmegaConf.to_container(OmegaConf.load(path))
        given = {k: CHOSEN[k] if v == "???" else v for k, v in given.items() if k != "name"}
        editor = instantiate(given)
        plain = type(editor)(**{k: v for k, v in given.items() if k in CHOSEN})
        equal = OmegaConf.create(asdict(editor)) == OmegaConf.create(asdict(plain))
        same.setdefault(type(editor), []).append(equal)
    assert len(same) >= 4
    assert all(any(found) for found in same.values()), same


@pytest.mark.parametrize("name", FILES)
def test_check_accepts_the_configuration_and_refuses_other_layers(name):
    editor = build(name)
    editor.check(4)
    if name == "none":
        return
    if not {k for k in ("layer", "layers") if settings_of(name).get(k) is not None}:
        return  # it takes whatever layers there are
    with pytest.raises(ValueError, match=r"has 1 blocks; choose 0 to 0"):
        editor.check(1)
    key = "layers" if "layers" in settings_of(name) else "layer"
    outside = [0, 9] if key == "layers" else 9
    with pytest.raises(ValueError, match=r"layer 9 .* 4 blocks; choose 0 to 3"):
        build(name, **{key: outside}).check(4)
    if key == "layers":
        with pytest.raises(ValueError, match="empty"):
            build(name, layers=[]).check(4)


@pytest.mark.parametrize("name", [n for n in WRITING if "value" in settings_of(n)])
def test_check_refuses_impossible_values_and_contexts(name):
    value = settings_of(name)["value"]
    with pytest.raises(ValueError, match=r"editor\.value\.steps=0"):
        build(name, value=value | {"steps": 0}).check(4)
    with pytest.raises(ValueError, match=r"editor\.contexts"):
        build(name, contexts=["{} {}"]).check(4)
    with pytest.raises(ValueError, match=r"editor\.context_source=x"):
        build(name, context_source="x").check(4)


@pytest.mark.parametrize("name", FILES)
def test_an_edit_writes_through_the_ledger_alone(name, tiny, requests, store, capsys):
    before = {n: p.detach().clone() for n, p in tiny.network.named_parameters()}
    modules = dict(tiny.network.named_modules())
    random_state = torch.get_rng_state()
    editor = build(name)
    traces, ledger, state = run(editor, tiny, requests, store)
    written = set(ledger.delta())
    now = dict(tiny.network.named_parameters())
    changed = {n for n in before if n in now and not torch.equal(now[n], before[n])}
    assert changed == written
    assert bool(changed) == (name != "none" and not editor.attaches)
    assert bool(ledger.attached) == editor.attaches
    if not editor.attaches:
        assert dict(tiny.network.named_modules()) == modules
    assert [t.case_id for t in traces] == [r.case_id for r in requests]
    assert all(isinstance(t, Trace) for t in traces)
    assert state.edits_done == (0 if name == "none" else len(requests))
    if changed:
        assert all(t.numbers["update_norm"] > 0 for t in traces)
        assert all(0 < t.numbers["update_norm_relative"] < 100 for t in traces)
    assert not any(p.requires_grad for p in tiny.network.parameters())
    assert not any(m._forward_hooks for m in tiny.network.modules())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert capsys.readouterr().out == ""
    ledger.revert()
    assert dict(tiny.network.named_modules()) == modules
    assert all(torch.equal(p, before[n]) for n, p in tiny.network.named_parameters())


@pytest.mark.parametrize("name", WRITING)
def test_the_same_edit_twice_gives_the_same_weights_bit_for_bit(name, tiny, requests, store):
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        _, ledger, state = run(build(name), tiny, requests, store)
        found.append(ledger.delta() | state.tensors)
        ledger.revert()
    assert found[0].keys() == found[1].keys()
    assert found[0]
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


@pytest.mark.parametrize("name", WRITING)
def test_a_run_that_goes_on_from_a_stored_prefix_is_bit_for_bit_one_that_never_stopped(
    name, tiny_model, requests, store, tmp_path
):
    """Keys of earlier batches, running statistics, codebooks: what outlives a batch outlives the process."""
    found = []
    for way, counts in (("alone", (2,)), ("resumed", (1, 2))):
        for count in counts:
            model, editor = tiny_model("gpt2"), build(name)
            ledger, prepared = Ledger(model), editor.prepare(model, store)
            Trajectory(
                tmp_path / way, model=model, editor=editor, ledger=ledger, prepared=prepared, batch_size=1
            ).advance(requests[:count])  # fmt: skip
        found.append(ledger.delta() | {"logits": model.network(torch.arange(3, 20)[None]).logits})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


@pytest.mark.parametrize("name", WRITING)
def test_the_same_request_twice_is_taken(name, tiny, requests, store):
    """In one batch where there are batches, else one after the other: equal keys, equal gradients."""
    traces, ledger, _ = run(build(name), tiny, [requests[0], requests[1], requests[0]], store)
    assert len(traces) == 3
    assert all(delta.isfinite().all() for delta in ledger.delta().values())
    assert tiny.network(torch.arange(3, 20)[None]).logits.isfinite().all()


@pytest.mark.parametrize("name", [n for n in WRITING if "context_source" in settings_of(n)])
def test_another_context_seed_gives_another_edit(name, tiny, requests, store):
    found = []
    for seed in (0, 0, 1):
        editor = build(name, context_source="generated", context_seed=seed)
        _, ledger, state = run(editor, tiny, requests[:1], store)
        learnt = ledger.delta() | state.tensors
        found.append((state.prepared.contexts, next(iter(learnt.values()))))
        ledger.revert()
    assert found[0][0] == found[1][0] != found[2][0]
    assert torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][1], found[2][1])


@pytest.mark.parametrize("name", WRITING)
def test_every_family_can_be_edited(name, family, tiny_model, requests, store):
    model = tiny_model(family)
    fields_ = {"second_moment": False} if "second_moment" in settings_of(name) else {}
    editor = build(name, **fields_)
    _, ledger, _ = run(editor, model, requests, store)
    norms = ledger.norms()
    assert bool(norms) != editor.attaches
    assert all(0 < row["update_norm"] < 1e3 for row in norms.values())


def tuned(name, model_name) -> Editor:
    merged = OmegaConf.merge(
        OmegaConf.load(FILES[name]), OmegaConf.load(CONF / "tuned" / f"{name}-{model_name}.yaml")
    )
    return instantiate({k: v for k, v in OmegaConf.to_container(merged).items() if k != "name"})


def miniature_requests(n) -> list[EditRequest]:
    dataset = OmegaConf.create(
        {"name": "miniature", "format": "miniature", "path": None, "order": "sampled", "skip": 0,
         "repeat": False, "on_invalid": "refuse", "target": None}
    )  # fmt: skip
    return load_requests(dataset, n, 0)


@pytest.mark.parametrize("name", [n for n in WRITING if n not in NO_EFFECT])
@pytest.mark.parametrize(
    ("model_name", "folder"), [("miniature", "gpt2"), ("miniature-llama", "llama")]
)
def test_an_edit_of_a_trained_model_makes_the_new_answer_likelier_than_the_old(
    name, model_name, folder, store
):
    if not (CHECKPOINTS / folder / "model.safetensors").exists():
        pytest.skip(f"NO TRAINED MINIATURE {folder}: run python -m edit_sweeps.miniature.train")
    model = load_model(ModelConfig(name=model_name, pretrained=f"miniature://{folder}"), "cpu")
    editor = tuned(name, model_name)
    editor.check(model.n_layers)
    won = 0
    chosen = miniature_requests(4)
    for request in chosen:
        pairs = [(request.text, request.target_new), (request.text, request.target_true)]
        before = [sum(s.logprobs) for s in score_targets(model, pairs, 2)]
        _, ledger, _ = run(editor, model, [request], store)
        after = [sum(s.logprobs) for s in score_targets(model, pairs, 2)]
        assert before[0] < before[1], "the model knows the old answer"
        won += after[0] > after[1]
        ledger.revert()
    assert won == len(chosen)
