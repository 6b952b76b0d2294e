"""Which positions a forward holds: ranges, and windows of queries and keys.

Positions are absolute (0 is the first token of the prompt, cached or not) and arrive as *ranges*, plain tuples:
``((5, 581), (600, None))``. ``None`` leaves the end open, for tokens that are not generated yet.

A *window* says which positions this forward holds, and whether a query is kept from seeing later keys:
``(query_offset, queries, key_offset, keys, causal)``. With it one kernel serves the prompt and every decoded token.

Keys outside the sequence (an image that is read through cross-attention, an encoder's tokens) have negative positions,
as if they stood before it: position -1 is the last of them.

This file travels to a server by source: see `kernels`.
"""

from __future__ import annotations

import torch

SEQUENCE_NAMES = ("inputs_embeds", "hidden_states", "hidden_state", "latents", "input_ids")  # of what is handed over
CACHE_NAMES = ("cache", "past_key_values")  # and their cache: since transformers 5.24, and before


def clip(ranges, offset, length):
    """The parts of ranges that lie in ``offset .. offset + length``, as ``[(start, stop)]`` counted from the offset."""
    shifted = [(start - offset, length if stop is None else stop - offset) for start, stop in ranges]
    return [(max(start, 0), min(stop, length)) for start, stop in shifted if start < length and stop > 0]


def index(ranges, offset, length, device):
    """The same as one index tensor ``[n]``, in the order of the ranges."""
    pieces = [torch.arange(start, stop, device=device) for start, stop in clip(ranges, offset, length)]
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long, device=device)


def columns_of(heads, width, device):
    """The columns of some heads, where all of them lie side by side; None for every column.

    ``heads`` is None or ``(head_count, numbers of the heads that are meant, numbers of those that the values hold)``.
    """
    if heads is None:
        return None
    count, numbers, _ = heads
    return torch.arange(width, device=device).reshape(count, -1)[list(numbers)].flatten()


def reaches(writes, window):
    """Whether any write has a target among this forward's queries."""
    query_offset, queries, *_ = window
    return any(clip(targets, query_offset, queries) for _, targets, *_ in writes)


def sequence_name(inputs):
    """The keyword by which a module is handed its sequence; None where that is its first positional argument."""
    _, kwargs = inputs
    return next((name for name in SEQUENCE_NAMES if kwargs.get(name) is not None), None)


def sequence(inputs):
    """What a module is handed as its sequence: states ``[batch, position, width]``, or token ids."""
    args, kwargs = inputs
    name = sequence_name(inputs)
    return args[0] if name is None else kwargs[name]


def cache_of(inputs):
    """The cache that a module is handed; None where it runs without one."""
    _, kwargs = inputs
    return next((kwargs[name] for name in CACHE_NAMES if kwargs.get(name) is not None), None)


def windows(inputs, cache_layers, causal):
    """Where each layer's queries and keys lie in this forward: ``{layer: window}``.

    Must be computed from the transformer's own inputs, before a layer updates the cache. ``cache_layers`` are
    ``(layer, layer whose cache gives its offset)``.
    """
    length = sequence(inputs).shape[1]
    cache = cache_of(inputs)
    cache = getattr(cache, "self_attention_cache", cache)
    by_layer = {}
    for layer, asked in cache_layers:
        cached = cache is not None and asked < len(cache.layers)
        keys, key_offset = cache.get_mask_sizes(length, asked) if cached else (length, 0)
        query_offset = cache.get_query_offset(asked) if cached else 0
        by_layer[layer] = (int(query_offset), length, int(key_offset), int(keys), causal)
    return by_layer


def crossing(window, outside):
    """The window of attention to keys outside the sequence; without ``outside``, the window of self-attention.

    ``outside`` is ``(how many keys lie there, how many queries read them or None for all)``.
    """
    if outside is None:
        return window
    query_offset, queries, *_ = window
    keys, readers = outside
    return query_offset, queries if readers is None else readers, -keys, keys, False
