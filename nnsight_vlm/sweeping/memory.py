"""How many cases fit into a forward: an estimate from the model's sizes, and what is free on its device."""

from __future__ import annotations

from typing import Any

import psutil
import torch

from ..device.kernels import KEPT_MASKS
from ..families import view_of

SHARE = 0.25
"""The share of the free memory that a forward may take, unless told otherwise."""
STATES = 12
"""Copies of a token's hidden state that a layer holds at once: residual, norm, query, key, value, their rotations."""


def free_bytes(model: Any) -> int:
    """What is free on the device that the model is on."""
    device = next(model._module.parameters()).device
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def needed_bytes(model: Any, cases: int, each: int, before: int, *, rows: bool, heads: bool = False) -> int:
    """What a forward of so many cases takes beside the weights, of `each` tokens behind `before` shared ones.

    As rows every case has a copy of what is shared; packed they share it, and look at one mask. Where some `heads`
    are cut and others are not, every head has its own.
    """
    here = view_of(model).stage()
    config = view_of(model).config_of(here.stage)
    item = torch.finfo(view_of(model).dtype).bits // 8
    grouped = (getattr(config, "num_key_value_heads", None) or here.head_count) / here.head_count
    cached = 2 * here.width * grouped * here.layer_count * item
    inner = getattr(config, "intermediate_size", None) or 4 * here.width  # some name one for every layer
    state = (STATES * here.width + 3 * (max(inner) if isinstance(inner, list) else inner)) * item
    tokens, seen = cases * each, before + (each if rows else cases * each)
    eager = config._attn_implementation == "eager"
    edges = (
        tokens
        * seen
        * (KEPT_MASKS * item * (here.head_count if heads else 1) + (3 * 4 * here.head_count if eager else 0))
    )
    return int(tokens * (cached + state) + edges + (cases if rows else 1) * before * cached)


def cases_that_fit(
    model: Any, most: int, each: int, before: int, memory: int | None, *, rows: bool, heads: bool = False
) -> int:
    """How many cases, `most` at most and one at least, a forward has room for in so many bytes."""
    budget = SHARE * free_bytes(model) if memory is None else memory
    cases = most
    while cases > 1 and needed_bytes(model, cases, each, before, rows=rows, heads=heads) > budget:
        cases = max(1, cases * 3 // 4)
    return cases


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that there was no memory, on a GPU or on the CPU."""
    told = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in told or "allocate memory" in told
