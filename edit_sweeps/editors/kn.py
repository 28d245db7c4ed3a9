"""KN, knowledge neurons (Dai et al., arXiv 2104.08696), and the port to GPT models that most studies ran.

Neurons whose key contributes most to the old answer (`attribution`) get their *value slot*, column i
of the MLP output matrix, moved from the old answer's embedding to the new one's.

`mode=dai`, as published for BERT:
    neurons with a_i >= threshold max a, found under at least `share` of the prompts (the request's
    and its paraphrases), the share moved by 5 % until there are `min_neurons` to `max_neurons`;
    W[:, i] += 8 s_new e_new - s_old e_old,   s = |W[:, i]| / |e|                     (section 4.4)
    Not done: dropping neurons that many facts of a relation share.

`mode=port`, the GPT port (EleutherAI, the baselines of ROME, EasyEdit, and with it this project's paper):
    1. the *pre*-activation is scaled, though value slots belong to the post-activation;
    2. one prompt, and every neuron above the threshold: no share, no bound on their number;
    3. the integral takes both ends of the path, so that steps=1 is the gradient at zero;
    4. a longer old answer is asked for behind the model's *own* greedy tokens;
    5. e_old are the embeddings of the model's greedy continuation, not of the old answer;
    6. no norms: W[:, i] += 2 (e_new - e_old) for a new answer of one token, else the sums of the
       tokens' embeddings.
    Not reproduced: its GPT-2 branch, which asks for every token of the answer at one position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edit_sweeps.editors.attribution import Asked, attribute, path
from edit_sweeps.editors.base import Editor, State, Trace
from edit_sweeps.editors.settings import the_only
from edit_sweeps.later import no_grad, torch
from edit_sweeps.ledger import Ledger, LowRank
from edit_sweeps.requests import EditRequest
from edit_sweeps.tokens import token_ids

if TYPE_CHECKING:
    from torch import Tensor

    from edit_sweeps.model import EditableModel

MODES = ("port", "dai")
SHARE_STEP = 0.05
OLD, NEW = 1.0, 8.0
"""lambda_1 and lambda_2 of Dai et al."""

Neuron = tuple[int, int]
"""Layer, index."""


@dataclass(frozen=True, kw_only=True)
class KnowledgeNeurons(Editor):
    """Moves the value slots of the neurons that hold the old answer.

    Attributes:
        mode: `port` or `dai`; see the module.
        steps: Of the integral.
        threshold: Share of the largest attribution that a neuron must reach.
        share: `dai`: share of the prompts under which a neuron must be found, to begin with.
        min_neurons: `dai`: the share is lowered until there are so many.
        max_neurons: `dai`: the share is raised until there are at most so many.
    """

    mode: str = "port"
    steps: int = 20
    threshold: float = 0.2
    share: float = 0.7
    min_neurons: int = 2
    max_neurons: int = 5

    one_at_a_time: ClassVar[bool] = True

    def check(self, n_layers: int) -> None:  # noqa: ARG002  # it reads all layers
        """Refuse settings that cannot be."""
        if self.mode not in MODES:
            msg = f"editor.mode={self.mode}: one of {', '.join(MODES)}"
            raise ValueError(msg)
        if not self.steps >= 1:
            msg = f"editor.steps={self.steps} must be at least 1"
            raise ValueError(msg)
        for name in ("threshold", "share"):
            if not 0 < getattr(self, name) <= 1:
                msg = f"editor.{name}={getattr(self, name)} must be above 0 and at most 1"
                raise ValueError(msg)
        if not 1 <= self.min_neurons <= self.max_neurons:
            msg = (
                f"editor.min_neurons={self.min_neurons} must be 1 to max_neurons={self.max_neurons}"
            )
            raise ValueError(msg)

    def edit(
        self, model: EditableModel, requests: Sequence[EditRequest], ledger: Ledger, state: State
    ) -> list[Trace]:
        """Write one request.

        Raises:
            ValueError: Not exactly one request, or embeddings of another width than the values.
        """
        request = the_only(requests, "KN")
        embeddings = model.network.get_input_embeddings().weight.detach()
        if embeddings.shape[1] != model.d_out(0):
            msg = (
                f"KN writes embeddings into value slots; this model's embeddings have "
                f"{embeddings.shape[1]} dimensions and its values {model.d_out(0)}"
            )
            raise ValueError(msg)
        neurons = self.neurons(model, request)
        old, new = self._answers(model, request)  # before the first write: both may ask the model
        squares = weights = 0.0
        for layer in sorted({layer for layer, _ in neurons}):
            index = torch.tensor([i for where, i in neurons if where == layer])
            matrix = model.matrix(layer)
            slots = matrix[:, index.to(matrix.device)].double()
            left = self._change(embeddings, old, new, slots)
            if not left.any():  # the port, when the model already says the new answer
                continue
            right = torch.zeros(matrix.shape[1], len(index), dtype=left.dtype, device=left.device)
            right[index, torch.arange(len(index))] = 1.0
            squares += left.square().sum().item()
            weights += matrix.double().square().sum().item()
            ledger.write(model.parameter_name(layer), LowRank(left, right))
        state.edits_done += 1
        numbers = {
            "neurons": float(len(neurons)),
            "update_norm": squares**0.5,
            "update_norm_relative": (squares / weights) ** 0.5 if weights else 0.0,
        }
        return [Trace(request.case_id, numbers=numbers)]

    def neurons(self, model: EditableModel, request: EditRequest) -> list[Neuron]:
        """The neurons of the old answer, by layer and index."""
        if self.mode == "port":
            return sorted(self._found(model, asked_port(model, request)))
        prompts = [request.text, *(p.prompt for p in request.paraphrases)]
        counts = Counter(
            neuron
            for prompt in prompts
            for neuron in self._found(model, asked_dai(model, request, prompt))
        )
        return refine(counts, len(prompts), self.share, self.min_neurons, self.max_neurons)

    def _found(self, model: EditableModel, questions: Sequence[Asked]) -> set[Neuron]:
        """Neurons above the threshold under one prompt, attributions averaged over the answer's tokens."""
        port = self.mode == "port"
        shares = path(self.steps, closed=port)
        scores = [
            torch.stack(
                [attribute(model, q, layer, shares, preactivation=port) for q in questions]
            ).mean(0)
            for layer in range(model.n_layers)
        ]
        top = max(score.max().item() for score in scores)
        if not top > 0:  # nothing speaks for the answer, or the model has collapsed
            return set()
        bar = self.threshold * top
        return {
            (layer, int(i))
            for layer, score in enumerate(scores)
            for i in (score >= bar).nonzero()[:, 0]
        }

    def _answers(self, model: EditableModel, request: EditRequest) -> tuple[list[int], list[int]]:
        """Token ids of the old answer whose embeddings are taken out, and of the new one."""
        new = answer_ids(model, request.text, request.target_new)
        if self.mode == "port":
            text = token_ids(model.tokenizer, request.text)
            return continue_greedily(model, text, len(new)), new
        return old_answer(model, request, request.text), new

    def _change(self, embeddings: Tensor, old: list[int], new: list[int], slots: Tensor) -> Tensor:
        """`[d_out, neurons]`, what is added to the value slots `[d_out, neurons]`."""
        if self.mode == "port":
            factor = 2.0 if len(new) == 1 else 1.0
            moved = embeddings[new].double().sum(0) - embeddings[old].double().sum(0)
            return (factor * moved).to(slots.device)[:, None].expand_as(slots)
        sizes, change = slots.norm(dim=0), torch.zeros_like(slots)
        for ids, weight in ((old, -OLD), (new, NEW)):
            e = embeddings[ids].to(slots).mean(0)
            change += weight * torch.outer(e, sizes / e.norm())
        return change


def refine(
    counts: Counter[Neuron], n_prompts: int, share: float, fewest: int, most: int
) -> list[Neuron]:
    """Neurons found under at least a share of the prompts; the share moves until there are `fewest` to `most`.

    Where no share gives such a number, the last one tried before the direction turned counts.
    """
    direction, chosen = 0, []
    while True:
        chosen = sorted(n for n, count in counts.items() if count >= share * n_prompts - 1e-9)
        wanted = 1 if len(chosen) > most else -1 if len(chosen) < fewest else 0
        share += wanted * SHARE_STEP
        if not wanted or wanted == -direction or not 0 < share <= 1:
            return chosen
        direction = wanted


def asked_dai(model: EditableModel, request: EditRequest, prompt: str) -> list[Asked]:
    """Each token of the old answer behind the prompt and the answer's tokens before it."""
    ids, answer = token_ids(model.tokenizer, prompt), old_answer(model, request, prompt)
    return [Asked([*ids, *answer[:i]], token) for i, token in enumerate(answer)]


def asked_port(model: EditableModel, request: EditRequest) -> list[Asked]:
    """Each token of the old answer behind the prompt and as many greedy tokens."""
    ids = token_ids(model.tokenizer, request.text)
    answer = old_answer(model, request, request.text)
    own = continue_greedily(model, ids, len(answer) - 1)
    return [Asked([*ids, *own[:i]], token) for i, token in enumerate(answer)]


def old_answer(model: EditableModel, request: EditRequest, prompt: str) -> list[int]:
    """Token ids of `target_true` behind the prompt; the greedy token where it is not known."""
    if request.target_true:
        return answer_ids(model, prompt, request.target_true)
    return continue_greedily(model, token_ids(model.tokenizer, prompt), 1)


def answer_ids(model: EditableModel, prompt: str, answer: str) -> list[int]:
    """Token ids of an answer as they stand behind a prompt."""
    return token_ids(model.tokenizer, f"{prompt} {answer}")[
        len(token_ids(model.tokenizer, prompt)) :
    ]


@no_grad
def continue_greedily(model: EditableModel, ids: Sequence[int], count: int) -> list[int]:
    """The model's own next tokens."""
    ids, found = list(ids), list[int]()
    for _ in range(count):
        given = torch.tensor([[*ids, *found]], device=model.device)
        logits = model.network(input_ids=given, use_cache=False, logits_to_keep=1).logits
        found.append(int(logits[0, -1].argmax()))
    return found
