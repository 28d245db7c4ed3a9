"""`save=adapter`: peft, on the untouched model, answers as the edited model does."""

from __future__ import annotations

import copy
import json
import re

import peft
import pytest
import torch
from safetensors.torch import load_file

from edit_sweeps.adapter import SKETCH, NoAdapterError, factorise, rounding_floor, write_adapter
from edit_sweeps.cell import REFUSED_FILE, Digests
from edit_sweeps.launcher.checks import clashes
from edit_sweeps.launcher.freezing import freeze
from edit_sweeps.launcher.inputs import check_values
from edit_sweeps.launcher.plan import make_cell, make_entry
from edit_sweeps.ledger import Ledger
from edit_sweeps.record import Record
from edit_sweeps.regularizers import NormMatch, Prune, Rect, Truncate
from edit_sweeps.run import Session, run_unit
from edit_sweeps.updates import Dense, LowRank
from tests.test_conf import composed
from tests.test_editor_contract import WRITING, build, run, store  # noqa: F401

WIDE = {"hidden_size": 64, "intermediate_size": 192, "n_inner": 192}
LOW_RANK = [n for n in WRITING if not (build(n).attaches or build(n).dense)]


def logits(network):
    with torch.no_grad():
        return network(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])).logits


def loaded(network, folder):
    """The adapter in a copy of an unedited network; peft changes what it is given."""
    return peft.PeftModel.from_pretrained(copy.deepcopy(network), folder).eval()


def random_update(model, name, rank, seed=0, size=0.1):
    rows, columns = model.parameter(name).shape
    if model.is_transposed(name):
        rows, columns = columns, rows
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, rank, generator=generator)
    return LowRank(size * left, torch.randn(columns, rank, generator=generator))


def ranks(folder):
    held = load_file(folder / "adapter_model.safetensors")
    return {
        k.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(v)
        for k, v in held.items()
        if "lora_A" in k
    }


def test_there_are_editors_to_look_at():
    assert {"rome", "memit", "alphaedit", "mend", "kn", "lora", "ultraedit"} <= set(LOW_RANK)
    assert {n for n in WRITING if build(n).dense} == {"ft", "ft_l"}


@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_peft_gives_the_edited_models_logits(
    family, dtype, name, tiny_model, requests, store, tmp_path  # noqa: F811
):  # fmt: skip
    model = tiny_model(family, dtype=dtype, **WIDE)
    plain, before = copy.deepcopy(model.network), logits(model.network)
    editor = build(name)
    if name == "mend":
        requests = requests[:1]  # the rank is the number of tokens
    _, ledger, _ = run(editor, model, requests, store)
    if name == "mend" and dtype == "float64":
        with pytest.raises(NoAdapterError, match="not low rank"):  # its network works in float32
            write_adapter(tmp_path / "adapter", ledger, writes=1)
        return
    edited = logits(model.network)
    assert not torch.allclose(edited, before, atol=1e-6)
    writes = len(requests) if editor.one_at_a_time else 1
    write_adapter(tmp_path / "adapter", ledger, writes=writes)
    assert {p.name for p in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors"
    }  # fmt: skip
    network = loaded(plain, tmp_path / "adapter")
    assert (logits(network) - edited).abs().max() < (1e-4 if dtype == "float32" else 1e-10)
    written = {n.removesuffix(".weight") for n in ledger.delta()}
    assert set(ranks(tmp_path / "adapter")) == written
    merged = dict(network.merge_and_unload().named_parameters())
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for parameter in ledger.delta():
        assert torch.allclose(merged[parameter], model.parameter(parameter), atol=tolerance)


def test_every_family_has_adapters(family, tiny_model, tmp_path):
    model = tiny_model(family)
    plain, ledger = copy.deepcopy(model.network), Ledger(model)
    row = model.architecture
    names = [n for layer in (0, 2) for n in model.mlp_parameters(layer)]
    inside = [n for n, m in model.block(1).named_modules() if n.startswith(f"{row.attention}.")]
    names += [
        f"{row.block}.1.{n}.weight" for n in inside if re.search(r"(q|v)_proj$|c_attn$|qkv", n)
    ]
    for i, name in enumerate(names):
        ledger.write(name, random_update(model, name, rank=1 + i % 3, seed=i))
    write_adapter(tmp_path / "adapter", ledger, writes=1)
    assert ranks(tmp_path / "adapter") == {
        n.removesuffix(".weight"): 1 + i % 3 for i, n in enumerate(names)
    }
    edited, scale = logits(model.network), logits(plain).abs().max()
    assert not torch.allclose(edited, logits(plain), atol=1e-2)
    assert (logits(loaded(plain, tmp_path / "adapter")) - edited).abs().max() < 1e-4 * scale


def test_layers_ten_and_one_are_not_mistaken_for_each_other(tiny_model, tmp_path):
    """Peft matches the names of modules by their ends, those of ranks by regular expressions."""
    model = tiny_model("llama", num_hidden_layers=24)
    plain, ledger = copy.deepcopy(model.network), Ledger(model)
    for layer in range(24):
        name = model.parameter_name(layer)
        ledger.write(name, random_update(model, name, rank=1 + layer % 5, seed=layer, size=0.02))
    write_adapter(tmp_path / "adapter", ledger, writes=1)
    found = ranks(tmp_path / "adapter")
    assert [found[f"model.layers.{i}.mlp.down_proj"] for i in range(24)] == [
        1 + i % 5 for i in range(24)
    ]
    error = (logits(loaded(plain, tmp_path / "adapter")) - logits(model.network)).abs().max()
    assert error < 1e-4


def test_many_writes_leave_the_rank_of_what_was_written_and_not_of_their_rounding(tiny, tmp_path):
    plain, ledger = copy.deepcopy(tiny.network), Ledger(tiny)
    name = tiny.parameter_name(1)
    for i in range(200):
        update = random_update(tiny, name, rank=1, seed=i % 6, size=0.01)
        ledger.write(name, update)
    write_adapter(tmp_path / "adapter", ledger, writes=200)
    assert ranks(tmp_path / "adapter") == {"transformer.h.1.mlp.c_proj": 6}
    error = (logits(loaded(plain, tmp_path / "adapter")) - logits(tiny.network)).abs().max()
    assert error < 1e-4


@pytest.mark.parametrize(
    ("regularizer", "dense"),
    [
        (Rect(keep=0.5), True),
        (NormMatch(keep=0.5), False),
        (Truncate(rank=2), False),
        (Prune(), False),
    ],
)
def test_a_regularizer_is_dense_when_it_makes_low_rank_updates_full(
    regularizer, dense, tiny, tmp_path
):
    assert regularizer.dense == dense
    plain, ledger = copy.deepcopy(tiny.network), Ledger(tiny, regularizer)
    name = tiny.parameter_name(1)
    ledger.write(name, random_update(tiny, name, rank=3))
    ledger.finish()
    if dense:
        with pytest.raises(NoAdapterError, match=r"not low rank \(rank 32 of 32.*save=delta"):
            write_adapter(tmp_path / "adapter", ledger, writes=1)
        assert not list(tmp_path.iterdir())
        return
    write_adapter(tmp_path / "adapter", ledger, writes=2)
    rank = 2 if isinstance(regularizer, Truncate) else 3
    assert ranks(tmp_path / "adapter") == {"transformer.h.1.mlp.c_proj": rank}
    error = (logits(loaded(plain, tmp_path / "adapter")) - logits(tiny.network)).abs().max()
    assert error < 1e-4


def test_nothing_and_what_is_not_finite_have_no_adapter(tiny, tmp_path):
    name, ledger = tiny.parameter_name(1), Ledger(tiny)
    with pytest.raises(NoAdapterError, match="changed no weight"):
        write_adapter(tmp_path / "adapter", ledger, writes=1)
    ledger.write(name, Dense(torch.zeros(32, 48)))
    with pytest.raises(NoAdapterError, match="changed no weight"):
        write_adapter(tmp_path / "adapter", ledger, writes=1)
    ledger.write(name, Dense(torch.full((32, 48), torch.nan)))
    with pytest.raises(NoAdapterError, match="not finite"):
        write_adapter(tmp_path / "adapter", ledger, writes=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_for_a_half_precision_model_the_adapter_holds_what_the_cast_lost(
    dtype, tiny_model, tmp_path
):
    model = tiny_model("llama", dtype=dtype)
    plain, ledger = copy.deepcopy(model.network), Ledger(model)
    name = model.parameter_name(1)
    update = random_update(model, name, rank=2, size=1e-5)
    ledger.write(name, update)
    assert ledger.norms()[name]["cast_loss"] > 0.05
    write_adapter(tmp_path / "adapter", ledger, writes=1)
    held = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    a, b = (held[f"base_model.model.{name.removesuffix('.weight')}.lora_{x}.weight"] for x in "AB")
    assert a.dtype == b.dtype == torch.float32
    exact = update.left @ update.right.T
    assert (b @ a - exact).norm() < 1e-3 * exact.norm()
    assert logits(loaded(plain, tmp_path / "adapter")).isfinite().all()


def test_a_large_matrix_is_factorised_by_sketches_alone():
    generator = torch.Generator().manual_seed(0)
    rows, columns, rank = 600, 900, 90
    assert SKETCH < rank < 4 * SKETCH < rows / 2
    weight = torch.randn(rows, columns, generator=generator)
    left = torch.randn(rows, rank, generator=generator, dtype=torch.float64)
    right = torch.randn(columns, rank, generator=generator, dtype=torch.float64)
    exact = 1e-3 * left * 0.9 ** torch.arange(rank) @ right.T
    master = (weight.double() + exact).float()
    change = master.double() - weight.double()
    floor = rounding_floor(master.double(), change, torch.finfo(torch.float32).eps, 1)
    found = factorise(change, floor)
    values = torch.linalg.svdvals(change)
    assert found.left.shape[1] == int((values > floor).sum()) <= rank
    lost = torch.linalg.matrix_norm(found.left @ found.right.T - change, 2)
    assert lost <= 1.01 * values[found.left.shape[1]] <= floor
    sizes = found.left.norm(dim=0), found.right.norm(dim=0)
    assert torch.allclose(*sizes), "balanced"


@pytest.fixture
def cell_of(tmp_path, monkeypatch):
    """Factory: a cell of the miniature in an empty folder, two edits, no tasks."""
    monkeypatch.chdir(tmp_path)

    def make(*overrides):
        given = ["num_edits=2", "task=none", "wandb=disabled", "edit_scores.limit=1", *overrides]
        return make_cell(freeze(composed(*given)), given, Digests(tmp_path / "digests.json"))

    return make


def files(cell):
    return {p: p.stat().st_mtime_ns for p in cell.folder.rglob("*") if p.is_file()}


ROME = ("editor=rome", "editor.value.steps=3", "moments.tokens=3000")
WIDE_LORA = ("editor=lora", "editor.layers=[0]", "editor.rank=200", "editor.steps=2")


def test_a_cell_leaves_an_adapter_beside_its_delta_also_when_it_was_done_before(cell_of):
    session = Session("cpu")
    plain, asked = cell_of(*ROME), cell_of(*ROME, "save=[delta,adapter]")
    assert plain.key == asked.key
    (record,) = run_unit([plain], session)
    assert record.state == "done"
    before = files(plain)
    assert asked.missing_artefacts() == {"delta", "adapter"}
    assert make_entry(asked).todo
    (again,) = run_unit([asked], session)
    assert again.scores.keys() == record.scores.keys()
    assert asked.missing_artefacts() == set()
    assert not make_entry(asked).todo
    now = files(plain)
    kept = [p for p in before if p.name in {"record.json", "samples.json"}]
    assert len(kept) == 2
    assert all(now[p] == before[p] for p in kept)
    assert {p.relative_to(plain.folder).as_posix() for p in now.keys() - before.keys()} == {
        "delta.safetensors", "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
    }  # fmt: skip
    network = session.load(asked.config).network
    ((name, delta),) = load_file(asked.folder / "delta.safetensors").items()
    merged = loaded(network, asked.folder / "adapter").merge_and_unload().get_parameter(name)
    assert torch.allclose(merged, network.get_parameter(name) + delta, atol=1e-6)
    config = json.loads((asked.folder / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2
    assert config["fan_in_fan_out"]
    assert config["task_type"] == "CAUSAL_LM"


@pytest.mark.parametrize("done_before", [False, True])
def test_where_there_can_be_none_the_cell_says_so_once_and_is_done(cell_of, done_before, caplog):
    session, cell = Session("cpu"), cell_of(*WIDE_LORA, "save=adapter")
    if done_before:
        list(run_unit([cell_of(*WIDE_LORA)], session))
        samples = (cell.folder / "samples.json").read_text()
    assert make_entry(cell).todo
    (record,) = run_unit([cell], session)
    assert "not low rank" in caplog.text
    assert record.state == "done"
    stored = Record.load(cell.folder)
    assert stored.errors == record.errors
    assert "save=delta" in stored.errors["save=adapter"]
    told = (cell.folder / "adapter" / REFUSED_FILE).read_text()
    assert told.strip() == stored.errors["save=adapter"]
    assert [p.name for p in (cell.folder / "adapter").iterdir()] == [REFUSED_FILE]
    assert not make_entry(cell).todo
    if done_before:
        assert (cell.folder / "samples.json").read_text() == samples


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["editor=ft"], "editor=ft changes matrices in full rank.*save=delta or save=model"),
        (["editor=ft_l", "save=[model,adapter]"], "editor=ft_l changes"),
        (["editor=memit", "regularizer=rect"], "regularizer=rect changes"),
        (["editor=memit", "regularizer=random"], "regularizer=random changes"),
        (["editor=ft", "regularizer=rect"], "editor=ft with regularizer=rect changes"),
        (["editor=grace"], "editor=grace puts a module into the model"),
    ],
)
def test_what_is_known_to_be_dense_is_refused_before_anything_runs(cell_of, overrides, says):
    (reason,) = clashes(cell_of("save=adapter", *overrides))
    assert re.search(says, reason)


@pytest.mark.parametrize("name", ["none", "norm_match", "low_rank", "prune"])
def test_other_regularizers_are_not_refused(cell_of, name):
    assert clashes(cell_of("save=adapter", "editor=memit", f"regularizer={name}")) == []


def test_a_wrong_save_is_told_what_there_is(cell_of):
    (reason,) = check_values(cell_of("save=adaptor").config)
    assert re.search(r"save=adaptor: none, delta, model, adapter, or several", reason)
