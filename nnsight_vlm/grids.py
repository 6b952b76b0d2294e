"""Which image token saw which pixels.

The functions of this file, by name, are the `grid` column of `families`. They place the blocks
that a vision tower sees; where those blocks lie in the user's picture is *measured*: the image
processor is run on a picture whose colours are coordinates, so resizing, cropping and padding
need no formulas of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch.nn import functional

from .errors import SpecError

Box = tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The image tokens of one image, and the pixels each of them saw.

    Attributes:
        positions: the tokens' positions in the prompt, `[token]`.
        cells: `(row, column)` of each token in the grid of patches.
        boxes: `[token, 4]` pixels `(x0, y0, x1, y1)` of the image as the user gave it.
        size: `(width, height)` of that image in pixels.
    """

    positions: tuple[int, ...]
    cells: tuple[tuple[int, int], ...]
    boxes: np.ndarray
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """`(rows, columns)` of the grid."""
        return 1 + max(row for row, _ in self.cells), 1 + max(column for _, column in self.cells)

    def tokens_in(self, where: Box | np.ndarray) -> tuple[int, ...]:
        """Positions of the tokens whose patch touches a pixel box or a `[height, width]` mask.

        Raises:
            SpecError: the box is empty or the mask has another size than the image.
        """
        touched = self.coverage(where) > 0
        return tuple(position for position, hit in zip(self.positions, touched, strict=True) if hit)

    def coverage(self, where: Box | np.ndarray) -> np.ndarray:
        """The share of each token's patch that lies in the box or mask, `[token]` in 0..1."""
        if isinstance(where, np.ndarray) and where.ndim == 2:
            return self._mask_coverage(where)
        x0, y0, x1, y1 = where
        if x1 <= x0 or y1 <= y0:
            raise SpecError(f"the box {tuple(where)} is empty; a box is (x0, y0, x1, y1) in pixels")
        wide = np.minimum(self.boxes[:, 2], x1) - np.maximum(self.boxes[:, 0], x0)
        high = np.minimum(self.boxes[:, 3], y1) - np.maximum(self.boxes[:, 1], y0)
        overlap = np.clip(wide, 0, None) * np.clip(high, 0, None)
        return np.asarray(overlap / self.areas)

    @property
    def areas(self) -> np.ndarray:
        """Pixels each patch covers, `[token]`."""
        return np.asarray((self.boxes[:, 2] - self.boxes[:, 0]) * (self.boxes[:, 3] - self.boxes[:, 1]))

    def _mask_coverage(self, mask: np.ndarray) -> np.ndarray:
        width, height = self.size
        if mask.shape != (height, width):
            raise SpecError(f"the mask has shape {mask.shape}; the image is (height, width) = {(height, width)}")
        inside = [mask[box_slices(box, self.size)].mean() for box in self.boxes]
        return np.asarray(inside, dtype=float)

    def heatmap(self, values: Sequence[float] | torch.Tensor | np.ndarray) -> np.ndarray:
        """Values `[token]` drawn at the size of the image, `[height, width]`, bilinearly between patches.

        Pixels that no patch saw (cropped away) are NaN.
        """
        if len(values) != len(self.positions):
            raise SpecError(f"{len(values)} values for {len(self.positions)} image tokens")
        rows, columns = self.shape
        plane = torch.full((rows, columns), float("nan"), dtype=torch.float64)
        for (row, column), value in zip(self.cells, values, strict=True):
            plane[row, column] = float(value)
        x0, y0 = self.boxes[:, :2].min(0)
        x1, y1 = self.boxes[:, 2:].max(0)
        down, across = box_slices((x0, y0, x1, y1), self.size)
        high, wide = down.stop - down.start, across.stop - across.start
        drawn = functional.interpolate(plane[None, None], (high, wide), mode="bilinear", align_corners=False)
        canvas = np.full((self.size[1], self.size[0]), np.nan)
        canvas[down, across] = drawn[0, 0].numpy()
        return canvas


def box_slices(box: Any, size: tuple[int, int]) -> tuple[slice, slice]:
    """The `(rows, columns)` of pixels in a box, at least one each, inside the image."""
    x0, y0, x1, y1 = (round(float(edge)) for edge in box)
    left, top = min(max(x0, 0), size[0] - 1), min(max(y0, 0), size[1] - 1)
    return slice(top, min(max(y1, top + 1), size[1])), slice(left, min(max(x1, left + 1), size[0]))


def pixel_origins(processor: Any, size: tuple[int, int]) -> np.ndarray:
    """Affine maps from processed to original pixels, `[tile, 4]`: `x = a + b * column`, `y = c + d * row`.

    The image processor runs once on a picture of the given `(width, height)` whose red is x and
    whose green is y; a line through what comes out gives fractions of a pixel.
    """
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    codes = np.stack([30 + 200 * x, 30 + 200 * y, np.full_like(x, 230)], axis=-1)
    picture = Image.fromarray(codes.round().astype(np.uint8))
    if processor is None:
        raise SpecError("placing image tokens needs the image processor; write nv.load(model, processor=...)")
    seen = processor.image_processor(picture, do_normalize=False, do_rescale=False, return_tensors="pt")
    tiles = torch.as_tensor(seen["pixel_values"]).double()
    return np.stack([_fit_tile(tile, size) for tile in rearrange(tiles, "... c h w -> (...) c h w")])


def _fit_tile(tile: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    real = tile[2] > 150  # what is darker in blue is padding
    red = torch.where(real, tile[0], torch.nan).nanmean(0).numpy()
    green = torch.where(real, tile[1], torch.nan).nanmean(1).numpy()
    across, down = _fit_line((red - 30) / 200 * size[0]), _fit_line((green - 30) / 200 * size[1])
    return np.asarray([*across, *down])


def _fit_line(values: np.ndarray) -> tuple[float, float]:
    """`value = a + b * (index + 0.5)` through the entries that are numbers."""
    places = np.arange(len(values)) + 0.5
    known = ~np.isnan(values)
    slope, start = np.polyfit(places[known], values[known], 1)
    return float(start), float(slope)


def square(model: Any, size: tuple[int, int], tokens: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """One square of patches, row by row: CLIP and SigLIP towers with one tile an image.

    Returns `(row, column)` and `[token, 4]` pixel boxes of each token of a `(width, height)` picture.
    """
    side = round(tokens**0.5)
    patch = model._module.config.vision_config.patch_size
    if side * side != tokens:
        raise SpecError(f"{tokens} image tokens are no square grid; this family's row says grid='square'")
    left, across, top, down = pixel_origins(model.processor, size)[0]
    cells = [(row, column) for row in range(side) for column in range(side)]
    edges = [
        (
            left + across * patch * c,
            top + down * patch * r,
            left + across * patch * (c + 1),
            top + down * patch * (r + 1),
        )
        for r, c in cells
    ]
    bounds = np.asarray([size[0], size[1], size[0], size[1]], dtype=float)
    return cells, np.clip(np.asarray(edges), 0, bounds)


def square_count(model: Any) -> int:
    """Tokens of every image of such a model."""
    config = model._module.config
    patches = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
    return int(patches + (config.vision_feature_select_strategy == "full"))


@dataclass(frozen=True, kw_only=True)
class GridKind:
    """How a family lays image tokens out: how many an image has, and where each lies."""

    count: Callable[[Any], int]
    place: Callable[[Any, tuple[int, int], int], tuple[list[tuple[int, int]], np.ndarray]]


GRIDS: dict[str, GridKind] = {"square": GridKind(count=square_count, place=square)}
