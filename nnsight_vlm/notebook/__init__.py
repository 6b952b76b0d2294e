"""How values look in a notebook: pieces of HTML that are whole by themselves, and safe whatever text is in them."""

from .elements import Html, element, joined
from .groups import SMALL, chip, legend, panel
from .pictures import SIDE, picture_uri, shown_picture, shown_size

__all__ = [
    "SIDE",
    "SMALL",
    "Html",
    "chip",
    "element",
    "joined",
    "legend",
    "panel",
    "picture_uri",
    "shown_picture",
    "shown_size",
]
