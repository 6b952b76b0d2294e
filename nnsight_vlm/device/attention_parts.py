"""The parts of an attention: the query, key and value that its function is handed, and the outputs of its heads.

Keys and values are handed over anew in every forward, for all positions so far, so what is written is written again for
every decoded token: each token sees the same written keys, whatever kind of cache holds the others. Parts are
``[row, head, position, head_dim]``; they are written with the heads of a position side by side, as states are.

Kernels and readouts as in `kernels` and `readouts`, and like them this file travels to a server by source.
"""

from __future__ import annotations

from .positions import columns_of, crossing, index, reaches
from .states import to_batch_layout, write_rows

TORCH_CALL = "torch_nn_functional_scaled_dot_product_attention_0"  # inside transformers' function for sdpa
PARTS = ("module", "query", "key", "value")  # the order in which an attention function is handed them

# writing ------------------------------------------------------------------------------------------


def write_part(inputs, writes, window, part_spec, memo):
    """`write_rows` on a part; ``inputs`` are the ``(args, kwargs)`` of the attention function.

    ``part_spec`` is ``(part, outside, None)``, with ``outside`` as in `positions.crossing`.
    """
    args, kwargs = inputs
    part, *_ = part_spec
    number = PARTS.index(part)
    handed = args[number]
    start, _ = span(window, part_spec)
    states = handed.transpose(1, 2).flatten(2)
    held = start, states.shape[1]
    written = write_rows(states, with_means(states, writes, held, part_spec, memo), held)
    written = written.unflatten(2, (handed.shape[1], handed.shape[3])).transpose(1, 2)
    return (*args[:number], written, *args[number + 1 :]), kwargs


def write_heads(inputs, writes, window, mask_spec, memo):
    """`write_rows` on what an output projection is handed: the outputs of all heads side by side."""
    (hidden, *args), kwargs = inputs
    return (write_rows(hidden, writes, window), *args), kwargs


def is_part(mask_spec):
    """Whether what a step is given says which part it writes, not which mask."""
    return mask_spec is not None and mask_spec[0] in PARTS


def touches(writes, window, mask_spec):
    """Whether any write has a target in this forward: among its keys where keys or values are written."""
    return reaches(writes, span(window, mask_spec) if is_part(mask_spec) else window)


def span(window, part_spec):
    """The first position of a part in this forward, and how many there are."""
    part, outside, _ = part_spec
    query_offset, queries, key_offset, keys, _ = crossing(window, outside)
    return (query_offset, queries) if part == "query" else (key_offset, keys)


def with_means(states, writes, held, part_spec, memo):
    """The same writes, means of keys and values replaced by the numbers that they are.

    A mean is taken in the first forward, which holds all of its targets, and kept: a sliding window forgets some.
    """
    if part_spec[0] == "query":
        return writes
    means = memo.setdefault("means", {})
    replaced = []
    for number, (row, targets, how, values, heads) in enumerate(writes):
        if how != "mean":
            replaced.append((row, targets, how, values, heads))
            continue
        key = id(writes), number
        if key not in means:
            columns = columns_of(heads, states.shape[2], states.device)
            written = write_rows(states, replaced, held)  # by what acts before
            chosen = written[row, index(targets, *held, states.device)]
            means[key] = (chosen if columns is None else chosen[:, columns]).mean(0)
        chosen_heads = None if heads is None else (heads[0], heads[1], heads[1])
        replaced.append((row, targets, "set", means[key], chosen_heads))
    return replaced


# reading ------------------------------------------------------------------------------------------


def arguments_inside(operation):
    """What transformers' function for sdpa hands on to torch, as `kernels.attention_arguments` takes it.

    Only activations: query, key and value ``[row, head, position, head_dim]``, keys and values once a query head, the
    mask and the scale. For forwards of more than one query; those of one are laid out otherwise.
    """
    (query, key, value, *_), kwargs = getattr(operation.source, TORCH_CALL).inputs
    return (None, query, key, value, kwargs["attn_mask"]), {"scaling": kwargs["scale"]}


def head_rows(inputs, requests, window):
    """States ``[head, position, head_dim]`` of what an output projection is handed.

    A request is ``(row, positions, (head count, heads))``.
    """
    offset, queries, *_ = window
    (hidden, *_), _ = inputs
    hidden = to_batch_layout(hidden, queries)
    answers = []
    for row, positions, (count, heads) in requests:
        states = hidden[row, index(positions, offset, hidden.shape[1], hidden.device)]
        answers.append(states.unflatten(1, (count, -1)).transpose(0, 1)[list(heads)].cpu())
    return answers


def query_rows(call, requests, window):
    """Queries ``[head, position, head_dim]``; requests as in `head_rows`."""
    query_offset, *_ = window
    return part_rows(call, "query", requests, query_offset)


def key_rows(call, requests, window):
    """Keys, as `query_rows`."""
    _, _, key_offset, *_ = window
    return part_rows(call, "key", requests, key_offset)


def value_rows(call, requests, window):
    """Values, as `query_rows`."""
    _, _, key_offset, *_ = window
    return part_rows(call, "value", requests, key_offset)


def part_rows(call, part, requests, start):
    """A part at chosen positions and heads; it begins at the position ``start``."""
    args, _ = call
    handed = args[PARTS.index(part)]
    answers = []
    for row, positions, (count, heads) in requests:
        places = index(positions, start, handed.shape[2], handed.device)
        own = handed[row, :: handed.shape[1] // count]  # where a key is there once a query head, every so many
        answers.append(own[list(heads)][:, places].cpu())
    return answers


READERS = {"query": query_rows, "key": key_rows, "value": value_rows}
