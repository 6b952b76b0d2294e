"""The tokens, words and phrases of an answer that name objects, and the patches that show these objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np

from ..grids import Grid
from ..prompts.prompt import Prompt
from ..prompts.prompt_text import Word
from .image_patches import PatchSource
from .pointing import TOUCHING, Tolerance, patches_near
from .token_sets import spell_token
from .words import PLURALS, Objects, Thing

Of = Literal["token", "word", "phrase"]
"""What of an object's name is measured: each of its tokens, each of its words, or the name as a whole."""
OF: tuple[Of, ...] = get_args(Of)


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectWord:
    """A token, a word or the whole of an object's name in an answer.

    Attributes:
        thing: the object's name.
        text: what the answer writes.
        positions: the positions of its tokens.
        patches: which patches show the object, bool `[patch]`; None where that is not known.
        hits: on which patches a peak is a hit, the same patches unless there is a tolerance.
        other_hits: the same for each other object of the picture.
        of: what it is.
    """

    thing: str
    text: str
    positions: tuple[int, ...]
    patches: np.ndarray | None
    hits: np.ndarray | None
    other_hits: tuple[np.ndarray, ...]
    of: Of = "token"

    @property
    def position(self) -> int:
        """The position of its first token."""
        return self.positions[0]

    def among(self, kept: np.ndarray) -> ObjectWord:
        """The same word where only some patches count, bool `[patch]`."""
        patches, hits = (None if mask is None else mask[kept] for mask in (self.patches, self.hits))
        return replace(self, patches=patches, hits=hits, other_hits=tuple(mask[kept] for mask in self.other_hits))


class Answered(NamedTuple):
    """An answer of the model, and the objects that it names.

    Attributes:
        image: the image's number.
        prompt: the prompt without the answer.
        grown: the prompt with it.
        tokens: the answer's token ids.
        source: the picture's patches.
        words: what names its objects.
    """

    image: int
    prompt: Prompt
    grown: Prompt
    tokens: Sequence[int]
    source: PatchSource
    words: Sequence[ObjectWord]

    def before(self, word: ObjectWord) -> tuple[Prompt, int | tuple[int, ...]]:
        """The prompt with the answer up to a word, and the word's tokens, of which one alone is a number."""
        first, last = (position - self.prompt.rows[0].answer for position in (word.positions[0], word.positions[-1]))
        said = tuple(map(int, self.tokens[first : last + 1]))
        return self.prompt.grown(self.tokens[:first]), said[0] if len(said) == 1 else said


@dataclass(frozen=True, kw_only=True, eq=False)
class _Masks:
    """The patches that show an object, and those on which a peak is a hit."""

    patches: np.ndarray
    hits: np.ndarray


def find_object_words(
    prompt: Prompt,
    grid: Grid,
    answer: str,
    truth: Sequence[Thing] | None,
    objects: Objects,
    *,
    words: Sequence[str] | None = None,
    of: Sequence[Of] = ("token",),
    tolerance: Tolerance = TOUCHING,
) -> list[ObjectWord]:
    """What the first mention of every object that an answer names is made of.

    Args:
        prompt: the prompt with the answer's tokens behind it.
        grid: the picture's patches.
        answer: the answer's text.
        truth: the objects that are really in the picture, with masks; objects of one name share their patches. Then
            only these objects count.
        objects: finds object names in the answer where there is no truth.
        words: the names that count, in place of those of the truth and of `objects`.
        of: what of each name.
        tolerance: how far from the object a peak may lie to be a hit.
    """
    masks = {} if truth is None else _masks_by_name(grid, truth, tolerance)
    names = list(masks) if truth is not None else list(dict.fromkeys(objects(answer) if words is None else ()))
    found = list[ObjectWord]()
    for name in names if words is None else words:
        mention, own = first_mention(prompt, name), masks.get(name)
        if mention is None:
            continue
        for kind in of:
            found += [
                ObjectWord(
                    thing=name,
                    text=text,
                    positions=positions,
                    patches=None if own is None else own.patches,
                    hits=None if own is None else own.hits,
                    other_hits=tuple(mask.hits for other, mask in masks.items() if other != name),
                    of=kind,
                )
                for text, positions in _parts(prompt, mention, kind)
            ]
    return found


def first_mention(prompt: Prompt, name: str) -> Word | None:
    """Where an answer first names an object, in capitals or not, else its plural in -s; None where it has neither."""
    forms = (prompt.find_all(name + end, within="generated", ignore_case=True) for end in PLURALS)
    return next((mentions[0] for mentions in forms if mentions), None)


def _parts(prompt: Prompt, mention: Word, of: Of) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The text and the positions of every part of a name; tokens between words (a hyphen) belong to no word."""
    if of == "token":
        yield from ((spell_token(prompt, position), (position,)) for position in mention.positions)
    elif of == "phrase":
        yield mention.text, mention.positions
    else:
        for word in prompt.words("generated"):
            positions = tuple(position for position in word.positions if position in mention.positions)
            if positions and word.start < mention.stop and word.stop > mention.start:
                yield word.text, positions


def _masks_by_name(grid: Grid, truth: Sequence[Thing], tolerance: Tolerance) -> dict[str, _Masks]:
    """The patches of the objects of each name that has masks."""
    masks = dict[str, _Masks]()
    for thing in truth:
        if thing.mask is not None:
            touched, hits = grid.coverage(thing.mask) > 0, patches_near(grid, thing.mask, tolerance)
            before = masks.get(thing.name)
            masks[thing.name] = _Masks(
                patches=touched if before is None else touched | before.patches,
                hits=hits if before is None else hits | before.hits,
            )
    return masks
