"""What a person sees: pixels of screenshots, and where two of them differ."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def seen(page: Any, place: Any) -> np.ndarray:
    """The pixels of an element as they are on the screen, `[row, column, colour]`; nothing is scrolled for it."""
    box = place.bounding_box()
    scrolled = page.evaluate("[scrollX, scrollY]")
    clip = {**box, "x": box["x"] + scrolled[0], "y": box["y"] + scrolled[1]}
    shot = page.screenshot(clip=clip, full_page=True)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def differing(one: np.ndarray, other: np.ndarray, by: int = 24) -> np.ndarray:
    """Which pixels have clearly another colour, `[row, column]`."""
    assert one.shape == other.shape
    return np.abs(one - other).max(-1) > by


def red(pixels: np.ndarray) -> np.ndarray:
    """Which pixels are the red of `pictures.RED`, as they are on the screen."""
    return (pixels[..., 0] > 180) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The smallest box around what is marked, `(x0, y0, x1, y1)`."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert rows.size, "nothing is marked"
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def grown(mask: np.ndarray, by: int) -> np.ndarray:
    """What is marked and so many pixels around it."""
    padded = np.pad(mask, by)
    height, width = mask.shape
    moved = [padded[y : y + height, x : x + width] for y in range(2 * by + 1) for x in range(2 * by + 1)]
    return np.logical_or.reduce(moved)


def shrunk(mask: np.ndarray, by: int) -> np.ndarray:
    """What is marked, without what is so near to its edge; the edge of the picture is none."""
    return ~grown(~mask, by)
