"""What stands for a picture in a cell: the path of a file, a URL, bytes, or a picture in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np
from PIL import Image

from ..arguments import spelled
from ..errors import SpecError
from ..prompts.picture_sources import OPENERS, SCHEMES, as_picture, is_base64
from .cells import as_json, is_missing

WRITE = "write the path of a file, or a list of paths"

LONGEST = 200
"""Most letters of a path that a message shows."""


def pictures_in(cell: Any, folder: Path | None, name: str = "image") -> tuple[Any, ...]:
    """What `as_picture` opens for each picture of a cell; nothing is opened yet.

    Args:
        cell: a path, a URL, the bytes of a file, a PIL image, an array, a dict with `bytes` or `path` as `datasets`
            writes pictures to files, or a list of such (in a file of text as JSON).
        folder: where relative paths begin.
        name: what the cell is called.

    Raises:
        SpecError: the cell is empty or holds something else, or a file is not there.
    """
    if is_missing(cell):
        raise SpecError(f"its {name} is empty; {WRITE}")
    given = as_json(cell) if isinstance(cell, str) and cell.lstrip().startswith("[") else cell
    if isinstance(given, np.ndarray) and given.dtype == object:
        given = given.tolist()
    each = given if isinstance(given, (list, tuple)) else [cell]
    return tuple(_one(picture, folder, name) for picture in each)


def _one(given: Any, folder: Path | None, name: str) -> Any:
    if isinstance(given, Mapping):
        content = given.get("bytes")
        given = given.get("path") if is_missing(content) else content
    if is_missing(given):
        raise SpecError(f"its {name} is empty; {WRITE}")
    if isinstance(given, (str, Path)):
        return _path(str(given), folder, name)
    if not any(isinstance(given, kind) for kind in OPENERS):
        raise SpecError(f"its {name} is {spelled(given)}, which is no picture; {WRITE}")
    return given


def _path(given: str, folder: Path | None, name: str) -> Any:
    """The path of a file that is there; a URL, or a picture in base64, as it is."""
    if given.partition(":")[0].lower() in SCHEMES:
        return given
    below = folder or Path()
    for path in (below / given, below / PureWindowsPath(given).as_posix()):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # longer than a name can be, or with a character that no name has
            break
    if is_base64(given):
        return given
    where = (
        ""
        if Path(given).is_absolute()
        else f" in the folder {str(below)!r}, where relative paths begin unless folder= says otherwise"
    )
    raise SpecError(f"its {name} {given[:LONGEST]!r} is no file{where}")


def opened(source: Any, name: str = "image") -> Image.Image:
    """The picture that a source holds, upright.

    Raises:
        SpecError: it cannot be opened.
    """
    try:
        return as_picture(source)
    except SpecError as error:
        raise SpecError(f"its {name} cannot be opened: {error}") from error
