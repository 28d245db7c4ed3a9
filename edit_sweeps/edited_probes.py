"""Probes about what the cell itself edits, and requests that a later one overrides."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edit_sweeps.requests import EditRequest, Probe


def superseded(requests: Sequence[EditRequest]) -> frozenset[str]:
    """Case ids of requests whose fact a later request of the list writes with another target.

    The same fact is: the same prompt with its subject, also as a paraphrase of the later request;
    the same (subject, relation) where the data name the relation.
    """
    last = _last_targets(requests)
    return frozenset(r.case_id for r in requests if any(last[k] != r.target_new for k in _facts(r)))


def drop_edited_probes(requests: Sequence[EditRequest]) -> tuple[list[EditRequest], int]:
    """The requests without the probes that ask what another request of the list writes.

    Such a probe's target is no longer what a good edit must give. It is one whose prompt is that of
    the other request or of one of its paraphrases; or whose (subject, relation) is the other's. A
    probe's own `subject` and `relation` are used where the data have them; otherwise other facts
    have the request's subject, and a neighborhood prompt has the request's relation and every
    subject of that relation that occurs in it as whole words. Paraphrases are dropped only where a
    later request writes another target, and portability probes of a case when a later request
    overrides any edit of it.

    Returns:
        The requests, in the same order, and the number of probes dropped.
    """
    edited = _Edited(requests)
    asks = edited.asks
    stale = {r.case for r in requests if r.case_id in edited.superseded} - {None}
    kept = []
    for i, request in enumerate(requests):
        about, relation = request.subject, request.relation
        kept.append(
            replace(
                request,
                paraphrases=tuple(p for p in request.paraphrases if not edited.rewrites(i, p)),
                neighborhood=tuple(
                    p for p in request.neighborhood if not asks(i, p, relation=relation)
                ),
                other_facts=tuple(p for p in request.other_facts if not asks(i, p, subject=about)),
                portability=tuple(
                    p for p in request.portability if request.case not in stale and not asks(i, p)
                ),
            )
        )
    return kept, sum(map(_probe_count, requests)) - sum(map(_probe_count, kept))


class _Edited:
    """What the requests of a cell write, for looking probes up in it."""

    def __init__(self, requests: Sequence[EditRequest]) -> None:
        self.requests = requests
        self.superseded = superseded(requests)
        self.last = _last_targets(requests)
        self.writers: dict[tuple[str, ...], set[int]] = {}
        self.subjects: dict[str, dict[tuple[str, ...], set[int]]] = {}
        for i, request in enumerate(requests):
            for key in _targets(request):
                self.writers.setdefault(key, set()).add(i)
            name = _words(request.subject)
            if request.relation is not None and name:
                self.subjects.setdefault(request.relation, {}).setdefault(name, set()).add(i)

    def rewrites(self, own: int, paraphrase: Probe) -> bool:
        """Whether a later request changes the answer to this paraphrase of request number `own`."""
        last = self.last[_prompt_key(paraphrase.prompt)]
        return self.requests[own].case_id in self.superseded or last != paraphrase.target

    def asks(
        self, own: int, probe: Probe, *, subject: str | None = None, relation: str | None = None
    ) -> bool:
        """Whether a request other than number `own` writes what the probe asks.

        Args:
            own: Number of the request that the probe belongs to.
            probe: The probe.
            subject: Its subject, where it does not say itself.
            relation: Its relation, where it does not say itself.
        """
        subject, relation = probe.subject or subject, probe.relation or relation
        writers = set(self.writers.get(_prompt_key(probe.prompt), ()))
        if relation is not None:
            if subject is not None:
                writers |= self.writers.get(("fact", subject, relation), set())
            else:
                writers |= _mentioned(probe.prompt, self.subjects.get(relation, {}))
        return bool(writers - {own})


def _facts(request: EditRequest) -> list[tuple[str, ...]]:
    """Keys of the fact that a request writes."""
    named = [("fact", request.subject, request.relation)] if request.relation is not None else []
    return [_prompt_key(request.text), *named]


def _targets(request: EditRequest) -> dict[tuple[str, ...], str]:
    """What a request says about each prompt and fact."""
    paraphrases = {_prompt_key(p.prompt): p.target for p in request.paraphrases}
    return paraphrases | dict.fromkeys(_facts(request), request.target_new)


def _last_targets(requests: Sequence[EditRequest]) -> dict[tuple[str, ...], str]:
    """What the last request about it says about each prompt and fact."""
    return {key: target for r in requests for key, target in _targets(r).items()}


def _prompt_key(prompt: str) -> tuple[str, ...]:
    return ("prompt", " ".join(prompt.split()))


def _words(text: str) -> tuple[str, ...]:
    """Runs of letters, digits and `_`; the marks on a letter are part of it."""
    text = unicodedata.normalize("NFC", text.casefold())
    return tuple("".join(c if _in_words(c) else " " for c in text).split())


def _in_words(character: str) -> bool:
    return (
        character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
    )


def _mentioned(prompt: str, names: Mapping[tuple[str, ...], set[int]]) -> set[int]:
    """The requests whose subject's words occur in the prompt, one after another."""
    words = _words(prompt)
    spans = ((i, i + size) for size in {len(n) for n in names} for i in range(len(words)))
    return set().union(*(names.get(words[start:end], set()) for start, end in spans))


def _probe_count(r: EditRequest) -> int:
    return sum(map(len, (r.paraphrases, r.neighborhood, r.other_facts, r.portability)))
