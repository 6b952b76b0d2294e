"""Pictures of any size and mode, in the form that every image processor takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..errors import SpecError

Pictures = tuple[tuple[Image.Image, ...], ...]
"""The pictures of each row of an encoding."""
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Modes of 16 bits without a sign, in which 65,535 is white."""
DEEP = (*SIXTEEN_BITS, "I", "F")
"""Modes with more than 8 bits, of which `I` and `F` do not say what value is white: see `_white`."""
NO_FRACTIONS = 2
"""A largest value from 1 up to this can be that of a very dark picture, or of fractions that run over."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned; 1 is upright."""


def open_picture(path: str | Path) -> Image.Image:
    """A picture of a file as people see it: upright, in RGB; of several frames the first.

    It is the picture that `nv.encode` makes of `PIL.Image.open(path)`.

    Raises:
        SpecError: no such file, or not a picture.
    """
    try:
        is_file = Path(path).is_file()
    except OSError:  # the file system permits no such name
        is_file = False
    if not is_file:
        raise SpecError(f"no file {str(path)!r}; give the path of a picture")
    try:
        with Image.open(path) as picture:
            return as_rgb(upright(picture))
    except SpecError as error:
        raise SpecError(f"{str(path)!r}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken file makes a reader raise
        raise SpecError(f"{str(path)!r} is not a picture that can be opened; give a PNG or JPEG file") from error


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; the picture itself if it is upright."""
    return ImageOps.exif_transpose(picture) if picture.getexif().get(ORIENTATION, 1) != 1 else picture


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture with 8 bits each of red, green and blue; transparent parts are put on white.

    Raises:
        SpecError: a picture of numbers that do not say what is black and what is white.
    """
    if picture.mode in DEEP:
        return _of_numbers(picture)
    if picture.has_transparency_data:
        with_alpha = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", with_alpha.size, "white"), with_alpha)
    return picture.convert("RGB")


def _of_numbers(picture: Image.Image) -> Image.Image:
    """A picture of a deep mode, where its file says one value is transparent that is white."""
    values = np.asarray(picture).astype(np.float64)
    shades = (values * (255 / _white(picture.mode, values))).round()
    transparent = picture.info.get("transparency")
    if isinstance(transparent, (int, float)):
        shades[values == transparent] = 255
    return Image.fromarray(shades.astype(np.uint8)).convert("RGB")


def _white(mode: str, values: np.ndarray) -> float:
    """The value of white in a deep mode: of `I` and `F` by what values there are, fractions, bytes or 16 bits.

    Raises:
        SpecError: they are none of these.
    """
    if mode in SIXTEEN_BITS:
        return 65_535
    least, largest = float(values.min(initial=0)), float(values.max(initial=0))
    if mode == "F" and least >= 0 and largest <= 1:
        return 1
    fits = 0 <= least <= largest <= 65_535  # false for NaN as well
    if not fits or (mode == "F" and largest < NO_FRACTIONS):
        raise SpecError(
            f"a picture of mode {mode!r} with values from {least:g} to {largest:g} does not say what is black and what "
            "is white; give fractions from 0 to 1, whole numbers up to 255 or 65535, or convert it to 8 bits yourself"
        )
    return 65_535 if largest > 255 else 255


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
    if not picture.width * picture.height:
        raise SpecError(
            f"a picture of {picture.width} x {picture.height} pixels is empty; give one that shows something"
        )
    return upright(picture)
