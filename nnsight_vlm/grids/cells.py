"""Cells: how the tokens of one image lie on its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Shape = tuple[int, int]
"""Rows and columns."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Where each token of one image lies.

    Attributes:
        places: `[token, 3]` `(tile, row, column)` in the order of the sequence; -1 for a token that saw no one place.
        shapes: `(rows, columns)` of each tile's whole grid, tiles in the order of the processed pixels.
        patches: how many patches the tower makes of the image, where the pixels come as patches end to end.
        sources: for each token the row of the projector's output that it comes from, counted from the image's
            first, -1 for none; None where these rows are the tokens in order.
        features: how many such rows the image has.
    """

    places: np.ndarray
    shapes: tuple[Shape, ...] = ()
    patches: int = 0
    sources: np.ndarray | None = None
    features: int = 0

    def __eq__(self, other: object) -> bool:
        """Whether all tokens lie alike."""
        if not isinstance(other, Cells) or (self.shapes, self.patches) != (other.shapes, other.patches):
            return False
        return bool(np.array_equal(self.places, other.places))

    def __hash__(self) -> int:
        """Of the tiles alone."""
        return hash((self.shapes, self.patches))

    @property
    def pieces(self) -> int:
        """How many entries the image has in an input that lists tiles or patches of all images end to end."""
        return self.patches or len(self.shapes)


def nowhere(count: int) -> np.ndarray:
    """Places of tokens that saw no one place."""
    return np.full((count, 3), -1, dtype=int)


def full_tile(rows: int, columns: int, tile: int = 0) -> np.ndarray:
    """Places of all cells of a tile, row by row."""
    down, across = np.divmod(np.arange(rows * columns), max(columns, 1))
    return np.stack([np.full_like(down, tile), down, across], axis=1)


def in_order(shapes: Sequence[Shape], before: int = 0, patches: int = 0) -> Cells:
    """Whole tiles end to end, behind tokens that saw no one place."""
    tiles = [full_tile(rows, columns, tile) for tile, (rows, columns) in enumerate(shapes)]
    return Cells(np.concatenate([nowhere(before), *tiles]), tuple(shapes), patches)
