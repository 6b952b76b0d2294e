"""Pictures inside HTML: small copies, written into the page."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from .elements import Html, element
from .groups import SMALL

SIDE = 240
"""The longest side of a picture in a notebook, in pixels."""
SMALL_SIDE = 96
"""A picture whose longest side is at most this is drawn larger than it is, up to this."""


def shown_size(size: tuple[int, int], side: int = SIDE, least: int = SMALL_SIDE) -> tuple[int, int]:
    """The size at which a picture of `(width, height)` is drawn; its longest side lies between `least` and `side`."""
    longest = max(1, *size)
    scale = min(side, max(longest, least)) / longest
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def picture_uri(picture: Image.Image, side: int = SIDE) -> str:
    """A PIL picture as a `data:` address; no larger than it is drawn.

    Raises:
        OSError: its file cannot be read any more.
        ValueError: the same, of a file that was closed.
    """
    small, file = _in_colours(picture), BytesIO()
    small.thumbnail((side, side))
    kind = "png" if max(small.size) <= SMALL_SIDE else "jpeg"
    small.save(file, kind, **({"quality": 85} if kind == "jpeg" else {}))
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def _in_colours(picture: Image.Image) -> Image.Image:
    """A picture to look at: what is transparent is white, and so is the largest of numbers that are no bytes."""
    if picture.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(picture, dtype=float)).clip(0)
        picture = Image.fromarray((values * (255 / max(values.max(), 1e-9))).round().astype(np.uint8))
    with_alpha = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), with_alpha).convert("RGB")


def shown_picture(picture: Image.Image, caption: str, side: int = SIDE) -> Html:
    """A picture with its caption; where it cannot be read, that is said in its place."""
    width, height = shown_size(picture.size, side)
    try:
        style = "display:block;image-rendering:pixelated" if max(picture.size) < width else "display:block"
        drawn = element(
            "img", src=picture_uri(picture, side), width=width, height=height, style=style, alt=f"the picture {caption}"
        )
    except (OSError, ValueError) as error:
        drawn = element("div", f"cannot be shown: {error}", style="border:1px solid currentColor;padding:8px")
    label = element("figcaption", caption, style=SMALL)
    return element("figure", drawn, label, style="display:inline-block;margin:4px 12px 4px 0;vertical-align:top")
