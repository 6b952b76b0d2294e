"""Where the processed pixels lay in the user's picture, measured.

The image processor is run on a picture whose colours are coordinates, so resizing, cropping, padding
and cutting into tiles need no formulas of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import SpecError
from .cells import Cells

Span = tuple[float, float]
"""Pixels of one axis of the picture, from and to."""
DARKEST, SHADES, BLUE = 30, 200, 230
"""Coordinates are shades from the darkest on; padding is of another blue, and so is what it was blended with."""
SLANT = 0.1
"""The share of the other axis in a shade: shades are whole numbers, and a mean over many phases is finer than these."""
FEW = 1 / 8
"""A tile that shows less than this share of an axis sees too few shades: it is looked at again, with more."""


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """How a picture may have been processed.

    Attributes:
        beside: in one prompt with another picture.
        options: for the image processor, before those that the processor has for it.
    """

    beside: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


ALONE = Rehearsal()


def processed(model: Any, size: tuple[int, int], spans: tuple[Span, Span], rehearsal: Rehearsal) -> Any:
    """What the image processor makes of a coordinate picture, which tells positions in the two spans.

    Raises:
        SpecError: there is no image processor.
    """
    if model.processor is None:
        raise SpecError("placing image tokens needs the image processor; write nv.load(model, processor=...)")
    picture = coordinate_picture(size, spans)
    own = getattr(model.processor, "images_kwargs", None) or {}
    options = {**own, **rehearsal.options, "do_normalize": False, "do_rescale": False, "return_tensors": "pt"}
    return model.processor.image_processor([[picture, picture]] if rehearsal.beside else picture, **options)


def coordinate_picture(size: tuple[int, int], spans: tuple[Span, Span]) -> Image.Image:
    """A picture of `(width, height)` whose red is x and whose green is y, from the start of a span to its end."""
    shares = [
        ((np.arange(length) + 0.5 - start) / (stop - start)).clip(0, 1)
        for length, (start, stop) in zip(size, spans, strict=True)
    ]
    x, y = np.meshgrid(*shares)
    red, green = (DARKEST + SHADES * (own + SLANT * (other - own)) for own, other in ((x, y), (y, x)))
    return Image.fromarray(np.stack([red, green, np.full_like(x, BLUE)], axis=-1).round().astype(np.uint8))


def full_picture(size: tuple[int, int]) -> tuple[Span, Span]:
    """All of a picture."""
    return (0, size[0]), (0, size[1])


def boxes(
    cells: Cells, size: tuple[int, int], rehearsed: Callable[[tuple[Span, Span]], Sequence[torch.Tensor]]
) -> np.ndarray:
    """`[token, 4]` pixels of a picture of `(width, height)` that each token saw; NaN for one without a place.

    `rehearsed` gives the processed tiles of a coordinate picture. A line through what became of its colours gives
    fractions of a pixel, through resizing, cropping, padding and cutting, without any formula.
    """
    found = np.full((len(cells.places), 4), np.nan)
    for number, (tile, shape) in enumerate(zip(rehearsed(full_picture(size)), cells.shapes, strict=True)):
        here = cells.places[:, 0] == number
        found[here] = 0  # a tile of nothing but padding saw nothing
        if not _real(tile).any():
            continue
        spans = _seen(tile, size)
        fit = _fit_tile(tile if spans == full_picture(size) else rehearsed(spans)[number], size, spans)
        for axis, (start, step) in enumerate(fit):
            each = step * tile.shape[2 - axis] / shape[1 - axis]
            cell = cells.places[here, 2 - axis]
            for side in (0, 1):
                found[here, axis + 2 * side] = _bounded(start + each * (cell + side), size[axis], abs(each) / 50)
    return found


def _bounded(edges: np.ndarray, length: int, error: float) -> np.ndarray:
    """Edges inside the picture; what is almost its border is its border."""
    return np.asarray(np.where(edges < error, 0, np.where(edges > length - error, length, edges)))


def _real(tile: torch.Tensor) -> torch.Tensor:
    """`[height, width]`: where a tile shows the picture."""
    return (tile[2] - BLUE).abs() < 6


def _pixels(tile: torch.Tensor, spans: tuple[Span, Span]) -> list[np.ndarray]:
    """For each column of a tile the x, and for each row the y, that it shows; NaN in padding."""
    red, green = ((tile[colour].double() - DARKEST) / SHADES for colour in (0, 1))
    shares = (own + SLANT / (1 - 2 * SLANT) * (own - other) for own, other in ((red, green), (green, red)))
    known = (torch.where(_real(tile), share, torch.nan).nanmean(axis).numpy() for axis, share in enumerate(shares))
    return [start + share * (stop - start) for share, (start, stop) in zip(known, spans, strict=True)]


def _seen(tile: torch.Tensor, size: tuple[int, int]) -> tuple[Span, Span]:
    """What a tile shows of either axis, and a little more; all of an axis of which it shows much."""
    spans = []
    for length, pixels in zip(size, _pixels(tile, full_picture(size)), strict=True):
        low, high, margin = np.nanmin(pixels), np.nanmax(pixels), 1 + 2 * length / SHADES
        spans.append((low - margin, high + margin) if high - low < length * FEW else (0, length))
    return spans[0], spans[1]


def _fit_tile(tile: torch.Tensor, size: tuple[int, int], spans: tuple[Span, Span]) -> list[Span]:
    """For either axis the pixel at a tile's edge, and the step from one of the tile's pixels to the next."""
    return [
        _fit_line(pixels, length, (stop - start) / SHADES / 2)
        for pixels, length, (start, stop) in zip(_pixels(tile, spans), size, spans, strict=True)
    ]


def _fit_line(pixels: np.ndarray, length: int, error: float) -> Span:
    """`pixel = start + step * (index + 0.5)` through the entries that are numbers, each known to an error.

    Near the edges of the picture there is less to interpolate, which bends the line: these ends are left out.
    Where too little is left to tell places apart, every part of the tile saw all there is.
    """
    places = np.arange(len(pixels)) + 0.5
    known = places[~np.isnan(pixels)]
    step = length / (known[-1] - known[0] + 1)
    start = (0.5 - known[0]) * step
    margin = 0.5 + error
    for _ in range(2):
        between = (pixels > margin) & (pixels < length - margin)
        if between.sum() > 1 and np.ptp(pixels[between]) > 2 * error:
            step, start = np.polyfit(places[between], pixels[between], 1)
            margin = max(margin, 2 * abs(step))
    return float(start), float(step)
