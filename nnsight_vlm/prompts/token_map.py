"""The token map: which token of one row is what.

A prompt has one `TokenMap` for every row of its encoding. Groups are found here by their names; positions travel
between the modules of the package as `Ranges`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..errors import SpecError
from ..grids import Cells
from .ranges import NOWHERE, Ranges, moved

Where = str | int | Sequence["str | int"]
"""A group's name, a position, or several of either."""

GROUPS = ("image", "image.N", "markup", "system", "query", "text", "last", "first", "bos", "generated", "all")


def as_tuples(where: Any) -> Any:
    """Lists, ranges, arrays and tensors of positions as tuples of ints; a mask as where it is true.

    >>> as_tuples([[1, 2], np.array([False, True, True])])
    ((1, 2), (1, 2))
    """
    if isinstance(where, (np.ndarray, np.generic, torch.Tensor)):
        array = np.asarray(where)
        where = (np.flatnonzero(array) if array.dtype == bool else array).tolist()
    return tuple(as_tuples(part) for part in where) if isinstance(where, (list, tuple, range)) else where


def require_ascending(where: Where | None) -> None:
    """Refuse positions in an order of their own where values go with them: values follow the sequence.

    Raises:
        SpecError: positions that are not in ascending order.
    """
    numbers = [where] if isinstance(where, (str, int)) or where is None else list(where)
    positions = [number for number in numbers if isinstance(number, int)]
    if any(after <= before for before, after in pairwise(positions)):
        raise SpecError(f"positions {tuple(positions)} must ascend: values go with them in the order of the sequence")


@dataclass(frozen=True, kw_only=True)
class TokenMap:
    """Which token of one row is what.

    Attributes:
        tokens: token ids, padding included.
        start: position of the first real token.
        stop: one past the last real token.
        answer: where the model's own words begin; equal to `stop` until the prompt has grown.
        images: positions of each image's tokens.
        bos: position of the token that opens the text, if there is one.
        outside: how many keys lie outside the sequence; their positions are `-outside .. -1`.
        outside_tokens: their token ids, where they are tokens.
        marks: positions of the text tokens that stand for images outside the sequence; an image can be attended to from
            its token on.
        readers: how many of the first tokens read what lies outside; None for all.
        blocks: stretches whose tokens see each other in both directions.
        features: for each image and token its row in the projector's output, -1 for none; empty where these rows are
            the image tokens in order.
        feature_rows: how many rows the projector's output has for this row's images.
        named: groups that lie elsewhere than the order of the tokens says.
        stages: the token map of each stage that runs before the decoder.
        row: of a stage, the row of the stage's own batch in which this sequence runs.
        rows: of a stage, how many rows that batch has.
        key_grid: of a stage whose keys are a picture that is padded to the largest of the batch, `(rows, columns)` of
            patches that it is padded to.
        padding: places before `stop` that are padding all the same; no query reads them.
        cells: how the tokens of each image lie on its tiles.
    """

    tokens: tuple[int, ...]
    start: int
    stop: int
    answer: int
    images: tuple[tuple[int, ...], ...]
    bos: int | None = None
    outside: int = 0
    outside_tokens: tuple[int, ...] = ()
    marks: tuple[int, ...] = ()
    readers: int | None = None
    blocks: Ranges = NOWHERE
    features: tuple[tuple[int, ...], ...] = ()
    feature_rows: int = 0
    named: tuple[tuple[str, Ranges], ...] = ()
    stages: tuple[tuple[str, TokenMap], ...] = ()
    cells: tuple[Cells, ...] = ()
    row: int = 0
    rows: int = 1
    key_grid: tuple[int, int] | None = None
    padding: tuple[int, ...] = ()

    # groups ---------------------------------------------------------------------------------------

    def ranges(self, where: Where) -> Ranges:
        """Positions of a group, a number, or several of them together.

        Groups that can grow (`generated`, `text`, `all`) are open. `text` is all that is no image token; of it,
        `markup` are the tokens inside an image (line breaks, tile numbers), `system` is what stands before the first
        image and `query` what stands after it.

        Raises:
            SpecError: no such group, no image in the row, or a position outside the row.
        """
        where = as_tuples(where)
        if isinstance(where, str):
            ranges = self.group(where)
            if not ranges and where != "generated":
                raise SpecError(f"the group {where!r} is empty in this prompt, so nothing would be changed or read")
            return ranges
        if isinstance(where, bool):
            raise SpecError("a bool is no position; give group names, positions, or a mask as an array")
        if isinstance(where, int):
            return self._checked(where)
        return Ranges.union(self.ranges(part) for part in where)

    def _checked(self, position: int) -> Ranges:
        inside = self.start <= position < self.stop and position not in self.padding
        if not (inside or -self.outside <= position < 0):
            beyond = f", with {-self.outside}..-1 outside the sequence" if self.outside else ""
            raise SpecError(
                f"position {position} lies outside the prompt, whose tokens are {self.start}..{self.stop - 1}{beyond}; "
                'positions are absolute, and the last one is called "last"'
            )
        return Ranges(((position, position + 1),))

    def group(self, name: str) -> Ranges:
        """Positions of a group, none where the prompt has no such tokens.

        Raises:
            SpecError: no such group, or no image in the row.
        """
        if name not in self._groups_found:
            self._groups_found[name] = self._find_group(name)
        return self._groups_found[name]

    @cached_property
    def _groups_found(self) -> dict[str, Ranges]:
        """Groups that have been asked for: in a long prompt, finding one takes longer than a small forward."""
        return {}

    def _find_group(self, name: str) -> Ranges:
        by_order: dict[str, Callable[[], Ranges]] = {
            "generated": lambda: self._from(self.answer),
            "all": lambda: self._from(self.start),
            "last": lambda: Ranges(((self.answer - 1, self.answer),)),
            "first": lambda: Ranges(((self.start, self.start + 1),)),
            "bos": self._bos,
            "text": lambda: Ranges.union([self._prompt_text(), self._from(self.answer)]),
        }
        if name in dict(self.named):
            return dict(self.named)[name]
        return by_order[name]() if name in by_order else self._image_group(name)

    def _from(self, start: int) -> Ranges:
        """From a position on; a row that is padded on the right cannot grow."""
        end = None if self.stop == len(self.tokens) else self.stop
        return Ranges() if start == end else Ranges(((start, end),))

    def _bos(self) -> Ranges:
        if self.bos is None:
            raise SpecError('the prompt has no "bos" token; its first token is the group "first"')
        return Ranges(((self.bos, self.bos + 1),))

    def _image_group(self, name: str) -> Ranges:
        """A group that is defined by where the images stand."""
        head, _, number = name.partition(".")
        if head not in ("image", "markup", "system", "query") or (number and (head != "image" or not number.isdigit())):
            known = ", ".join(dict.fromkeys((*GROUPS, *dict(self.named))))
            raise SpecError(f"no token group {name!r}; the groups are {known}, or give positions")
        if not self.images:
            raise SpecError(f'the prompt has no image, so it has no group {name!r}; "text" and "all" are there')
        if number and int(number) >= len(self.images):
            raise SpecError(f"no group {name!r}: the prompt has {len(self.images)} image(s), counted from image.0")
        if head == "image":
            chosen = [self.images[int(number)]] if number else self.images
            return Ranges.of(position for image in chosen for position in image)
        if head == "system":
            return Ranges.of(range(self.start, self.images[0][0]))
        within_images = {place for image in self.images for place in range(image[0], image[-1] + 1)}
        if head == "markup":
            return Ranges.of(within_images - self._image_tokens)
        return Ranges.of(p for p in range(self.images[0][-1] + 1, self.answer) if p not in within_images)

    @cached_property
    def _image_tokens(self) -> set[int]:
        return {position for image in self.images for position in image}

    def _prompt_text(self) -> Ranges:
        return Ranges.of(p for p in range(self.start, self.answer) if p not in self._image_tokens)

    # other questions ------------------------------------------------------------------------------

    @property
    def filler(self) -> int:
        """A token id to pad with: any token that is not an image's, because the model counts those."""
        if self.outside_tokens:
            return 0
        return next(token for position, token in enumerate(self.tokens) if position not in self._image_tokens)

    def last_seen(self, position: int) -> int:
        """The last position that a position may attend to."""
        return max([position, *(stop - 1 for start, stop in self.blocks if stop and start <= position < stop)])

    def stage(self, name: str) -> TokenMap:
        """The token map of a stage.

        Raises:
            SpecError: the model has no such stage.
        """
        if name == "decoder":
            return self
        if name not in dict(self.stages):
            there = ", ".join(["decoder", *dict(self.stages)])
            raise SpecError(
                f"no stage {name!r} here; the stages of this prompt are {there} (one that reads an image's patches is "
                "there for a prompt with one image of one crop)"
            )
        return dict(self.stages)[name]

    def shifted(self, by: int, filler: int | None = None) -> TokenMap:
        """The same row with `by` more tokens of padding on its left; fewer where `by` is negative."""
        return replace(
            self,
            tokens=(self.filler if filler is None else filler,) * by + self.tokens if by >= 0 else self.tokens[-by:],
            start=self.start + by,
            stop=self.stop + by,
            answer=self.answer + by,
            images=tuple(tuple(moved(position, by) for position in image) for image in self.images),
            bos=None if self.bos is None else moved(self.bos, by),
            marks=tuple(moved(mark, by) for mark in self.marks),
            blocks=self.blocks.shifted(by),
            named=tuple((name, ranges.shifted(by)) for name, ranges in self.named),
        )
