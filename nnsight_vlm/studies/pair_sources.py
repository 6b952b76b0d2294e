"""Where the hidden states come from that are written into a pair's prompt, and those of its controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..errors import SpecError
from ..families import Model
from ..lowering.layers import Layers
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..lowering.sites import SITES, StateSite
from ..prompts.prompt import Prompt
from .controls import random_positions, rng_of, with_picture_of
from .labels import ANOTHER_IMAGE, NONE, RANDOM_POSITIONS, Control
from .pairs import Pair, answers_of, have_same_words, shows_picture_of
from .token_sets import owning_stage, same_axis_positions

LOOKED_AT = 64
"""How many more pairs are looked at for one with the same words, so that a large data set is not gone through."""


class StateSource(NamedTuple):
    """Hidden states to write.

    Attributes:
        group: the token group that is patched, or that a control stands for.
        control: `none` for the group itself.
        positions: the positions that are written.
        donor: the prompt whose run gives the states.
    """

    group: str
    control: Control
    positions: tuple[int, ...]
    donor: Prompt


def sources_of(pairs: Sequence[Pair], image: int, groups: Sequence[str], seed: int) -> Iterator[StateSource]:
    """The hidden states that are written into one pair's prompt: for each group its own, then those of its controls."""
    pair, third = pairs[image], third_picture(pairs, image)
    rng = rng_of(seed, image)
    for group in groups:
        positions = pair.prompt[group]
        yield StateSource(group, NONE, positions, pair.other)
        if third is not None:
            yield StateSource(group, ANOTHER_IMAGE, positions, third)
        if drawn := positions_outside(pair.prompt, positions, rng):
            yield StateSource(group, RANDOM_POSITIONS, drawn, pair.other)


def positions_outside(prompt: Prompt, positions: Sequence[int], rng: np.random.Generator) -> tuple[int, ...]:
    """As many random tokens of the same sequence, neither its first nor the last; none where there are too few."""
    others = same_axis_positions(prompt, positions)[1:]
    candidates = [position for position in others if position not in {*positions, *prompt["last"]}]
    return random_positions(candidates, len(positions), rng) if len(candidates) >= len(positions) else ()


def third_picture(pairs: Sequence[Pair], image: int) -> Prompt | None:
    """The pair's text about the picture of another pair that shares no answer, and not this picture, with it.

    A pair with the same words is taken where one of the next `LOOKED_AT` has them, because what it answers is then the
    answer to this question. Otherwise it is the next pair: its picture may show this question's answer by chance.
    """
    count = len(pairs)
    others = ((image + step) % count for step in range(1, count))
    able = (
        other
        for other in others
        if not {*answers_of(pairs, other)} & {*answers_of(pairs, image)} and not shows_picture_of(pairs, other, image)
    )
    first = next(able, None)
    if first is None:
        return None
    same = (other for other in (first, *islice(able, LOOKED_AT)) if have_same_words(pairs, other, image))
    return with_picture_of(pairs[image].prompt, pairs[next(same, first)].prompt)


def groups_with_states(prompts: Sequence[Prompt], groups: Sequence[str]) -> tuple[str, ...]:
    """Those of some groups that have hidden states in every prompt."""

    def has_states(group: str) -> bool:
        try:
            return all(owning_stage(prompt, group) for prompt in prompts)
        except SpecError:
            return False

    return tuple(group for group in groups if has_states(group))


def patched_layers(
    model: Model, prompt: Prompt, positions: Sequence[int], layers: Layers | None, site: StateSite = "residual"
) -> tuple[int, ...]:
    """The layers in which a site is patched at some positions; of the stage that has their hidden states.

    Args:
        model: an nnsight model.
        prompt: a prompt of one row.
        positions: its positions that are written.
        layers: None for all that have the site.
        site: what is written.

    Raises:
        SpecError: the stage has not got them, or none are named.
    """
    stage, places = owning_stage(prompt, tuple(positions))
    here = resolver(model, one_case_per_row(prompt).placements[0]).at(stage)
    name = here.site_of(site, places)
    every: Layers = "attention" if SITES[name].needs == "attention" else "all"
    whole = layers is None or (isinstance(layers, str) and layers == "all")
    numbers = here.ordered_layers(name, every if whole or layers is None else layers)
    if not numbers:
        raise SpecError("layers=() names no layer to patch; write a number or a list of numbers, or leave layers out")
    return tuple(numbers)
