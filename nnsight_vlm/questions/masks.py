"""Masks of objects from boxes, polygons, run lengths and pictures: bool arrays `[height, width]`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..arguments import spelled
from ..errors import SpecError
from .picture_cells import opened, pictures_in

BOX = "[x0, y0, x1, y1] in pixels of the upright picture, counted from its upper left corner"
MASK = (
    "an array or a picture of the same size, polygons [[x, y, x, y, ...], ...], or "
    '{"size": [height, width], "counts": ...}'
)
ROUNDING = 1.0
"""Pixels that a box may reach beyond the picture, as boxes of rounded numbers do."""


class Size(NamedTuple):
    """The size of a picture in pixels."""

    width: int
    height: int


def box_given(box: Any) -> tuple[float, float, float, float]:
    """A box as four numbers.

    Raises:
        SpecError: something else, or a box without area.
    """
    try:
        values = np.asarray(box, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all() or isinstance(box, str):
        raise SpecError(f"its box {spelled(box)} is no box; write {BOX}")
    x0, y0, x1, y1 = map(float, values)
    if x1 <= x0 or y1 <= y0:
        raise SpecError(f"its box {spelled(box)} is empty; write {BOX}")
    return x0, y0, x1, y1


def mask_of_box(box: Any, size: Size) -> np.ndarray:
    """The pixels that a box touches.

    Raises:
        SpecError: it reaches out of the picture, or lies within its first pixel, as fractions do.
    """
    x0, y0, x1, y1 = box_given(box)
    if min(x0, y0) < -ROUNDING or x1 > size.width + ROUNDING or y1 > size.height + ROUNDING:
        raise SpecError(
            f"its box {spelled(box)} reaches out of the picture of {size.width} x {size.height} pixels; write {BOX}"
        )
    if max(x1, y1) <= 1 < max(size):
        raise SpecError(f"its box {spelled(box)} seems to be in fractions of the picture; write {BOX}")
    mask = np.zeros((size.height, size.width), bool)
    mask[max(0, math.floor(y0)) : math.ceil(y1), max(0, math.floor(x0)) : math.ceil(x1)] = True
    return mask


def mask_given(given: Any, size: Size, folder: Path | None) -> np.ndarray:
    """A mask in any form that a cell can hold.

    Raises:
        SpecError: something else, or a mask of another size.
    """
    if isinstance(given, Mapping) and "counts" in given:
        mask = _of_runs(given)
    elif _is_polygons(given) and not _has_size(given, size):
        return _of_polygons(given, size)
    elif isinstance(given, (list, tuple)) or (isinstance(given, np.ndarray) and given.ndim == 2):
        mask = _of_numbers(given)
    else:
        [source, *more] = pictures_in(given, folder, "mask")
        if more:
            raise SpecError(f"its mask is {spelled(given)}; write {MASK}")
        mask = _of_picture(opened(source, "mask"))
    if mask.shape != (size.height, size.width):
        raise SpecError(
            f"its mask is {mask.shape[1]} x {mask.shape[0]} pixels, and its picture {size.width} x {size.height}"
        )
    return mask


def _of_numbers(given: Any) -> np.ndarray:
    try:
        values = np.asarray(list(given), dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.ndim != 2:
        raise SpecError(f"its mask is {spelled(given)}; write {MASK}")
    return _of_two_values(values)


def _of_two_values(values: np.ndarray) -> np.ndarray:
    """The pixels that are not 0.

    Raises:
        SpecError: there are more values than 0 and another one: probabilities, several labels, a picture that was
            stored with loss. Nothing tells which of them are the object.
    """
    distinct = np.unique(values)
    is_plain = len(distinct) <= 2 and bool((distinct == np.round(distinct)).all()) and distinct[0] >= 0
    if not is_plain or (len(distinct) == 2 and distinct[0] != 0):
        shown = ", ".join(f"{value:g}" for value in distinct[:4])
        raise SpecError(
            f"its mask has the values {shown}{', ...' if len(distinct) > 4 else ''}, and a mask is 0 outside the "
            "object and one other whole number in it; write mask > 0.5 of probabilities, mask == label of several "
            "labels, and pictures as PNG"
        )
    mask: np.ndarray = values > 0
    return mask


def _of_picture(picture: Image.Image) -> np.ndarray:
    """The pixels of a picture that are not black.

    Raises:
        SpecError: it has transparent pixels, or see `_of_two_values`.
    """
    if picture.has_transparency_data and len(np.unique(np.asarray(picture.convert("RGBA").getchannel("A")))) > 1:
        raise SpecError(
            "its mask has transparent pixels, and nothing tells whether these or the black ones lie outside the "
            'object; write one channel, picture.getchannel("A")'
        )
    whole = picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;16")
    return _of_two_values(np.asarray(picture if whole else picture.convert("L")).astype(float))


def _has_size(given: Sequence[Any], size: Size) -> bool:
    """Whether lists are the rows of a picture of a size."""
    return len(given) == size.height and all(np.shape(row) == (size.width,) for row in given)


def _is_polygons(given: Any) -> bool:
    """Whether something is a list of lists of coordinates: x and y in turn, of three corners or more.

    A mask is a list of rows of 0 and 1, which looks the same: coordinates are not all 0 and 1, and rows are those of
    the picture.
    """
    if not isinstance(given, (list, tuple)) or not given:
        return False
    parts = [np.ravel(part) for part in given if isinstance(part, (list, tuple, np.ndarray))]
    numeric = len(parts) == len(given) and all(part.dtype.kind in "iuf" for part in parts)
    return (
        numeric
        and all(part.size >= 6 and part.size % 2 == 0 for part in parts)
        and not all(np.isin(part, (0, 1)).all() for part in parts)
    )


def _of_polygons(polygons: Sequence[Any], size: Size) -> np.ndarray:
    """The pixels inside any of some polygons."""
    canvas = Image.new("1", (size.width, size.height))
    draw = ImageDraw.Draw(canvas)
    for polygon in polygons:
        corners = np.ravel(polygon).astype(float)
        if (
            not np.isfinite(corners).all()
            or corners.min() < -ROUNDING
            or (corners[::2].max() > size.width + ROUNDING or corners[1::2].max() > size.height + ROUNDING)
        ):
            raise SpecError(f"its polygon reaches out of the picture of {size.width} x {size.height} pixels")
        draw.polygon([(float(x), float(y)) for x, y in corners.reshape(-1, 2)], fill=1)
    return np.asarray(canvas, dtype=bool)


# run lengths, as COCO writes them -----------------------------------------------------------------


def _of_runs(given: Mapping[str, Any]) -> np.ndarray:
    """A mask of run lengths: pixels out and in by turns, column by column; COCO also writes them as one text.

    Raises:
        SpecError: they are not as many as the pixels.
    """
    try:
        height, width = map(int, given["size"])
        counts = given["counts"]
        runs = _counts_in(counts) if isinstance(counts, (str, bytes)) else [int(count) for count in counts]
        if min(runs, default=0) < 0 or sum(runs) != height * width:
            raise ValueError
    except (KeyError, TypeError, ValueError, IndexError):
        raise SpecError(
            'its mask is {"size": ..., "counts": ...} whose counts are not those of its size [height, width]'
        ) from None
    flat = np.zeros(height * width, bool)
    ends = list(accumulate(runs))
    for start, end in zip(ends[::2], ends[1::2], strict=False):
        flat[start:end] = True
    return flat.reshape(width, height).T


def _counts_in(text: str | bytes) -> list[int]:
    """Run lengths from COCO's text: 5 bits a letter, the lowest first; from the third run on, less the one but last."""
    letters = text.encode() if isinstance(text, str) else text
    counts: list[int] = []
    place = 0
    while place < len(letters):
        value = shift = 0
        more = True
        while more:
            bits = letters[place] - 48
            if not 0 <= bits < 64:
                raise ValueError("no letter of run lengths")
            value |= (bits & 31) << shift
            more, place, shift = bool(bits & 32), place + 1, shift + 5
            if not more and bits & 16:
                value |= -1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
    return counts
