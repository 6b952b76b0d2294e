"""What an intervention does to a tensor: pure functions, and the only code that writes.

Every function here takes what one *site* of the model holds, gives back what it shall hold
instead, and never touches what it was given: all decoder layers share one mask tensor, so a write
in place would cut every later layer too.

Positions are absolute (0 is the first token of the prompt, cached or not) and arrive as *ranges*:
``((5, 581), (600, None))``; ``None`` leaves the end open, for tokens that are not generated yet.
A *window* says which positions this forward holds, and whether a query sees later keys:
``(query_offset, queries, key_offset, keys, causal)``. With it one kernel serves the prompt and every
decoded token. Keys outside the sequence (an image that is read through cross-attention, an encoder's
tokens) have negative positions, as if they stood before it: position -1 is the last of them.

This file travels to NDIF by source: torch only, plain tuples, no decorators, no dataclasses.
"""

from __future__ import annotations

import torch

KEPT_MASKS = 4  # of those that layers share: a mask of a long packed sequence is large
CLOSED = -1e4  # masks close an edge with less: -inf, or the least number of float16


def clip(ranges, offset, length):
    """The slices ``[(start, stop)]`` of an axis that holds ``offset .. offset + length``."""
    ends = [(start - offset, length if stop is None else stop - offset) for start, stop in ranges]
    return [(max(start, 0), min(stop, length)) for start, stop in ends if start < length and stop > 0]


def index(ranges, offset, length, device):
    """The same as one index tensor ``[n]``, in the order of the ranges."""
    pieces = [torch.arange(start, stop, device=device) for start, stop in clip(ranges, offset, length)]
    return torch.cat(pieces) if pieces else torch.empty(0, dtype=torch.long, device=device)


def widened(values):
    """Values in float32 where they are of half precision; float64 stays float64."""
    return values if values.dtype == torch.float64 else values.float()


def sequence_name(inputs):
    """The keyword by which a module is handed its sequence; None where that is its first argument."""
    names = ("inputs_embeds", "hidden_states", "latents", "input_ids")
    named = [name for name in names if inputs[1].get(name) is not None]
    return named[0] if named else None


def sequence(inputs):
    """What a module is handed as its sequence: states ``[batch, position, width]``, or token ids."""
    name = sequence_name(inputs)
    return inputs[0][0] if name is None else inputs[1][name]


def windows(inputs, cache_layer, causal):
    """Where each layer's queries and keys lie in this forward: ``{layer: window}``.

    Must be computed from the transformer's own inputs, before a layer updates the cache. ``cache_layer`` are
    ``(layer, layer that the cache is asked about)``.
    """
    length = sequence(inputs).shape[1]
    cache = inputs[1].get("past_key_values")
    cache = getattr(cache, "self_attention_cache", cache)
    found = {}
    for layer, asked in cache_layer:
        seen = cache is not None and asked < len(cache.layers)
        keys, key_offset = cache.get_mask_sizes(length, asked) if seen else (length, 0)
        offset = cache.get_query_offset(asked) if seen else 0
        found[layer] = (int(offset), length, int(key_offset), int(keys), causal)
    return found


def crossing(window, outside):
    """The window of attention to keys outside the sequence: ``(how many, queries that read them or None for all)``.

    Without `outside`, the window of self-attention.
    """
    if outside is None:
        return window
    keys, readers = outside
    return window[0], window[1] if readers is None else readers, -keys, keys, False


def reaches(writes, window):
    """Whether any write has a target among this forward's queries."""
    return any(clip(write[1], window[0], window[1]) for write in writes)


def causal_mask(window, like):
    """Additive ``[1, 1, query, key]``: 0 where a query may look, -inf at later keys where it is causal."""
    query_offset, queries, key_offset, keys, causal = window
    mask = torch.zeros(1, 1, queries, keys, dtype=like.dtype, device=like.device)
    if not causal:
        return mask
    rows = torch.arange(queries, device=like.device)[:, None] + query_offset
    columns = torch.arange(keys, device=like.device)[None, :] + key_offset
    return mask.masked_fill_(columns > rows, float("-inf"))


def packed_mask(packing, window, like):
    """Causal, and closed between copies: each sees the shared prefix and itself.

    ``packing`` is ``(prefix, length, span, chunk, blocks)``: the sequence is ``prefix`` tokens, then copies
    of ``length`` tokens each; a query sees ``span`` positions back at most and its own stretch of ``chunk``
    positions (None: all); tokens of a block, which lies in the prefix, see each other both ways.
    """
    prefix, length, span, chunk, blocks = packing
    query_offset, queries, key_offset, keys, _ = window
    places = torch.arange(max(query_offset + queries, key_offset + keys), device=like.device)
    copy = torch.where(places < prefix, -1, (places - prefix) // length)
    position = torch.where(places < prefix, places, prefix + (places - prefix) % length)
    rows, columns = places[query_offset : query_offset + queries, None], places[None, key_offset : key_offset + keys]
    mask = causal_mask(window, like)
    for start, stop in blocks:
        mask.masked_fill_((start <= rows) & (rows < stop) & (start <= columns) & (columns < stop), 0)
    closed = (copy[columns] >= 0) & (copy[rows] != copy[columns])
    if span is not None:
        closed |= position[rows] - position[columns] >= span
    if chunk is not None:
        closed |= position[rows] // chunk != position[columns] // chunk
    return mask.masked_fill_(closed, float("-inf"))


def close_edges(inputs, cuts, window, form, memo):
    """Close attention edges in the mask that one attention is given.

    ``inputs`` are the module's ``(args, kwargs)``; a cut is ``(row, targets, sources, heads)`` with
    ``heads`` ``None`` or ``(head_count, head_numbers)``; ``form`` is ``(keyword of the mask, keys
    outside the sequence, packing)``. Additive masks get -inf, boolean ones False, and where sdpa was
    handed ``None`` the mask that this means is built. Layers with the same cuts share one mask
    through ``memo``.
    """
    args, kwargs = inputs
    keyword, outside, packing = form
    hidden, mask, held = sequence(inputs), kwargs.get(keyword), crossing(window, outside)
    known = (id(mask), held, packing, hidden.device)  # a mask that is held on to keeps its id its own
    given, found = remembered(memo, known, lambda: (mask, full_mask(mask, packing, held, hidden)))
    closed = remembered(memo, (*known, id(cuts)), lambda: (given, mask_edges(found, cuts, held, hidden.shape[0])))[1]
    return args, {**kwargs, keyword: closed}


def full_mask(mask, packing, window, like):
    """The mask that an attention is given, or the one that it has to be given."""
    if packing is not None:
        return packed_mask(packing, window, like)
    return causal_mask(window, like) if mask is None else mask


def drop_edges(inputs, cuts, window, form, memo):
    """`close_edges`; and for one decoded token, keys that no row and head may look at are left out, if they are many.

    Only for self-attention whose keys no other layer reads.
    """
    args, kwargs = close_edges(inputs, cuts, window, form, memo)
    cache, mask = kwargs.get("past_key_values"), kwargs[form[0]]
    if window[1] > 1 or form[1] is not None or cache is None or hasattr(cache, "self_attention_cache"):
        return args, kwargs
    kept = remembered(memo, id(mask), lambda: (mask, is_open(mask).any(0).any(0)[0].nonzero()[:, 0]))[1]
    if 4 * len(kept) > 3 * mask.shape[-1]:
        return args, kwargs
    hand_out(cache, kept)
    return args, {**kwargs, form[0]: mask[..., kept]}


def hand_out(cache, kept):
    """Let a cache take all keys and values that it is given next, and hand out those that are ``kept``."""
    cache.update = lambda *args, **kwargs: handed_out(cache, kept, args, kwargs)


def handed_out(cache, kept, args, kwargs):
    """What an update gives, this once: from here on it is the cache's own again."""
    del cache.update
    keys, values = cache.update(*args, **kwargs)
    return keys[:, :, kept], values[:, :, kept]


def remembered(memo, known, make):
    """What ``memo`` holds, made where it holds nothing; what was of use longest ago makes room."""
    found = memo.pop(known, None)
    found = make() if found is None else found
    memo[known] = found
    if len(memo) > KEPT_MASKS:
        del memo[next(iter(memo))]
    return found


def mask_edges(mask, cuts, window, batch):
    """A copy of ``mask``, ``[batch or 1, heads or 1, query or 1, key]``, with the cuts closed."""
    if not cuts:
        return mask
    query_offset, queries, key_offset, keys, _ = window
    heads = max([mask.shape[1]] + [cut[3][0] for cut in cuts if cut[3] is not None])
    closed = mask.expand(batch, heads, queries, mask.shape[3]).clone()
    value = False if closed.dtype == torch.bool else float("-inf")
    for row, targets, sources, some in cuts:
        query = index(targets, query_offset, queries, closed.device)
        key = index(sources, key_offset, keys, closed.device)
        chosen = torch.tensor(range(heads) if some is None else some[1], device=closed.device)
        closed[row, chosen[:, None, None], query[None, :, None], key[None, None, :]] = value
    return closed


def is_open(mask):
    """Which edges a mask leaves open: masks of any dtype close one with -inf, their least number, or False."""
    return mask if mask.dtype == torch.bool else mask > CLOSED


def zero_unattended(call, cuts, window, form, memo):
    """What an attention call returns, 0 for a query that may read no key at all.

    ``call`` is the call's ``((args, kwargs), output)``. Softmax over nothing is NaN, uniform or 0,
    depending on the implementation; a query that reads nothing gets nothing.
    """
    (args, kwargs), output = call
    blind = ~is_open(args[4] if len(args) > 4 else kwargs["attention_mask"]).any(-1)
    return (output[0].masked_fill(blind.transpose(1, 2)[..., None], 0), *output[1:])


def to_batch_layout(hidden, length):
    """States as ``[batch, position, width]``: tokens of all rows in one line are folded, streams laid side by side."""
    if hidden.dim() == 2:
        return hidden.reshape(-1, length, hidden.shape[-1])
    return hidden if hidden.dim() == 3 else hidden.permute(1, 2, 0, 3).flatten(2)


def from_batch_layout(rows, hidden):
    """The inverse of `to_batch_layout`, in the shape of ``hidden``."""
    if hidden.dim() < 4:
        return rows.reshape(hidden.shape)
    return rows.unflatten(2, (hidden.shape[0], hidden.shape[3])).permute(2, 0, 1, 3)


def write_rows(hidden, writes, window):
    """A copy of ``hidden`` ``[batch, position, width]`` (see `to_batch_layout`) with rows written, in the order given.

    A write is ``(row, targets, how, values)``: ``set`` takes ``values`` ``[target, width]``, or a box with them (and
    targets without an open end), ``zero`` takes 0, ``mean`` the mean over those targets that this forward holds.
    """
    offset, written = window[0], to_batch_layout(hidden, window[1]).clone()
    length = written.shape[1]
    for row, targets, how, values in writes:
        here = index(targets, offset, length, hidden.device)
        if how == "zero":
            written[row, here] = 0
        elif how == "mean":
            written[row, here] = written[row, here].mean(0)
        else:
            given = values[0] if isinstance(values, list) else values
            every = index(targets, 0, max(stop for _, stop in targets), given.device)
            held = (every >= offset) & (every < offset + length)
            written[row, here] = given[held].to(hidden)
    return from_batch_layout(written, hidden)


def write_output(output, writes, window, form, memo):
    """`write_rows` on what a module returns: a tensor, or a tuple that begins with one."""
    if isinstance(output, tuple):
        return (write_rows(output[0], writes, window), *output[1:])
    return write_rows(output, writes, window)


def write_embeddings(inputs, writes, window, form, memo):
    """`write_rows` on the states that a module is handed."""
    args, kwargs = inputs
    name, written = sequence_name(inputs), write_rows(sequence(inputs), writes, window)
    return ((written, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: written})


def write_features(output, writes, window, form, memo):
    """`write_rows` on the image features ``[..., width]`` of all images of all rows, end to end.

    Targets count the rows of the projector's output, of which the writes expect as many as the window holds.
    """
    features = output[0] if isinstance(output, tuple) else output
    flat = features.reshape(1, -1, features.shape[-1])
    if flat.shape[1] != window[1]:
        raise ValueError(f"the intervention was made for {window[1]} image features and the model has {flat.shape[1]}")
    written = write_rows(flat, writes, window).reshape(features.shape)
    return (written, *output[1:]) if isinstance(output, tuple) else written
