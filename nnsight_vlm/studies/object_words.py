"""The tokens of a generated answer that name objects, and the patches that show these objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..grids import Grid
from ..prompts.prompt import Prompt
from ..prompts.prompt_text import Word
from .token_sets import spell_token
from .words import PLURALS, Objects, Thing


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectWord:
    """One token of an object's name in an answer.

    Attributes:
        thing: the object's name.
        text: the token's text.
        position: the token's position.
        patches: which patches show the object, bool `[patch]`; None where that is not known.
        other_patches: the same for each other object of the picture.
    """

    thing: str
    text: str
    position: int
    patches: np.ndarray | None
    other_patches: tuple[np.ndarray, ...]


def find_object_words(
    prompt: Prompt, grid: Grid, answer: str, truth: Sequence[Thing] | None, objects: Objects
) -> list[ObjectWord]:
    """The tokens of the first mention of every object that an answer names.

    Args:
        prompt: the prompt with the answer's tokens behind it.
        grid: the picture's patches.
        answer: the answer's text.
        truth: the objects that are really in the picture, with masks; objects of one name share their patches. Then
            only these objects count.
        objects: finds object names in the answer where there is no truth.
    """
    patches = dict.fromkeys(objects(answer)) if truth is None else _patches_by_name(grid, truth)
    words = []
    for name, own in patches.items():
        mention = first_mention(prompt, name)
        if mention is None:
            continue
        others = tuple(mask for other, mask in patches.items() if other != name and mask is not None)
        words += [
            ObjectWord(
                thing=name, text=spell_token(prompt, position), position=position, patches=own, other_patches=others
            )
            for position in mention.positions
        ]
    return words


def first_mention(prompt: Prompt, name: str) -> Word | None:
    """Where an answer first names an object, in capitals or not, else its plural in -s; None where it has neither."""
    forms = (prompt.find_all(name + end, within="generated", ignore_case=True) for end in PLURALS)
    return next((mentions[0] for mentions in forms if mentions), None)


def _patches_by_name(grid: Grid, truth: Sequence[Thing]) -> dict[str, np.ndarray | None]:
    """Which patches touch the masks of the objects of each name, bool `[patch]`."""
    patches = dict[str, np.ndarray | None]()
    for thing in truth:
        if thing.mask is not None:
            touched, before = grid.coverage(thing.mask) > 0, patches.get(thing.name)
            patches[thing.name] = touched if before is None else touched | before
    return patches
