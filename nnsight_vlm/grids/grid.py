"""Grids: the image tokens of one image, and the pixels each of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

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

    @property
    def placed(self) -> Grid:
        """The tokens that saw a place, as a grid of their own."""
        kept = [at for at, tile in enumerate(self.tiles) if tile >= 0]
        return replace(
            self,
            positions=tuple(self.positions[at] for at in kept),
            tiles=tuple(self.tiles[at] for at in kept),
            cells=tuple(self.cells[at] for at in kept),
            boxes=self.boxes[kept],
        )

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
        return np.asarray(np.divide(overlap, self.areas, out=np.zeros(len(overlap)), where=seen))

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
        cells, boxes = np.asarray(self.cells)[tokens], self.boxes[tokens]
        cells = cells - cells.min(0)
        plane = np.zeros(cells.max(0) + 1)
        plane[cells[:, 0], cells[:, 1]] = values[tokens]
        down, across = box_slices((*boxes[:, :2].min(0), *boxes[:, 2:].max(0)), self.size)
        rows = _blend(np.arange(down.start, down.stop), cells[:, 0], boxes[:, 1::2])
        columns = _blend(np.arange(across.start, across.stop), cells[:, 1], boxes[:, ::2])
        return (down, across), rows @ plane @ columns.T


def _blend(pixels: np.ndarray, cells: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """`[pixel, cell]`: the share of each cell in each pixel of one axis, from the cells' `[token, (start, stop)]`.

    Cells are equally wide, but those at a border may be cut: the widest one tells where all of them lie.
    """
    widest = int((edges[:, 1] - edges[:, 0]).argmax())
    start, stop = edges[widest]
    last = int(cells.max())
    place = ((pixels + 0.5 - start) / (stop - start) - 0.5 + cells[widest]).clip(0, last)
    reach = max(1.0, 1 / (stop - start))  # a pixel of several cells is their mean
    shares = (1 - np.abs(place[:, None] - np.arange(last + 1)) / reach).clip(0)
    return np.asarray(shares / shares.sum(1, keepdims=True))


def box_slices(box: Any, size: tuple[int, int]) -> tuple[slice, slice]:
    """The `(rows, columns)` of pixels in a box, at least one each, inside the image."""
    x0, y0, x1, y1 = (round(float(edge)) for edge in box)
    left, top = min(max(x0, 0), size[0] - 1), min(max(y0, 0), size[1] - 1)
    return slice(top, min(max(y1, top + 1), size[1])), slice(left, min(max(x1, left + 1), size[0]))
