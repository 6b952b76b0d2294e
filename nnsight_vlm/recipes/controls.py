"""Where recipes look: which layers and tokens, where the picture is, and random controls for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import SpecError
from ..families import view_of
from ..grids import Grid
from ..prompts.prompt import Prompt
from ..prompts.token_map import TokenMap, Where
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout

# layers -----------------------------------------------------------------------------------------


def numbered(layers: int | Sequence[int]) -> tuple[int, ...]:
    """Layers by number, from these numbers or from how many there are."""
    return tuple(range(layers)) if isinstance(layers, int) else tuple(layers)


def equal_windows(layers: int | Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """`count` windows of equal size, evenly spread over the layers: quarters for `count=4`.

    `layers` is how many there are, or their numbers. Equal sizes make windows comparable with each
    other. Where the depth cannot be divided, the size is rounded up and neighbours share a layer.

    >>> equal_windows(8, 4)
    ((0, 1), (2, 3), (4, 5), (6, 7))
    >>> equal_windows((3, 8, 13, 18), 2)
    ((3, 8), (13, 18))
    """
    if count < 1:
        return ()
    known = numbered(layers)
    size = -(-len(known) // count)
    starts = [round(number * (len(known) - size) / max(count - 1, 1)) for number in range(count)]
    return tuple(dict.fromkeys(known[start : start + size] for start in starts))


def middle_half(layers: int | Sequence[int]) -> tuple[int, ...]:
    """The middle half of the layers; the other, outer half is the first and last quarter together.

    >>> middle_half(8)
    (2, 3, 4, 5)
    """
    known = numbered(layers)
    size = max(len(known) // 2, 1)
    start = (len(known) - size) // 2
    return known[start : start + size]


def outside(layers: int | Sequence[int], inside: Sequence[int]) -> tuple[int, ...]:
    """The layers that are not in `inside`."""
    return tuple(layer for layer in numbered(layers) if layer not in set(inside))


def spell_layers(layers: Sequence[int]) -> str:
    """Layers as a table shows them: `3-5,8`.

    >>> spell_layers([3, 4, 5, 8])
    '3-5,8'
    """
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def layers_of(model: Any, prompt: Prompt, source: Where) -> tuple[int, ...]:
    """The layers in which the decoder reads a source: through cross-attention where it lies outside the sequence."""
    sizes = view_of(model).stage()
    read = [sizes.cross if start < 0 else sizes.attention for start, _ in prompt.rows[0].ranges(source)]
    return tuple(layer for layer in range(sizes.layer_count) if all(layer in some for some in read))


# tokens -----------------------------------------------------------------------------------------


def tokens_of(prompt: Prompt, group: str) -> tuple[int, ...]:
    """Positions of a token group, none where the prompt has no such tokens."""
    try:
        return prompt[group]
    except SpecError:
        return ()


def lies_outside(prompt: Prompt, where: Where) -> bool:
    """Whether positions lie outside the decoder's sequence, if only some."""
    return any(start < 0 for start, _ in prompt.rows[0].ranges(where))


def owning_stage(prompt: Prompt, where: Where) -> tuple[str, tuple[int, ...]]:
    """The stage whose hidden states positions have, and where they stand in it.

    Raises:
        SpecError: no stage has states of them: they are only read.
    """
    row = prompt.rows[0]
    if not lies_outside(prompt, where):
        return "decoder", prompt[where]
    if "encoder" not in dict(row.stages):
        raise SpecError(
            f"{where!r} lies outside the decoder's sequence, which only reads it through cross-attention, so it has no "
            "residual stream to patch; leave it out"
        )
    return "encoder", tuple(position + row.outside for position in prompt[where])


def same_axis_positions(prompt: Prompt, where: Sequence[int]) -> tuple[int, ...]:
    """All positions that stand in one sequence with some: the decoder's own, or those outside it."""
    row = prompt.rows[0]
    own = prompt["all"] if any(position >= 0 for position in where) else ()
    return (*(range(-row.outside, 0) if any(position < 0 for position in where) else ()), *own)


def told_tokens(row: TokenMap) -> tuple[int, ...]:
    """The tokens of a sequence that are no image's."""
    pixels = {position for image in row.images for position in image}
    return tuple(position for position in row.ranges("all").positions(row.stop) if position not in pixels)


def readers_of(prompt: Prompt, target: str) -> Where:
    """The rows of a target. Text is all that is no image token, marks of an image's place included."""
    if target != "text" or lies_outside(prompt, target):
        return target
    return (*told_tokens(prompt.rows[0]), "generated")


# where the picture is ---------------------------------------------------------------------------


def sight_stage(prompt: Prompt) -> str:
    """The stage that reads patches of the picture: the decoder, unless its image tokens are latents without a place."""
    known = view_of(prompt.model).family
    if "grid" not in known.limitations:
        return "decoder"
    return next((name for name, stage in known.stages.items() if stage.keys), "decoder")


def has_sight(prompt: Prompt) -> bool:
    """Whether `patch_source` finds patches."""
    stage = sight_stage(prompt)
    return stage in dict(prompt.rows[0].stages) or (
        stage == "decoder" and "grid" not in view_of(prompt.model).family.limitations
    )


def patch_source(prompt: Prompt, image: int = 0) -> tuple[str, Grid]:
    """Where the patches of a picture are: the stage that reads them, and the patches that saw a place.

    In the decoder these are its image tokens; where they are latents, the patches that a Q-Former or
    resampler reads to make them.

    Raises:
        SpecError: no patch can be found, and why.
    """
    stage = sight_stage(prompt)
    return stage, prompt.grid(image, stage).placed


def blinded(prompt: Prompt) -> Intervention:
    """No token but the image's own sees the image: none of the decoder's, and in an encoder none of the question's."""
    cut = Knockout("image", (*told_tokens(prompt.rows[0]), "generated"), layers="attention")
    encoder = dict(prompt.rows[0].stages).get("encoder")
    if encoder is None:
        return cut
    return cut | Knockout("image", told_tokens(encoder), layers="attention", stage="encoder")


# controls ---------------------------------------------------------------------------------------


def rng_of(seed: int, image: int) -> np.random.Generator:
    """The random numbers of one image: equal however the images are chunked."""
    return np.random.default_rng((seed, image))


def matched_positions(
    prompt: Prompt, source: Sequence[int], target: Sequence[int], rng: np.random.Generator
) -> tuple[int, ...] | None:
    """As many random source positions as `source` has, all of which every target row can see.

    They are drawn outside the group; where too few tokens lie outside it (image tokens are most of
    a prompt), from the group and the rest together. The prompt's first token, on which attention
    rests, is never drawn. Keys outside the decoder's sequence, read in an attention of their own, are
    matched with others of them. None where there are not enough positions: then no matched control exists.
    """
    row = prompt.rows[0]
    last = min((row.last_seen(place) for place in target), default=row.answer - 1)
    crossing = min(source, default=0) < 0
    seen = range(-row.outside, 0) if crossing else [p for p in range(row.start, last + 1) if p not in set(target)]
    pool = [place for place in seen if place != row.start]
    others = [place for place in pool if place not in set(source)]
    wanted = len(set(source).intersection(seen))
    pool = others if len(others) >= wanted else pool
    if wanted == 0 or (len(pool) <= wanted and len(others) < wanted):
        return None
    return tuple(sorted(int(place) for place in rng.choice(pool, wanted, replace=False)))


def another(image: int, count: int, seed: int) -> int | None:
    """The image that lends another image its values: a fixed shift, so never itself."""
    if count < 2:
        return None
    return (image + int(np.random.default_rng((seed, count)).integers(1, count))) % count


def with_picture_of(prompt: Prompt, other: Prompt) -> Prompt | None:
    """The same words about another prompt's picture; None where the pictures take other places."""
    mine, theirs, known = prompt.rows[0], other.rows[0], view_of(prompt.model).family
    if (mine.tokens, mine.outside_tokens) == (theirs.tokens, theirs.outside_tokens):
        return replace(other, rows=(replace(theirs, answer=mine.answer),))
    if mine.cells != theirs.cells:
        return None
    asked = {name for stage in known.stages.values() for name in (stage.text, stage.text_mask)}
    moved = [name for name in known.inputs if name in prompt.inputs and name not in asked]
    return replace(
        prompt, inputs={**prompt.inputs, **{name: other.inputs[name] for name in moved}}, images=other.images
    )


def image_inputs(prompt: Prompt) -> list[np.ndarray]:
    """What a prompt tells its model of pictures, as arrays."""
    names = [name for name in sorted(view_of(prompt.model).family.inputs) if name in prompt.inputs]
    return [prompt.inputs[name].detach().float().cpu().numpy() for name in names]
