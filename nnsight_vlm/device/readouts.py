"""What a readout takes from a site: pure functions that reduce where the model runs.

A readout takes what the site holds, a tuple of requests and the window of the forward (see `positions`), and returns
one tensor for each request. Attention is read as the rows that were asked for, ``[head, query, key]``, recomputed from
the
query, key and mask of the live attention call: under sdpa as under eager, and never as a ``head x sequence x sequence``
matrix. Numbers are computed in float32, and in float64 for a model in float64.

This file travels to a server by source: see `kernels`.
"""

from __future__ import annotations

import torch

from .kernels import attention_arguments, is_open
from .positions import index, sequence
from .states import to_batch_layout
from .weights import changed

SCORES_PER_BLOCK = 2**24  # attention scores that exist at once: 64 MiB in float32

# attention ----------------------------------------------------------------------------------------


def attention_rows(call, requests, window):
    """Attention probabilities of chosen queries: one tensor for each request.

    ``call`` holds the ``(args, kwargs)`` of the attention function; a request is ``(row, queries, keys, heads, (reduce,
    top), changes)`` with the changes of `weights` that act on this attention. Returns ``[head, query, key]`` for
    ``rows``, the same with one head for ``mean`` (over the heads), ``[head, query]`` for ``mass`` (the sum over the
    keys) and ``entropy`` (nats, of the distribution renormalised over the keys), and ``[head, query, top, 2]`` for
    ``top``: places and probabilities.
    """
    return [reduced(call, request, window) for request in requests]


def reduced(call, request, window):
    """The answer to one request. Queries are taken in blocks, so that few scores exist at once."""
    _, query, key, *_ = attention_arguments(call)
    query_offset, queries, key_offset, *_ = window
    row, wanted_queries, wanted_keys, heads, reduction, changes = request
    columns = index(wanted_keys, key_offset, key.shape[2], query.device)
    wanted = index(wanted_queries, query_offset, queries, query.device)
    blocks = wanted.split(max(1, SCORES_PER_BLOCK // (query.shape[1] * key.shape[2])))
    answers = []
    for block in blocks:
        weights = probabilities(call, row, block, None if changes else heads, window)
        if changes:
            weights = changed(weights, block, row, changes, window)
            weights = weights if heads is None else weights[list(heads)]
        answers.append(reduce_rows(weights[..., columns], columns + key_offset, reduction))
    return torch.cat(answers, dim=1)


def precise(tensor):
    """A tensor in float32, as sdpa computes scores; a float64 tensor as it is."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def probabilities(call, row, places, heads, window):
    """``[head, query, every key]`` of the queries at some places of the forward."""
    _, query, key, _, mask, kwargs = attention_arguments(call)
    groups = query.shape[1] // key.shape[1]
    chosen = precise(query[row][:, places]).reshape(key.shape[1], groups * len(places), query.shape[-1])
    scores = torch.matmul(chosen, precise(key[row]).transpose(-1, -2)).reshape(
        query.shape[1], len(places), key.shape[2]
    )
    scores = scaled(scores, kwargs, query.shape[-1]) + position_bias(kwargs, row, places)
    added = additive_mask(mask, row, places, window, key.shape[2])
    reads_nothing = ~is_open(added).any(-1, keepdim=True)  # softmax over no key is nan; over scores that are nan, too
    weights = torch.softmax(scores + added, dim=-1).masked_fill(reads_nothing, 0.0)
    return weights if heads is None else weights[list(heads)]


def scaled(scores, kwargs, head_dim):
    """Scores as the attention function scales and caps them."""
    scaling, softcap = kwargs.get("scaling"), kwargs.get("softcap")
    scores = scores * (head_dim**-0.5 if scaling is None else scaling)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def position_bias(kwargs, row, places):
    """What relative positions add to the scores of some queries, ``[head, query, key]``; 0 in most families."""
    bias = kwargs.get("position_bias")
    return 0.0 if bias is None else precise(bias[row if bias.shape[0] > 1 else 0][:, places])


def additive_mask(mask, row, places, window, keys):
    """What the mask adds to some queries' scores, ``[1 or head, query, key]``; for None what sdpa does then."""
    query_offset, _, key_offset, _, causal = window
    if mask is None:
        closed = torch.zeros(1, len(places), keys, dtype=torch.bool, device=places.device)
        if causal:
            key_positions = torch.arange(keys, device=places.device)[None, :] + key_offset
            closed |= key_positions > places[:, None] + query_offset
        return torch.zeros(closed.shape, device=places.device).masked_fill(closed, float("-inf"))
    lines = mask[row if mask.shape[0] > 1 else 0][:, :, :keys]
    lines = lines[:, places] if lines.shape[1] > 1 else lines.expand(-1, len(places), -1)
    added = torch.zeros(lines.shape, device=lines.device) if lines.dtype == torch.bool else precise(lines)
    return added.masked_fill(~is_open(lines), float("-inf"))


def reduce_rows(weights, places, reduction):
    """Probabilities ``[head, query, key]`` of the wanted keys, which lie at ``places``, reduced."""
    reduce, top = reduction
    if reduce == "mean":
        return weights.mean(0, keepdim=True).cpu()
    if reduce == "mass":
        return weights.sum(-1).cpu()
    if reduce == "entropy":
        share = weights / weights.sum(-1, keepdim=True)
        return torch.special.entr(share).sum(-1).cpu()
    if reduce == "top":
        most = weights.topk(top, dim=-1)
        return torch.stack([places[most.indices].to(weights), most.values], dim=-1).cpu()
    return weights.cpu()


# attention, for `verify` --------------------------------------------------------------------------


def edges_used(call, requests, window):
    """What one attention call was given: one dict for each request of `attention_rows`.

    ``weights`` are the probabilities ``[head, query, every key]`` of the queries; ``open`` says which edges the mask
    leaves open there ``[1 or head, query, key]``; ``keys_seen`` how many keys each query may see ``[1 or head, every
    query]``; ``mixed`` is what the queries mix out of the values ``[head, query, width]``; ``score`` and ``value`` say
    how great scores and values are, which is what rounding is relative to; ``layer`` is the module's layer number;
    ``values`` are the values themselves ``[key head, key, width]``, where the request's reduction is ``"values"``.
    """
    module, query, key, value, _, kwargs = attention_arguments(call)
    query_offset, queries, *_ = window
    every = ((query_offset, query_offset + queries),)
    answers = []
    for row, wanted, _, heads, (reduce, _), _ in requests:
        weights = probabilities(call, row, index(wanted, query_offset, queries, query.device), heads, window)
        values = precise(value[row]).repeat_interleave(weights.shape[0] // value.shape[1], dim=0)
        greatest = [precise(part[row]).norm(dim=-1).max() for part in (query, key)]
        answers.append(
            {
                "weights": weights.cpu(),
                "open": open_edges(call, row, wanted, window).cpu(),
                "keys_seen": open_edges(call, row, every, window).sum(-1).cpu(),
                "mixed": torch.matmul(weights, values).cpu(),
                "score": float(scaled(greatest[0] * greatest[1], kwargs, query.shape[-1])),
                "value": float(values.abs().max()),
                "layer": getattr(module, "layer_idx", None),
                "values": precise(value[row]).cpu() if reduce == "values" else None,
            }
        )
    return answers


def open_edges(call, row, queries, window):
    """Which edges the mask leaves open, ``[1 or head, query, key]``."""
    _, query, key, _, mask, _ = attention_arguments(call)
    query_offset, length, *_ = window
    places = index(queries, query_offset, length, query.device)
    return is_open(additive_mask(mask, row, places, window, key.shape[2]))


def mixed_rows(output, requests, window):
    """What an attention call returned at some queries, ``[head, query, width]``."""
    query_offset, queries, *_ = window
    mixed, *_ = output
    return [
        mixed[row, index(wanted, query_offset, queries, mixed.device)].transpose(0, 1).cpu()
        for row, wanted, *_ in requests
    ]


# hidden states and logits -------------------------------------------------------------------------


def hidden_rows(value, requests, window):
    """States ``[position, width]`` of a module's output; a request is ``(row, positions)``."""
    offset, queries, *_ = window
    hidden = to_batch_layout(value[0] if isinstance(value, tuple) else value, queries)
    return [hidden[row, index(positions, offset, hidden.shape[1], hidden.device)].cpu() for row, positions in requests]


def embedding_rows(inputs, requests, window):
    """States ``[position, width]`` of what a module is handed."""
    return hidden_rows(sequence(inputs), requests, window)


def feature_rows(output, requests, window):
    """Image features ``[token, width]``, counted over all rows and images."""
    features = output[0] if isinstance(output, tuple) else output
    flat = features.reshape(1, -1, features.shape[-1])
    return [flat[0, index(positions, 0, flat.shape[1], flat.device)].cpu() for _, positions in requests]


def projected_rows(inputs, requests, window):
    """What the projector is handed, ``[row, width]``, counted over all rows and images."""
    return feature_rows(sequence(inputs), requests, window)


def logit_rows(logits, requests, window):
    """Logits ``[position, vocabulary]``; a request is ``(row, kept columns)``."""
    return [precise(logits[row, list(columns)]).cpu() for row, columns in requests]


def answer_scores(logits, requests, window):
    """``[logit, logprob, rank, top token]`` of one token; a request is ``(row, column, token)``.

    Rank 0 is the most probable token; ties count as better. Where a logit is not a number or +inf, there is no rank, no
    top token and no logprob: all are nan.
    """
    answers = []
    for row, column, token in requests:
        scores = precise(logits[row, column])
        logprob = torch.log_softmax(scores.double(), -1)[token]
        places = torch.stack([(scores > scores[token]).sum(), scores.argmax()]).double()
        places = places.masked_fill(logprob.isnan(), float("nan"))
        answers.append(torch.stack([scores[token].double(), logprob, *places]).cpu())
    return answers
