"""Random cases: what is asked, of which prompts, and what is changed and read, from a seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from random import Random
from typing import Any

from .drawing import Drawer
from .worlds import SAID, Question, Unusable, World, like, question

MODES = ("run", "verify", "generate", "batch", "sweep", "generations")
EQUALLY_MANY = ("mllama",)
"""Members whose prompts share a batch only if they have equally many pictures."""
EQUALLY_LARGE = ("perception_lm",)
"""Members whose prompts share a batch only if their pictures have equally many tiles."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is drawn.

    Attributes:
        mode: one of `MODES`.
        questions: one, or one for each row.
        edits: for each row, or for each variant of a sweep, the edits in their order.
        shared: whether the rows of a batch have one intervention.
        reads: what is read.
        execution: of a sweep.
    """

    mode: str
    questions: tuple[Question, ...]
    edits: tuple[tuple[Any, ...], ...]
    shared: bool = False
    reads: tuple[Any, ...] = ()
    execution: str = "auto"


def draw(random: Random, world: World, mode: str) -> Case:
    """A case that asks for something."""
    for _ in range(200):
        try:
            return _draw(random, world, mode)
        except Unusable:
            continue
    raise AssertionError("200 draws in a row asked for nothing")


def _draw(random: Random, world: World, mode: str) -> Case:
    several = mode in ("batch", "generations") or (mode == "verify" and random.random() < 0.3)
    questions = rows(random, world, mode) if several else (asked(random, world, mode),)
    variants = random.randint(2, 4) if mode == "sweep" else len(questions)
    drawer = Drawer(random, world, questions, mode)
    shared = several and (mode == "verify" or (mode == "batch" and random.random() < 0.5))
    if shared:
        edits = (drawer.edits(questions),) * len(questions)
    else:
        edits = tuple(drawer.edits((questions[n % len(questions)],)) for n in range(variants))
    reads = tuple(drawer.read() for _ in range(random.randint(1, 3))) if mode in ("run", "batch") else ()
    execution = random.choice(["auto", "packed", "rows", "single"])
    return Case(mode=mode, questions=questions, edits=edits, shared=shared, reads=reads, execution=execution)


def asked(random: Random, world: World, mode: str) -> Question:
    """A question, sometimes with an answer behind it."""
    found = question(random, world.name)
    if mode in ("run", "sweep") and random.random() < 0.25:
        ids = world.processor.tokenizer.convert_tokens_to_ids(
            [random.choice(SAID) for _ in range(random.randint(1, 3))]
        )
        return dataclasses.replace(found, answer=tuple(ids))
    return found


def rows(random: Random, world: World, mode: str) -> tuple[Question, ...]:
    """Questions that share a batch: of one shape, or of unequal lengths, pictures and numbers of pictures.

    What answers several prompts may run them in several batches.
    """
    one = len(world.reference.paths.stages) > 1 and random.random() < 0.6  # where each stage has a row of its own
    first = question(random, world.name, 1 if one else None)
    count, batched = random.randint(2, 3), mode != "generations"
    if random.random() < 0.2 or (batched and world.name in EQUALLY_LARGE):
        return first, *(like(random, first, world.name) for _ in range(count - 1))
    same = one or (batched and world.name in EQUALLY_MANY) or random.random() < 0.5
    return first, *(question(random, world.name, len(first.pictures) if same else None) for _ in range(count - 1))
