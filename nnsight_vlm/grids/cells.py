"""Cells: where the tokens of one image lie on its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

NOWHERE = -1
"""The tile, row and column of a token that no one place in the picture belongs to."""


class GridShape(NamedTuple):
    """The size of a grid."""

    rows: int
    columns: int


@dataclass(frozen=True, eq=False)
class Cells:
    """Where each token of one image lies.

    A tile is one of the pictures that the processor makes of an image: the image itself, a part of it, or a thumbnail.

    Attributes:
        places: `[token, 3]` `(tile, row, column)` in the order of the sequence; all -1 for a token without a place.
        shapes: the size of each tile's grid, tiles in the order of the processed pixels.
        patches: how many patches the vision tower makes of the image, where an input lists the patches of all images
            one after the other; 0 where inputs list tiles.
        sources: for each token its row in the projector's output, counted from the image's first row, -1 for none; None
            where these rows are the tokens in order.
        features: how many such rows the image has; 0 for one per token.
        latents: for the keys of a resampler, how many of them, the last ones, are its own latents and no patches.
        padded: for the keys of a resampler, the grid to which a tile is padded with keys that are never read, where
            tiles of a batch are padded to the largest.
        frames: for a video, whose tiles are frames or several neighbouring ones together: the frames that each tile
            shows, counted from 0; empty for an image.
    """

    places: np.ndarray
    shapes: tuple[GridShape, ...] = ()
    patches: int = 0
    sources: np.ndarray | None = None
    features: int = 0
    latents: int = 0
    padded: GridShape | None = None
    frames: tuple[tuple[int, ...], ...] = ()

    def without_padding(self) -> tuple[Cells, np.ndarray]:
        """The keys of a resampler that are the picture's, and where they lie among all keys, `[key]`."""
        count = len(self.places) - self.latents
        kept = np.arange(count) if self.padded is None else np.flatnonzero(self.tiles[:count] != NOWHERE)
        return replace(self, places=self.places[kept], latents=0, padded=None), kept

    def __eq__(self, other: object) -> bool:
        """Whether all tokens lie in the same places."""
        if not isinstance(other, Cells) or self._sizes != other._sizes:
            return False
        return bool(np.array_equal(self.places, other.places))

    def __hash__(self) -> int:
        return hash(self._sizes)

    @property
    def _sizes(self) -> tuple[object, ...]:
        return self.shapes, self.patches, self.frames

    @property
    def tiles(self) -> np.ndarray:
        """The tile of each token, `[token]`."""
        return self.places[:, 0]

    @property
    def rows(self) -> np.ndarray:
        """The row of each token in its tile, `[token]`."""
        return self.places[:, 1]

    @property
    def columns(self) -> np.ndarray:
        """The column of each token in its tile, `[token]`."""
        return self.places[:, 2]

    @property
    def pieces(self) -> int:
        """How many entries the image has in an input that lists the tiles or patches of all images."""
        return self.patches or len(self.shapes)


def no_places(count: int) -> np.ndarray:
    """Places of `count` tokens without a place."""
    return np.full((count, 3), NOWHERE, dtype=int)


def full_tile(shape: GridShape, tile: int = 0) -> np.ndarray:
    """Places of all cells of a tile, row by row."""
    rows, columns = np.divmod(np.arange(shape.rows * shape.columns), max(shape.columns, 1))
    return np.stack([np.full_like(rows, tile), rows, columns], axis=1)


def in_order(shapes: Sequence[GridShape], before: int = 0, patches: int = 0) -> Cells:
    """Tiles one after the other, each row by row, after `before` tokens without a place."""
    tiles = [full_tile(shape, tile) for tile, shape in enumerate(shapes)]
    return Cells(np.concatenate([no_places(before), *tiles]), tuple(shapes), patches)
