"""Pairs of pictures whose questions a tiny model answers, for recipes that interchange states."""

from __future__ import annotations

import functools
from itertools import islice, pairwise
from typing import Any

import tiny

import nnsight_vlm as nv
from nnsight_vlm.recipes import Pair

QUESTION = "what is the red square ?"


def known_pairs(model: Any, count: int, pictures: int = 12) -> list[Pair]:
    """So many pairs of different pictures and answers; the answers are what the model says of each picture."""
    return list(_known_pairs(model, count, pictures))


@functools.cache
def _known_pairs(model: Any, count: int, pictures: int) -> tuple[Pair, ...]:
    prompts = (nv.encode(model, QUESTION, tiny.picture(number)) for number in range(pictures))
    answered = ((prompt, int(nv.run(model, prompt).logits.argmax())) for prompt in prompts)
    pairs = (Pair(one, other, a, b) for (one, a), (other, b) in pairwise(answered) if a != b)
    found = tuple(islice(pairs, count))  # no more pictures are asked about than it takes
    assert len(found) == count, f"{len(found)} pairs of {count}"
    return found
