"""Grids: the image tokens of one image, and the pixels each of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ..errors import SpecError

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The image tokens of one image, and the pixels each of them saw.

    A processor may cut a picture into tiles, and show it whole besides: the same pixel is then seen by
    tokens of several tiles. Tokens that saw no one place (line breaks between rows of patches) have no box.

    Attributes:
        positions: the tokens' positions in the prompt, `[token]`.
        tiles: the tile of each token, in the order of the processed pixels; -1 for a token without a place.
        cells: `(row, column)` of each token in its tile.
        boxes: `[token, 4]` pixels `(x0, y0, x1, y1)` of the image as the user gave it; NaN without a place.
        size: `(width, height)` of that image in pixels.
        shapes: `(rows, columns)` of each tile.
    """

    positions: tuple[int, ...]
    tiles: tuple[int, ...]
    cells: tuple[tuple[int, int], ...]
    boxes: np.ndarray
    size: tuple[int, int]
    shapes: tuple[tuple[int, int], ...]

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, columns)` of the grid of an image of one tile.

        Raises:
            SpecError: there are several.
        """
        if len(self.shapes) != 1:
            raise SpecError(f"the image has {len(self.shapes)} tiles, each with a shape of its own; see grid.shapes")
        return self.shapes[0]

    def tokens_in(self, where: Box | np.ndarray) -> tuple[int, ...]:
        """Positions of the tokens whose patch touches a pixel box or a `[height, width]` mask.

        Raises:
            SpecError: the box is empty or the mask has another size than the image.
        """
        touched = self.coverage(where) > 0
        return tuple(position for position, hit in zip(self.positions, touched, strict=True) if hit)

    def coverage(self, where: Box | np.ndarray) -> np.ndarray:
        """The share of each token's patch that lies in the box or mask, `[token]` in 0..1.

        It is 0 for tokens that saw no one place, and for patches of nothing but padding.
        """
        if isinstance(where, np.ndarray) and where.ndim == 2:
            return self._mask_coverage(where)
        x0, y0, x1, y1 = where
        if x1 <= x0 or y1 <= y0:
            raise SpecError(f"the box {tuple(where)} is empty; a box is (x0, y0, x1, y1) in pixels")
        wide = np.minimum(self.boxes[:, 2], x1) - np.maximum(self.boxes[:, 0], x0)
        high = np.minimum(self.boxes[:, 3], y1) - np.maximum(self.boxes[:, 1], y0)
        overlap = wide.clip(0) * high.clip(0)
        seen = self.areas > 0
        return np.divide(overlap, self.areas, out=np.zeros(len(overlap)), where=seen)

    @property
    def areas(self) -> np.ndarray:
        """Pixels each patch covers, `[token]`; NaN for tokens without a place."""
        return np.asarray((self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1]))

    def _mask_coverage(self, mask: np.ndarray) -> np.ndarray:
        width, height = self.size
        if mask.shape != (height, width):
            raise SpecError(f"the mask has shape {mask.shape}; the image is (height, width) = {(height, width)}")
        found = np.zeros(len(self.boxes))
        for at in np.flatnonzero(self.areas > 0):
            found[at] = mask[box_slices(self.boxes[at], self.size)].mean()
        return found

    def heatmap(self, values: Sequence[float] | torch.Tensor | np.ndarray) -> np.ndarray:
        """Values `[token]` drawn at the size of the image, `[height, width]`, bilinearly between patches.

        Where several tiles show a pixel, their mean. Pixels that no patch saw (cropped away) are NaN.
        """
        if len(values) != len(self.positions):
            raise SpecError(f"{len(values)} values for {len(self.positions)} image tokens")
        listed = np.asarray([float(value) for value in values])
        total, layers = np.zeros(self.size[::-1]), np.zeros(self.size[::-1])
        for tile in range(len(self.shapes)):
            tokens = np.flatnonzero((np.asarray(self.tiles) == tile) & (self.areas > 0))
            if len(tokens):
                where, drawn = self._drawn(tokens, listed)
                total[where] += drawn
                layers[where] += 1
        return np.divide(total, layers, out=np.full_like(total, np.nan), where=layers > 0)

    def _drawn(self, tokens: np.ndarray, values: np.ndarray) -> tuple[tuple[slice, slice], np.ndarray]:
        """The pixels that the tokens of one tile saw, and their values drawn there."""
        cells = np.asarray(self.cells)[tokens]
        cells -= cells.min(0)
        rows, columns = cells.max(0) + 1
        plane = torch.zeros(rows, columns, dtype=torch.float64)
        plane[cells[:, 0], cells[:, 1]] = torch.from_numpy(values[tokens])
        edges = np.concatenate([self.boxes[tokens][:, :2].min(0), self.boxes[tokens][:, 2:].max(0)])
        down, across = box_slices(edges, self.size)
        size = (down.stop - down.start, across.stop - across.start)
        drawn = functional.interpolate(plane[None, None], size, mode="bilinear", antialias=True)
        return (down, across), drawn[0, 0].numpy()


def box_slices(box: Any, size: tuple[int, int]) -> tuple[slice, slice]:
    """The `(rows, columns)` of pixels in a box, at least one each, inside the image."""
    x0, y0, x1, y1 = (round(float(edge)) for edge in box)
    left, top = min(max(x0, 0), size[0] - 1), min(max(y0, 0), size[1] - 1)
    return slice(top, min(max(y1, top + 1), size[1])), slice(left, min(max(x1, left + 1), size[0]))
