"""What an intervention does to attention behind the softmax: edges lose their weight, or all but the greatest do.

A mask acts before the softmax, so the weights that are left grow. These changes act behind it, where no mask reaches:
the weights of the queries concerned are recomputed as a readout does, changed, and what the difference mixes out of the
values is added to what the attention returned. So no more than some rows of weights exist, under sdpa as under eager,
and whatever nobody changes stays as the attention computed it.

A *change* is ``(row, targets, sources, heads, how, top)``, the first four as in `kernels.close_edges`.

This file travels to a server by source: see `kernels`.
"""

from __future__ import annotations

import torch

from .positions import index


def changed(weights, places, row, changes, window):
    """Weights ``[head, query, every key]`` of the queries at some ``places`` of a row, changed in the order given.

    ``zero`` takes the weight of the edges and leaves all others; ``limit`` takes it of all sources but the ``top`` that
    a query looks at most (of equals, the earlier), and multiplies the rest of the query's weights so that they add up
    to what they did.
    """
    query_offset, queries, key_offset, *_ = window
    weights = weights.clone()
    for where, targets, sources, heads, how, top in changes:
        chosen = torch.isin(places, index(targets, query_offset, queries, places.device)).nonzero()[:, 0]
        columns = index(sources, key_offset, weights.shape[2], places.device)
        if where != row or len(chosen) == 0 or len(columns) == 0:
            continue
        _, numbers = (None, range(len(weights))) if heads is None else heads
        at = torch.tensor(list(numbers), device=places.device)[:, None], chosen
        rows = weights[at]
        kept = rows.clone()
        kept[..., columns] = 0 if how == "zero" else greatest(rows[..., columns], top)
        weights[at] = kept if how == "zero" else kept * regained(rows, kept)
    return weights


def greatest(weights, top):
    """The ``top`` greatest of the last dimension, 0 in place of all others."""
    order = weights.sort(dim=-1, descending=True, stable=True).indices[..., :top]
    return torch.zeros_like(weights).scatter(-1, order, weights.gather(-1, order))


def regained(before, after):
    """The factor by which weights are multiplied to add up to what they did; 1 where none is left."""
    left = after.sum(-1, keepdim=True)
    return torch.where(left > 0, before.sum(-1, keepdim=True) / left, 1.0)
