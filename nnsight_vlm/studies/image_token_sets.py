"""Sets of image tokens that an ablation compares: an object's, random ones, those of large norm, of large gradient.

All sets of one picture have as many tokens as the object, because the more tokens are taken away, the more an answer
changes. Only tokens with a place in the picture are chosen: line breaks between rows of patches show nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..errors import SpecError
from ..grids import Grid
from ..prompts.prompt import Prompt
from .image_patches import patch_source
from .labels import NONE, OTHER_OBJECT, RANDOM_PATCHES, RANDOM_PATCHES_AGAIN, Control
from .words import Thing

Chosen = Literal["object", "random", "register-like", "gradient"]
CHOSEN: tuple[Chosen, ...] = get_args(Chosen)
"""Which image tokens are ablated.

- `object`: those whose patch touches the object.
- `random`: as many outside the object.
- `register-like`: as many with the largest norm.
- `gradient`: as many with the largest attribution of the answer.
"""
REGISTER_DEVIATIONS = 2
"""How many standard deviations above the mean norm a token's norm lies to count as a register token."""


class TokenSet(NamedTuple):
    """Image tokens that are ablated together.

    Attributes:
        tokens: how they were chosen.
        control: `none` for a measurement.
        border: how many patches around the object count as its own.
        members: which of the grid's tokens, bool `[token]`.
    """

    tokens: Chosen
    control: Control
    border: int
    members: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectTokens:
    """An object's tokens among those of its picture.

    Attributes:
        thing: the object's name.
        grid: the picture's tokens, each with a place.
        own: which tokens touch the object, bool `[token]`.
        others: which tokens touch another object, bool `[token]`.
    """

    thing: str
    grid: Grid
    own: np.ndarray
    others: np.ndarray


def picture_grid(prompt: Prompt, name: str) -> Grid:
    """The tokens of a prompt's only picture that have a place in it.

    Args:
        prompt: of one row.
        name: what a message calls it.

    Raises:
        SpecError: no picture or several; image tokens that are latents, or whose patches are not known.
    """
    pictures = len(prompt.rows[0].images)
    if pictures != 1:
        raise SpecError(
            f"{name} has {pictures} pictures, and truths are the objects of one; give prompts of one picture"
        )
    stage, grid = patch_source(prompt)
    if stage != "decoder":
        raise SpecError(
            f"the image tokens of {name} are latents that a Q-Former or resampler computes from all patches, so none "
            "of them shows an object; nv.recipes.patch_knockout hides patches from the latents"
        )
    return grid


def object_tokens(grid: Grid, truth: Sequence[Thing], thing: str) -> ObjectTokens:
    """The tokens of the objects of one name, and those of the picture's other objects.

    Raises:
        SpecError: a mask of another size than the picture.
    """
    own, others = np.zeros(len(grid.positions), bool), np.zeros(len(grid.positions), bool)
    for each in truth:
        if each.mask is not None:
            touched = grid.coverage(each.mask) > 0
            if each.name == thing:
                own |= touched
            else:
                others |= touched
    return ObjectTokens(thing=thing, grid=grid, own=own, others=others)


def dilated(grid: Grid, members: np.ndarray, border: int) -> np.ndarray:
    """Tokens and their neighbours: all at most `border` rows and columns away in the same tile, bool `[token]`."""
    cells, tiles, grown = np.asarray(grid.cells), np.asarray(grid.tiles), members.copy()
    for token in np.flatnonzero(members) if border else ():
        grown |= (tiles == tiles[token]) & (np.abs(cells - cells[token]).max(1) <= border)
    return grown


def token_sets(
    found: ObjectTokens,
    border: int,
    chosen: Sequence[Chosen],
    rng: np.random.Generator,
    norms: np.ndarray | None,
    attributions: np.ndarray | None,
) -> Iterator[TokenSet]:
    """The sets of one object, each as large as the object with its border.

    A control is left out where too few tokens lie outside the object. The object's own border never counts as outside.

    Args:
        found: the object.
        border: how many patches around it count as its own.
        chosen: which sets.
        rng: draws the random ones.
        norms: norm of each token `[token]`, for `register-like`.
        attributions: attribution of the answer to each token `[token]`, for `gradient`; None where there is no answer.
    """
    own = dilated(found.grid, found.own, border)
    size, others = int(own.sum()), dilated(found.grid, found.others, border) & ~own
    controls: tuple[Control, ...] = (RANDOM_PATCHES, RANDOM_PATCHES_AGAIN)
    draws = [(control, _drawn(~own, size, rng)) for control in controls]
    other = _drawn(others, size, rng)
    if "object" in chosen:
        yield TokenSet("object", NONE, border, own)
        if other is not None:
            yield TokenSet("object", OTHER_OBJECT, border, other)
    for control, members in draws if "random" in chosen else ():
        if members is not None:
            yield TokenSet("random", control, border, members)
    if "register-like" in chosen and norms is not None:
        yield TokenSet("register-like", NONE, border, _largest(norms, size))
    if "gradient" in chosen and attributions is not None:
        yield TokenSet("gradient", NONE, border, _largest(attributions, size))


def _drawn(candidates: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray | None:
    """So many random tokens out of the candidates; None where there are too few."""
    numbers, members = np.flatnonzero(candidates), np.zeros(len(candidates), bool)
    if len(numbers) < size:
        return None
    members[rng.choice(numbers, size, replace=False)] = True
    return members


def _largest(values: np.ndarray, size: int) -> np.ndarray:
    """The tokens with the largest values; of equal ones the first."""
    members = np.zeros(len(values), bool)
    members[np.argsort(-values, kind="stable")[:size]] = True
    return members


def like_registers(norms: np.ndarray) -> np.ndarray:
    """Which tokens have the norm of a register: two standard deviations above the mean or more, bool `[token]`."""
    return np.asarray(norms > norms.mean() + REGISTER_DEVIATIONS * norms.std())
