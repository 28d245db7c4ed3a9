"""EMMET, PMET, AlphaEdit, ENCORE and MEMIT in sequence from their papers' own formulas: dense, slow, float64."""

from __future__ import annotations

import math

import torch

from tests.published import CLEAN, at_subject, logits_under, mean_key, place, token_ids, value


def run(
    model,
    batches,
    groups,
    layers,
    settings,
    solve,
    *,
    wanted=None,
    share=None,
    site=None,
    stop=None,
):
    """MEMIT's procedure with another solve, batch by batch; assigns to the model's weights.

    `solve(layer, keys, residual, history)` gives an update `[d_out, d_in]`; `history` is the sum of k k^T of
    earlier batches, read on the model that holds them. `stop`: ENCORE's, of `value`.
    """
    contexts = [c for group in groups for c in group]
    module = site or model.block(layers[-1])
    history = {
        layer: torch.zeros(model.d_in(layer), model.d_in(layer), dtype=torch.float64)
        for layer in layers
    }
    for requests in batches:
        if wanted is None:
            found = [value(model, r, contexts, module, settings, stop_after=stop) for r in requests]
            values = torch.stack([start + shift for start, shift, _, _ in found], 1)
        else:
            values = torch.stack([wanted(model, r, contexts) for r in requests], 1)
        for index, layer in enumerate(layers):
            keys = torch.stack([mean_key(model, groups, r, layer) for r in requests], 1)
            now = torch.stack(
                [at_subject(model, module, CLEAN, r, inputs=False) for r in requests], 1
            )
            remaining = len(layers) - index
            residual = (values - now) / (remaining if share is None else share(remaining))
            update = solve(layer, keys, residual, history[layer])
            with torch.no_grad():
                model.matrix(layer).add_(update)
        for layer in layers:
            keys = torch.stack([mean_key(model, groups, r, layer) for r in requests], 1)
            history[layer] += keys @ keys.T


def memit_seq(moments, weight):
    def solve(layer, keys, residual, history):
        return (
            residual @ keys.T @ torch.linalg.inv(weight * moments[layer] + history + keys @ keys.T)
        )

    return solve


def encore(moments, weight, mu):
    def solve(layer, keys, residual, history):
        ridge = mu * torch.eye(len(keys), dtype=torch.float64)
        return (
            residual
            @ keys.T
            @ torch.linalg.inv(weight * moments[layer] + ridge + history + keys @ keys.T)
        )

    return solve


def emmet(moments, weight, ridge):
    def solve(layer, keys, residual, history):
        inverse = torch.linalg.inv(weight * moments[layer])
        slack = (ridge if keys.shape[1] > 1 else 0.0) * torch.eye(
            keys.shape[1], dtype=torch.float64
        )
        return residual @ torch.linalg.inv(keys.T @ inverse @ keys + slack) @ keys.T @ inverse

    return solve


def projection(moment, *, threshold=None, energy=None):
    """P by a singular value decomposition, as the authors' code does it."""
    vectors, values, _ = torch.linalg.svd(moment)
    if threshold is None:
        total, kept = 0.0, []
        for index in reversed(range(len(values))):
            total += values[index].item()
            if total > energy * values.sum().item():
                break
            kept.append(index)
    else:
        kept = [i for i, v in enumerate(values) if v < threshold]
    basis = vectors[:, kept]
    return basis @ basis.T


def alphaedit(projections, l2):
    def solve(layer, keys, residual, history):
        p = projections[layer]
        left = p @ (keys @ keys.T + history) + l2 * torch.eye(len(keys), dtype=torch.float64)
        return torch.linalg.solve(left, p @ keys @ residual.T).T

    return solve


def pmet_value(layer, settings):
    """Both shifts by torch's Adam, one row at a time; the wanted output of the MLP."""

    def wanted(model, request, contexts):
        attention = model.block(layer).get_submodule(model.architecture.attention)
        modules = [attention, model.mlp_out(layer)]
        starts = [at_subject(model, m, CLEAN, request, inputs=False) for m in modules]
        shifts = [torch.zeros_like(start, requires_grad=True) for start in starts]
        optimizer = torch.optim.Adam(shifts, lr=settings.lr)
        before = None
        for step in range(settings.steps):
            nlls, said = [], True
            for context in contexts:
                text, index = place(model, context, request.prompt, request.subject)
                ids = token_ids(model, f"{text} {request.target_new}")
                n_target = ids.shape[1] - token_ids(model, text).shape[1]
                logits = under_both(model, modules, ids, index, shifts)[-n_target - 1 : -1]
                said &= bool((logits.argmax(-1) == ids[0, -n_target:]).all())
                nlls.append(-logits.log_softmax(-1).gather(1, ids[0, -n_target:, None]).mean())
            text, index = place(model, CLEAN, "{} is a", request.subject)
            now = under_both(model, modules, token_ids(model, text), index, shifts)[
                index
            ].log_softmax(-1)
            before = now.detach() if before is None else before
            kl = torch.nn.functional.kl_div(
                before[None], now[None], log_target=True, reduction="batchmean"
            )
            decay = sum(
                s.norm() / start.norm() ** 2 for s, start in zip(shifts, starts, strict=True)
            )
            nll = torch.stack(nlls).mean()
            loss = (settings.said_weight if said else 1.0) * nll + settings.kl_factor * kl
            loss = loss + settings.weight_decay * decay
            if (said and kl <= settings.calm) or step == settings.steps - 1:
                break
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for shift, start in zip(shifts, starts, strict=True):
                    if shift.norm() > settings.clamp * start.norm():
                        shift.mul_(settings.clamp * start.norm() / shift.norm())
        return (starts[1] + shifts[1]).detach()

    return wanted


def under_both(model, modules, ids, index, shifts):
    """Logits with a shift in each of two modules."""

    def hook_of(shift):
        def hook(_, __, output):
            hidden = output[0] if isinstance(output, tuple) else output
            added = torch.zeros_like(hidden)
            added.reshape(-1, hidden.shape[-1])[index] = 1.0
            hidden = hidden + added * shift
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handle = modules[0].register_forward_hook(hook_of(shifts[0]))
    logits = logits_under(model, modules[1], ids, index, shifts[1])
    handle.remove()
    return logits


square_root = math.sqrt
