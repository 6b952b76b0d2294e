"""The kernel that changes what an attention returns: see `weights` for what the changes are.

This file travels to a server by source: see `kernels`.
"""

from __future__ import annotations

import torch

from .kernels import attention_arguments, zero_unattended
from .positions import crossing, index
from .readouts import SCORES_PER_BLOCK, precise, probabilities
from .weights import changed


def change_weights(call, writes, window, mask_spec, memo):
    """What an attention call returns, as if the weights of some queries were others.

    ``call`` is the call's ``((args, kwargs), output)``. Cuts of the mask may be among the writes, before the changes:
    those that make `zero_unattended` due at the same call.
    """
    changes = tuple(write for write in writes if is_change(write))
    if len(changes) < len(writes):
        call = call[0], zero_unattended(call, writes, window, mask_spec, memo)
    arguments, (mixed, *rest) = call
    _, query, key, *_ = attention_arguments(arguments)
    _, outside, _ = mask_spec
    window = crossing(window, outside)
    query_offset, queries, *_ = window
    mixed = mixed.clone()
    for row in dict.fromkeys(change[0] for change in changes):
        targets = [index(change[1], query_offset, queries, query.device) for change in changes if change[0] == row]
        wanted = torch.cat(targets).unique()
        for places in wanted.split(max(1, SCORES_PER_BLOCK // (query.shape[1] * key.shape[2]))):
            added = mixed_by_change(arguments, row, places, changes, window)
            mixed[row, places] = (precise(mixed[row, places]) + added.transpose(0, 1)).to(mixed)
    return (mixed, *rest)


def is_change(write):
    """Whether a write is a change of weights, see `weights`; else it is a cut of the mask."""
    return len(write) > 4


def mixed_by_change(arguments, row, places, changes, window):
    """What the change of the weights mixes out of the values, ``[head, query, width]``."""
    _, _, _, value, *_ = attention_arguments(arguments)
    weights = probabilities(arguments, row, places, None, window)
    difference = changed(weights, places, row, changes, window) - weights
    by_key_head = difference.reshape(value.shape[1], -1, difference.shape[2])
    mixed = torch.matmul(by_key_head, precise(value[row]))
    return mixed.reshape(len(weights), len(places), value.shape[3])
