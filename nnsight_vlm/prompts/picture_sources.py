"""A picture from whatever holds one: a PIL image, a path, a URL, bytes, base64, an array, a tensor."""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit
from urllib.request import url2pathname

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import SpecError
from .shades import of_numbers

ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is turned; 1 is upright."""
TIMEOUT = 30.0
"""Seconds without an answer after which a server is given up."""
CHANNELS = (1, 3, 4)
"""Grey; red, green and blue; these and opacity."""


def as_picture(given: Any) -> Image.Image:
    """The picture that something holds, upright; a PIL image that is upright is itself.

    Args:
        given: a PIL image; the path of a file; a URL (`https:`, `http:`, `file:`, `data:`); the bytes of a file, as
            they are or in base64; an array or a tensor `[row, column]`, `[row, column, channel]` or `[channel, row,
            column]` of bytes, of 16 bits or of fractions from 0 to 1. Where either end could be the channels, they are
            last in an array and first in a tensor.

    Raises:
        SpecError: something else, or a picture that cannot be opened.
    """
    opener = next((opener for kind, opener in OPENERS.items() if isinstance(given, kind)), None)
    if opener is None:
        raise SpecError(
            f"{type(given).__name__} is not a picture; open it with PIL.Image.open(path), or give a path, a URL, the "
            "bytes of a file, an array or a tensor"
        )
    picture = upright(opener(given))
    if not picture.width * picture.height:
        raise SpecError(
            f"a picture of {picture.width} x {picture.height} pixels is empty; give one that shows something"
        )
    return picture


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; the picture itself if it is upright."""
    return ImageOps.exif_transpose(picture) if picture.getexif().get(ORIENTATION, 1) != 1 else picture


# files and URLs -----------------------------------------------------------------------------------


def of_base64(text: str) -> Image.Image:
    """The picture whose file was written as base64.

    Raises:
        SpecError: it is no base64, or not of a picture.
    """
    try:
        return _of_bytes(base64.b64decode(text, validate=True), "base64")
    except binascii.Error as error:
        raise SpecError(f"{_short(text)} is not base64 ({error}); give the bytes of a PNG or JPEG file") from error


def _of_text(text: str) -> Image.Image:
    scheme = text.partition(":")[0].lower()
    return SCHEMES[scheme](text) if scheme in SCHEMES else _of_path(text)


def _of_path(given: str | os.PathLike[str]) -> Image.Image:
    path = Path(given)
    try:
        is_file = path.is_file()
    except OSError:  # longer than a name can be
        is_file = False
    if not is_file:
        if isinstance(given, str) and is_base64(given):
            return of_base64(given)
        raise SpecError(f"no file {_short(str(given))}; give the path of a picture")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SpecError(f"{_short(str(given))} cannot be read: {error.strerror or error}") from error
    return _of_bytes(content, _short(str(given)))


def is_base64(text: str) -> bool:
    """Whether a text that names no file is the beginning of a picture's file in base64, not a name with a mistake."""
    try:
        head = base64.b64decode(text[:64], validate=True)
    except (binascii.Error, ValueError):
        return False
    return head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*"))


def _of_file_url(url: str) -> Image.Image:
    return _of_path(Path(url2pathname(urlsplit(url).path)))


def _of_data_url(url: str) -> Image.Image:
    head, comma, content = url.partition(",")
    if not comma:
        raise SpecError(f"{_short(url)} has no comma before its content; write data:image/png;base64,...")
    return of_base64(content) if head.endswith(";base64") else _of_bytes(unquote_to_bytes(content), _short(url))


def _of_web_url(url: str) -> Image.Image:
    import httpx

    try:
        answer = httpx.get(url, timeout=TIMEOUT, follow_redirects=True, headers={"user-agent": "nnsight-vlm"})
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise SpecError(
            f"{_short(url)} could not be fetched: {error or type(error).__name__}; fetch it yourself, and give its path"
        ) from error
    if not answer.is_success:
        raise SpecError(
            f"{_short(url)} could not be fetched: the server answered {answer.status_code} {answer.reason_phrase}; "
            "fetch it yourself, and give its path"
        )
    return _of_bytes(answer.content, _short(url))


def _of_bytes(content: bytes, called: str = "what these bytes hold") -> Image.Image:
    try:
        with Image.open(io.BytesIO(content)) as picture:
            picture.load()
            return picture
    except MemoryError:
        raise
    except Exception as error:  # whatever a broken file makes a reader raise
        raise SpecError(f"{called} is not a picture that can be opened; give a PNG or JPEG file") from error


def _short(text: str) -> str:
    """A text as a message shows it: of a long one, which may be megabytes, the beginning."""
    return repr(text if len(text) <= 120 else f"{text[:60]}...")


# arrays -------------------------------------------------------------------------------------------


def _of_tensor(values: torch.Tensor) -> Image.Image:
    values = values.detach().cpu()
    return _of_array((values.float() if values.is_floating_point() else values).numpy(), channels_at=0)


def _of_array(values: np.ndarray, channels_at: int = -1) -> Image.Image:
    """A picture of numbers; what is white follows from their type, or from what values there are.

    Args:
        values: the numbers.
        channels_at: the axis of the channels where either end could be.

    Raises:
        SpecError: no picture's shape, or numbers that do not say what is white.
    """
    shape = list(values.shape)
    if values.dtype.kind not in "buif" or values.ndim not in (2, 3) or 0 in shape:
        raise SpecError(
            f"an array of shape {shape} and type {values.dtype} is not a picture; give [row, column], [row, column, "
            "channel] or [channel, row, column], and several pictures as a list"
        )
    if values.ndim == 3:
        axis = next((axis for axis in (channels_at, 0, -1) if shape[axis] in CHANNELS), None)
        if axis is None:
            raise SpecError(
                f"an array of shape {shape} is not a picture: neither its first nor its last number is that of "
                "channels, 1, 3 or 4; give several pictures as a list"
            )
        values = np.moveaxis(values, axis, -1)
        values = values[..., 0] if values.shape[-1] == 1 else values
    return Image.fromarray(np.ascontiguousarray(of_numbers(values)))


OPENERS: Mapping[type | tuple[type, ...], Callable[[Any], Image.Image]] = {
    Image.Image: lambda picture: picture,
    str: _of_text,
    os.PathLike: _of_path,
    (bytes, bytearray, memoryview): lambda content: _of_bytes(bytes(content)),
    np.ndarray: _of_array,
    torch.Tensor: _of_tensor,
}
"""How a picture is opened, by what holds it."""
SCHEMES: Mapping[str, Callable[[str], Image.Image]] = {
    "http": _of_web_url,
    "https": _of_web_url,
    "file": _of_file_url,
    "data": _of_data_url,
}
"""How a URL is opened, by its scheme; a text with another scheme, or with none, is a path."""
