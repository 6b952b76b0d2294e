"""What keys add to a query's row in a vision tower, sequence by sequence, or piece by piece of a line.

A query sees keys of its own sequence or piece only, so what all others add is 0, and each is asked for itself.

Readouts as in `contributions`, and like it this file travels to a server by source.
"""

from __future__ import annotations

import torch

from .contributions import contribution
from .kernels import attention_arguments
from .lines import changed_weights, pieces, within
from .positions import clip, index
from .readouts import final_weights
from .towers import by_sequence, check_tokens


def tower_contributions(call, requests, window, projection, attention):
    """`contributions.contributions` of a tower whose batch has a row for each sequence."""
    _, query, *_ = attention_arguments(call)
    sequences, _, length, _ = query.shape
    check_tokens(sequences * length, window)
    inside = 0, length, 0, length, False
    answers = []
    for _, queries, keys, heads, how, changes in requests:
        edits = by_sequence(changes, sequences, length)
        given = []
        for row in range(sequences):
            own, seen = (tuple(clip(ranges, row * length, length)) for ranges in (queries, keys))
            if own:
                asked = row, own, seen, heads, how, edits
                added = contribution(call, asked, inside, projection, {}, final_weights)
                given.append(among_all(added, keys, how, row * length, length, sequences * length))
        answers.append(torch.cat(given, dim=1))
    return answers


def line_contributions(call, requests, window, projection, attention):
    """The same of a tower whose tokens lie in one line; ``call`` holds the parts of all of it."""
    (_, query, *_), _ = call
    answers = []
    for _, queries, keys, heads, how, changes in requests:
        given = []
        for start, stop in pieces(window):
            part, inside = within(call, start, stop)
            if clip(queries, start, stop - start):
                added = contribution(
                    part, (0, queries, keys, heads, how, changes), inside, projection, {}, line_weights
                )
                given.append(among_all(added, keys, how, start, stop - start, query.shape[2]))
        answers.append(torch.cat(given, dim=1))
    return answers


def line_weights(call, row, places, heads, changes, window):
    """`readouts.final_weights` of a piece of a line, under cuts and changes."""
    weights = changed_weights(call, places, changes, window)
    return weights if heads is None else weights[list(heads)]


def among_all(added, keys, how, start, length, every):
    """What keys of a sequence add, with 0 for all keys of other ones, ``[head, query, key]``."""
    over, _ = how
    if "keys" in over:
        return added
    columns = index(keys, 0, every, added.device)
    wide = added.new_zeros(*added.shape[:2], len(columns))
    wide[..., (columns >= start) & (columns < start + length)] = added
    return wide
