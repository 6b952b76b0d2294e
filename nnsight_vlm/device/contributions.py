"""What keys add to a query's row: their values, times their weights, through the output projection.

What an attention gives is a sum of vectors over its heads and keys, and a bias. A head's output projection is the part
of the projection that its output meets, so the vector of one head and key is what the projection makes of that head's
weighted value alone, all other heads being 0, less the bias, which is what it makes of nothing. What comes back are
norms of these vectors, or of sums of them.

The projection is called and its weights are not looked at: quantised ones have none that could be multiplied by,
adapters add to them, and in a server's sandbox they are not there. It is linear, so it need not be called for each
head, query and key: of weighted values the values alone pass it, and where they are more than a head is wide, the
vectors that a head's coordinates stand for.

A readout as in `readouts`, and like it this file travels to a server by source.
"""

from __future__ import annotations

import torch

from .kernels import attention_arguments
from .positions import index
from .readouts import SCORES_PER_BLOCK, final_weights, precise

NUMBERS_PER_BLOCK = SCORES_PER_BLOCK  # that exist at once beside the values: 64 MiB in float32


def contributions(call, requests, window, projection, attention):
    """Norms of what keys add: one tensor for each request.

    ``call`` holds the ``(args, kwargs)`` of the attention function, ``projection`` is the output projection, to be
    called, and ``attention`` the module that calls the function. A request is ``(row, queries, keys, heads, (over,
    gate), changes)``; ``gate`` is the name of the call that gives the factors of the heads' outputs, empty where there
    are none. Returns ``[head, query, key]``; with ``"heads"`` in ``over`` the vectors are summed over the heads, and
    there is one head; with ``"keys"`` over the keys: ``[head, query]``.
    """
    gates = {gate for *_, (_, gate), _ in requests if gate}
    factors = {gate: getattr(attention.source, gate).output for gate in gates}
    return [contribution(call, request, window, projection, factors, final_weights) for request in requests]


def contribution(call, request, window, projection, factors_of, weigh):
    """The answer to one request. Queries are taken in blocks, so that little exists at once.

    ``weigh`` gives the weights of some queries, as `readouts.final_weights` does.
    """
    _, query, key, value, *_ = attention_arguments(call)
    query_offset, queries, key_offset, *_ = window
    row, wanted_queries, wanted_keys, heads, (over, gate), changes = request
    count, factors = query.shape[1], factors_of.get(gate)
    part = projection, list(range(count) if heads is None else heads), count, value.dtype
    columns = index(wanted_keys, key_offset, key.shape[2], query.device)
    wanted = index(wanted_queries, query_offset, queries, query.device)
    values = precise(value[row][:, columns]).repeat_interleave(count // value.shape[1], dim=0)[part[1]]
    lengths = None if over or factors is not None else head_norms(part, values)
    of_keys = len(columns) if lengths is None and "keys" not in over else 1  # vectors of a query and head
    each = count * max(key.shape[2], of_keys * value.shape[3])
    answers = []
    for places in wanted.split(max(1, NUMBERS_PER_BLOCK // each)):
        weights = weigh(call, row, places, heads, changes, window)[..., columns]
        gates = None if factors is None else gate_rows(factors, row, places, count)[part[1]]
        answers.append(weights * lengths[:, None] if lengths is not None else norms(part, weights, values, gates, over))
    return torch.cat(answers, dim=1).cpu()


def norms(part, weights, values, gates, over):
    """Norms of the vectors of weights ``[head, query, key]`` and values ``[head, key, width]``, summed ``over`` some.

    ``gates`` are None, or factors ``[head, query, width or 1]`` of what the queries mix out of the values.
    """
    if "keys" in over:
        mixed = torch.matmul(weights, values)
        mixed = mixed if gates is None else gates * mixed
        return summed_norms(part, mixed) if "heads" in over else head_norms(part, mixed)
    gated = values[:, None] if gates is None else gates[:, :, None] * values[:, None]
    if "heads" in over:
        return summed_norms(part, weights[..., None] * gated)
    return weights * head_norms(part, gated.flatten(1, 2)).unflatten(1, gated.shape[1:3])


def gate_rows(factors, row, places, count):
    """Factors ``[row, position, ...]`` of the heads' outputs at some places, ``[head, query, width or 1]``."""
    return precise(factors[row, places]).reshape(len(places), count, -1).transpose(0, 1)


def head_norms(part, vectors):
    """How long vectors ``[head, number, width]`` of single heads are behind the projection, ``[head, number]``.

    ``part`` is ``(projection, numbers of the heads, how many the projection takes, dtype that it takes)``.
    """
    projection, numbers, count, dtype = part
    width = vectors.shape[2]
    by_basis = vectors.shape[1] > width
    basis = torch.eye(width, dtype=vectors.dtype, device=vectors.device).expand(len(numbers), -1, -1)
    given = basis if by_basis else vectors
    answers, start = [], 0
    for some in given.split(max(1, NUMBERS_PER_BLOCK // (max(1, given.shape[1]) * count * width))):
        stop = start + len(some)
        padded = some.new_zeros(len(some), some.shape[1], count, width)
        padded[torch.arange(len(some)), :, torch.tensor(numbers[start:stop])] = some
        through = linear_part(projection, padded.flatten(2).flatten(0, 1), dtype).unflatten(0, some.shape[:2])
        answers.append(product_norms(vectors[start:stop], through) if by_basis else through.norm(dim=-1))
        start = stop
    return torch.cat(answers)


def product_norms(vectors, matrices):
    """Norms ``[head, number]`` of vectors ``[head, number, width]`` times matrices ``[head, width, wide]``."""
    pieces = vectors.split(max(1, NUMBERS_PER_BLOCK // (len(matrices) * matrices.shape[2])), dim=1)
    return torch.cat([torch.matmul(piece, matrices).norm(dim=-1) for piece in pieces], dim=1)


def summed_norms(part, vectors):
    """How long vectors ``[head, ..., width]`` are behind the projection together, ``[1, ...]``."""
    projection, numbers, count, dtype = part
    every = vectors.new_zeros(count, *vectors.shape[1:])
    every[numbers] = vectors
    rows = every.movedim(0, -2).flatten(-2)
    return linear_part(projection, rows.flatten(0, -2), dtype).norm(dim=-1).reshape(1, *rows.shape[:-1])


def linear_part(projection, rows, dtype):
    """What a projection makes of rows ``[number, width]`` without its bias.

    Each row is brought to the size of 1 by a power of 2 before: beside a bias, and in half precision, small ones would
    be rounded away.
    """
    greatest = rows.abs().amax(-1, keepdim=True)
    mantissa, _ = torch.frexp(greatest)
    size = torch.where(greatest == 0, 1.0, greatest / mantissa)
    given = torch.cat([rows.new_zeros(1, rows.shape[1]), rows / size])
    output = precise(projection(given.to(dtype)[None])[0])
    return (output[1:] - output[:1]) * size
