"""ROME, MEMIT and fine-tuning as their authors' code does them: one row at a time, dense, slow, float64."""

from __future__ import annotations

import torch

CLEAN = "{}"


def token_ids(model, text):
    return torch.tensor([model.tokenizer(text)["input_ids"]])


def place(model, context, prompt, subject):
    """Text, and index of the last token that overlaps the subject."""
    before, _, after = context.replace("{}", prompt).partition("{}")
    text = before + subject + after
    spans = model.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    end = len(before) + len(subject)
    inside = [i for i, (low, high) in enumerate(spans) if low < high and low < end]
    return text, inside[-1]


def at_subject(model, module, context, request, *, inputs):
    """Input or output of a module at the subject's last token of one prompt."""
    text, index = place(model, context, request.prompt, request.subject)
    seen = []

    def hook(_, args, output):
        found = args[0] if inputs else (output[0] if isinstance(output, tuple) else output)
        seen.append(found.reshape(-1, found.shape[-1])[index])

    handle = module.register_forward_hook(hook)
    with torch.no_grad():
        model.network(token_ids(model, text))
    handle.remove()
    return seen[0].double()


def mean_key(model, groups, request, layer):
    """Mean inside each group of contexts, then over groups."""
    module = model.mlp_out(layer)
    means = [
        torch.stack([at_subject(model, module, c, request, inputs=True) for c in group]).mean(0)
        for group in groups
    ]
    return torch.stack(means).mean(0)


def logits_under(model, module, ids, index, shift):
    """Logits of one text with the shift added to a module's output at one position."""

    def hook(_, __, output):
        hidden = output[0] if isinstance(output, tuple) else output
        added = torch.zeros_like(hidden)
        added.reshape(-1, hidden.shape[-1])[index] = 1.0
        hidden = hidden + added * shift
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handle = module.register_forward_hook(hook)
    logits = model.network(ids).logits[0]
    handle.remove()
    return logits


def value(model, request, contexts, module, settings, *, stop_after=None):
    """compute_v / compute_z: the start, the shift, the last loss and the number of updates.

    `stop_after`: ENCORE's count of updates after the target is the most probable text under every context.
    """
    start = at_subject(model, module, CLEAN, request, inputs=False)
    shift = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([shift], lr=settings.lr)
    before, updates, said_at = None, 0, None
    for step in range(settings.steps):
        nlls, said = [], True
        for context in contexts:
            text, index = place(model, context, request.prompt, request.subject)
            ids = token_ids(model, f"{text} {request.target_new}")
            n_target = ids.shape[1] - token_ids(model, text).shape[1]
            logits = logits_under(model, module, ids, index, shift)[-n_target - 1 : -1]
            nlls.append(-logits.log_softmax(-1).gather(1, ids[0, -n_target:, None]).mean())
            said &= bool((logits.argmax(-1) == ids[0, -n_target:]).all())
        said_at = updates if said and said_at is None else said_at
        text, index = place(model, CLEAN, "{} is a", request.subject)
        now = logits_under(model, module, token_ids(model, text), index, shift)[index].log_softmax(
            -1
        )
        before = now.detach() if before is None else before
        kl = torch.nn.functional.kl_div(
            before[None], now[None], log_target=True, reduction="batchmean"
        )
        decay = settings.weight_decay * (torch.norm(shift) / torch.norm(start) ** 2)
        loss = torch.stack(nlls).mean() + settings.kl_factor * kl + decay
        if loss < settings.early_stop or step == settings.steps - 1:
            break
        if None not in (stop_after, said_at) and updates - said_at >= stop_after:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        updates += 1
        bound = settings.clamp * start.norm()
        if shift.norm() > bound:
            with torch.no_grad():
                shift[...] = shift * bound / shift.norm()
    return start, shift.detach(), loss.item(), updates


def bias(model, layer):
    module = model.mlp_out(layer)
    return 0.0 if module.bias is None else module.bias.detach()


def rome(model, request, groups, layer, moment, settings, *, uniform_key):
    """The update of ROME or r-ROME, `[d_out, d_in]`."""
    module, contexts = model.mlp_out(layer), [c for group in groups for c in group]
    start, shift, _, _ = value(model, request, contexts, module, settings)
    averaged = mean_key(model, groups, request, layer)
    u = torch.linalg.inv(moment) @ averaged
    u = u / u.norm()
    key = averaged if uniform_key else mean_key(model, ((CLEAN,),), request, layer)
    output = model.matrix(layer) @ key + bias(model, layer)
    return torch.outer((start + shift - output) / (key @ u), u)


def memit(model, requests, groups, layers, moments, weight, settings):
    """Runs MEMIT on `model`, assigning to its weights; layer -> update."""
    contexts = [c for group in groups for c in group]
    last = model.block(layers[-1])
    wanted = []
    for request in requests:
        start, shift, _, _ = value(model, request, contexts, last, settings)
        wanted.append(start + shift)
    updates = {}
    for index, layer in enumerate(layers):
        keys = torch.stack([mean_key(model, groups, r, layer) for r in requests], 1)
        now = [at_subject(model, last, CLEAN, r, inputs=False) for r in requests]
        residual = (torch.stack(wanted, 1) - torch.stack(now, 1)) / (len(layers) - index)
        dense = torch.linalg.solve(weight * moments[layer] + keys @ keys.T, keys @ residual.T).T
        updates[layer] = dense
        with torch.no_grad():
            model.matrix(layer).add_(dense)
    return updates


def fine_tune(model, requests, layer, settings):
    """Runs fine-tuning on `model`, assigning to its weight; `settings.batch_size` requests an update."""
    weight = model.parameter(model.parameter_name(layer))
    weight.requires_grad_()
    original = weight.detach().clone()
    optimizer = torch.optim.Adam([weight], lr=settings.lr)
    for _ in range(settings.steps):
        seen = []
        for first in range(0, len(requests), settings.batch_size):
            losses = [
                ft_loss(model, r, settings.loss)
                for r in requests[first : first + settings.batch_size]
            ]
            loss = torch.stack(losses).mean()
            seen += [each.item() for each in losses]
            if loss >= settings.early_stop:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if settings.max_change is not None:
                with torch.no_grad():
                    limit = settings.max_change
                    weight[...] = torch.clamp(weight, min=original - limit, max=original + limit)
        if sum(seen) / len(seen) < settings.early_stop:
            break
    weight.requires_grad_(requires_grad=False)
    return weight.detach() - original


def ft_loss(model, request, kind):
    """Mean NLL of the target's tokens: teacher-forced, or all at the prompt's last token."""
    ids = token_ids(model, f"{request.text} {request.target_new}")
    n_prompt = token_ids(model, request.text).shape[1]
    logprobs = model.network(ids).logits[0].log_softmax(-1)
    n_target = ids.shape[1] - n_prompt
    first = torch.full((n_target,), n_prompt - 1)
    places = first if kind == "last_token" else first + torch.arange(n_target)
    return -logprobs[places].gather(1, ids[0, n_prompt:, None]).mean()
