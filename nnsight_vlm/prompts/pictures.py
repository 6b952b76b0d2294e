"""Pictures of any size and mode, in the form that every image processor takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import SpecError
from .picture_sources import as_picture, upright
from .shades import of_numbers

__all__ = ["Pictures", "as_rgb", "open_picture", "per_row", "upright"]

Pictures = tuple[tuple[Image.Image, ...], ...]
"""The pictures of each row of an encoding."""
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Modes of 16 bits without a sign, in which 65,535 is white."""
DEEP = {**dict.fromkeys(SIXTEEN_BITS, np.uint16), "I": np.int32, "F": np.float32}
"""Modes with more than 8 bits and their numbers; those of `I` and `F` do not say what value is white."""


def open_picture(path: str | Path) -> Image.Image:
    """A picture of a file as people see it: upright, in RGB; of several frames the first.

    It is the picture that `nv.encode` makes of `PIL.Image.open(path)`.

    Raises:
        SpecError: no such file, or not a picture.
    """
    picture = as_picture(Path(path))
    try:
        return as_rgb(picture)
    except SpecError as error:
        raise SpecError(f"{str(path)!r}: {error}") from error


def as_rgb(picture: Image.Image) -> Image.Image:
    """A picture with 8 bits each of red, green and blue; transparent parts are put on white.

    Raises:
        SpecError: a picture of numbers that do not say what is black and what is white.
    """
    if picture.mode in DEEP:
        return _of_deep_mode(picture)
    if picture.has_transparency_data:
        with_alpha = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", with_alpha.size, "white"), with_alpha)
    return picture.convert("RGB")


def _of_deep_mode(picture: Image.Image) -> Image.Image:
    """A picture of a deep mode, where its file says one value is transparent that is white."""
    values = np.asarray(picture).astype(DEEP[picture.mode])
    shades = of_numbers(values, f"a picture of mode {picture.mode!r}")
    transparent = picture.info.get("transparency")
    if isinstance(transparent, (int, float)):
        shades[values == transparent] = 255
    return Image.fromarray(shades).convert("RGB")


def per_row(given: Any, rows: int) -> Pictures:
    """The pictures of each row, upright.

    Args:
        given: a picture or several for one row; for several rows a list with an entry for each row: None, a picture or
            several. What a picture can be: see `as_picture`.
        rows: how many rows there are.

    Raises:
        SpecError: something is not a picture, or the entries are not as many as the rows.
    """
    if given is None:
        return ((),) * rows
    entries = list(_as_list(given))
    is_nested = len(entries) == 1 and (entries[0] is None or isinstance(entries[0], (list, tuple)))
    if rows == 1 and not is_nested:
        entries = [entries]
    if len(entries) != rows:
        raise SpecError(f"pictures for {len(entries)} row(s) were given, and there are {rows}; give one entry per row")
    return tuple(tuple(map(as_picture, _as_list(entry))) for entry in entries)


def _as_list(given: Any) -> Sequence[Any]:
    """None, one or several as a list."""
    if given is None:
        return ()
    return given if isinstance(given, (list, tuple)) else [given]
