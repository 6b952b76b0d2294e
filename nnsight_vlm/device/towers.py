"""What kernels and readouts do in a vision tower, whose batch is another than the text's.

A tower runs a sequence for every picture or tile of all texts, ``[sequence, place, width]``. Positions count all of its
tokens, one sequence after the other, so states are folded into one line ``[1, position, width]``, written or read as
elsewhere, and shaped back. Edges between sequences do not exist: what is done to edges is done in each sequence for
itself, with the places that its positions have there.

The window of a tower is ``(0, tokens, 0, tokens, False)``, with the tokens of all sequences. Kernels as in `kernels`,
readouts as in `readouts`, and like them this file travels to a server by source.
"""

from __future__ import annotations

import torch

from .attention_parts import PARTS, head_rows, key_rows, query_rows, value_rows, write_heads
from .kernels import attention_arguments, close_edges
from .mixtures import change_weights
from .positions import clip, index, sequence, sequence_name
from .readouts import SCORES_PER_BLOCK, edges_used, hidden_rows, probabilities, reduce_rows
from .states import write_output, write_rows
from .weights import changed

# in one line --------------------------------------------------------------------------------------


def in_line(hidden, window):
    """States ``[sequence, place, width]`` of all sequences, one after the other: ``[1, position, width]``."""
    check_tokens(hidden.numel() // hidden.shape[-1], window)
    return hidden.reshape(1, -1, hidden.shape[-1])


def check_tokens(found, window):
    """Refuse a run of the tower on another number of tokens than a plan was made for: it would name others."""
    _, expected, *_ = window
    if found != expected:
        raise ValueError(
            f"the vision tower was to run once, on {expected} tokens, and it runs on {found}; give the pictures in a "
            "prompt of their own"
        )


def part_in_line(handed, window):
    """A part of an attention ``[sequence, head, place, head_dim]`` as ``[1, head, position, head_dim]``."""
    check_tokens(handed.shape[0] * handed.shape[2], window)
    return handed.transpose(0, 1).flatten(1, 2)[None]


def by_sequence(edits, sequences, length):
    """What is done to edges, with a row for each sequence and places in it, ``(row, targets, sources, heads, ...)``."""
    found = []
    for _, targets, sources, *rest in edits:
        for row in range(sequences):
            queries, keys = (tuple(clip(ranges, row * length, length)) for ranges in (targets, sources))
            if queries and keys:
                found.append((row, queries, keys, *rest))
    return tuple(found)


def edits_by_sequence(edits, sequences, length, window, memo):
    """The same, once a forward for layers with the same edits: they share masks by the tuple that holds them."""
    check_tokens(sequences * length, window)
    known = memo.setdefault("by sequence", {})
    if id(edits) not in known:
        known[id(edits)] = by_sequence(edits, sequences, length)
    return known[id(edits)]


# kernels ------------------------------------------------------------------------------------------


def write_tower_output(output, writes, window, mask_spec, memo):
    """`states.write_output` on what a module of the tower returns."""
    hidden = output[0] if isinstance(output, tuple) else output
    written = write_output(in_line(hidden, window), writes, window, mask_spec, memo).reshape(hidden.shape)
    return (written, *output[1:]) if isinstance(output, tuple) else written


def write_tower_embeddings(inputs, writes, window, mask_spec, memo):
    """`states.write_rows` on the states that a module of the tower is handed."""
    args, kwargs = inputs
    name, hidden = sequence_name(inputs), sequence(inputs)
    written = write_rows(in_line(hidden, window), writes, window).reshape(hidden.shape)
    return ((written, *args[1:]), kwargs) if name is None else (args, {**kwargs, name: written})


def write_tower_heads(inputs, writes, window, mask_spec, memo):
    """`attention_parts.write_heads` on what an output projection of the tower is handed."""
    (hidden, *args), kwargs = inputs
    (written, *_), _ = write_heads(((in_line(hidden, window),), {}), writes, window, mask_spec, memo)
    return (written.reshape(hidden.shape), *args), kwargs


def write_tower_part(inputs, writes, window, part_spec, memo):
    """`states.write_rows` on a query, key or value; every forward of a tower holds all of its targets."""
    args, kwargs = inputs
    part, *_ = part_spec
    number = PARTS.index(part)
    handed = args[number]
    states = part_in_line(handed, window).transpose(1, 2).flatten(2)
    written = write_rows(states, writes, window).reshape(handed.transpose(1, 2).shape).transpose(1, 2)
    return (*args[:number], written, *args[number + 1 :]), kwargs


def close_tower_edges(inputs, cuts, window, mask_spec, memo):
    """`kernels.close_edges` in each sequence for itself."""
    sequences, length, _ = sequence(inputs).shape
    edits = edits_by_sequence(cuts, sequences, length, window, memo)
    return close_edges(inputs, edits, (0, length, 0, length, False), mask_spec, memo)


def close_call_edges(inputs, cuts, window, mask_spec, memo):
    """The same in the mask that an attention function is handed, of a module that takes none."""
    args, kwargs = inputs
    _, query, _, _, mask, _ = attention_arguments(inputs)
    sequences, _, length, _ = query.shape
    edits = edits_by_sequence(cuts, sequences, length, window, memo)
    handed = (), {"hidden_states": query, "attention_mask": mask}
    named = "attention_mask", None, None
    _, closed = close_edges(handed, edits, (0, length, 0, length, False), named, memo)
    if len(args) > 4:
        return (*args[:4], closed["attention_mask"], *args[5:]), kwargs
    return args, {**kwargs, "attention_mask": closed["attention_mask"]}


def change_tower_weights(call, writes, window, mask_spec, memo):
    """`mixtures.change_weights` in each sequence for itself."""
    arguments, _ = call
    _, query, *_ = attention_arguments(arguments)
    sequences, _, length, _ = query.shape
    edits = edits_by_sequence(writes, sequences, length, window, memo)
    return change_weights(call, edits, (0, length, 0, length, False), mask_spec, memo)


# readouts -----------------------------------------------------------------------------------------


def tower_rows(value, requests, window):
    """`readouts.hidden_rows` of what a module of the tower returns."""
    return hidden_rows(in_line(value[0] if isinstance(value, tuple) else value, window), requests, window)


def tower_embedding_rows(inputs, requests, window):
    """`readouts.embedding_rows` of what a module of the tower is handed."""
    return tower_rows(sequence(inputs), requests, window)


def tower_head_rows(inputs, requests, window):
    """`attention_parts.head_rows` of what an output projection of the tower is handed."""
    (hidden, *_), _ = inputs
    return head_rows(((in_line(hidden, window),), {}), requests, window)


def tower_query_rows(call, requests, window):
    """`attention_parts.query_rows` of the tower."""
    return query_rows(call_in_line(call, window), requests, window)


def tower_key_rows(call, requests, window):
    """`attention_parts.key_rows` of the tower."""
    return key_rows(call_in_line(call, window), requests, window)


def tower_value_rows(call, requests, window):
    """`attention_parts.value_rows` of the tower."""
    return value_rows(call_in_line(call, window), requests, window)


def call_in_line(call, window):
    """What an attention function is handed, its query, key and value in one line."""
    (module, query, key, value, *_), kwargs = call
    return (module, *(part_in_line(part, window) for part in (query, key, value))), kwargs


def tower_attention_rows(call, requests, window):
    """`readouts.attention_rows`: probabilities of keys in other sequences than the query's are 0."""
    _, query, *_ = attention_arguments(call)
    sequences, heads, length, _ = query.shape
    check_tokens(sequences * length, window)
    answers = []
    for _, queries, keys, chosen, reduction, changes in requests:
        columns = index(keys, 0, sequences * length, query.device)
        edits = by_sequence(changes, sequences, length)
        blocks = []
        for row in range(sequences):
            own = index(queries, row * length, length, query.device)
            for places in own.split(max(1, SCORES_PER_BLOCK // (heads * max(length, len(columns))))):
                weights = probabilities(call, row, places, None, (0, length, 0, length, False))
                weights = changed(weights, places, row, edits, (0, length, 0, length, False))
                weights = weights if chosen is None else weights[list(chosen)]
                wide = weights.new_zeros(len(weights), len(places), len(columns))
                here = (columns // length == row).nonzero()[:, 0]
                wide[..., here] = weights[..., columns[here] - row * length]
                if len(places):
                    blocks.append(reduce_rows(wide, columns, reduction))
        answers.append(torch.cat(blocks, dim=1))
    return answers


def tower_edges_used(call, requests, window):
    """`readouts.edges_used` with a request for each sequence, its queries counted from that sequence's first place."""
    _, query, *_ = attention_arguments(call)
    return edges_used(call, requests, (0, query.shape[2], 0, query.shape[2], False))
