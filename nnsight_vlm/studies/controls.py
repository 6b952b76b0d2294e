"""Baselines and random controls that the recipes put beside what they measure.

A control matches its measurement in size (as many positions, layers or patches), and differs in what it hits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from ..families import view_of
from ..identity import setting_digest
from ..prompts.prompt import Prompt
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout
from .item_prompts import ItemPrompts
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


def edge_matched_positions(
    prompt: Prompt, source: Sequence[int], target: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...] | None:
    """Positions to which every target token has as many edges as to the source; see `matched_positions`.

    Target tokens that see nothing of the source lose no edges and do not count. Where the only target token is one of
    the source (`last->last`), its edge to itself is replaced by one to another token.
    """
    tokens = prompt.rows[0]
    readers = [position for position in target if tokens.last_seen(position) >= min(source, default=0)]
    if len(readers) == 1 and readers == [tokens.answer - 1]:
        return matched_positions(prompt, source, (), rng)
    return matched_positions(prompt, source, readers, rng)


def other_image(prompts: Sequence[Prompt], image: int, seed: int) -> int | None:
    """Which prompt's picture stands in for this one's: always another picture; None where there is no other.

    It is found by a fixed shift, which depends on the seed, and is the next one whose picture is another.
    """
    count = len(prompts)
    shift = int(np.random.default_rng((seed, count)).integers(1, count)) if count > 1 else 0
    candidates = [(image + shift + step) % count for step in range(count)]
    if isinstance(prompts, ItemPrompts):  # told apart without opening them again
        keys = prompts.picture_keys
        return next((number for number in candidates if keys[number] != keys[image]), None)
    return next((number for number in candidates if not same_pictures(prompts[number], prompts[image])), None)


def visual_inputs(prompt: Prompt) -> dict[str, Any]:
    """What a prompt gives to the model of its pictures: pixels, and how they are laid out; empty without pictures."""
    family = view_of(prompt.model).family
    of_text = {name for stage in family.stages.values() for name in (stage.text, stage.text_mask)}
    return {name: prompt.inputs[name] for name in family.inputs if name in prompt.inputs and name not in of_text}


def picture_key(prompt: Prompt) -> str:
    """A short name for the pixels that a prompt gives to the model; empty for a prompt without pictures."""
    given = visual_inputs(prompt)
    return setting_digest(given) if given else ""


def same_pictures(one: Prompt, other: Prompt) -> bool:
    """Whether two prompts give the same pixels to the model."""
    first, second = visual_inputs(one), visual_inputs(other)
    return one is other or (
        bool(first)
        and first.keys() == second.keys()
        and all(torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first)
    )


def with_picture_of(prompt: Prompt, other: Prompt) -> Prompt | None:
    """A prompt with the same text and another prompt's picture.

    Returns:
        The new prompt; None where the pictures' tokens are laid out differently (other tiles or another size).
    """
    own_tokens, other_tokens = prompt.rows[0], other.rows[0]
    if (own_tokens.tokens, own_tokens.outside_tokens) == (other_tokens.tokens, other_tokens.outside_tokens):
        return replace(other, rows=(replace(other_tokens, answer=own_tokens.answer),))
    if (own_tokens.cells, own_tokens.video_cells) != (other_tokens.cells, other_tokens.video_cells):
        return None
    moved = {name: other.inputs[name] for name in visual_inputs(prompt)}
    return replace(prompt, inputs={**prompt.inputs, **moved}, images=other.images, videos=other.videos)


class Edges(NamedTuple):
    """Attention edges: every target attends to every source.

    Attributes:
        source: positions of the keys, sorted.
        target: positions of the queries, sorted.
    """

    source: tuple[int, ...]
    target: tuple[int, ...]


def seen_edges(prompt: Prompt, edges: Edges) -> int:
    """How many of these edges a causal mask leaves open, each query's edge to itself included."""
    last_seen = [prompt.rows[0].last_seen(position) for position in edges.target]
    return sum(source <= last for last in last_seen for source in edges.source)


def random_edges(
    prompt: Prompt, count: int, outside: bool, closed: Sequence[Edges], rng: np.random.Generator
) -> list[Edges] | None:
    """So many random edges of the prompt, none of them among those of `closed`.

    Queries are drawn one after the other; each loses half of the keys that may be drawn for it, the last one what is
    still missing. No query loses itself or the prompt's first token, which models use as an attention sink.

    Args:
        prompt: of one row.
        count: how many edges are drawn.
        outside: whether the keys lie outside the decoder's sequence, in cross-attention, or in it.
        closed: edges that are not drawn.
        rng: draws the queries and their keys.

    Returns:
        Edges of one query each; None where there are too few.
    """
    tokens, drawn = prompt.rows[0], list[Edges]()
    for target in map(int, rng.permutation(np.arange(tokens.start, tokens.answer))):
        taken = {source for edges in closed if target in edges.target for source in edges.source}
        keys = range(-tokens.outside, 0) if outside else range(tokens.start + 1, tokens.last_seen(target) + 1)
        free = [key for key in keys if key not in taken and key != target]
        share = min(len(free) // 2, count)
        if share:
            drawn.append(Edges(random_positions(free, share, rng), (target,)))
            count -= share
        if not count:
            return drawn
    return None
