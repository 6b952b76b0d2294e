"""Calibration: where the processed pixels lay in the user's picture, measured.

The image processor is run on a picture whose colours are coordinates: red grows with x, green with y. The colours of
the processed pixels then say which part of the picture each of them shows, so that resizing, cropping, padding and
cutting into tiles need no formulas here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ..errors import SpecError
from ..families import ModelView
from .cells import Cells

DARKEST, SHADES = 30, 200
"""The value of red or green at the start of a window, and how much it grows until the window's end."""
BLUE = 230
"""The blue of all pixels of the picture. Padding, and pixels blended with it, have another blue and are ignored."""
SLANT = 0.1
"""How much of the other coordinate is mixed into a colour. Colours are rounded to whole numbers; with a slant the
rounding errors differ along a row or column, and their mean is finer than one step of colour."""
STRIP = 64
"""Rows whose colours are computed at a time: before they are rounded they take eight times the memory."""
NARROW = 1 / 8
"""A tile that shows a smaller share of an axis than this has too few steps of colour to be measured well: the colours
are spread over what it shows, and it is measured again."""


class Span(NamedTuple):
    """A range of pixels along one axis of the picture."""

    start: float
    stop: float


class Window(NamedTuple):
    """A part of the picture: the one over which colours are spread."""

    x: Span
    y: Span


class Line(NamedTuple):
    """Along one axis: `start + step * index` is the pixel of the picture where an entry of a tile begins."""

    start: float
    step: float


@dataclass(frozen=True, kw_only=True)
class Processing:
    """A way in which a picture may have been processed.

    Attributes:
        with_another: together with another picture, in one prompt.
        options: options of the image processor; those in `processor.images_kwargs` come before them.
    """

    with_another: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


ALONE = Processing()


def processed(view: ModelView, size: tuple[int, int], window: Window, processing: Processing) -> Mapping[str, Any]:
    """What the image processor returns for a coordinate picture of `(width, height)`.

    Raises:
        SpecError: there is no image processor.
    """
    if view.processor is None:
        raise SpecError("placing image tokens needs the image processor; write nv.load(model, processor=...)")
    picture = coordinate_picture(size, window)
    own_options = getattr(view.processor, "images_kwargs", None) or {}
    options = {**own_options, **processing.options, "do_normalize": False, "do_rescale": False, "return_tensors": "pt"}
    pictures = [[picture, picture]] if processing.with_another else picture
    output: Mapping[str, Any] = view.processor.image_processor(pictures, **options)
    return output


def processed_video(view: ModelView, size: tuple[int, int], window: Window, frames: int) -> Mapping[str, Any]:
    """What the video processor returns for so many frames, each the coordinate picture of `(width, height)`.

    Raises:
        SpecError: there is no video processor.
    """
    processor = getattr(view.processor, "video_processor", None)
    if processor is None:
        raise SpecError("placing video tokens needs the video processor; write nv.load(model, processor=...)")
    frame = np.asarray(coordinate_picture(size, window))
    own_options = dict(getattr(view.processor, "videos_kwargs", None) or {})
    options = {**own_options, "do_normalize": False, "do_rescale": False, "do_sample_frames": False}
    video = np.broadcast_to(frame, (frames, *frame.shape)).copy()
    output: Mapping[str, Any] = processor([video], **{**options, "return_tensors": "pt"})
    return output


def coordinate_picture(size: tuple[int, int], window: Window) -> Image.Image:
    """A picture of `(width, height)` whose red is x and whose green is y, from the start of a window to its end."""
    shares = [
        ((np.arange(length) + 0.5 - span.start) / (span.stop - span.start)).clip(0, 1)
        for length, span in zip(size, window, strict=True)
    ]
    across, down = shares[0][None], shares[1][:, None]
    colours = np.full((len(down), across.size, 3), BLUE, dtype=np.uint8)
    for first in range(0, len(down), STRIP):
        strip, y = colours[first : first + STRIP], down[first : first + STRIP]
        for colour, (own, other) in enumerate(((across, y), (y, across))):
            strip[..., colour] = (DARKEST + SHADES * (own + SLANT * (other - own))).round()
    return Image.fromarray(colours)


def full_picture(size: tuple[int, int]) -> Window:
    """All of a picture of `(width, height)`."""
    width, height = size
    return Window(Span(0, width), Span(0, height))


def boxes(cells: Cells, size: tuple[int, int], tiles_of: Callable[[Window], Sequence[torch.Tensor]]) -> np.ndarray:
    """The pixels that each token saw.

    Args:
        cells: where the tokens lie on the tiles.
        size: `(width, height)` of the picture.
        tiles_of: gives the tiles of a coordinate picture whose colours are spread over a window. A line is fitted to
            the coordinates along each axis of a tile, so boxes are exact to a fraction of a pixel.

    Returns:
        `[token, 4]` boxes `(x0, y0, x1, y1)`, NaN for tokens without a place.
    """
    edges = np.full((len(cells.places), 4), np.nan)
    for number, (tile, shape) in enumerate(zip(tiles_of(full_picture(size)), cells.shapes, strict=True)):
        in_tile = cells.tiles == number
        edges[in_tile] = 0  # a tile of padding only saw nothing
        if not _shows_picture(tile).any():
            continue
        window = _window_to_measure(tile, size)
        measured = tile if window == full_picture(size) else tiles_of(window)[number]
        across, down = _fit_tile(measured, size, window)
        height, width = tile.shape[-2:]
        x = _cell_edges(Line(across.start, across.step * width / shape.columns), cells.columns[in_tile], size[0])
        y = _cell_edges(Line(down.start, down.step * height / shape.rows), cells.rows[in_tile], size[1])
        edges[in_tile] = np.stack([x[0], y[0], x[1], y[1]], axis=1)
    return edges


def _cell_edges(line: Line, indices: np.ndarray, length: int) -> np.ndarray:
    """`[2, token]`: the pixels of the picture where cells begin and end.

    Args:
        line: from the tile's columns or rows to the picture's pixels.
        indices: the column or row of each token.
        length: the picture's width or height. Edges are kept inside, and those almost at the border are put there.
    """
    edges = line.start + line.step * (indices + np.array([[0], [1]]))
    error = abs(line.step) / 50
    return np.asarray(np.where(edges < error, 0, np.where(edges > length - error, length, edges)))


def _shows_picture(tile: torch.Tensor) -> torch.Tensor:
    """`[height, width]`: whether a pixel of a tile shows the picture, not padding."""
    return (tile[2] - BLUE).abs() < 6


def _coordinates(tile: torch.Tensor, window: Window) -> list[np.ndarray]:
    """For each column of a tile the x, and for each row the y, that it shows; NaN in padding."""
    red, green = ((tile[colour].double() - DARKEST) / SHADES for colour in (0, 1))
    shares = (own + SLANT / (1 - 2 * SLANT) * (own - other) for own, other in ((red, green), (green, red)))
    shown = _shows_picture(tile)
    means = (torch.where(shown, share, torch.nan).nanmean(axis).numpy() for axis, share in enumerate(shares))
    return [span.start + mean * (span.stop - span.start) for mean, span in zip(means, window, strict=True)]


def _window_to_measure(tile: torch.Tensor, size: tuple[int, int]) -> Window:
    """The window over which colours should be spread to measure a tile.

    Along an axis of which the tile shows only a narrow part, it is that part and a margin; otherwise the whole axis.
    """
    spans = []
    for length, pixels in zip(size, _coordinates(tile, full_picture(size)), strict=True):
        low, high, margin = np.nanmin(pixels), np.nanmax(pixels), 1 + 2 * length / SHADES
        spans.append(Span(low - margin, high + margin) if high - low < length * NARROW else Span(0, length))
    return Window(*spans)


def _fit_tile(tile: torch.Tensor, size: tuple[int, int], window: Window) -> list[Line]:
    """For the x axis and the y axis, the line from a tile's pixels to the picture's."""
    return [
        _fit_line(pixels, length, (span.stop - span.start) / SHADES / 2)
        for pixels, length, span in zip(_coordinates(tile, window), size, window, strict=True)
    ]


def _fit_line(pixels: np.ndarray, length: int, error: float) -> Line:
    """The line through the coordinates along an axis of a tile: `pixel = start + step * (index + 0.5)`.

    Resampling bends the line near the edges of the picture, where there are fewer pixels to interpolate: these ends are
    left out. Where too little is left to tell coordinates apart, each pixel of the tile shows an equal share of the
    axis.

    Args:
        pixels: the coordinate that each pixel of the tile shows; NaN in padding.
        length: the picture's width or height.
        error: how exactly each coordinate is known, in pixels of the picture.
    """
    indices = np.arange(len(pixels)) + 0.5
    known = indices[~np.isnan(pixels)]
    step = length / (known[-1] - known[0] + 1)
    start = (0.5 - known[0]) * step
    margin = 0.5 + error
    for _ in range(2):
        between = (pixels > margin) & (pixels < length - margin)
        if between.sum() > 1 and np.ptp(pixels[between]) > 2 * error:
            step, start = np.polyfit(indices[between], pixels[between], 1)
            margin = max(margin, 2 * abs(step))
    return Line(float(start), float(step))
