"""Cells: how the tokens of one image lie on its tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    shapes: tuple[tuple[int, int], ...] = ()
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
