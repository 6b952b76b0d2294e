"""Pictures of any size and mode, in the form that every image processor takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import SpecError

Pictures = tuple[tuple[Image.Image, ...], ...]
"""The pictures of each row of an encoding."""
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Modes with more than 8 bits, which do not say what value is white: see `_white`."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned; 1 is upright."""


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; the picture itself if it is upright."""
    return ImageOps.exif_transpose(picture) if picture.getexif().get(ORIENTATION, 1) != 1 else picture


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture with 8 bits each of red, green and blue; transparent parts are put on white."""
    if picture.mode in DEEP:
        values = np.asarray(picture).astype(np.float64)
        scale = _white(picture.mode, values.max(initial=0)) / 255
        picture = Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        with_alpha = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", with_alpha.size, "white"), with_alpha)
    return picture.convert("RGB")


def _white(mode: str, largest: float) -> float:
    """The value of white in a deep mode, by the largest value: 65,535 above 255, 1 for fractions, otherwise 255."""
    if largest > 255:
        return 65_535
    return 1 if mode == "F" and largest <= 1 else 255


def per_row(given: Any, rows: int) -> Pictures:
    """The pictures of each row, upright.

    Args:
        given: a picture or several for one row; for several rows a list with an entry for each row: None, a picture or
            several.
        rows: how many rows there are.

    Raises:
        SpecError: something is not a picture, or the entries are not as many as the rows.
    """
    if given is None:
        return ((),) * rows
    entries = list(_as_list(given))
    is_nested = len(entries) == 1 and not isinstance(entries[0], Image.Image)
    if rows == 1 and not is_nested:
        entries = [entries]
    if len(entries) != rows:
        raise SpecError(f"pictures for {len(entries)} row(s) were given, and there are {rows}; give one entry per row")
    return tuple(tuple(map(_checked, _as_list(entry))) for entry in entries)


def _as_list(given: Any) -> Sequence[Any]:
    """None, one or several as a list."""
    if given is None:
        return ()
    return given if isinstance(given, (list, tuple)) else [given]


def _checked(picture: Any) -> Image.Image:
    if not isinstance(picture, Image.Image):
        raise SpecError(f"{type(picture).__name__} is not a picture; open it with PIL.Image.open(path)")
    return upright(picture)
