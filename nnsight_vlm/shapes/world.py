"""The synthetic world: images of 2 to 4 coloured shapes on a noisy background, 80 x 80 pixels, fixed by a seed.

A scene is made in two steps: first a *sketch*, which holds every random choice about its objects as plain numbers, then
the drawing. `pair` changes one field of one object in the sketch and draws again, so everything else, the noise
included, stays the same.

Seeds below 2**31 are for users and for evaluation; training only draws from 2**31 upwards (`train.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from PIL import Image

from ..arguments import one_of, whole_number
from .language import ATTRIBUTES, COLORS, PLACES, SHAPES, SIZES, Attribute, Color, Place, Shape, Size, describe

Background = Literal["plain", "gradient", "stripes", "checks"]
Box = tuple[int, int, int, int]
"""`(x0, y0, x1, y1)` in pixels, the right and lower edge excluded."""

PIXELS, CELLS = 80, 3
"""Along each side of an image: its pixels, and the cells of the grid in which objects are placed."""
CHANGES = ATTRIBUTES
"""The attributes in which the two scenes of a `pair` can differ."""
FIRST_TRAINING_SEED = 2**31
BACKGROUNDS: tuple[Background, ...] = get_args(Background)

_RGB: dict[Color, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "green": (50, 160, 60),
    "blue": (45, 80, 215),
    "yellow": (236, 208, 50),
    "purple": (150, 55, 185),
    "cyan": (70, 205, 215),
}
_BACKGROUND_RGB = ((128, 128, 128), (52, 50, 58), (212, 210, 204), (168, 148, 122))
_RADIUS: dict[Size, tuple[float, float]] = {"small": (5.8, 6.8), "large": (9.4, 10.8)}
"""The least and the greatest radius of an object, in pixels."""
_OFFSET: dict[Size, float] = {"small": 4.0, "large": 2.4}
"""How far an object's centre can lie from its cell's centre along x or y, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Object:
    """One object of a scene.

    Attributes:
        shape, color, size: what it looks like.
        cell: `(row, column)` in the 3 x 3 grid; `place` is its name.
        box: its bounding box `(x0, y0, x1, y1)` in pixels, the right and lower edge excluded.
        mask: which pixels belong to it, bool `[80, 80]`.
    """

    shape: Shape
    color: Color
    size: Size
    cell: tuple[int, int]
    box: Box
    mask: np.ndarray = field(compare=False, repr=False)

    @property
    def place(self) -> Place:
        """The name of the object's cell, such as "top-left"."""
        return PLACES[self.cell[0] * CELLS + self.cell[1]]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An image of 80 x 80 pixels and the truth about it.

    Attributes:
        image: the picture.
        objects: in reading order.
        background: the pattern behind the objects.
        seed: the number that it was made from.
    """

    image: Image.Image = field(compare=False, repr=False)
    objects: tuple[Object, ...]
    background: Background
    seed: int

    @cached_property
    def description(self) -> str:
        """The full description, in the words that the model was trained to write."""
        return describe(self.objects)


def scene(seed: int) -> Scene:
    """The scene of a seed: always the same image, objects and description.

    Raises:
        SpecError: the seed is not a whole number, or below 0.

    >>> scene(3).description == scene(3).description
    True
    """
    return _draw(_sketch(whole_number("seed", seed, least=0, kind="seed")))


def pair(seed: int, change: Attribute = "color") -> tuple[Scene, Scene]:
    """The scene of a seed and a copy of it that differs in exactly one attribute of one object.

    Background, noise and all other objects are equal pixel by pixel.

    Args:
        seed: the scene's.
        change: the attribute that differs.

    Raises:
        SpecError: an unknown attribute, or a seed that `scene` does not take.

    >>> original, changed = pair(3, change="color")
    >>> sum(a.color != b.color for a, b in zip(original.objects, changed.objects))
    1
    """
    change, seed = one_of("change", change, CHANGES), whole_number("seed", seed, least=0, kind="seed")
    sketch = _sketch(seed)
    rng = np.random.default_rng((seed, CHANGES.index(change), 1))
    index = int(rng.integers(len(sketch.objects)))
    others = sketch.objects[:index] + sketch.objects[index + 1 :]
    changed = _changed(rng, change, sketch.objects[index], others)
    objects = tuple(sorted((*others, changed), key=lambda obj: obj.cell))
    return _draw(sketch), _draw(replace(sketch, objects=objects))


# --- the sketch -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _ObjectSketch:
    """An object before it is drawn.

    Attributes:
        shape, color, size, cell: as in `Object`.
        offset: how far it lies from its cell's centre in x and y, as shares [-1, 1] of the greatest offset.
        growth: its radius, from the least (-1) to the greatest (1) of its size.
        tint: how its red, green and blue deviate from the pure colour, in [-1, 1].
        turn: the angle by which it is rotated, in radians.
    """

    shape: Shape
    color: Color
    size: Size
    cell: tuple[int, int]
    offset: tuple[float, float]
    growth: float
    tint: tuple[float, float, float]
    turn: float


@dataclass(frozen=True, kw_only=True)
class _SceneSketch:
    """A scene before it is drawn; its seed fixes the background's jitter and the noise as well."""

    objects: tuple[_ObjectSketch, ...]
    background: Background
    seed: int


def _sketch(seed: int) -> _SceneSketch:
    rng = np.random.default_rng((seed, 0))
    count = int(rng.integers(2, 5))
    cells = np.sort(rng.choice(CELLS * CELLS, count, replace=False))
    kinds = rng.choice(len(COLORS) * len(SHAPES), count, replace=False)  # no two objects share colour and shape
    jitter, sizes = rng.uniform(-1, 1, (count, 7)), rng.integers(len(SIZES), size=count)
    objects = tuple(
        _ObjectSketch(
            shape=SHAPES[kind % len(SHAPES)],
            color=COLORS[kind // len(SHAPES)],
            size=SIZES[size],
            cell=divmod(int(cell), CELLS),
            offset=(float(j[0]), float(j[1])),
            growth=float(j[2]),
            tint=(float(j[3]), float(j[4]), float(j[5])),
            turn=0.2 * float(j[6]),
        )
        for kind, size, cell, j in zip(kinds, sizes, cells, jitter, strict=True)
    )
    return _SceneSketch(objects=objects, background=BACKGROUNDS[rng.integers(len(BACKGROUNDS))], seed=seed)


def _changed(
    rng: np.random.Generator, change: Attribute, obj: _ObjectSketch, others: tuple[_ObjectSketch, ...]
) -> _ObjectSketch:
    """The object with another value of one attribute; no two objects get one cell, or one colour and shape."""
    if change == "place":
        taken = {other.cell for other in (obj, *others)}
        free = [divmod(n, CELLS) for n in range(CELLS * CELLS) if divmod(n, CELLS) not in taken]
        return replace(obj, cell=free[rng.integers(len(free))])
    if change == "size":
        return replace(obj, size=SIZES[1 - SIZES.index(obj.size)])
    names = {(other.color, other.shape) for other in (obj, *others)}
    if change == "color":
        colors = [color for color in COLORS if (color, obj.shape) not in names]
        return replace(obj, color=colors[rng.integers(len(colors))])
    shapes = [shape for shape in SHAPES if (obj.color, shape) not in names]
    return replace(obj, shape=shapes[rng.integers(len(shapes))])


# --- drawing ----------------------------------------------------------------------------------------------------------

_AXIS = np.arange(PIXELS, dtype=np.float32) + 0.5
_X, _Y = np.meshgrid(_AXIS, _AXIS)


def _draw(sketch: _SceneSketch) -> Scene:
    rng = np.random.default_rng((sketch.seed, 2))
    canvas = _background(rng, sketch.background)
    objects = tuple(_paint(canvas, obj) for obj in sketch.objects)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * rng.uniform(3, 9)
    pixels = np.clip(canvas, 0, 255).astype(np.uint8)
    return Scene(image=Image.fromarray(pixels), objects=objects, background=sketch.background, seed=sketch.seed)


def _background(rng: np.random.Generator, background: Background) -> np.ndarray:
    """The background alone, float32 `[80, 80, 3]` in 0..255: one colour, and the pattern that it is named for."""
    color = np.asarray(_BACKGROUND_RGB[rng.integers(len(_BACKGROUND_RGB))], np.float32)
    color = color + rng.uniform(-14, 14, 3).astype(np.float32)
    angle, period, phase, depth = rng.uniform((0, 7, 0, 8), (2 * np.pi, 16, 2 * np.pi, 16))
    along = (_X - PIXELS / 2) * np.float32(np.cos(angle)) + (_Y - PIXELS / 2) * np.float32(np.sin(angle))
    across = (_Y - PIXELS / 2) * np.float32(np.cos(angle)) - (_X - PIXELS / 2) * np.float32(np.sin(angle))
    frequency = np.float32(2 * np.pi / period)
    pattern = {
        "plain": lambda: np.zeros_like(along),
        "gradient": lambda: along * np.float32(depth / 20),
        "stripes": lambda: np.float32(depth) * np.sign(np.sin(along * frequency + phase)),
        "checks": lambda: np.float32(depth) * np.sign(np.sin(along * frequency + phase) * np.sin(across * frequency)),
    }[background]()
    return np.asarray(color + pattern[..., None], np.float32)


def _paint(canvas: np.ndarray, sketch: _ObjectSketch) -> Object:
    """Paint one object onto the canvas, with anti-aliased edges."""
    least, greatest = _RADIUS[sketch.size]
    radius = least + (greatest - least) * (sketch.growth + 1) / 2
    center_x, center_y = (
        (number + 0.5) * PIXELS / CELLS + share * _OFFSET[sketch.size]
        for number, share in zip(sketch.cell[::-1], sketch.offset, strict=True)
    )
    x0, y0 = (max(int(center - 1.3 * radius) - 1, 0) for center in (center_x, center_y))
    window = slice(y0, int(center_y + 1.3 * radius) + 2), slice(x0, int(center_x + 1.3 * radius) + 2)
    dx, dy = _X[window] - np.float32(center_x), _Y[window] - np.float32(center_y)
    cos, sin = np.float32(np.cos(sketch.turn)), np.float32(np.sin(sketch.turn))
    distance = _DISTANCE[sketch.shape]((cos * dx + sin * dy) / radius, (cos * dy - sin * dx) / radius) * radius
    coverage = np.clip(0.5 - distance, 0, 1)[..., None].astype(np.float32)
    paint = np.asarray(_RGB[sketch.color], np.float32) + 20 * np.asarray(sketch.tint, np.float32)
    canvas[window] += coverage * (paint - canvas[window])
    mask = np.zeros((PIXELS, PIXELS), bool)
    mask[window] = coverage[..., 0] >= 0.5
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
    return Object(shape=sketch.shape, color=sketch.color, size=sketch.size, cell=sketch.cell, box=box, mask=mask)


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


_DISTANCE: dict[Shape, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
    "ring": _ring,
}
"""Signed distance from the outline of a shape of radius 1, negative inside; x points right, y down."""
