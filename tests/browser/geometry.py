"""Which pixels of a picture a token saw, worked out by hand from how each processor says that it resizes and cuts.

Nothing here asks the package or the processor; a box is `(x0, y0, x1, y1)` in pixels of the picture as it was given.
"""

from __future__ import annotations

import math

Box = tuple[float, float, float, float]
Size = tuple[int, int]


def centre_crop(size: Size, side: int, patch: int, row: int, column: int) -> Box:
    """LLaVA: the shorter edge becomes `side`, and the middle is cut out."""
    width, height = size
    short = min(size)
    resized = (side * width // short, side * height // short)
    scale = (width / resized[0], height / resized[1])
    left, top = ((length - side) // 2 for length in resized)
    x, y = left + column * patch, top + row * patch
    return clipped((x * scale[0], y * scale[1], (x + patch) * scale[0], (y + patch) * scale[1]), size)


def on_canvas(size: Size, canvas: Size, patch: int, row: int, column: int) -> Box:
    """LLaVA-NeXT: the picture is fitted into a canvas `(width, height)`, in its middle, and cut from there."""
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    fitted = [min(math.ceil(length * scale), room) for length, room in zip(size, canvas, strict=True)]
    left, top = ((room - length) // 2 for room, length in zip(canvas, fitted, strict=True))
    across, down = (length / small for length, small in zip(size, fitted, strict=True))
    x, y = column * patch - left, row * patch - top
    return clipped((x * across, y * down, (x + patch) * across, (y + patch) * down), size)


def stretched(size: Size, canvas: Size, patch: int, row: int, column: int) -> Box:
    """Thumbnails, Idefics3, Qwen2-VL: the whole picture becomes `canvas`, whatever its shape."""
    across, down = size[0] / canvas[0], size[1] / canvas[1]
    x, y = column * patch, row * patch
    return clipped((x * across, y * down, (x + patch) * across, (y + patch) * down), size)


def multiples(size: Size, step: int, least: int, most: int) -> Size:
    """Qwen2-VL: both edges become multiples of `step`, and their product lies between two numbers of pixels."""
    width, height = (max(step, round(length / step) * step) for length in size)
    if width * height > most:
        shrink = math.sqrt(size[0] * size[1] / most)
        width, height = (max(step, math.floor(length / shrink / step) * step) for length in size)
    elif width * height < least:
        grow = math.sqrt(least / (size[0] * size[1]))
        width, height = (math.ceil(length * grow / step) * step for length in size)
    return width, height


def clipped(box: Box, size: Size) -> Box:
    """What of a box lies in the picture."""
    width, height = size
    return (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height)))
