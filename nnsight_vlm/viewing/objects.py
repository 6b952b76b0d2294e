"""Objects of a picture as a page draws them: a box, and the outline of a mask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arguments import listed, refuse, spelled
from ..errors import SpecError
from ..grids.grid import Box, box_given
from ..shapes.world import Object
from ..showing import visible
from ..studies.words import Thing
from .panels import Shown

WRITE = 'boxes or masks by name, objects={"dog": (40, 60, 200, 180)}, a list of nv.recipes.Thing, or scene.objects'
FINEST = 256
"""The outline of a mask is drawn on a grid of so many cells along its longer side at most."""
SMALLEST = 0.02
"""A piece of an object that has less than this share of its largest piece has no outline."""

Point = tuple[float, float]
Named = Mapping[str, Any] | Sequence[Thing | Object]
"""Objects of one picture as a user gives them."""


class ShownObject(NamedTuple):
    """An object, or one piece of it.

    Attributes:
        picture: the number of its picture.
        name: what it is called.
        box: `(x0, y0, x1, y1)` in pixels.
        outline: the corners of its outline; None where only its box is known.
    """

    picture: int
    name: str
    box: Box
    outline: tuple[Point, ...] | None


def objects_given(given: Any, shown: Shown) -> tuple[ShownObject, ...]:
    """The objects of the first picture, as a user gives them, or a list of those of each picture.

    Raises:
        SpecError: neither boxes nor masks with names, or of another size than the picture; a list for another number
            of pictures.
    """
    found = list[ShownObject]()
    for number, of_picture in enumerate(_by_picture(given, len(shown.pictures))):
        size = shown.pictures[number].image.size
        for name, where in () if of_picture is None else _named(of_picture):
            if np.ndim(where) == 2 and not isinstance(where, (list, tuple)):
                found += (each._replace(picture=number) for each in _pieces(name, _mask(name, where, size)))
            else:
                box = box_given(where, size)
                _refuse_outside(name, box, size)
                found.append(ShownObject(number, visible(name), box, None))
    return tuple(found)


def _by_picture(given: Any, count: int) -> Sequence[Any]:
    """What was given of each picture: a list that has mappings or lists in it is one for each."""
    if not isinstance(given, (list, tuple)) or not any(isinstance(each, (Mapping, list, tuple)) for each in given):
        return [given]
    if len(given) != count:
        raise SpecError(
            f"objects= lists the objects of {len(given)} picture(s), and the page has {count}; give one entry for each "
            "picture or frame, None where nothing is drawn"
        )
    return given


def _named(given: Any) -> Iterator[tuple[str, Any]]:
    """Names, and a box or a mask for each."""
    if isinstance(given, Mapping):
        for name, where in given.items():
            if not isinstance(name, str) or where is None:
                refuse("objects", given, "mapping from names to boxes or masks", WRITE)
            yield name, where
        return
    for each in listed("objects", given, WRITE, kind=(Thing, Object)):
        if isinstance(each, Object):
            yield f"{each.color} {each.shape}", each.mask
        elif each.mask is None:
            raise SpecError(f"objects= has {each.name!r} without a mask, so it has no place; write {WRITE}")
        else:
            yield each.name, each.mask


def _mask(name: str, given: Any, size: tuple[int, int]) -> np.ndarray:
    mask = Thing(name=name, mask=given).mask
    width, height = size
    if mask is None or mask.shape != (height, width):
        shape = np.shape(given)
        raise SpecError(
            f"objects= has a mask {name!r} of shape {shape}; it must be (height, width) = {(height, width)}"
        )
    if not mask.any():
        raise SpecError(f"objects= has a mask {name!r} without a pixel; leave it out")
    return mask > 0


def _refuse_outside(name: str, box: Box, size: tuple[int, int]) -> None:
    if box[0] >= size[0] or box[1] >= size[1] or box[2] <= 0 or box[3] <= 0:
        raise SpecError(f"objects= has a box {name!r} {spelled(box)} outside the picture, whose size is {size}")


# outlines -------------------------------------------------------------------------------------------


def _pieces(name: str, mask: np.ndarray) -> Iterator[ShownObject]:
    """The pieces of an object, the largest first."""
    step = -(-max(mask.shape) // FINEST)
    height, width = mask.shape
    loops = sorted(_loops(_coarser(mask, step)), key=_doubled_area, reverse=True)
    largest = _doubled_area(loops[0])
    for loop in loops:
        if _doubled_area(loop) <= SMALLEST * largest:  # holes turn the other way, so their area is negative
            break
        points = tuple((float(min(x * step, width)), float(min(y * step, height))) for x, y in loop)
        across, down = zip(*points, strict=True)
        yield ShownObject(0, visible(name), (min(across), min(down), max(across), max(down)), points)


def _coarser(mask: np.ndarray, step: int) -> np.ndarray:
    """A mask in cells of so many pixels along each side; a cell counts where any of its pixels does."""
    if step == 1:
        return mask
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % step), (0, -width % step)))
    rows, columns = (side // step for side in padded.shape)
    return np.asarray(padded.reshape(rows, step, columns, step).any((1, 3)))


def _loops(mask: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """The borders of a mask `[row, column]` as corners `(x, y)`: clockwise around its pieces, and not around holes."""
    padded = np.pad(mask, 1)
    inner, after = padded[1:-1, 1:-1], dict[tuple[int, int], list[tuple[int, int]]]()
    sides = (
        (padded[:-2, 1:-1], (0, 0), (1, 0)),
        (padded[1:-1, 2:], (1, 0), (1, 1)),
        (padded[2:, 1:-1], (1, 1), (0, 1)),
        (padded[1:-1, :-2], (0, 1), (0, 0)),
    )
    for neighbour, (x0, y0), (x1, y1) in sides:
        for row, column in np.argwhere(inner & ~neighbour).tolist():
            after.setdefault((column + x0, row + y0), []).append((column + x1, row + y1))
    while after:
        start = next(iter(after))
        loop, here = list[tuple[int, int]](), start
        while here in after:
            following = after[here]
            loop.append(here)
            here = following.pop()
            if not following:
                del after[loop[-1]]
        yield _corners(loop)


def _corners(loop: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The points of a loop at which it turns."""
    around = zip(loop[-1:] + loop[:-1], loop, loop[1:] + loop[:1], strict=True)  # type: ignore[operator]
    return [here for (ax, ay), here, (bx, by) in around if not (ax == bx == here[0] or ay == by == here[1])]


def _doubled_area(loop: Sequence[tuple[int, int]]) -> int:
    """Twice the area of a loop, negative where it goes around a hole."""
    around = zip(loop, [*loop[1:], loop[0]], strict=True)
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in around)
