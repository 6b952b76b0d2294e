"""Rows: which token of a prompt is what.

Positions are absolute: they count padding, so they index the tensors that the model sees. Between
the rooms of this package they travel as *ranges*, `((5, 581), (600, None))`; `None` leaves the end
open for tokens that are not generated yet. Keys outside the sequence, which are read through
cross-attention (an image in Mllama, the encoder's tokens in Florence-2), have negative positions, as
if they stood before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from .errors import SpecError
from .grids import Cells

Range = tuple[int, int | None]
Ranges = tuple[Range, ...]
Where = str | int | Sequence["str | int"]

GROUPS = ("image", "image.N", "markup", "system", "query", "text", "last", "first", "bos", "generated", "all")


def to_ranges(positions: Sequence[int]) -> Ranges:
    """Sorted positions as ranges: `(5, 6, 7, 9)` is `((5, 8), (9, 10))`."""
    return runs(sorted(set(positions)))


def runs(positions: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Positions in an order of their own as ranges in this order; none reaches from outside the sequence into it.

    >>> runs([4, 5, 6, 2, 3])
    ((4, 7), (2, 4))
    """
    found: list[tuple[int, int]] = []
    for position in positions:
        if found and found[-1][1] == position and position != 0:
            found[-1] = (found[-1][0], position + 1)
        else:
            found.append((position, position + 1))
    return tuple(found)


def frozen(where: Any) -> Any:
    """Lists, ranges, arrays and tensors of positions as tuples of ints; a mask as where it is true.

    >>> frozen([[1, 2], np.array([False, True, True])])
    ((1, 2), (1, 2))
    """
    if isinstance(where, (np.ndarray, np.generic, torch.Tensor)):
        listed = np.asarray(where)
        where = (np.flatnonzero(listed) if listed.dtype == bool else listed).tolist()
    return tuple(frozen(part) for part in where) if isinstance(where, (list, tuple, range)) else where


def ascending(where: Where | None) -> None:
    """Refuse positions in an order of their own where values go with them: both follow the sequence.

    Raises:
        SpecError: positions that are not in ascending order.
    """
    numbers = [where] if isinstance(where, (str, int)) or where is None else list(where)
    listed = [number for number in numbers if isinstance(number, int)]
    if any(after <= before for before, after in pairwise(listed)):
        raise SpecError(f"positions {tuple(listed)} must ascend: values go with them in the order of the sequence")


def to_positions(ranges: Ranges, stop: int) -> tuple[int, ...]:
    """Ranges as sorted positions, open ends cut at `stop`."""
    return tuple(sorted({p for a, b in ranges for p in range(a, stop if b is None else min(b, stop))}))


def merged(ranges: Sequence[Range]) -> Ranges:
    """Sorted ranges that do not overlap; none reaches from outside the sequence into it."""
    found: list[Range] = []
    for start, stop in sorted(ranges, key=lambda pair: pair[0]):
        last = found[-1][1] if found else -1
        if found and (last is None or start <= last) and (start, last) != (0, 0):
            found[-1] = (found[-1][0], None if last is None or stop is None else max(last, stop))
        else:
            found.append((start, stop))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Row:
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
        marks: positions from which on images that lie outside are seen.
        readers: how many of the first tokens read what lies outside; None for all.
        blocks: stretches whose tokens see each other in both directions.
        features: for each image and token its row in the projector's output, -1 for none; empty where
            these rows are the image tokens in order.
        feature_rows: how many rows the projector's output has for the row's images.
        named: groups that lie elsewhere than the order of the tokens says.
        stages: the row of each stage that runs before the decoder.
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
    blocks: Ranges = ()
    features: tuple[tuple[int, ...], ...] = ()
    feature_rows: int = 0
    named: tuple[tuple[str, Ranges], ...] = ()
    stages: tuple[tuple[str, Row], ...] = ()
    cells: tuple[Cells, ...] = ()

    def ranges(self, where: Where) -> Ranges:
        """Positions of a group, a number, or several of them together, as ranges.

        Groups that can grow (`generated`, `text`, `all`) have an open end. `text` is all that is no
        image token; of it, `markup` are the tokens inside an image (line breaks, tile numbers), `system`
        is what stands before the first image and `query` what stands after it.

        Raises:
            SpecError: no such group, no image in the row, or a position outside the row.
        """
        where = frozen(where)
        if isinstance(where, str):
            found = self.group(where)
            if not found and where != "generated":
                raise SpecError(f"the group {where!r} is empty in this prompt, so nothing would be changed or read")
            return found
        if isinstance(where, bool):
            raise SpecError("a bool is no position; give group names, positions, or a mask as an array")
        if isinstance(where, int):
            return self._checked(where)
        return merged([pair for part in where for pair in self.ranges(part)])

    def _checked(self, position: int) -> Ranges:
        if not (self.start <= position < self.stop or -self.outside <= position < 0):
            beyond = f", with {-self.outside}..-1 outside the sequence" if self.outside else ""
            raise SpecError(
                f"position {position} lies outside the prompt, whose tokens are {self.start}..{self.stop - 1}{beyond}; "
                'positions are absolute, and the last one is called "last"'
            )
        return ((position, position + 1),)

    def group(self, name: str) -> Ranges:
        """Positions of a group, none where the prompt has no such tokens.

        Raises:
            SpecError: no such group, or no image in the row.
        """
        if name not in self._known:
            self._known[name] = self._found(name)
        return self._known[name]

    @cached_property
    def _known(self) -> dict[str, Ranges]:
        """Groups that have been asked for: of thousands of tokens, finding them takes longer than a small forward."""
        return {}

    def _found(self, name: str) -> Ranges:
        simple: dict[str, Callable[[], Ranges]] = {
            "generated": lambda: self._from(self.answer),
            "all": lambda: self._from(self.start),
            "last": lambda: ((self.answer - 1, self.answer),),
            "first": lambda: ((self.start, self.start + 1),),
            "bos": self._bos,
            "text": lambda: merged([*self._text(), *self._from(self.answer)]),
        }
        if name in dict(self.named):
            return dict(self.named)[name]
        return simple[name]() if name in simple else self._image_group(name)

    def _from(self, start: int) -> Ranges:
        """From a position on; a row that is padded on the right cannot grow."""
        end = None if self.stop == len(self.tokens) else self.stop
        return () if start == end else ((start, end),)

    def _bos(self) -> Ranges:
        if self.bos is None:
            raise SpecError('the prompt has no "bos" token; its first token is the group "first"')
        return ((self.bos, self.bos + 1),)

    def _image_group(self, name: str) -> Ranges:
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
            return to_ranges([position for image in chosen for position in image])
        if head == "system":
            return to_ranges(range(self.start, self.images[0][0]))
        inner = {place for image in self.images for place in range(image[0], image[-1] + 1)}
        if head == "markup":
            return to_ranges(sorted(inner - self._pixels))
        return to_ranges([p for p in range(self.images[0][-1] + 1, self.answer) if p not in inner])

    @cached_property
    def _pixels(self) -> set[int]:
        return {position for image in self.images for position in image}

    def _text(self) -> Ranges:
        pixels = self._pixels
        return to_ranges([p for p in range(self.start, self.answer) if p not in pixels])

    @property
    def filler(self) -> int:
        """A token to pad with: any but an image's, whose number is counted."""
        if self.outside_tokens:
            return 0
        pixels = self._pixels
        return next(token for position, token in enumerate(self.tokens) if position not in pixels)

    def last_seen(self, position: int) -> int:
        """The last position that a position may attend to."""
        return max([position, *(stop - 1 for start, stop in self.blocks if stop and start <= position < stop)])

    def stage(self, name: str) -> Row:
        """The row of a stage.

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

    def shifted(self, by: int, filler: int | None = None) -> Row:
        """The same row with `by` tokens of padding more on its left; fewer where `by` is negative."""

        def moved(position: int) -> int:
            return position + by if position >= 0 else position

        def all_moved(ranges: Ranges) -> Ranges:
            """An end is behind a last position, which moves; an open end stays open."""
            return tuple((moved(start), None if stop is None else moved(stop - 1) + 1) for start, stop in ranges)

        return replace(
            self,
            tokens=(self.filler if filler is None else filler,) * by + self.tokens if by >= 0 else self.tokens[-by:],
            start=self.start + by,
            stop=self.stop + by,
            answer=self.answer + by,
            images=tuple(tuple(map(moved, image)) for image in self.images),
            bos=None if self.bos is None else moved(self.bos),
            marks=tuple(map(moved, self.marks)),
            blocks=all_moved(self.blocks),
            named=tuple((name, all_moved(ranges)) for name, ranges in self.named),
        )
