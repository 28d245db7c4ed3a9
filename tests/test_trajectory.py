"""Prefixes of one editing run: sharing them, losing them and being killed must not change a bit of the weights."""

from dataclasses import dataclass

import pytest
import torch

from edit_sweeps import trajectory as module
from edit_sweeps.editors.base import Editor, Prepared, Trace
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class Walk(Editor):
    """Writes a rank-one update that depends on the weights, on the request and on a running tensor."""

    layer: int = 1

    def start(self, model, prepared):
        state = super().start(model, prepared)
        state.tensors["memory"] = torch.zeros(model.matrix(self.layer).shape[1])
        return state

    def edit(self, model, requests, ledger, state):
        for request in requests:
            generator = torch.Generator().manual_seed(sum(map(ord, request)))
            matrix = model.matrix(self.layer).float()
            right = torch.randn(matrix.shape[1], generator=generator) + state.tensors["memory"]
            left = 0.01 * (matrix @ right)
            state.tensors["memory"] = torch.tanh(right)
            ledger.write(model.parameter_name(self.layer), LowRank(left[:, None], right[:, None]))
        return [Trace(request) for request in requests]


@pytest.fixture
def walk(tiny_model, tmp_path):
    def go(count, folder="shared", batch_size=1, editor=None):
        model = tiny_model("gpt2")
        ledger = Ledger(model)
        run = Trajectory(
            tmp_path / folder, model=model, editor=editor or Walk(), ledger=ledger, prepared=Prepared(),
            batch_size=batch_size,
        )  # fmt: skip
        traces = run.advance([f"request {i}" for i in range(count)])
        assert [t["case_id"] for t in traces] == [f"request {i}" for i in range(count)]
        return model.matrix(1).clone()

    return go


class Counting:
    """An editor that counts the requests it writes and can stop the process at one of them."""

    def __init__(self, stop_at=None):
        self.inner, self.done, self.stop_at = Walk(), 0, stop_at

    def start(self, model, prepared):
        return self.inner.start(model, prepared)

    def resume(self, model, ledger, state):
        self.inner.resume(model, ledger, state)

    def edit(self, model, requests, ledger, state):
        if state.edits_done == self.stop_at:
            raise KeyboardInterrupt
        self.done += len(requests)
        return self.inner.edit(model, requests, ledger, state)


def test_a_cell_alone_has_bit_equal_weights_to_one_that_continued(walk):
    for count in (1, 4, 9):
        assert torch.equal(walk(count), walk(count, folder=f"alone{count}"))


def test_edits_of_a_stored_prefix_are_not_computed_again(walk):
    counting = Counting()
    for count in (1, 10, 30):
        walk(count, editor=counting)
    assert counting.done == 30


def test_a_run_stopped_in_the_middle_resumes_to_equal_weights(walk, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        walk(12, editor=Counting(stop_at=7))
    counting = Counting()
    resumed = walk(12, editor=counting)
    assert counting.done == 5
    assert torch.equal(resumed, walk(12, folder="undisturbed"))


def test_the_remainder_of_a_batch_is_not_a_prefix_of_a_longer_run(walk):
    walk(5, batch_size=3)
    counting = Counting()
    walk(9, batch_size=3, editor=counting)
    assert counting.done == 9
    counting = Counting()
    walk(12, batch_size=3, editor=counting)
    assert counting.done == 3


def test_only_the_ends_of_cells_stay_on_disk(walk, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SAVE_EVERY_S", 0.0)
    walk(6)
    assert sorted(p.name for p in (tmp_path / "shared").iterdir()) == ["000006"]


def test_a_prefix_that_vanishes_while_it_is_read_is_passed_over(walk, tmp_path):
    whole = walk(7, "alone")
    walk(3)
    walk(5)
    (tmp_path / "shared" / "000005" / "state.safetensors").unlink()
    assert torch.equal(walk(7), whole)
    (tmp_path / "shared" / "000005" / "ledger.safetensors").write_bytes(b"half")
    (tmp_path / "shared" / "000007" / "ledger.safetensors").unlink()
    assert torch.equal(walk(7), whole)
