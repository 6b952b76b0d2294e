"""What a cut does to the mask of an attention; and what all kernels have in common.

A kernel takes what one *site* of the model holds and returns what it shall hold instead. It never changes what it was
given: all decoder layers share one mask tensor, so a write in place would cut every later layer too.

All kernels share one signature, ``kernel(value, writes, window, mask_spec, memo)``: ``window`` says which positions
this forward holds, see `positions`; ``mask_spec`` is ``(keyword of the mask, outside, packing)`` for kernels that edit
a mask, else None; ``memo`` is a dictionary that lives for one forward.

This file travels to a server by source: torch only, plain tuples, no decorators, no classes.
"""

from __future__ import annotations

import torch

from .positions import cache_of, crossing, index, sequence

MASKS_IN_MEMORY = 4  # most masks that are kept for layers to share; the mask of a long packed sequence is large
LEAST_OPEN = -9e3  # an additive mask closes an edge with less: -inf, the least number of a type, or -1e4 (rounded)

# masks --------------------------------------------------------------------------------------------


def causal_mask(window, like):
    """Additive ``[1, 1, query, key]``: 0 where a query may look, -inf at later keys where the window is causal."""
    query_offset, queries, key_offset, keys, causal = window
    mask = torch.zeros(1, 1, queries, keys, dtype=like.dtype, device=like.device)
    if not causal:
        return mask
    query_positions = torch.arange(queries, device=like.device)[:, None] + query_offset
    key_positions = torch.arange(keys, device=like.device)[None, :] + key_offset
    return mask.masked_fill_(key_positions > query_positions, float("-inf"))


def packed_mask(packing, window, like):
    """Additive ``[1, 1, query, key]``: causal, and closed between copies; each sees the shared prefix and itself.

    ``packing`` is ``(prefix, length, parents, span, chunk, blocks)``: the sequence is ``prefix`` tokens, then copies of
    ``length`` tokens each; a query sees ``span`` positions back at most and its own stretch of ``chunk`` positions
    (None: all); tokens of a block, whose ranges lie in the prefix, see each other both ways. Each copy ends with as
    many tokens of answers as there are ``parents``: numbers of the token before each, -1 for the first of an answer. Of
    these a query sees those that come before it in its own answer.
    """
    prefix, length, parents, span, chunk, blocks = packing
    query_offset, queries, key_offset, keys, _ = window
    places = torch.arange(max(query_offset + queries, key_offset + keys), device=like.device)
    copy = torch.where(places < prefix, -1, (places - prefix) // length)
    place_in_copy = (places - prefix) % length
    ahead, seen = answer_branches(length - len(parents), parents, like.device)
    position = torch.where(places < prefix, places, prefix + ahead[place_in_copy])
    query, key = places[query_offset : query_offset + queries, None], places[None, key_offset : key_offset + keys]
    mask = causal_mask(window, like)
    for ranges in blocks:
        inside = torch.zeros_like(places, dtype=torch.bool)
        for start, stop in ranges:
            inside[start:stop] = True
        mask.masked_fill_(inside[query] & inside[key], 0)
    closed = (copy[key] >= 0) & (copy[query] != copy[key])
    if parents:
        closed |= (copy[key] >= 0) & ~seen[place_in_copy[query], place_in_copy[key]]
    if span is not None:
        closed |= position[query] - position[key] >= span
    if chunk is not None:
        closed |= position[query] // chunk != position[key] // chunk
    return mask.masked_fill_(closed, float("-inf"))


def answer_branches(body, parents, device):
    """How many of a copy's tokens come before each in its own branch, and which these are, itself among them.

    The copy is ``body`` tokens and answers behind them; gives ``[token]`` and ``[token, token]``.
    """
    ahead = list(range(body))
    seen = torch.ones(body + len(parents), body + len(parents), dtype=torch.bool, device=device).tril()
    for number, parent in enumerate(parents):
        ahead.append(body if parent < 0 else ahead[body + parent] + 1)
        seen[body + number, body : body + number] = False
        if parent >= 0:
            seen[body + number, body:] |= seen[body + parent, body:]
    return torch.tensor(ahead, device=device), seen


def full_mask(mask, packing, window, like):
    """The mask to edit: the one that attention was given, or an equivalent one if it got None or runs packed copies."""
    if packing is not None:
        return packed_mask(packing, window, like)
    return causal_mask(window, like) if mask is None else checked_mask(mask, window, like.shape[0])


def checked_mask(mask, window, batch):
    """A mask that was handed to an attention, if it has an entry for every edge of this forward.

    Masks are ``[batch or 1, heads or 1, query or 1, key]``, additive or boolean. They may have columns behind the keys.
    """
    _, queries, _, keys, _ = window
    tensor = isinstance(mask, torch.Tensor) and mask.dim() == 4
    if not tensor or mask.shape[0] not in (1, batch) or mask.shape[2] not in (1, queries) or mask.shape[3] < keys:
        given = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ValueError(
            f"an attention was handed the mask {given}, and edges are closed in masks [batch or 1, heads or 1, query "
            f"or 1, key]: here batch {batch}, {queries} queries and {keys} keys; give the model a mask of that shape, "
            "or a plain attention_mask [batch, token]"
        )
    is_open(mask[..., :1])  # of a type that can be read
    return mask


def is_open(mask):
    """Which edges a mask leaves open: additive ones close one with -inf or their least number, boolean with False.

    In a mask of whole numbers 1 may mean open or one more, so it is refused.
    """
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(
            f"an attention was handed a mask of {mask.dtype}, and which of its edges are open cannot be told; give the "
            "model a boolean mask (True: open) or an additive one (0: open, -inf: closed)"
        )
    return mask if mask.dtype == torch.bool else mask > LEAST_OPEN


def close_edges(inputs, cuts, window, mask_spec, memo):
    """Close attention edges in the mask that one attention is given.

    ``inputs`` are the attention module's ``(args, kwargs)``; a cut is ``(row, targets, sources, heads)`` with ``heads``
    ``None`` or ``(head_count, head_numbers)``. Additive masks get -inf, boolean ones False; where sdpa was handed no
    mask, the one that this means is built. Layers with the same cuts share one mask through ``memo``.
    """
    args, kwargs = inputs
    keyword, outside, packing = mask_spec
    hidden, mask, attention_window = sequence(inputs), kwargs.get(keyword), crossing(window, outside)
    # each memory holds on to the mask that its key names by id, so that no other mask can get this id
    key = (id(mask), attention_window, packing, hidden.device)
    given, full = remembered(memo, key, lambda: (mask, full_mask(mask, packing, attention_window, hidden)))
    _, closed = remembered(
        memo, (*key, id(cuts)), lambda: (given, mask_edges(full, cuts, attention_window, hidden.shape[0]))
    )
    return args, {**kwargs, keyword: closed}


def mask_edges(mask, cuts, window, batch):
    """A copy of ``mask``, ``[batch or 1, heads or 1, query or 1, key]``, with the cuts closed."""
    if not cuts:
        return mask
    query_offset, queries, key_offset, keys, _ = window
    head_count = max([mask.shape[1], *(heads[0] for *_, heads in cuts if heads is not None)])
    closed = mask.expand(batch, head_count, queries, mask.shape[3]).clone()
    value = False if closed.dtype == torch.bool else float("-inf")
    for row, targets, sources, heads in cuts:
        query = index(targets, query_offset, queries, closed.device)
        key = index(sources, key_offset, keys, closed.device)
        _, chosen = (head_count, range(head_count)) if heads is None else heads
        head = torch.tensor(chosen, device=closed.device)
        closed[row, head[:, None, None], query[None, :, None], key[None, None, :]] = value
    return closed


def remembered(memo, key, make):
    """Return the mask that ``memo`` has under ``key``, making it if absent; evict the least recently used."""
    masks = memo.setdefault("masks", {})
    value = masks.pop(key, None)
    value = make() if value is None else value
    masks[key] = value
    if len(masks) > MASKS_IN_MEMORY:
        del masks[next(iter(masks))]
    return value


def drop_edges(inputs, cuts, window, mask_spec, memo):
    """`close_edges`; and for one decoded token, leave out keys that no row and head may look at, if they are many.

    Only for self-attention whose keys no other layer reads.
    """
    args, kwargs = close_edges(inputs, cuts, window, mask_spec, memo)
    keyword, outside, _ = mask_spec
    _, queries, *_ = window
    cache, mask = cache_of(inputs), kwargs[keyword]
    if queries > 1 or outside is not None or cache is None or hasattr(cache, "self_attention_cache"):
        return args, kwargs
    _, kept = remembered(memo, id(mask), lambda: (mask, is_open(mask).any(0).any(0)[0].nonzero()[:, 0]))
    if 4 * len(kept) > 3 * mask.shape[-1]:
        return args, kwargs
    return_kept_keys_once(cache, kept)
    return args, {**kwargs, keyword: mask[..., kept]}


def return_kept_keys_once(cache, kept):
    """Let a cache store all keys and values of its next update, and return those at the places ``kept``."""
    cache.update = lambda *args, **kwargs: update_and_keep(cache, kept, args, kwargs)


def update_and_keep(cache, kept, args, kwargs):
    """One update of a cache whose ``update`` was replaced; afterwards ``update`` is the cache's own again."""
    del cache.update
    keys, values = cache.update(*args, **kwargs)
    return keys[:, :, kept], values[:, :, kept]


def zero_unattended(call, cuts, window, mask_spec, memo):
    """What an attention call returns, 0 for a query that may read no key at all.

    ``call`` is the call's ``((args, kwargs), output)``. Softmax over no key is NaN, uniform or 0, depending on the
    implementation; a query that reads nothing gets nothing.
    """
    arguments, (mixed, *rest) = call
    *_, mask, _ = attention_arguments(arguments)
    empty = ~is_open(mask).any(-1)
    return (mixed.masked_fill(empty.transpose(1, 2)[..., None], 0), *rest)


def attention_arguments(call):
    """``(module, query, key, value, mask, kwargs)`` of a call ``(args, kwargs)`` of an attention function."""
    args, kwargs = call
    module, query, key, value = args[:4]
    return module, query, key, value, args[4] if len(args) > 4 else kwargs.get("attention_mask"), kwargs
