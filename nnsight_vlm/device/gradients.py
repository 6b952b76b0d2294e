"""The gradient of a number of the logits with respect to what sites hold: one forward with a graph, and one backward.

The graph begins at the first site that is asked for: what lies before it runs without one, and what the site holds
becomes its leaf. So no parameter is touched, and none gets a gradient; whether they require one does not matter. Where
an intervention writes at a site, the gradient is that of what it left there.

A *held* state is ``[head, copy, position, width]``: one head where a site has none, and several copies where keys are
handed over once a query head. A *read* is ``(stage, layer, path, place, kind, requests, outside)``, the first four and
``outside`` as in `runner.collect`, requests ``(row, positions)`` or ``(row, positions, (head count, heads))``. The kind
says what is taken of the site: a part of an attention, ``"head"``, ``"embedding"``, ``"features"`` or ``"state"``.

A *metric* is ``(columns, answer, against, function)``: the columns of the logits that a forward keeps, and the tokens
whose logit is taken in the last of them; or a function of these rows ``[column, word]``.

This file travels to a server by source: see `kernels`.
"""

from __future__ import annotations

import torch
from nnsight import save

from .attention_parts import PARTS
from .positions import crossing, index, sequence, sequence_name, windows
from .readouts import precise
from .runner import fetch, full_windows, installed, is_sandboxed
from .states import to_batch_layout

# tasks --------------------------------------------------------------------------------------------


def keep_states(model, inputs, edits, extents, reads, metric, slot):
    """One forward without a graph; its states of each read and request, and its metric, stay there, in the slot."""
    edited = installed(model, edits)
    with torch.no_grad(), edited.trace(**inputs):
        kept = save([states_of(visit(edited, extents, reads, False)), measured(edited.output.logits, metric)])
    slot.extend(kept)


def estimate(model, inputs, edits, extents, reads, metric, slot, mixing, by_position):
    """What writing the slot's states would do to the metric, to first order: ``[slot's metric, metric, [effect]]``.

    An effect, one for each read and request, is the difference of states times the metric's gradient, summed over
    width: ``[head, position]``, or ``[head]`` where it is summed over positions too.

    ``mixing`` is ``(steps, edits, what these write, (read, request))``. Of several steps the gradient is the mean of
    the metric's in runs whose embeddings lie on the way from this run's (which is the first of them) to the slot's;
    one read's request is then that of all embeddings, and the edits write what lies in the list.
    """
    refuse_sandbox(model)
    kept, aim = slot
    steps, mixed_edits, mixed, at = mixing
    [value, states, gradients] = with_gradients(model, inputs, edits, extents, reads, metric)
    total = gradients
    for step in range(1, steps):
        begun, aimed = [found[at[0]][at[1]] for found in (states, kept)]
        mixed[:] = [torch.lerp(begun, aimed.to(begun), step / steps)[0, 0]]
        [_, _, gradients] = with_gradients(model, inputs, mixed_edits, extents, reads, metric)
        total = [[old + new for old, new in zip(*both, strict=True)] for both in zip(total, gradients, strict=True)]
    effects = [
        [effect(*each, by_position) / steps for each in zip(wanted, found, slopes, strict=True)]
        for wanted, found, slopes in zip(kept, states, total, strict=True)
    ]
    return [aim.cpu(), value.cpu(), [[each.cpu() for each in some] for some in effects]]


def estimate_each(model, inputs, edits, extents, reads, metric, slots):
    """The same for the states of several slots, from one gradient: ``[metric, [[effect] of each slot]]``.

    An effect, one for each read and request, is ``[head]``: it is summed over positions.
    """
    refuse_sandbox(model)
    [value, states, gradients] = with_gradients(model, inputs, edits, extents, reads, metric)
    effects = [
        [
            [effect(*each, False).cpu() for each in zip(wanted, found, slopes, strict=True)]
            for wanted, found, slopes in zip(kept, states, gradients, strict=True)
        ]
        for kept, _ in slots
    ]
    return [value.cpu(), effects]


def slopes(model, inputs, edits, extents, reads, metric):
    """``[metric, [state], [gradient]]`` of each read and request, ``[position, width]`` at sites without heads."""
    refuse_sandbox(model)
    [value, *both] = with_gradients(model, inputs, edits, extents, reads, metric)
    states, gradients = [[[plain(rows) for rows in some] for some in found] for found in both]
    return [value.cpu(), states, gradients]


def input_slopes(model, inputs, edits, metric, name):
    """``[metric, gradient]`` with respect to one of the model's inputs; the whole model is in the graph."""
    refuse_sandbox(model)
    edited = installed(model, edits)
    with torch.enable_grad():
        leaf = inputs[name].detach().requires_grad_()
        with edited.trace(**{**inputs, name: leaf.clone()}):
            value = measured(edited.output.logits, metric)
            found = save([value.detach().cpu(), *torch.autograd.grad(value, [leaf])])
    return [found[0], found[1].cpu()]


def refuse_sandbox(model):
    """Refuse a process without the model's weights: what is copied between processes has no graph."""
    if is_sandboxed(model):
        raise ValueError(
            "this server runs requests in a sandbox, apart from the model, and no gradient crosses between processes; "
            "run it on this machine (remote=False) or on a server that trusts your requests"
        )


# one run --------------------------------------------------------------------------------------------


def with_gradients(model, inputs, edits, extents, reads, metric):
    """``[metric, states, gradients]`` of each read and request, both as held states."""
    edited = installed(model, edits)
    with torch.no_grad(), edited.trace(**inputs):
        found = save(taken(edited, extents, reads, metric))
    return found


def taken(model, extents, reads, metric):
    """The same, as the body of a trace."""
    held = visit(model, extents, reads, True)
    value = measured(model.output.logits, metric)
    tensors = [tensor for tensor, *_ in held]
    if any(tensor._version != version for tensor, version, *_ in held):
        raise ValueError("this model writes into a state in place after it was read, so that its gradient is another's")
    gradients = torch.autograd.grad(value, tensors, allow_unused=True)
    torch.set_grad_enabled(False)
    along = [
        (torch.zeros_like(tensor) if gradient is None else gradient, *rest)
        for gradient, (tensor, *rest) in zip(gradients, held, strict=True)
    ]
    return [value.detach(), states_of(held), states_of(along)]


def measured(logits, metric):
    """The metric of the logits of the first row."""
    columns, answer, against, function = metric
    rows = precise(logits[0, list(columns)])
    if function is not None:
        return function(rows)
    return rows[-1, answer] if against is None else rows[-1, answer] - rows[-1, against]


def visit(model, extents, reads, graph):
    """What each read's site holds: ``(tensor, version, kind, requests, window)``.

    With ``graph``, the forward keeps one from the first site on, and what a site holds that is in none yet becomes a
    leaf of it.
    """
    held, window_of, inputs = [], {}, None
    for stage, layer, path, place, kind, requests, outside in reads:
        entry, _, causal, cache_layers = extents[stage]
        if stage not in window_of:
            inputs = model.get(entry).inputs if entry else None
            window_of[stage] = windows(inputs, cache_layers, causal) if entry else full_windows(extents[stage])
        window = crossing(window_of[stage][layer], outside)
        value = inputs if path == entry and place == "inputs" else fetch(model, path, place, window[1])
        tensor = tensor_in(value, kind)
        if graph and not tensor.requires_grad:
            torch.set_grad_enabled(True)
            tensor = tensor.detach().requires_grad_()
            put(model, path, place, replaced(value, kind, tensor.clone()))  # a leaf may not be written in place
        elif graph and kind in ("key", "value"):
            tensor = tensor.clone()  # layers that share keys are handed one tensor, and each is a place of its own
            put(model, path, place, replaced(value, kind, tensor))
        held.append((tensor, tensor._version, kind, requests, window))
    return held


# what a site holds ------------------------------------------------------------------------------------


def tensor_in(value, kind):
    """The tensor of a site by which the model goes on."""
    if kind == "embedding":
        return sequence(value)
    if kind in PARTS or kind == "head":
        args, _ = value
        return args[PARTS.index(kind) if kind in PARTS else 0]
    return value[0] if isinstance(value, tuple) else value


def replaced(value, kind, tensor):
    """The site's value with another such tensor."""
    if kind == "embedding":
        (args, kwargs), name = value, sequence_name(value)
        return ((tensor, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: tensor})
    if kind in PARTS or kind == "head":
        args, kwargs = value
        at = PARTS.index(kind) if kind in PARTS else 0
        return (*args[:at], tensor, *args[at + 1 :]), kwargs
    return (tensor, *value[1:]) if isinstance(value, tuple) else tensor


def put(model, path, place, value):
    """Let a site hold a value."""
    module = model.get(path)
    if place == "inputs":
        module.inputs = value
    elif place == "output":
        module.output = value
    else:
        getattr(module.source, place.partition(".")[0]).inputs = value


def states_of(held):
    """The held states of each read and request."""
    return [
        [rows_of(tensor.detach(), kind, request, window) for request in requests]
        for tensor, _, kind, requests, window in held
    ]


def rows_of(tensor, kind, request, window):
    """One request's held state."""
    offset, queries, key_offset, *_ = window
    row, positions, *heads = request
    count = heads[0][0] if heads else 1
    if kind in PARTS:
        start = offset if kind == "query" else key_offset
        return tensor[row][:, index(positions, start, tensor.shape[2], tensor.device)].unflatten(0, (count, -1))
    if kind == "features":
        flat = tensor.reshape(-1, tensor.shape[-1])
        return flat[index(positions, 0, len(flat), flat.device)][None, None]
    states = to_batch_layout(tensor, queries)
    rows = states[row, index(positions, offset, states.shape[1], states.device)]
    return rows.unflatten(1, (count, -1)).transpose(0, 1)[:, None]


def effect(wanted, found, slope, by_position):
    """What the difference of two held states does along a gradient: ``[head, position]``, or ``[head]``."""
    moved = (precise(wanted) - precise(found)) * precise(slope)
    summed = moved.sum((1, 3))
    return summed if by_position else summed.sum(1)


def plain(rows):
    """A held state of a read with one head or without heads, as it comes home."""
    return rows[:, 0].cpu() if len(rows) > 1 else rows[0, 0].cpu()
