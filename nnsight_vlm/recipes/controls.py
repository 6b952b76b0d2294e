"""Baselines and random controls that the recipes put beside what they measure.

A control matches its measurement in size (as many positions, layers or patches), and differs in what it hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..families import view_of
from ..prompts.prompt import Prompt
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout
from .token_sets import non_image_tokens


def blind_cut(prompt: Prompt) -> Intervention:
    """No token other than the image's own attends to the image, in any layer; in an encoder the question does not.

    This is the blind baseline of Kaduri et al. 2024 (arXiv 2411.17491): what the model says without the picture.
    """
    cut = Knockout("image", (*non_image_tokens(prompt.rows[0]), "generated"), layers="attention")
    encoder = dict(prompt.rows[0].stages).get("encoder")
    if encoder is None:
        return cut
    return cut | Knockout("image", non_image_tokens(encoder), layers="attention", stage="encoder")


def rng_of(seed: int, image: int) -> np.random.Generator:
    """The random generator of one image; its numbers do not depend on which images are measured together."""
    return np.random.default_rng((seed, image))


def random_positions(candidates: Sequence[int], count: int, rng: np.random.Generator) -> tuple[int, ...]:
    """So many different positions out of the candidates, sorted."""
    return tuple(sorted(map(int, rng.choice(candidates, count, replace=False))))


def matched_positions(
    prompt: Prompt, source: Sequence[int], target: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...] | None:
    """As many random source positions as `source` has, each visible to every target position.

    They are drawn from outside the group. Where too few tokens lie outside it (image tokens are most of a prompt),
    they are drawn from all tokens, those of the group included. The prompt's first token is never drawn, because
    models use it as an attention sink. Keys outside the decoder's sequence are replaced by other such keys, because
    they belong to another attention.

    Returns:
        The positions, sorted; None where there are too few for a matched control.
    """
    tokens = prompt.rows[0]
    last_visible = min((tokens.last_seen(position) for position in target), default=tokens.answer - 1)
    visible = (
        range(-tokens.outside, 0)
        if min(source, default=0) < 0
        else [position for position in range(tokens.start, last_visible + 1) if position not in set(target)]
    )
    candidates = [position for position in visible if position != tokens.start]
    outside_group = [position for position in candidates if position not in set(source)]
    count = len(set(source).intersection(visible))
    if count == 0 or (len(candidates) <= count and len(outside_group) < count):
        return None
    return random_positions(outside_group if len(outside_group) >= count else candidates, count, rng)


def other_image(image: int, count: int, seed: int) -> int | None:
    """Which of `count` images stands in for this one: always another, by a fixed shift; None where there is no other.

    The shift depends on the seed.
    """
    if count < 2:
        return None
    return (image + int(np.random.default_rng((seed, count)).integers(1, count))) % count


def with_picture_of(prompt: Prompt, other: Prompt) -> Prompt | None:
    """A prompt with the same text and another prompt's picture.

    Returns:
        The new prompt; None where the pictures' tokens are laid out differently (other tiles or another size).
    """
    own_tokens, other_tokens, family = prompt.rows[0], other.rows[0], view_of(prompt.model).family
    if (own_tokens.tokens, own_tokens.outside_tokens) == (other_tokens.tokens, other_tokens.outside_tokens):
        return replace(other, rows=(replace(other_tokens, answer=own_tokens.answer),))
    if own_tokens.cells != other_tokens.cells:
        return None
    text_inputs = {name for stage in family.stages.values() for name in (stage.text, stage.text_mask)}
    names = [name for name in family.inputs if name in prompt.inputs and name not in text_inputs]
    moved = {name: other.inputs[name] for name in names}
    return replace(prompt, inputs={**prompt.inputs, **moved}, images=other.images)
