"""The synthetic world: 2 to 4 coloured shapes on a noisy ground, 80 x 80 pixels, everything fixed by a seed.

A scene is drawn in two steps: a *layout* (which objects, where, and every jitter as a number) and its *drawing*.
`pair` changes one field of one object's layout and draws again, so that all else, noise included, stays as it was.

Seeds from 0 up to 2**31 are for users and for measuring; training draws only from 2**31 upwards (`train.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from PIL import Image

from .language import COLORS, PLACES, SHAPES, SIZES, describe

PIXELS = 80
CELLS = 3
CHANGES = ("color", "shape", "size", "place")
FIRST_TRAINING_SEED = 2**31
BACKGROUNDS = ("plain", "gradient", "stripes", "checks")

_RGB = {
    "red": (214, 40, 40),
    "green": (50, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (236, 208, 50),
    "purple": (150, 55, 185),
    "cyan": (70, 205, 215),
}
_GROUNDS = ((128, 128, 128), (52, 50, 58), (212, 210, 204), (168, 148, 122))
_RADIUS = {"small": (5.8, 6.8), "large": (9.4, 10.8)}
_WANDER = {"small": 4.0, "large": 2.4}


@dataclass(frozen=True, kw_only=True)
class Object:
    """One object: what it is, where it is, and which pixels are its own.

    ``cell`` is (row, column) in the 3 x 3 grid and ``place`` its name; ``box`` is (x0, y0, x1, y1) in pixels, the
    right and lower edge not included; ``mask`` is bool [80, 80].
    """

    shape: str
    color: str
    size: str
    cell: tuple[int, int]
    box: tuple[int, int, int, int]
    mask: np.ndarray = field(compare=False, repr=False)

    @property
    def place(self) -> str:
        """The name of the object's cell, such as ``top-left``."""
        return PLACES[self.cell[0] * CELLS + self.cell[1]]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image of 80 x 80 pixels with all that is true of it; objects come in reading order."""

    image: Image.Image = field(compare=False, repr=False)
    objects: tuple[Object, ...]
    background: str
    seed: int

    @cached_property
    def description(self) -> str:
        """The full description, as the model is taught to write it."""
        return describe(self.objects)


def scene(seed: int) -> Scene:
    """The scene of a seed: always the same image, objects and description.

    >>> scene(3).description == scene(3).description
    True
    """
    return _draw(_layout(_checked(seed)))


def pair(seed: int, change: str = "color") -> tuple[Scene, Scene]:
    """The scene of a seed and its twin, which differs in exactly one attribute of one object.

    Ground, noise and all other objects are equal pixel by pixel. Raises ValueError on an unknown ``change``.

    >>> first, second = pair(3, change="color")
    >>> sum(a.color != b.color for a, b in zip(first.objects, second.objects))
    1
    """
    if change not in CHANGES:
        raise ValueError(
            f"change={change!r} is not an attribute of an object: write change= one of {', '.join(CHANGES)}."
        )
    layout = _layout(_checked(seed))
    rng = np.random.default_rng((seed, CHANGES.index(change), 1))
    which = int(rng.integers(len(layout.items)))
    item = layout.items[which]
    others = layout.items[:which] + layout.items[which + 1 :]
    changed = _changed(rng, change, item, others)
    twin = replace(layout, items=tuple(sorted((*others, changed), key=lambda it: it.cell)))
    return _draw(layout), _draw(twin)


# --- layout -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Item:
    """An object before it is drawn.

    ``wander`` (x, y), ``grow`` (radius) and ``tint`` (red, green, blue) are jitters in [-1, 1], ``turn`` is in radians.
    """

    shape: str
    color: str
    size: str
    cell: tuple[int, int]
    wander: tuple[float, float]
    grow: float
    tint: tuple[float, float, float]
    turn: float


@dataclass(frozen=True, kw_only=True)
class _Layout:
    items: tuple[_Item, ...]
    background: str
    seed: int


def _checked(seed: int) -> int:
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"seed={seed!r} is not a whole number from 0 on: write for example scene(7).")
    return int(seed)


def _layout(seed: int) -> _Layout:
    rng = np.random.default_rng((seed, 0))
    count = int(rng.integers(2, 5))
    cells = np.sort(rng.choice(CELLS * CELLS, count, replace=False))
    kinds = rng.choice(len(COLORS) * len(SHAPES), count, replace=False)
    jitter, sizes = rng.uniform(-1, 1, (count, 7)), rng.integers(len(SIZES), size=count)
    items = tuple(
        _Item(
            shape=SHAPES[kind % len(SHAPES)],
            color=COLORS[kind // len(SHAPES)],
            size=SIZES[size],
            cell=divmod(int(cell), CELLS),
            wander=(float(j[0]), float(j[1])),
            grow=float(j[2]),
            tint=(float(j[3]), float(j[4]), float(j[5])),
            turn=0.2 * float(j[6]),
        )
        for kind, size, cell, j in zip(kinds, sizes, cells, jitter, strict=True)
    )
    return _Layout(items=items, background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))], seed=seed)


def _changed(rng: np.random.Generator, change: str, item: _Item, others: tuple[_Item, ...]) -> _Item:
    """The item with another value of one attribute; cells, and (colour, shape) pairs, stay distinct."""
    if change == "place":
        taken = {item.cell, *(it.cell for it in others)}
        free = [divmod(n, CELLS) for n in range(CELLS * CELLS) if divmod(n, CELLS) not in taken]
        return replace(item, cell=free[rng.integers(len(free))])
    if change == "size":
        return replace(item, size=SIZES[1 - SIZES.index(item.size)])
    names = {(it.color, it.shape) for it in others} | {(item.color, item.shape)}
    if change == "color":
        colors = [color for color in COLORS if (color, item.shape) not in names]
        return replace(item, color=colors[rng.integers(len(colors))])
    shapes = [shape for shape in SHAPES if (item.color, shape) not in names]
    return replace(item, shape=shapes[rng.integers(len(shapes))])


# --- drawing ----------------------------------------------------------------------------------------------------------

_AXIS = np.arange(PIXELS, dtype=np.float32) + 0.5
_X, _Y = np.meshgrid(_AXIS, _AXIS)


def _draw(layout: _Layout) -> Scene:
    rng = np.random.default_rng((layout.seed, 2))
    canvas = _ground(rng, layout.background)
    objects = tuple(_paint(canvas, item) for item in layout.items)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(3, 9)
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(image=Image.fromarray(pixels), objects=objects, background=layout.background, seed=layout.seed)


def _ground(rng: np.random.Generator, background: str) -> np.ndarray:
    """The empty ground as float32 [80, 80, 3] in 0..255: a tone, a slope, and a pattern where there is one."""
    tone = np.asarray(_GROUNDS[rng.integers(len(_GROUNDS))], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
    angle, period, phase, depth = rng.uniform((0, 7, 0, 8), (2 * np.pi, 16, 2 * np.pi, 16))
    along = (_X - PIXELS / 2) * np.float32(np.cos(angle)) + (_Y - PIXELS / 2) * np.float32(np.sin(angle))
    across = (_Y - PIXELS / 2) * np.float32(np.cos(angle)) - (_X - PIXELS / 2) * np.float32(np.sin(angle))
    wave = np.float32(2 * np.pi / period)
    relief = {
        "plain": lambda: np.zeros_like(along),
        "gradient": lambda: along * np.float32(depth / 20),
        "stripes": lambda: np.float32(depth) * np.sign(np.sin(along * wave + phase)),
        "checks": lambda: np.float32(depth) * np.sign(np.sin(along * wave + phase) * np.sin(across * wave)),
    }[background]()
    return np.asarray(tone + relief[..., None], np.float32)


def _paint(canvas: np.ndarray, item: _Item) -> Object:
    """Paint one object onto the canvas, edges anti-aliased, and return it with its mask and box."""
    low, high = _RADIUS[item.size]
    radius = low + (high - low) * (item.grow + 1) / 2
    cx, cy = (
        (n + 0.5) * PIXELS / CELLS + w * _WANDER[item.size] for n, w in zip(item.cell[::-1], item.wander, strict=True)
    )
    x0, y0 = (max(int(c - 1.3 * radius) - 1, 0) for c in (cx, cy))
    window = slice(y0, int(cy + 1.3 * radius) + 2), slice(x0, int(cx + 1.3 * radius) + 2)
    dx, dy = _X[window] - np.float32(cx), _Y[window] - np.float32(cy)
    cos, sin = np.float32(np.cos(item.turn)), np.float32(np.sin(item.turn))
    outside = _OUTSIDE[item.shape]((cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius) * radius
    cover = np.clip(0.5 - outside, 0, 1)[..., None].astype(np.float32)
    paint = np.asarray(_RGB[item.color], np.float32) + 20 * np.asarray(item.tint, np.float32)
    canvas[window] += cover * (paint - canvas[window])
    mask = np.zeros((PIXELS, PIXELS), bool)
    mask[window] = cover[..., 0] >= 0.5
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return Object(shape=item.shape, color=item.color, size=item.size, cell=item.cell, box=box, mask=mask)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.hypot(x, y) - 0.95)


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(abs(x), abs(y)) - 0.82)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    y = y - 0.25
    return np.asarray(np.maximum(y, 0.866 * abs(x) - 0.5 * y) - 0.58)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = abs(x), abs(y)
    return np.asarray(np.minimum(np.maximum(x - 0.3, y - 1), np.maximum(x - 1, y - 0.3)))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(abs(np.hypot(x, y) - 0.75) - 0.25)


# Signed distance from the outline of a shape of radius 1, below 0 inside; x to the right, y down.
_OUTSIDE = {"circle": _circle, "square": _square, "triangle": _triangle, "cross": _cross, "ring": _ring}
