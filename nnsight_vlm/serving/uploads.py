"""Pictures that a browser sends, opened only where they are no larger than a page can use."""

from __future__ import annotations

import io

from PIL import Image

from ..errors import SpecError
from ..prompts.picture_sources import as_picture, upright
from ..prompts.pictures import as_rgb

MOST_BYTES = 20 * 2**20
"""How many bytes a picture's file may have."""
MOST_PIXELS = 64_000_000
"""How many pixels a picture may have: a small file can unpack to gigabytes."""


def opened(content: bytes) -> Image.Image:
    """A picture of the bytes of its file, upright and in RGB.

    Raises:
        SpecError: no picture, or one with too many pixels; which is looked at before it is unpacked.
    """
    try:
        with Image.open(io.BytesIO(content)) as picture:
            width, height = picture.size
    except Exception as error:  # whatever a broken file makes a reader raise, decompression bombs included
        raise SpecError("this is not a picture that can be opened; choose a PNG or JPEG file") from error
    if width * height > MOST_PIXELS:
        raise SpecError(
            f"the picture has {width:,} x {height:,} pixels; a page takes {MOST_PIXELS:,} in all, so make it smaller"
        )
    return as_rgb(upright(as_picture(content)))
