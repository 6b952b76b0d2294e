"""What an intervention does to a tensor: pure functions, and the only code that writes.

Every function here takes what one *site* of the model holds, gives back what it shall hold
instead, and never touches what it was given: all decoder layers share one mask tensor, so a write
in place would cut every later layer too.

Positions are absolute (0 is the first token of the prompt, cached or not) and arrive as *ranges*:
``((5, 581), (600, None))``; ``None`` leaves the end open, for tokens that are not generated yet.
A *window* says which positions this forward holds: ``(query_offset, queries, key_offset, keys)``.
With it one kernel serves the prompt and every decoded token.

This file travels to NDIF by source: torch only, plain tuples, no decorators, no dataclasses.
"""

from __future__ import annotations

import torch


def clip(ranges, offset, length):
    """The slices ``[(start, stop)]`` of an axis that holds ``offset .. offset + length``."""
    ends = [(start - offset, length if stop is None else stop - offset) for start, stop in ranges]
    return [(max(start, 0), min(stop, length)) for start, stop in ends if start < length and stop > 0]


def index(ranges, offset, length, device):
    """The same as one index tensor ``[n]``, in the order of the ranges."""
    pieces = [torch.arange(start, stop, device=device) for start, stop in clip(ranges, offset, length)]
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long, device=device)


def batch_size(decoder_inputs):
    """How many rows the decoder is running."""
    args, kwargs = decoder_inputs
    hidden = kwargs.get("inputs_embeds")
    return (args[0] if hidden is None else hidden).shape[0]


def windows(decoder_inputs, layers):
    """Where each layer's queries and keys lie in this forward: ``{layer: window}``.

    Must be computed from the decoder's own inputs, before a layer updates the cache.
    """
    args, kwargs = decoder_inputs
    hidden = kwargs.get("inputs_embeds")
    hidden = args[0] if hidden is None else hidden
    cache = kwargs.get("past_key_values")
    length = hidden.shape[1]
    found = {}
    for layer in layers:
        seen = cache is not None and 0 <= layer < len(cache.layers)
        keys, key_offset = cache.get_mask_sizes(length, layer) if seen else (length, 0)
        offset = cache.get_query_offset(layer) if seen else 0
        found[layer] = (int(offset), length, int(key_offset), int(keys))
    return found


def reaches(writes, window):
    """Whether any write has a target among this forward's queries."""
    return any(clip(write[1], window[0], window[1]) for write in writes)


def causal_mask(window, like):
    """Additive ``[1, 1, query, key]``: 0 where a query may look, -inf at later keys."""
    query_offset, queries, key_offset, keys = window
    rows = torch.arange(queries, device=like.device)[:, None] + query_offset
    columns = torch.arange(keys, device=like.device)[None, :] + key_offset
    mask = torch.zeros(1, 1, queries, keys, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(columns > rows, float("-inf"))


def packed_mask(packing, window, like):
    """Causal, and closed between copies: each sees the shared prefix and itself.

    ``packing`` is ``(prefix, length, span)``: the sequence is ``prefix`` tokens, then copies of
    ``length`` tokens each, and a query sees ``span`` positions back at most (None: all).
    """
    prefix, length, span = packing
    place = torch.arange(window[1], device=like.device)
    copy = torch.where(place < prefix, -1, (place - prefix) // length)
    closed = (copy[None, :] >= 0) & (copy[:, None] != copy[None, :])
    if span is not None:
        position = torch.where(place < prefix, place, prefix + (place - prefix) % length)
        closed |= position[:, None] - position[None, :] >= span
    return causal_mask(window, like).masked_fill_(closed, float("-inf"))


def close_edges(inputs, cuts, window, packing, memo):
    """Close attention edges in the mask that one self-attention is given.

    ``inputs`` are the module's ``(args, kwargs)``; a cut is ``(row, targets, sources, heads)`` with
    ``heads`` ``None`` or ``(head_count, head_numbers)``. Additive masks get -inf, boolean ones
    False, and where sdpa was handed ``None`` the causal mask is built. Layers with the same cuts
    share one mask through ``memo``.
    """
    args, kwargs = inputs
    hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
    mask = kwargs.get("attention_mask")
    known = (id(mask), id(cuts), window, packing, hidden.device)
    if known not in memo:
        base = mask
        if packing is not None:
            base = packed_mask(packing, window, hidden)
        elif mask is None:
            base = causal_mask(window, hidden)
        memo[known] = mask, shut(base, cuts, window, hidden.shape[0])  # holding on to a mask keeps its id its own
    return args, {**kwargs, "attention_mask": memo[known][1]}


def shut(mask, cuts, window, batch):
    """A copy of ``mask``, ``[batch or 1, heads or 1, query, key]``, with the cuts closed."""
    if not cuts:
        return mask
    query_offset, queries, key_offset, keys = window
    heads = max([mask.shape[1]] + [cut[3][0] for cut in cuts if cut[3] is not None])
    closed = mask.expand(batch, heads, mask.shape[2], mask.shape[3]).clone()
    value = False if closed.dtype == torch.bool else float("-inf")
    for row, targets, sources, some in cuts:
        query = index(targets, query_offset, queries, closed.device)
        key = index(sources, key_offset, keys, closed.device)
        chosen = torch.tensor(range(heads) if some is None else some[1], device=closed.device)
        closed[row, chosen[:, None, None], query[None, :, None], key[None, None, :]] = value
    return closed


def write_rows(hidden, writes, window):
    """A copy of ``hidden`` ``[batch, position, width]`` with rows written, in the order given.

    A write is ``(row, targets, how, values)``: ``set`` takes ``values`` ``[target, width]`` (and
    targets without an open end), ``zero`` takes 0, ``mean`` the mean over those targets that this forward holds.
    """
    offset, length = window[0], window[1]
    written = hidden.clone()
    for row, targets, how, values in writes:
        here = index(targets, offset, length, hidden.device)
        if how == "zero":
            written[row, here] = 0
        elif how == "mean":
            written[row, here] = written[row, here].mean(0)
        else:
            every = index(targets, 0, targets[-1][1], values.device)
            held = (every >= offset) & (every < offset + length)
            written[row, here] = values[held].to(hidden)
    return written


def write_output(output, writes, window, packing, memo):
    """`write_rows` on what a module returns: a tensor, or a tuple that begins with one."""
    if isinstance(output, tuple):
        return (write_rows(output[0], writes, window), *output[1:])
    return write_rows(output, writes, window)


def write_embeddings(inputs, writes, window, packing, memo):
    """`write_rows` on the embeddings that enter the decoder."""
    args, kwargs = inputs
    return args, {**kwargs, "inputs_embeds": write_rows(kwargs["inputs_embeds"], writes, window)}


def write_features(output, writes, window, packing, memo):
    """`write_rows` on the image features ``[..., width]`` of all images of all rows, end to end.

    Targets count image tokens in the order in which they enter the sequence.
    """
    flat = output.reshape(1, -1, output.shape[-1])
    return write_rows(flat, writes, (0, flat.shape[1])).reshape(output.shape)
