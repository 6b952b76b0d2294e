"""What a readout takes from a site: pure functions that reduce where the model runs.

They are given what the site holds and a tuple of requests, and return one tensor a request.
Attention is read as the rows that were asked for, ``[head, query, key]``, recomputed from the
query, key and mask of the live attention call: under sdpa as under eager, and never as a
``head x sequence x sequence`` matrix.

This file travels to NDIF by source: see `kernels`.
"""

from __future__ import annotations

import torch

from .kernels import index, is_open, sequence, to_batch_layout, widened

BLOCK = 2**24  # scores that are held at once: 64 MiB


def attention_rows(call, requests, window):
    """Attention probabilities of chosen rows: one tensor a request.

    ``call`` holds the ``(args, kwargs)`` of the attention function; a request is
    ``(row, queries, keys, heads, (reduce, top))``. Returns ``[head, query, key]`` for ``rows``,
    the same with one head for ``mean`` (over them),
    ``[head, query]`` for ``mass`` (sum over the keys) and ``entropy`` (nats, of the distribution
    renormalised over the keys), and ``[head, query, top, 2]`` for ``top``: places and probabilities.
    Rows are computed and reduced in blocks, so that few of them exist at once.
    """
    return [reduced(call, request, window) for request in requests]


def reduced(call, request, window):
    """One request, block by block."""
    query, key = call[0][1:3]
    row, queries, keys, heads, how = request
    columns = index(keys, window[2], key.shape[2], query.device)
    blocks = index(queries, window[0], window[1], query.device).split(max(1, BLOCK // (query.shape[1] * key.shape[2])))
    found = [
        reduce_rows(probabilities(call, row, here, heads, window)[..., columns], columns + window[2], how)
        for here in blocks
    ]
    return torch.cat(found, dim=1)


def probabilities(call, row, here, heads, window):
    """``[head, query, every key]`` of the queries at the places ``here``, float32 as sdpa has them; see `widened`."""
    args, kwargs = call
    query, key, mask = args[1], args[2], args[4] if len(args) > 4 else kwargs.get("attention_mask")
    groups = query.shape[1] // key.shape[1]
    chosen = widened(query[row][:, here]).reshape(key.shape[1], groups * len(here), -1)
    scores = torch.matmul(chosen, widened(key[row]).transpose(-1, -2)).reshape(query.shape[1], len(here), -1)
    scores = scaled(scores, kwargs, query.shape[-1]) + biased(kwargs, row, here)
    scores = scores + additive(mask, row, here, window, key.shape[2])
    weights = torch.softmax(scores, dim=-1).nan_to_num(0.0)  # a query that may read nothing reads nothing
    return weights if heads is None else weights[list(heads)]


def scaled(scores, kwargs, width):
    """Scores as the attention function scales and caps them."""
    scaling, softcap = kwargs.get("scaling"), kwargs.get("softcap")
    scores = scores * (width**-0.5 if scaling is None else scaling)
    return scores if softcap is None else torch.tanh(scores / softcap) * softcap


def biased(kwargs, row, here):
    """What relative positions add to the scores of rows ``here``, ``[head, query, key]``; 0 in most families."""
    bias = kwargs.get("position_bias")
    return 0.0 if bias is None else widened(bias[row if bias.shape[0] > 1 else 0][:, here])


def additive(mask, row, here, window, keys):
    """What the mask adds to rows ``here``, ``[1 or head, query, key]``; see `causal_mask` where it is None."""
    if mask is None:
        closed = torch.zeros(1, len(here), keys, dtype=torch.bool, device=here.device)
        if window[4]:
            columns = torch.arange(keys, device=here.device)[None, :] + window[2]
            closed |= columns > here[:, None] + window[0]
        return torch.zeros(closed.shape, device=here.device).masked_fill(closed, float("-inf"))
    rows = mask[row if mask.shape[0] > 1 else 0][:, :, :keys]
    rows = rows[:, here] if rows.shape[1] > 1 else rows.expand(-1, len(here), -1)
    added = torch.zeros(rows.shape, device=rows.device) if rows.dtype == torch.bool else widened(rows)
    return added.masked_fill(~is_open(rows), float("-inf"))


def reduce_rows(wanted, places, how):
    """Rows ``[head, query, key]`` of the wanted keys, which lie at ``places``, reduced."""
    reduce, top = how
    if reduce == "mean":
        return wanted.mean(0, keepdim=True).cpu()
    if reduce == "mass":
        return wanted.sum(-1).cpu()
    if reduce == "entropy":
        share = wanted / wanted.sum(-1, keepdim=True)
        return torch.special.entr(share).sum(-1).cpu()
    if reduce == "top":
        most = wanted.topk(top, dim=-1)
        return torch.stack([places[most.indices].to(wanted), most.values], dim=-1).cpu()
    return wanted.cpu()


def edges_used(call, requests, window):
    """For `verify`: what one attention call was given, one dict a request ``(row, queries, ...)``.

    The probabilities ``[head, query, every key]`` of the rows, which edges the mask leaves open
    there ``[1 or head, query, key]``, how many keys each query may see ``[1 or head, all queries]``,
    what the rows mix out of the values ``[head, query, width]``, how great scores and values are
    (what rounding is relative to), and the module's layer number.
    """
    args, kwargs = call
    every = ((window[0], window[0] + window[1]),)
    found = []
    for request in requests:
        here = index(request[1], window[0], window[1], args[1].device)
        weights = probabilities(call, request[0], here, request[3], window)
        values = widened(args[3][request[0]]).repeat_interleave(weights.shape[0] // args[3].shape[1], dim=0)
        norms = [float(widened(args[part][request[0]]).norm(dim=-1).max()) for part in (1, 2)]
        found.append(
            {
                "weights": weights.cpu(),
                "open": opened(call, request[0], request[1], window).cpu(),
                "keys_seen": opened(call, request[0], every, window).sum(-1).cpu(),
                "mixed": torch.matmul(weights, values).cpu(),
                "score": float(scaled(torch.tensor(norms[0] * norms[1]), kwargs, args[1].shape[-1])),
                "value": float(values.abs().max()),
                "layer": getattr(args[0], "layer_idx", None),
            }
        )
    return found


def opened(call, row, queries, window):
    """Which edges the mask leaves open, ``[1 or head, query, key]``."""
    args = call[0]
    here = index(queries, window[0], window[1], args[1].device)
    mask = args[4] if len(args) > 4 else call[1].get("attention_mask")
    return is_open(additive(mask, row, here, window, args[2].shape[2]))


def mixed_rows(output, requests, window):
    """What an attention call returned at some rows, ``[head, query, width]``."""
    value = output[0]
    return [
        value[request[0], index(request[1], window[0], window[1], value.device)].transpose(0, 1).cpu()
        for request in requests
    ]


def hidden_rows(value, requests, window):
    """Rows ``[position, width]`` of a module's output; a request is ``(row, positions)``."""
    hidden = to_batch_layout(value[0] if isinstance(value, tuple) else value, window[1])
    return [
        hidden[row, index(positions, window[0], hidden.shape[1], hidden.device)].cpu() for row, positions in requests
    ]


def embedding_rows(inputs, requests, window):
    """Rows ``[position, width]`` of what a module is handed."""
    return hidden_rows(sequence(inputs), requests, window)


def feature_rows(output, requests, window):
    """Rows ``[token, width]`` of the image features, counted over all rows and images."""
    features = output[0] if isinstance(output, tuple) else output
    flat = features.reshape(1, -1, features.shape[-1])
    return [flat[0, index(positions, 0, flat.shape[1], flat.device)].cpu() for _, positions in requests]


def logit_rows(logits, requests, window):
    """Logits ``[position, vocabulary]``, float32 (see `widened`); a request is ``(row, kept columns)``."""
    return [widened(logits[row, list(columns)]).cpu() for row, columns in requests]


def answer_scores(logits, requests, window):
    """``[logit, logprob, rank, top token]`` of one token; a request is ``(row, column, token)``.

    Rank 0 is the most probable token; ties count as better.
    """
    found = []
    for row, column, token in requests:
        scores = widened(logits[row, column])
        rank = (scores > scores[token]).sum()
        logprob = torch.log_softmax(scores.double(), -1)[token]
        found.append(torch.stack([scores[token].double(), logprob, rank.double(), scores.argmax().double()]).cpu())
    return found
