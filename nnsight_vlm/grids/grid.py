"""Grids: the image tokens of one image, and the pixels that each of them saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..arguments import number, numbers, refuse
from ..errors import SpecError
from .cells import GridShape
from .display import grid_html, grid_line

Box = tuple[float, float, float, float]
"""`(x0, y0, x1, y1)` in pixels."""


class PixelSlices(NamedTuple):
    """A box of an image as an index of `[height, width]` arrays."""

    rows: slice
    columns: slice


class TileDrawing(NamedTuple):
    """Values drawn where one tile shows the image: `where` in it, `values` `[height, width]` of that part."""

    where: PixelSlices
    values: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Grid:
    """The image tokens of one image, and the pixels that each of them saw.

    A processor may cut a picture into tiles and add the whole picture as another tile: tokens of several tiles then see
    the same pixel. A token that shows no one part of the picture (a line break between rows of patches) has no box.

    Attributes:
        positions: the tokens' positions in the prompt, `[token]`.
        tiles: the tile of each token, in the order of the processed pixels; -1 for a token without a box.
        cells: `(row, column)` of each token in its tile.
        boxes: `[token, 4]` pixels `(x0, y0, x1, y1)` of the image as the user gave it; NaN for a token without a box.
        size: `(width, height)` of that image in pixels.
        shapes: `(rows, columns)` of each tile.
        picture: that image, where it is known; it is shown in a notebook.
    """

    positions: tuple[int, ...]
    tiles: tuple[int, ...]
    cells: tuple[tuple[int, int], ...]
    boxes: np.ndarray
    size: tuple[int, int]
    shapes: tuple[GridShape, ...]
    picture: Image.Image | None = None

    def __repr__(self) -> str:
        return grid_line(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return grid_html(self)

    @property
    def shape(self) -> GridShape:
        """`(rows, columns)` of the grid of an image with one tile.

        Raises:
            SpecError: the image has several tiles.
        """
        if len(self.shapes) != 1:
            raise SpecError(f"the image has {len(self.shapes)} tiles, each with its own shape; read grid.shapes")
        return self.shapes[0]

    @property
    def placed(self) -> Grid:
        """The grid of the tokens that have a box."""
        numbers = [number for number, tile in enumerate(self.tiles) if tile >= 0]
        return replace(
            self,
            positions=tuple(self.positions[number] for number in numbers),
            tiles=tuple(self.tiles[number] for number in numbers),
            cells=tuple(self.cells[number] for number in numbers),
            boxes=self.boxes[numbers],
        )

    def tokens_in(self, where: Box | np.ndarray) -> tuple[int, ...]:
        """Positions of the tokens whose patch touches a pixel box or a `[height, width]` mask.

        Raises:
            SpecError: the box is empty or the mask has another size than the image.
        """
        touched = self.coverage(where) > 0
        return tuple(position for position, is_touched in zip(self.positions, touched, strict=True) if is_touched)

    def coverage(self, where: Box | np.ndarray) -> np.ndarray:
        """The share of each token's patch that lies in a pixel box or a `[height, width]` mask, `[token]` in 0..1.

        It is 0 for tokens without a box and for patches of padding only.

        Raises:
            SpecError: the box is empty or the mask has another size than the image.
        """
        if not isinstance(where, (list, tuple)) and len(np.shape(where)) == 2:
            return self._mask_coverage(np.asarray(where))
        x0, y0, x1, y1 = box_given(where, self.size)
        left, top, right, bottom = self.boxes.T
        width = np.minimum(right, x1) - np.maximum(left, x0)
        height = np.minimum(bottom, y1) - np.maximum(top, y0)
        overlap = width.clip(0) * height.clip(0)
        areas = self.areas
        return np.asarray(np.divide(overlap, areas, out=np.zeros(len(overlap)), where=areas > 0))

    @property
    def areas(self) -> np.ndarray:
        """How many pixels each token's box covers, `[token]`; NaN for tokens without a box."""
        left, top, right, bottom = self.boxes.T
        return np.asarray((right - left) * (bottom - top))

    def _mask_coverage(self, mask: np.ndarray) -> np.ndarray:
        width, height = self.size
        if mask.shape != (height, width):
            raise SpecError(f"the mask has shape {mask.shape}; it must be (height, width) = {(height, width)}")
        if mask.dtype.kind not in "biuf" or not ((mask >= 0) & (mask <= 1)).all():
            raise SpecError("a mask says of every pixel whether it counts, True or False; write mask > 0")
        coverage = np.zeros(len(self.boxes))
        for token in np.flatnonzero(self.areas > 0):
            coverage[token] = mask[box_slices(self.boxes[token], self.size)].mean()
        return coverage

    def heatmap(self, values: Sequence[float] | torch.Tensor | np.ndarray) -> np.ndarray:
        """Values `[token]` drawn at the size of the image, `[height, width]`, bilinearly between patches.

        A pixel that several tiles show is their mean; one that no patch saw (cropped away) is NaN.

        Raises:
            SpecError: another number of values than image tokens.
        """
        token_values = numbers("values", values)
        if len(token_values) != len(self.positions):
            raise SpecError(
                f"{len(token_values)} values for {len(self.positions)} image tokens; give one value per token"
            )
        total, tile_count = np.zeros(self.size[::-1]), np.zeros(self.size[::-1])
        for tile in range(len(self.shapes)):
            tokens = np.flatnonzero((np.asarray(self.tiles) == tile) & (self.areas > 0))
            if len(tokens):
                drawing = self._draw_tile(tokens, token_values[tokens])
                total[drawing.where] += drawing.values
                tile_count[drawing.where] += 1
        return np.divide(total, tile_count, out=np.full_like(total, np.nan), where=tile_count > 0)

    def _draw_tile(self, tokens: np.ndarray, values: np.ndarray) -> TileDrawing:
        """Values of tokens of one tile, drawn where these tokens saw the image."""
        cells, boxes = np.asarray(self.cells)[tokens], self.boxes[tokens]
        rows, columns = (cells - cells.min(0)).T
        cell_values = np.zeros((rows.max() + 1, columns.max() + 1))
        cell_values[rows, columns] = values
        where = box_slices((*boxes[:, :2].min(0), *boxes[:, 2:].max(0)), self.size)
        by_row = _blend(np.arange(where.rows.start, where.rows.stop), rows, boxes[:, 1::2])
        by_column = _blend(np.arange(where.columns.start, where.columns.stop), columns, boxes[:, ::2])
        return TileDrawing(where, by_row @ cell_values @ by_column.T)


def box_given(given: Any, size: tuple[int, int]) -> Box:
    """A pixel box as a user gives it, of a picture of `(width, height)`.

    Raises:
        SpecError: not four finite numbers, an empty box, or fractions of the picture.
    """
    numbers_given = given.tolist() if isinstance(given, (np.ndarray, torch.Tensor)) else given
    if not isinstance(numbers_given, (list, tuple)) or len(numbers_given) != 4:
        refuse("box", given, "box", "(x0, y0, x1, y1) in pixels, or a mask [height, width]")
    x0, y0, x1, y1 = box = tuple(number("box", edge, kind="edge of a box in pixels") for edge in numbers_given)
    if x1 <= x0 or y1 <= y0:
        raise SpecError(f"the box {tuple(given)} is empty; a box is (x0, y0, x1, y1) in pixels")
    if all(0 <= edge <= 1 for edge in box) and not all(isinstance(edge, (int, np.integer)) for edge in numbers_given):
        width, height = size
        raise SpecError(
            f"the box {tuple(given)} looks like fractions of the picture, and a box is in pixels; write "
            f"{tuple(round(edge * side, 1) for edge, side in zip(box, (width, height) * 2, strict=True))}"
        )
    return x0, y0, x1, y1


def _blend(pixels: np.ndarray, cells: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How much each cell counts in each pixel along one axis, `[pixel, cell]`; sums to 1 over cells.

    All cells are equally wide, but those at the image's border may be cut off, so the widest one says where they lie.

    Args:
        pixels: the pixels to draw.
        cells: the row or column of each token.
        edges: where its box begins and ends, `[token, 2]`.
    """
    widest = int((edges[:, 1] - edges[:, 0]).argmax())
    start, stop = edges[widest]
    last = int(cells.max())
    center = ((pixels + 0.5 - start) / (stop - start) - 0.5 + cells[widest]).clip(0, last)
    reach = max(1.0, 1 / (stop - start))  # a pixel that spans several cells is their mean
    shares = (1 - np.abs(center[:, None] - np.arange(last + 1)) / reach).clip(0)
    return np.asarray(shares / shares.sum(1, keepdims=True))


def box_slices(box: Sequence[float] | np.ndarray, size: tuple[int, int]) -> PixelSlices:
    """The pixels in a box `(x0, y0, x1, y1)`, inside an image of `(width, height)`: one at least each way."""
    x0, y0, x1, y1 = (round(float(edge)) for edge in box)
    width, height = size
    left, top = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return PixelSlices(slice(top, min(max(y1, top + 1), height)), slice(left, min(max(x1, left + 1), width)))
