"""Attention over the tokens of all pictures in one line, whose function is called once for every *piece* of it.

A piece is a picture, a frame of a video or a window: its queries see its keys and no others. No mask is handed to such
an attention, and no call sees all of the line. So a cut acts on what the pieces give when it is put together again,
`[1, position, head, width]`: the rows concerned are computed anew, with closed edges closed before the softmax, from
the query, key and value `[1, head, position, head_dim]` of the whole line, which a layer makes before it divides them.
All other rows stay as the model computed them, to the last bit, and nothing of size line x line exists.

Of such a layer the last entry of a window (see `positions`) says where its pieces end: ``(16, 32, 40)``.

Kernels and readouts as in `kernels` and `readouts`, and like them this file travels to a server by source.
"""

from __future__ import annotations

import torch

from .attention_parts import PARTS, write_part
from .mixtures import is_change
from .positions import clip, index
from .readouts import SCORES_PER_BLOCK, precise, probabilities, reduce_rows, scaled
from .weights import changed


def pieces(window):
    """Where the pieces of a line begin and end, ``[(start, stop)]``."""
    *_, stops = window
    return list(zip((0, *stops[:-1]), stops, strict=True))


def stops_of(causal, layer):
    """Where the pieces of a layer end, of ``(layers, stops)`` for all layers; else what an extent says for all."""
    return next((stops for layers, stops in causal if layer in layers), False) if isinstance(causal, tuple) else causal


def parts_of(module, names, window, known):
    """Query, key and value of a line, as a call of an attention function holds them.

    ``names`` are the keyword of the ends of its pieces, and the parts as `.source` lists them. All are fetched for the
    first read of an attention, in the order in which the model reaches them; ``known`` is a list that keeps them.
    """
    if not known:
        ends, *parts = names.split()
        expect_ends(module.inputs, ends, window)
        known.append(((None, *[getattr(module.source, name).output for name in parts], None), {}))
    return known[0]


def expect_ends(inputs, keyword, window):
    """Refuse an attention whose pieces end elsewhere than a plan was made for: it would change other edges."""
    _, kwargs = inputs
    *_, stops = window
    found = tuple(kwargs[keyword].tolist())
    if found != (0, *stops):
        raise ValueError(
            f"an attention of the vision tower was to run on pieces that end at {stops}, and they end at {found[1:]}; "
            "give the pictures in a prompt of their own"
        )


def within(call, start, stop):
    """The query, key and value of one piece, as the attention function is handed them; and the piece's window."""
    (module, query, key, value, mask), kwargs = call
    parts = [part[:, :, start:stop] for part in (query, key, value)]
    return ((module, *parts, mask), kwargs), (start, stop - start, start, stop - start, False)


# writing ------------------------------------------------------------------------------------------


def write_line(value, writes, window, part_spec, memo):
    """`attention_parts.write_part` on the query, key or value of the whole line."""
    number = PARTS.index(part_spec[0])
    args, _ = write_part(((*(None for _ in range(number)), value), {}), writes, window, part_spec, memo)
    return args[number]


def check_pieces(inputs, writes, window, mask_spec, memo):
    """What an attention module is handed, as it is, if its pieces end where they were expected to."""
    keyword, _, _ = mask_spec
    expect_ends(inputs, keyword, window)
    return inputs


def keep_part(value, writes, window, part_spec, memo):
    """Keep a part of the line, as all writes left it, for `change_line` in the same layer."""
    memo[part_spec[0]] = value
    return value


def change_line(mixed, writes, window, mask_spec, memo):
    """What an attention gives, as if edges were closed, or the weights of some queries were others.

    ``mixed`` is ``[1, position, head, width]``; a write is a cut, ``(row, targets, sources, heads)``, or a change of
    `weights`. Cuts act before the softmax, changes behind it.
    """
    call = (None, memo.pop("query"), memo.pop("key"), memo.pop("value"), None), {}
    mixed = mixed.clone()
    for start, stop in pieces(window):
        part, inside = within(call, start, stop)
        here = [write for write in writes if clip(write[1], *inside[:2]) and clip(write[2], *inside[2:4])]
        for places in blocks(targets_in(here, inside, mixed.device), part):
            given = mixture(changed_weights(part, places, here, inside), part).to(mixed)
            is_named = heads_named(here, places, inside, len(given)).transpose(0, 1)[..., None]
            mixed[0, places + start] = torch.where(is_named, given.transpose(0, 1), mixed[0, places + start])
    return mixed


def targets_in(writes, window, device):
    """The places in a piece that any write changes, ``[place]``."""
    query_offset, queries, *_ = window
    found = [index(targets, query_offset, queries, device) for _, targets, *_ in writes]
    return torch.cat(found).unique() if found else torch.empty(0, dtype=torch.long, device=device)


def heads_named(writes, places, window, count):
    """Which of so many heads are changed at some places, ``[head, place]``."""
    query_offset, queries, *_ = window
    named = torch.zeros(count, len(places), dtype=torch.bool, device=places.device)
    for _, targets, _, heads, *_ in writes:
        _, numbers = (None, range(count)) if heads is None else heads
        named[list(numbers)] |= torch.isin(places, index(targets, query_offset, queries, places.device))
    return named


def blocks(places, call):
    """Places in so many blocks that few scores exist at once; none where there is no place."""
    (_, query, key, *_), _ = call
    return places.split(max(1, SCORES_PER_BLOCK // (query.shape[1] * key.shape[2]))) if len(places) else ()


def changed_weights(call, places, writes, window):
    """Weights ``[head, query, key of the piece]`` of the queries at some places of a piece, under cuts and changes."""
    cuts = tuple(write for write in writes if not is_change(write))
    weights = rows_weights(call, places, closed_edges(cuts, call, places, window) if cuts else None)
    return changed(weights, places, 0, tuple(filter(is_change, writes)), window)


def rows_weights(call, places, mask):
    """Weights of the queries at some places of a piece, under a mask of their own ``[1, head, query, key]`` or None."""
    (module, query, key, value, _), kwargs = call
    rows = (module, query[:, :, places], key, value, mask), kwargs
    every = torch.arange(len(places), device=places.device)
    return probabilities(rows, 0, every, None, (0, len(places), 0, key.shape[2], False))


def closed_edges(cuts, call, places, window):
    """Where the edges of cuts are closed, ``[1, head, query, key]``; True is open."""
    (_, query, *_), _ = call
    query_offset, queries, key_offset, keys, _ = window
    is_open = torch.ones(1, query.shape[1], len(places), keys, dtype=torch.bool, device=places.device)
    for _, targets, sources, heads in cuts:
        rows = torch.isin(places, index(targets, query_offset, queries, places.device)).nonzero()[:, 0]
        columns = index(sources, key_offset, keys, places.device)
        _, numbers = (None, range(query.shape[1])) if heads is None else heads
        head = torch.tensor(list(numbers), device=places.device)
        is_open[0, head[:, None, None], rows[None, :, None], columns[None, None, :]] = False
    return is_open


def mixture(weights, call):
    """What weights mix out of the values of a piece, ``[head, query, width]``."""
    (_, _, _, value, _), _ = call
    by_key_head = weights.reshape(value.shape[1], -1, weights.shape[2])
    return torch.matmul(by_key_head, precise(value[0])).reshape(*weights.shape[:2], value.shape[3])


# reading ------------------------------------------------------------------------------------------


def line_attention(call, requests, window):
    """`readouts.attention_rows` of a line: keys in other pieces than the query's have probability 0.

    ``call`` holds the parts of the whole line. The changes of a request are those of `change_line`, cuts among them.
    """
    return [line_reduced(call, request, window) for request in requests]


def line_reduced(call, request, window):
    """The answer to one request."""
    _, queries, keys, heads, reduction, changes = request
    (_, query, *_), _ = call
    length, device = query.shape[2], query.device
    wanted, columns = index(queries, 0, length, device), index(keys, 0, length, device)
    answers = []
    for start, stop in pieces(window):
        part, inside = within(call, start, stop)
        for places in blocks(wanted[(wanted >= start) & (wanted < stop)] - start, part):
            weights = changed_weights(part, places, changes, inside)
            weights = weights if heads is None else weights[list(heads)]
            answers.append(reduce_rows(on_line(weights, columns, start, stop), columns, reduction))
    return torch.cat(answers, dim=1)


def on_line(weights, columns, start, stop):
    """Weights of a piece's keys as those of some positions of the line, ``[head, query, column]``."""
    here = (columns >= start) & (columns < stop)
    wide = weights.new_zeros(*weights.shape[:2], len(columns))
    wide[..., here] = weights[..., columns[here] - start]
    return wide


def line_used(call, requests, window):
    """`readouts.edges_used` of a line, without what is done to it: cuts and changes act on what it returns."""
    (_, query, key, value, _), kwargs = call
    length, device = query.shape[2], query.device
    every = torch.arange(length, device=device)
    seen = torch.cat([torch.full((stop - start,), stop - start, device=device) for start, stop in pieces(window)])
    greatest = [precise(part[0]).norm(dim=-1).max() for part in (query, key)]
    answers = []
    for _, wanted, _, heads, (reduce, _), _ in requests:
        places = index(wanted, 0, length, device)
        weights, is_open = [], []
        for start, stop in pieces(window):
            part, _ = within(call, start, stop)
            own = places[(places >= start) & (places < stop)] - start
            weights.append(on_line(rows_weights(part, own, None), every, start, stop))
            is_open.append(on_line(torch.ones(1, len(own), stop - start, device=device), every, start, stop))
        weights = torch.cat(weights, dim=1)
        mixed = mixture(weights, call)
        answers.append(
            {
                "weights": (weights if heads is None else weights[list(heads)]).cpu(),
                "open": torch.cat(is_open, dim=1).bool().cpu(),
                "keys_seen": seen[None].cpu(),
                "mixed": (mixed if heads is None else mixed[list(heads)]).cpu(),
                "score": float(scaled(greatest[0] * greatest[1], kwargs, query.shape[-1])),
                "value": float(precise(value).abs().max()),
                "layer": None,
                "values": precise(value[0]).cpu() if reduce == "values" else None,
            }
        )
    return answers


def line_mixed(mixed, requests, window):
    """`readouts.mixed_rows` of a line: what its attention gave at some queries, ``[head, query, width]``."""
    _, queries, *_ = window
    return [mixed[0, index(wanted, 0, queries, mixed.device)].transpose(0, 1).cpu() for _, wanted, *_ in requests]
