"""What black and white are in a picture of numbers: 8 bits for each of them."""

from __future__ import annotations

import numpy as np

from ..errors import SpecError

WHITE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65_535, np.dtype(np.bool_): 1}
"""The value of white in types that say it."""
NO_FRACTIONS = 2
"""A largest value from 1 up to this can be that of a very dark picture, or of fractions that run over."""


def of_numbers(values: np.ndarray, called: str = "") -> np.ndarray:
    """Numbers as shades from 0 to 255.

    Args:
        values: of any shape; all together say what is white.
        called: what a message calls them.

    Raises:
        SpecError: they do not say what is black and what is white.
    """
    if values.dtype == np.uint8:
        return values
    white = WHITE.get(values.dtype) or _white(values, called or f"an array of {values.dtype}")
    return np.asarray((values.astype(np.float64) * (255 / white)).round().astype(np.uint8))


def _white(values: np.ndarray, called: str) -> float:
    """The value of white by what values there are: fractions, bytes or 16 bits.

    Raises:
        SpecError: they are none of these.
    """
    least, largest = float(values.min(initial=0)), float(values.max(initial=0))
    is_fractional = values.dtype.kind == "f"
    if is_fractional and least >= 0 and largest <= 1:
        return 1
    fits = 0 <= least <= largest <= 65_535  # false for NaN as well
    if not fits or (is_fractional and largest < NO_FRACTIONS):
        raise SpecError(
            f"{called} with values from {least:g} to {largest:g} does not say what is black and what is white; give "
            "fractions from 0 to 1, whole numbers up to 255 or 65535, or convert it to 8 bits yourself"
        )
    return 65_535 if largest > 255 else 255
