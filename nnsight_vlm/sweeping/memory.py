"""How many cases fit into a forward: an estimate from the model's sizes, and what is free on its device."""

from __future__ import annotations

import psutil
import torch

from ..device.kernels import MASKS_IN_MEMORY
from ..families import Model, view_of

SHARE = 0.25
"""The share of the free memory that a forward may take, unless told otherwise."""
STATES = 12
"""Copies of a token's hidden state that a layer holds at once: residual, norm, query, key, value, their rotations."""
EAGER_COPIES = 3
"""Matrices of float32 scores that eager attention holds at once, for every head."""


def free_bytes(model: Model) -> int:
    """What is free on the device that the model is on."""
    device = view_of(model).device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def needed_bytes(model: Model, cases: int, tokens_each: int, shared: int, *, rows: bool, heads: bool = False) -> int:
    """What a forward takes beside the weights.

    Args:
        model: an nnsight model.
        cases: how many cases run in it.
        tokens_each: tokens of each case.
        shared: tokens before them that all cases share.
        rows: whether cases are rows of a batch, each with a copy of the keys that they share; packed, they have one
            copy and look at one mask.
        heads: whether some heads are cut and others are not, so that every head has its own mask.
    """
    view = view_of(model)
    spec = view.stage()
    config = view.config_of(spec.stage)
    item = torch.finfo(view.dtype).bits // 8
    key_heads = getattr(config, "num_key_value_heads", None) or spec.head_count
    cached_token = 2 * spec.width * key_heads / spec.head_count * spec.layer_count * item
    inner = getattr(config, "intermediate_size", None) or 4 * spec.width
    widest = max(inner) if isinstance(inner, list) else inner  # some configurations name one for every layer
    state = (STATES * spec.width + 3 * widest) * item
    tokens, keys = cases * tokens_each, shared + (tokens_each if rows else cases * tokens_each)
    masks = MASKS_IN_MEMORY * item * (spec.head_count if heads else 1)
    scores = EAGER_COPIES * 4 * spec.head_count if view.attention_implementation == "eager" else 0
    copies = cases if rows else 1
    return int(tokens * (cached_token + state) + tokens * keys * (masks + scores) + copies * shared * cached_token)


def cases_that_fit(
    model: Model, most: int, tokens_each: int, shared: int, memory: int | None, *, rows: bool, heads: bool = False
) -> int:
    """How many cases, `most` at most and one at least, a forward has room for in `memory` bytes; see `needed_bytes`."""
    budget = SHARE * free_bytes(model) if memory is None else memory
    cases = most
    while cases > 1 and needed_bytes(model, cases, tokens_each, shared, rows=rows, heads=heads) > budget:
        cases = max(1, cases * 3 // 4)
    return cases


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that there was no memory, on a GPU or on the CPU."""
    message = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in message or "allocate memory" in message
