"""WISE (Wang et al., arXiv 2405.14768): edits go into side copies of one matrix; a router picks.

A side copy W' of an MLP output matrix W is trained on one edit after another by SGD, with the loss

    NLL(target) + max(0, s_irr - alpha) + max(0, beta - s_edit) + max(0, gamma - (s_edit - s_irr)),

s = ||(W' - W) k|| being the activation score of a token with key k (eq. 2-4 there). A shard of
`save_every` edits trains the same random part of W' (`mask_ratio`); shards are merged by TIES each
`merge_every` edits. Where the score of a token exceeds the least score of the edits times
`act_ratio`, the memory with the largest score answers (WISE-Retrieve), W elsewhere.

Where it differs from the published code, and why:

- That takes the mean score over a text's tokens and sends the whole text one way. An evaluation
  harness pads, batches and caches, and a token cannot know those behind it: here each token is
  judged by its own score, in training as in use. In scope are an edit's tokens from the subject's
  last one on, since before it no token can know which edit it is of; each term of the loss is a
  mean over the tokens (or pairs) that violate it.
- Irrelevant text: sampled from the unedited model, and the edit's prompt around the first words of
  such a text in the subject's place. It is never the request's own probes: they judge the result.
- The score is the paper's: not of outputs behind an activation function, and the bias cancels.
- No weight decay: it would move what the mask protects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from edit_sweeps.editors.base import Editor, Prepared, State, Stores, Trace
from edit_sweeps.editors.contexts import (
    BARE,
    ContextRecipe,
    flatten,
    make_contexts,
    read_contexts,
)
from edit_sweeps.editors.gradients import raised, row_means, target_nll
from edit_sweeps.editors.located import check_layers
from edit_sweeps.editors.reading import rows_for
from edit_sweeps.editors.settings import check_positive, the_only
from edit_sweeps.hooks import capture, replace_output
from edit_sweeps.later import enable_grad, no_grad, torch
from edit_sweeps.ledger import Ledger
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import Batch, Line, Rows, batch_of, token_ids

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.editors.side_memory import SideMemories
    from edit_sweeps.model import EditableModel


@dataclass(frozen=True)
class Material:
    """What one edit trains on. Keys lie before the matrix: no step changes them.

    Attributes:
        rows: The prompt with its target behind every context.
        scope: `[rows, tokens]`, true from the subject's last token on.
        keys: `[in_scope, d_in]`, of the tokens in scope.
        outputs: `[in_scope, d_out]`, W k with the bias.
        irrelevant: `[irrelevant, d_in]`, keys of tokens that must score low.
    """

    rows: Rows
    scope: Tensor
    keys: Tensor
    outputs: Tensor
    irrelevant: Tensor


@dataclass(frozen=True, kw_only=True)
class Wise(Editor):
    """Side memories at the MLP output matrix of one layer.

    Attributes:
        layer: The block.
        lr: Of SGD on the side matrix.
        steps: Passes over an edit at most.
        early_stop: Stop when the whole loss is below.
        mask_ratio: Share of the matrix that a shard may change.
        norm_constraint: Bound of every entry of W' - W.
        alpha: Irrelevant tokens must score below.
        beta: Tokens of an edit must score above.
        gamma: And above irrelevant ones by this.
        act_ratio: Threshold over the least score of the edits.
        save_every: Edits in a shard.
        merge_every: Edits after which the shards since the last merge become one memory.
        density: Share of the entries of a shard that TIES keeps.
        seed: Of the masks.
        contexts: As for ROME: what stands before the prompt in training.
        contexts_file: The same as a JSON file.
        context_source: `generated` or `miniature`; irrelevant texts come from there too.
        context_seed: Of the sampling.
        context_starts: Texts that sampling starts from; "" stands for the first token of any text.
        context_lengths: Pairs [tokens, count] for each start.
        irrelevant_lengths: Pairs [tokens, count] of irrelevant texts.
    """

    layer: int
    lr: float = 1.0
    steps: int = 70
    early_stop: float = 0.01
    mask_ratio: float = 0.2
    norm_constraint: float = 1.0
    alpha: float = 5.0
    beta: float = 20.0
    gamma: float = 10.0
    act_ratio: float = 0.88
    save_every: int = 500
    merge_every: int = 1000
    density: float = 0.53
    seed: int = 0
    contexts: Sequence[Any] | None = None
    contexts_file: str | None = None
    context_source: str = "generated"
    context_seed: int = 0
    context_starts: Sequence[str] = ("",)
    context_lengths: Sequence[Sequence[int]] = ((5, 5), (10, 5))
    irrelevant_lengths: Sequence[Sequence[int]] = ((32, 16),)

    one_at_a_time: ClassVar[bool] = True
    attaches: ClassVar[bool] = True

    def check(self, n_layers: int) -> None:
        """Refuse a layer outside the model and settings that cannot be."""
        check_layers((self.layer,), n_layers)
        check_positive(self, ("lr", "steps", "norm_constraint", "save_every", "merge_every"))
        for name in ("mask_ratio", "act_ratio", "density"):
            if not 0 < getattr(self, name) <= 1:
                msg = f"editor.{name}={getattr(self, name)} must be above 0 and at most 1"
                raise ValueError(msg)
        if self.merge_every % self.save_every:
            msg = (
                f"editor.merge_every={self.merge_every} must be a multiple of "
                f"editor.save_every={self.save_every}: whole shards are merged"
            )
            raise ValueError(msg)
        read_contexts(self.contexts, self.contexts_file)
        self._recipes()
        if self.context_source == "bare":
            msg = (
                "editor.context_source=bare leaves WISE without irrelevant texts; use generated or "
                'miniature, and editor.contexts=["{}"] to train on the bare prompt alone'
            )
            raise ValueError(msg)

    def prepare(self, model: EditableModel, stores: Stores) -> Prepared:  # noqa: ARG002
        """Contexts as one group, irrelevant texts as a second, both of the unedited model."""
        before, beside = self._recipes()
        given = read_contexts(self.contexts, self.contexts_file) or make_contexts(model, before)
        # The bare prompt, which comes first, is no text.
        return Prepared(contexts=(flatten(given), flatten(make_contexts(model, beside))[1:]))

    def resume(self, model: EditableModel, ledger: Ledger, state: State) -> None:
        """Attach the memories of `state`."""
        self._memories(model, ledger, state)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write one request into the open shard.

        Raises:
            ValueError: Not exactly one request.
        """
        request = the_only(requests, "WISE")
        memories = self._memories(model, ledger, state)
        material = _material(model, memories, request, state.prepared.contexts)
        self._open_shard(state, material)
        change, loss, steps = self._train(model, memories, material, state)
        least = _scores(material.keys, change).min()
        known = state.tensors
        threshold = torch.minimum(known["thresholds"][-1], self.act_ratio * least.cpu())
        for part, last in (("changes", change.cpu()), ("thresholds", threshold)):
            known[part] = torch.cat([known[part][:-1], last[None]])
        state.edits_done += 1
        if state.edits_done % self.merge_every == 0:
            self._merge(state)
        memories.fill(state, change.device)
        numbers = {
            "memories": float(len(known["changes"])),
            "least_score": least.item(),
            "irrelevant_score": max(_scores(material.irrelevant, change).tolist(), default=0.0),
            "threshold": known["thresholds"][-1].item(),
        }
        return [Trace(request.case_id, loss=loss, steps=steps, numbers=numbers)]

    def _recipes(self) -> tuple[ContextRecipe, ContextRecipe]:
        """Of the contexts, and of the irrelevant texts."""
        before = ContextRecipe(
            source=self.context_source,
            seed=self.context_seed,
            starts=tuple(self.context_starts),
            lengths=tuple(tuple(pair) for pair in self.context_lengths),
            grouped=True,
        )
        lengths = tuple(tuple(pair) for pair in self.irrelevant_lengths)
        return before, replace(before, seed=self.context_seed + 1, lengths=lengths)

    def _memories(self, model: EditableModel, ledger: Ledger, state: State) -> SideMemories:
        """The attached ones; attached now if they are not."""
        path = model.parameter_name(self.layer).removesuffix(".weight")
        if path not in ledger.attached:
            from edit_sweeps.editors.side_memory import SideMemories

            ledger.attach(path, SideMemories(model.mlp_out(self.layer)))
        memories = model.network.get_submodule(path)
        memories.fill(state, next(memories.inner.parameters()).device)
        return memories

    def _open_shard(self, state: State, material: Material) -> None:
        """A memory that changes nothing yet, if the last one is full. Mutates `state.tensors`."""
        if state.edits_done % self.save_every:
            return
        zeros = torch.zeros_like(material.outputs[0])[:, None] * material.keys[:1]
        added = {"changes": zeros[None], "thresholds": zeros.new_full((1,), torch.inf)}
        for part, rows in added.items():
            before = state.tensors.get(part)
            new = rows.cpu()
            state.tensors[part] = new if before is None else torch.cat([before, new])

    def _merge(self, state: State) -> None:
        """One memory for the shards since the last merge. Mutates `state.tensors`."""
        from edit_sweeps.editors.side_memory import ties

        count = self.merge_every // self.save_every
        for part, merge in (
            ("changes", lambda shards: ties(shards, self.density)),
            ("thresholds", torch.min),
        ):
            known = state.tensors[part]
            state.tensors[part] = torch.cat([known[:-count], merge(known[-count:])[None]])

    @enable_grad
    def _train(
        self, model: EditableModel, memories: SideMemories, material: Material, state: State
    ) -> tuple[Tensor, float, int]:
        """W' - W `[d_out, d_in]` of the open shard, its loss, and the updates made."""
        from edit_sweeps.editors.side_memory import shard_mask

        rows, keys = material.rows, material.keys
        # A copy: the attached memory must stay as it is meanwhile, on the CPU too.
        change = state.tensors["changes"][-1].to(keys, copy=True).requires_grad_()
        shard = state.edits_done // self.save_every
        mask = shard_mask(change.shape, self.mask_ratio, self.seed, shard).to(keys.device)
        scope = tuple(material.scope.to(keys.device).nonzero(as_tuple=True))
        steps = 0
        while True:
            shift = keys @ change.T

            def put(out: Tensor, shift: Tensor = shift) -> Tensor:
                return out.index_put(scope, (material.outputs + shift).to(out))

            with replace_output(memories, put, rows=len(rows.ids)):
                logits = model.network(
                    input_ids=rows.ids, attention_mask=rows.mask, use_cache=False
                ).logits
            nll = row_means(*target_nll(logits, rows.labels), len(rows.ids)).mean()
            irrelevant = _scores(material.irrelevant, change)
            loss = nll + self.activation_loss(shift.norm(dim=-1), irrelevant).to(nll.device)
            if steps == self.steps or not loss >= self.early_stop:
                return change.detach(), loss.item(), steps
            (gradient,) = torch.autograd.grad(loss, change)
            with torch.no_grad():
                change -= self.lr * gradient * mask
                change.clamp_(-self.norm_constraint, self.norm_constraint)
            steps += 1

    def activation_loss(self, edit: Tensor, irrelevant: Tensor) -> Tensor:
        """Margins of the scores `[in_scope]` of an edit and `[irrelevant]` of irrelevant tokens."""
        gaps = edit[:, None] - irrelevant
        terms = (irrelevant - self.alpha, self.beta - edit, self.gamma - gaps)
        return sum((_mean_of_positive(x) for x in terms), edit.new_zeros(()))


def _mean_of_positive(x: Tensor) -> Tensor:
    """The mean of `x` where it is positive; 0 if it nowhere is."""
    return x.clamp(min=0).sum() / (x > 0).sum().clamp(min=1)


def _scores(keys: Tensor, change: Tensor) -> Tensor:
    """`[tokens]` for keys `[tokens, d_in]`."""
    return (keys @ change.T).norm(dim=-1)


def _material(
    model: EditableModel,
    memories: SideMemories,
    request: EditRequest,
    groups: Sequence[Sequence[str]],
) -> Material:
    """What an edit trains on; `groups` of `Wise.prepare`, the second may be absent."""
    contexts, texts = groups[0], groups[1] if len(groups) > 1 else ()
    rows = rows_for(
        model, [Line(request.prompt, request.subject, request.target_new, c) for c in contexts]
    )
    columns = torch.arange(rows.ids.shape[1], device=rows.ids.device)
    scope = rows.mask.bool() & (columns >= rows.lookup[:, None])
    keys = _keys(model, memories, rows, scope)
    with torch.no_grad():
        outputs = memories.inner(keys.to(model.dtype)).to(keys)
    irrelevant = keys[:0]
    if others := _irrelevant_texts(request, texts):
        ids = [token_ids(model.tokenizer, text)[: model.max_length] for text in others]
        batch = batch_of(model.tokenizer, ids, model.device)
        irrelevant = _keys(model, memories, batch, batch.mask.bool())
    return Material(rows, scope, keys, outputs, irrelevant)


def _irrelevant_texts(request: EditRequest, templates: Sequence[str]) -> list[str]:
    """Texts without the subject; then the prompt around the first words of each."""
    texts = [t.replace(BARE, "").strip() for t in templates]
    texts = [t for t in texts if t and request.subject not in t]
    n_words = len(request.subject.split())
    heads = dict.fromkeys(" ".join(t.split()[:n_words]) for t in texts)
    return texts + [request.prompt.replace(BARE, head) for head in heads]


@no_grad
def _keys(model: EditableModel, memories: SideMemories, batch: Batch, wanted: Tensor) -> Tensor:
    """`[tokens, d_in]`, the keys of the wanted tokens, in at least float32."""
    with capture({0: memories}, inputs=True, rows=len(batch.ids), stop_after=memories) as seen:
        model.network(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False)
    return raised(seen[0][wanted.to(seen[0].device)])
