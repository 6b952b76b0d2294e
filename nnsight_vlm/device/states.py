"""What an intervention does to hidden states: zero, mean, scale, add, or states that it brings.

Kernels as in `kernels`, and like it this file travels to a server by source.
"""

from __future__ import annotations

import torch

from .positions import columns_of, index, sequence, sequence_name


def to_batch_layout(hidden, length):
    """States as ``[batch, position, width]``: tokens of all rows in one line are folded, streams laid side by side."""
    if hidden.dim() == 2:
        return hidden.reshape(-1, length, hidden.shape[-1])
    return hidden if hidden.dim() == 3 else hidden.permute(1, 2, 0, 3).flatten(2)


def from_batch_layout(states, hidden):
    """The inverse of `to_batch_layout`, in the shape of ``hidden``."""
    if hidden.dim() < 4:
        return states.reshape(hidden.shape)
    return states.unflatten(2, (hidden.shape[0], hidden.shape[3])).permute(2, 0, 1, 3)


def write_rows(hidden, writes, window):
    """A copy of ``hidden`` (see `to_batch_layout`) with states written, in the order of the writes.

    A write is ``(row, targets, how, values, heads)``: ``set`` takes ``values`` (see `values_of`), ``add`` adds them,
    ``scale`` multiplies by the number ``values``; ``zero`` takes 0; ``mean`` the mean over those targets that this
    forward holds. ``heads`` is None, or which columns are written, see `columns_of`.
    """
    offset, queries, *_ = window
    written = to_batch_layout(hidden, queries).clone()
    length = written.shape[1]
    for row, targets, how, values, heads in writes:
        places = index(targets, offset, length, hidden.device)
        columns = columns_of(heads, written.shape[2], hidden.device)
        at = (row, places) if columns is None else (row, places[:, None], columns)
        if how == "zero":
            written[at] = 0
        elif how == "mean":
            written[at] = written[at].mean(0)
        elif how == "scale":
            written[at] = written[at] * values
        else:
            states = values_of(values, targets, heads, offset, length).to(hidden)
            written[at] = written[at] + states if how == "add" else states
    return from_batch_layout(written, hidden)


def values_of(values, targets, heads, offset, length):
    """What this forward holds of values ``[target, width]``, or of a slot, which is a list that holds them.

    ``[width]`` is for every target; else targets have no open end. States of heads may come as ``[head, target,
    head_dim]``.
    """
    states = values[0] if isinstance(values, list) else values
    states = states.transpose(0, 1).flatten(1) if states.dim() == 3 else states
    if states.dim() > 1:
        first, last = min(start for start, _ in targets), max(stop for _, stop in targets)
        every = index(targets, first, last - first, states.device) + first
        states = states[(every >= offset) & (every < offset + length)]
    if heads is None:
        return states
    _, numbers, held = heads
    picks = len(held), [held.index(head) for head in numbers], held
    return states[..., columns_of(picks, states.shape[-1], states.device)]


def write_output(output, writes, window, mask_spec, memo):
    """`write_rows` on what a module returns: a tensor, or a tuple that begins with one.

    With a ``mask_spec``, on what a layer adds of it: that times the first of ``mask_spec``. What is not written stays
    as it is, to the last bit.
    """
    factor, _, _ = mask_spec or (1, None, None)
    hidden = output[0] if isinstance(output, tuple) else output
    term = hidden if factor == 1 else factor * hidden
    written = write_rows(term, writes, window)
    written = written if factor == 1 else torch.where(written == term, hidden, written / factor)
    return (written, *output[1:]) if isinstance(output, tuple) else written


def write_embeddings(inputs, writes, window, mask_spec, memo):
    """`write_rows` on the states that a module is handed."""
    args, kwargs = inputs
    if not sequence(inputs).is_floating_point():
        raise ValueError("embeddings were to be written, and what the module is handed are token ids")
    name, written = sequence_name(inputs), write_rows(sequence(inputs), writes, window)
    return ((written, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: written})


def write_projected(inputs, writes, window, mask_spec, memo):
    """`write_rows` on what the projector is handed, ``[..., width]``: as many rows as ``mask_spec`` begins with."""
    args, kwargs = inputs
    expected, *_ = mask_spec
    name, handed = sequence_name(inputs), sequence(inputs)
    flat = handed.reshape(1, -1, handed.shape[-1])
    if flat.shape[1] != expected:
        raise ValueError(f"the projector was to be handed {expected} rows, and it is handed {flat.shape[1]}")
    written = write_rows(flat, writes, window).reshape(handed.shape)
    return ((written, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: written})


def write_features(output, writes, window, mask_spec, memo):
    """`write_rows` on the image features ``[..., width]`` of all images of all rows, end to end.

    Targets count the rows of the projector's output; the writes were made for as many as the window holds.
    """
    _, expected, *_ = window
    features = output[0] if isinstance(output, tuple) else output
    flat = features.reshape(1, -1, features.shape[-1])
    if flat.shape[1] != expected:
        raise ValueError(f"the intervention was made for {expected} image features and the model has {flat.shape[1]}")
    written = write_rows(flat, writes, window).reshape(features.shape)
    return (written, *output[1:]) if isinstance(output, tuple) else written
