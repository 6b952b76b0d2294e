"""Pictures of any size and mode, as every image processor takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import SpecError

Pictures = tuple[tuple[Image.Image, ...], ...]
"""The pictures of each row of an encoding."""
DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
"""Modes of which only the values tell what is white: 65,535 where they go beyond 255, and 1 for fractions."""


def upright(picture: Image.Image) -> Image.Image:
    """A picture as people see it: turned as its EXIF says, otherwise the picture itself."""
    return ImageOps.exif_transpose(picture) if picture.getexif().get(0x0112, 1) != 1 else picture


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture in 8 bits of red, green and blue; what is transparent lies on white."""
    if picture.mode in DEEP:
        values = np.asarray(picture).astype(np.float64)
        scale = _white(picture.mode, values.max(initial=0)) / 255
        picture = Image.fromarray((values / scale).round().clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
    return picture.convert("RGB")


def _white(mode: str, greatest: float) -> float:
    """The value of white in a mode that does not say it."""
    if greatest > 255:
        return 65_535
    return 1 if mode == "F" and greatest <= 1 else 255


def per_row(given: Any, rows: int) -> Pictures:
    """The pictures of each row, upright, from one picture, several, or one of these for each of several rows.

    Raises:
        SpecError: something else than pictures, or for another number of rows.
    """
    if given is None:
        return ((),) * rows
    listed = list(_entry(given))
    nested = len(listed) == 1 and not isinstance(listed[0], Image.Image)
    if rows == 1 and not nested:
        listed = [listed]
    if len(listed) != rows:
        raise SpecError(f"pictures for {len(listed)} row(s) were given, and there are {rows}; one entry a row")
    return tuple(tuple(map(_checked, _entry(some))) for some in listed)


def _entry(given: Any) -> Sequence[Any]:
    """The pictures of one row: none, one, or several."""
    if given is None:
        return ()
    return given if isinstance(given, (list, tuple)) else [given]


def _checked(picture: Any) -> Image.Image:
    if not isinstance(picture, Image.Image):
        raise SpecError(f"{type(picture).__name__} is no picture; open it with PIL.Image.open(path)")
    return upright(picture)
