"""The images and videos of a row: the tokens of each, in one order, and the groups that are one of them or a frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..arguments import meant
from ..errors import SpecError
from ..grids import Cells
from ..grids.cells import no_places
from .ranges import Ranges

if TYPE_CHECKING:
    from .token_map import TokenMap

IMAGE, VIDEO, FRAME = "image", "video", "frame"
NUMBERED = (IMAGE, VIDEO, FRAME)
"""Kinds of which a prompt may have several, each a group: `image.0`, `video.0`, `frame.0`."""


class Visual(NamedTuple):
    """An image or a video of a row.

    Attributes:
        kind: `"image"` or `"video"`.
        number: which one of its kind.
        positions: its tokens.
        cells: how these lie on its tiles.
    """

    kind: str
    number: int
    positions: tuple[int, ...]
    cells: Cells

    @property
    def name(self) -> str:
        """The name of its group."""
        return f"{self.kind}.{self.number}"

    @property
    def stretch(self) -> range:
        """From its first token to its last."""
        return range(self.positions[0], self.positions[-1] + 1)


def shown_in(tokens: TokenMap) -> tuple[Visual, ...]:
    """The images and videos of a row, in the order of the sequence."""
    kinds = ((IMAGE, tokens.images, tokens.cells), (VIDEO, tokens.videos, tokens.video_cells))
    found = [
        Visual(kind, number, positions, cells[number] if number < len(cells) else Cells(no_places(len(positions))))
        for kind, some, cells in kinds
        for number, positions in enumerate(some)
    ]
    return tuple(sorted(found, key=lambda visual: visual.positions))


def frames_of(videos: Sequence[Sequence[int]], cells: Sequence[Cells]) -> tuple[tuple[int, ...], ...]:
    """For each frame of all videos, in order, the positions of the tokens that show it.

    Frames that a family merges (a temporal patch) have the same tokens. A token that ends a video shows no frame.
    """
    found: list[tuple[int, ...]] = []
    for positions, own in zip(videos, cells, strict=True):
        by_tile: list[list[int]] = [[] for _ in own.shapes]
        for position, tile in zip(positions, own.tiles.tolist(), strict=True):
            if tile >= 0:
                by_tile[tile].append(position)
        found += [tuple(by_tile[tile]) for tile, frames in enumerate(own.frames) for _ in frames]
    return tuple(found)


def is_numbered(name: str) -> bool:
    """Whether a name may be that of one image, video or frame."""
    return name.partition(".")[0] in NUMBERED and "." in name


def numbered_names(tokens: TokenMap) -> list[str]:
    """`image` and the name of each image, `video` and the name of each video, and the name of each frame."""
    images, videos, frames = (
        [f"{kind}.{number}" for number in range(len(some))]
        for kind, some in zip(NUMBERED, (tokens.images, tokens.videos, tokens.frames), strict=True)
    )
    return [IMAGE, *images, VIDEO, *videos, *frames]


def stretch_of(tokens: TokenMap, kind: str, number: int) -> Ranges:
    """All that belongs to an image or a video: from its first token to its last, its borders, its mark in the text."""
    positions = tokens.images[number] if kind == IMAGE else tokens.videos[number]
    marks = () if tokens.outside_tokens or kind != IMAGE else tokens.marks[number : number + 1]
    first, last = positions[0], positions[-1]
    beside = Ranges(tuple(pair for pair in tokens.borders if pair[1] == first or pair[0] == last + 1))
    return Ranges.union([Ranges.of((*range(first, last + 1), *marks)), beside])


def numbered_group(tokens: TokenMap, name: str) -> Ranges:
    """The group of a single image, video or frame: `image.0`, `video.0`, `frame.0`.

    Raises:
        SpecError: no group has such a name, or there are not so many of its kind.
    """
    kind, _, number = name.partition(".")
    if not is_numbered(name) or not number.isdecimal():
        has_words = any(tokens.tokens) and tokens.readers is None and not is_numbered(name)  # a tower has none
        words = f", for words of the prompt prompt.find({name!r})" if has_words else ""
        raise SpecError(
            f"no token group {name!r}{meant(name, tokens.group_names)}; the groups of this prompt are "
            f"{', '.join(tokens.group_names)} (image.N is one image alone); or give positions{words}"
        )
    some = {IMAGE: tokens.images, VIDEO: tokens.videos, FRAME: tokens.frames}[kind]
    if int(number) >= len(some):
        raise SpecError(f"no group {name!r}: the prompt has {len(some)} {kind}(s), counted from {kind}.0")
    return Ranges.of(some[int(number)])
