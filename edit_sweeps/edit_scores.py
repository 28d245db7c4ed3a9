"""How well the edits took: efficacy, paraphrase, neighborhood, other facts, portability, entropy.

docs/edit_scores.md has the whole table. The answer to the edited prompt and to each probe is judged
in several ways; NLL is the mean over the tokens of " " + answer, P = exp(-NLL):
    comparison: NLL(target) < NLL(alternative); magnitude: P(target) - P(alternative). ES, EM, PS,
        PM, NS, NM of ROME (Meng et al. 2022, arXiv 2202.05262).
    accuracy: share of the target's tokens that are the argmax under teacher forcing, as for zsRE in
        MEND (Mitchell et al. 2022, arXiv 2110.11309) and ROME. It gives away the target's length
        and, token by token, its start.
    generated: the greedy continuation contains the target, which is what a user sees (Yang et al.
        2025, arXiv 2502.11177).
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, harmonic_mean

from edit_sweeps.datasets.building import word_goes_on
from edit_sweeps.edited_probes import superseded
from edit_sweeps.model import EditableModel
from edit_sweeps.record import Score
from edit_sweeps.requests import EditRequest, Probe
from edit_sweeps.statistics import make_score
from edit_sweeps.tokens import TargetScore, greedy, score_targets

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EditScoreSettings:
    """How the edits are scored.

    Attributes:
        limit: Requests scored, None for all. Which: those whose case ids have the smallest hashes
            under `seed`, so that old and recent edits count alike; what is scored among the first n
            is also scored among the first m < n, if it is one of them.
        max_new_tokens: Length of the greedy continuations, in tokens.
        batch_size: Rows of a forward pass.
        seed: Of the choice of requests.

    Raises:
        ValueError: A number below 1.
    """

    limit: int | None = None
    max_new_tokens: int = 8
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("limit", "max_new_tokens", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                null = ", or null for all requests" if name == "limit" else ""
                msg = f"edit_scores.{name}={value}: a count from 1 on is needed{null}"
                raise ValueError(msg)


@dataclass(frozen=True)
class Answers:
    """What the model said.

    Attributes:
        scores: (prompt, answer) -> how it predicts the answer.
        texts: Prompt -> greedy continuation.
    """

    scores: Mapping[tuple[str, str], TargetScore]
    texts: Mapping[str, str]

    def nll(self, prompt: str, answer: str) -> float | None:
        """Mean negative log-likelihood of the answer's tokens, in nats; None when not finite."""
        logprobs = self.scores[prompt, answer].logprobs
        return -fmean(logprobs) if all(map(math.isfinite, logprobs)) else None


@dataclass(frozen=True)
class Verdict:
    """What an answer is worth, and whether the model gave a usable one."""

    value: float
    valid: bool = True


FAILED = Verdict(0.0, valid=False)


def score_edits(
    model: EditableModel, requests: Sequence[EditRequest], settings: EditScoreSettings
) -> dict[str, Score]:
    """Every edit metric for which the requests have something to ask.

    A sample is the mean over the probes of one request; its id is the case id. A request whose fact
    a later one writes anew is left out where its own target would be expected. Comparisons leave
    out probes without an alternative. Where log-probabilities are not finite the answer counts 0
    in every metric but entropy; `invalid` is the share of such answers and, for what is generated,
    of empty ones.

    Args:
        model: Edited or not; it is not changed.
        requests: All of the cell, in order.
        settings: How many are scored and how.

    Returns:
        Metric -> score; `portability_<kind>` for each kind of portability that the data name.
        `score` is the harmonic mean of efficacy, paraphrase and neighborhood (S of ROME): a value
        without samples or interval, there where all three are.
    """
    gone = superseded(requests)
    groups = {r.case_id: _groups(r, r.case_id in gone) for r in _chosen(requests, settings)}
    answers = _ask(model, [p for g in groups.values() for ps in g.values() for p in ps], settings)
    scores: dict[str, Score] = {}
    for name, metric in _metrics(groups).items():
        verdicts = {
            case: [
                v
                for p in probes.get(metric.group, ())
                if (v := metric.judge(p, answers)) is not None
            ]
            for case, probes in groups.items()
        }
        judged = {case: found for case, found in verdicts.items() if found}
        if judged:
            scores[name] = make_score(
                {case: [fmean(v.value for v in found)] for case, found in judged.items()},
                invalid=fmean(fmean(not v.valid for v in found) for found in judged.values()),
                headline=name == HEADLINE,
            )
    return scores | _harmonic(scores)


def contains_answer(text: str, answer: str) -> bool:
    """Whether `answer` stands in `text` as whole words; case and white space do not matter.

    Only between letters that have an upper and a lower case, and digits, does a word go on; scripts
    without spaces between words are thus searched as plain text.
    """
    text, answer = _normal(text), _normal(answer)
    at = text.find(answer)
    while at >= 0:
        end = at + len(answer)
        if not word_goes_on(text, at) and not word_goes_on(text, end):
            return True
        at = text.find(answer, at + 1)
    return False


def ngram_entropy(text: str) -> float:
    """(2/3 H2 + 4/3 H3) / 2 in bits, Hn the entropy of the text's word n-grams; 0 without any.

    The formula of ROME's `n_gram_entropy` (GE), after Zhang et al. (2018, arXiv 1809.05972).
    """
    words = re.findall(r"\w+|[^\w\s]", text)
    return fmean((2 / 3 * _entropy(_ngrams(words, 2)), 4 / 3 * _entropy(_ngrams(words, 3))))


def _chosen(requests: Sequence[EditRequest], settings: EditScoreSettings) -> list[EditRequest]:
    """The requests that are scored, in the order of the cell."""

    def rank(request: EditRequest) -> bytes:
        return hashlib.sha256(f"{settings.seed}/{request.case_id}".encode()).digest()

    kept = {r.case_id for r in sorted(requests, key=rank)[: settings.limit]}
    return [r for r in requests if r.case_id in kept]


def _groups(request: EditRequest, is_superseded: bool) -> dict[str, tuple[Probe, ...]]:
    """The probes of each kind; `wording` is everything that words the edited fact."""
    own = (Probe(request.text, request.target_new, request.target_true),)
    portability = () if is_superseded else request.portability
    kinds = {f"portability_{p.kind}": p.kind for p in portability if p.kind is not None}
    return {
        "efficacy": () if is_superseded else own,
        "paraphrase": () if is_superseded else request.paraphrases,
        "neighborhood": request.neighborhood,
        "other_facts": request.other_facts,
        "portability": portability,
        "wording": own + request.paraphrases,
    } | {name: tuple(p for p in portability if p.kind == kind) for name, kind in kinds.items()}


def _ask(model: EditableModel, probes: Sequence[Probe], settings: EditScoreSettings) -> Answers:
    """Puts each distinct question once; those of like length go together, to pad little."""
    if not probes:
        return Answers({}, {})
    wanted = {(p.prompt, a) for p in probes for a in (p.target, p.alternative) if a is not None}
    pairs = sorted(wanted, key=lambda pair: (len(pair[0]) + len(pair[1]), pair))
    prompts = sorted({p.prompt for p in probes}, key=lambda prompt: (len(prompt), prompt))
    scores = dict(zip(pairs, score_targets(model, pairs, settings.batch_size), strict=True))
    targets = {(p.prompt, p.target) for p in probes}
    cut = sum(len(scores[pair].logprobs) > settings.max_new_tokens for pair in targets)
    if cut:
        logger.warning(
            "%d of %d targets have more tokens than edit_scores.max_new_tokens=%d; what is "
            "generated can never contain them",
            *(cut, len(targets), settings.max_new_tokens),
        )
    texts = greedy(model, prompts, settings.max_new_tokens, settings.batch_size)
    return Answers(scores, dict(zip(prompts, texts, strict=True)))


def _comparison(probe: Probe, answers: Answers) -> Verdict | None:
    if probe.alternative is None:
        return None
    target = answers.nll(probe.prompt, probe.target)
    alternative = answers.nll(probe.prompt, probe.alternative)
    if target is None or alternative is None:
        return FAILED
    return Verdict(float(target < alternative))


def _magnitude(probe: Probe, answers: Answers) -> Verdict | None:
    if probe.alternative is None:
        return None
    target = answers.nll(probe.prompt, probe.target)
    alternative = answers.nll(probe.prompt, probe.alternative)
    if target is None or alternative is None:
        return FAILED
    return Verdict(math.exp(-target) - math.exp(-alternative))


def _accuracy(probe: Probe, answers: Answers) -> Verdict:
    if answers.nll(probe.prompt, probe.target) is None:
        return FAILED
    return Verdict(fmean(answers.scores[probe.prompt, probe.target].hits))


def _generated(probe: Probe, answers: Answers) -> Verdict:
    text = answers.texts[probe.prompt]
    if not text.strip() or answers.nll(probe.prompt, probe.target) is None:
        return FAILED
    return Verdict(float(contains_answer(text, probe.target)))


def _diversity(probe: Probe, answers: Answers) -> Verdict:
    text = answers.texts[probe.prompt]
    return Verdict(ngram_entropy(text), valid=bool(text.strip()))


@dataclass(frozen=True)
class Metric:
    """A kind of probe and how its answers are judged; None where a probe cannot be."""

    group: str
    judge: Callable[[Probe, Answers], Verdict | None]


HEADLINE = "efficacy"
METRICS: Mapping[str, Metric] = {
    **{
        f"{group}{suffix}": Metric(group, judge)
        for group in ("efficacy", "paraphrase", "neighborhood")
        for suffix, judge in (
            ("", _comparison),
            ("_magnitude", _magnitude),
            ("_accuracy", _accuracy),
            ("_generated", _generated),
        )
    },
    "other_facts": Metric("other_facts", _generated),
    "other_facts_probability": Metric("other_facts", _comparison),
    "portability": Metric("portability", _generated),
    "portability_probability": Metric("portability", _comparison),
    "entropy": Metric("wording", _diversity),
}


def _metrics(groups: Mapping[str, Mapping[str, tuple[Probe, ...]]]) -> dict[str, Metric]:
    """`METRICS`, and `portability` once more for each kind of it that the data name."""
    names = {name for probes in groups.values() for name in probes}
    kinds = sorted(name for name in names if name.startswith("portability_"))
    return {**METRICS, **{name: Metric(name, _generated) for name in kinds}}


def _harmonic(scores: Mapping[str, Score]) -> dict[str, Score]:
    """S of ROME: harmonic mean of the three success rates; 0 when one of them is."""
    parts = [scores[name] for name in ("efficacy", "paraphrase", "neighborhood") if name in scores]
    values = [part.value for part in parts if part.value is not None]
    if len(values) < 3:
        return {}
    n = min(part.n for part in parts)
    invalid = max(part.invalid or 0.0 for part in parts)
    value = float(harmonic_mean(values))
    return {"score": Score(value, n, invalid=invalid, aggregation="harmonic_mean")}


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _ngrams(words: Sequence[str], n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(n)), strict=False)


def _entropy(items: Iterable[tuple[str, ...]]) -> float:
    """Entropy in bits of the items' frequencies; 0 without items."""
    counts = Counter(items).values()
    total = sum(counts)
    return sum(c / total * math.log2(total / c) for c in counts)
