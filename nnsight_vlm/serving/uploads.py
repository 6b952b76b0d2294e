"""Pictures that a browser sends, opened only where they are no larger than a page can use."""

from __future__ import annotations

import io

from PIL import Image

from ..errors import SpecError
from ..prompts.picture_sources import as_picture
from ..prompts.pictures import as_rgb

MOST_BYTES = 20 * 2**20
"""How many bytes a picture's file may have."""
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What browsers and cameras make; the last is not in every Pillow, which opens more, and starts a program for EPS."""
MOST_PIXELS = 64_000_000
"""How many pixels a picture may have: a small file can unpack to gigabytes."""


def opened(content: bytes) -> Image.Image:
    """A picture of the bytes of its file, upright and in RGB.

    Raises:
        SpecError: no picture, or one with too many pixels; which is looked at before it is unpacked.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            _refuse_large(*picture.size)
            picture.load()
        return as_rgb(as_picture(picture))
    except (SpecError, MemoryError):
        raise
    except Exception as error:  # whatever a broken file makes a reader raise, decompression bombs included
        raise SpecError("this is not a picture that can be opened; choose a PNG or JPEG file") from error


def _refuse_large(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise SpecError(
            f"the picture has {width:,} x {height:,} pixels; a page takes {MOST_PIXELS:,} in all, so make it smaller"
        )
