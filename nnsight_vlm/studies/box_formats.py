"""Boxes in the answers of models that were trained to give them, and how well they fit an object.

Each format is a row of data: how a model writes a box, in which order its numbers are, and in what unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import regex

from ..arguments import listed, number, one_of, refuse, whole_number
from ..arguments import text as text_given
from ..errors import SpecError

Box = tuple[float, float, float, float]
"""`(x0, y0, x1, y1)` in pixels of the picture."""
Size = tuple[int, int]
"""`(width, height)` of a picture in pixels."""
BoxFormat = Literal[
    "fractions",
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "cogvlm",
    "paligemma",
    "florence2",
    "kosmos-2",
    "molmo",
]
BOX_FORMATS: tuple[BoxFormat, ...] = get_args(BoxFormat)
HIT = 0.5
"""The IoU from which on a box counts as right."""

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_FOUR = ",".join([_NUMBER] * 4)
_KOSMOS_SIDE = 32
"""Cells along each side of the grid whose corners Kosmos-2 names."""


class _Format(NamedTuple):
    """How one kind of model writes a box.

    Attributes:
        pattern: finds a box; its groups are the numbers.
        order: which number is which edge, as places in `(x0, y0, x1, y1)`; two places for a point.
        full: the number that stands for the picture's right or lower edge; None for pixels of the resized picture.
        cells: names cells of a grid in place of edges, so many along each side; 0 for edges.
    """

    pattern: regex.Pattern[str]
    order: tuple[int, ...] = (0, 1, 2, 3)
    full: float | None = 1.0
    cells: int = 0


_LOC = r"<loc_?(\d+)>"
_FORMATS: Mapping[BoxFormat, _Format] = {
    "fractions": _Format(regex.compile(rf"\[{_FOUR}\]")),
    "qwen2_vl": _Format(regex.compile(rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)"), full=1000),
    "qwen2_5_vl": _Format(regex.compile(rf'"bbox_2d"\s*:\s*\[{_FOUR}\]'), full=None),
    "qwen3_vl": _Format(regex.compile(rf'"bbox_2d"\s*:\s*\[{_FOUR}\]'), full=1000),
    "internvl": _Format(regex.compile(rf"\[\s*\[{_FOUR}\]\s*\]"), full=1000),
    "cogvlm": _Format(regex.compile(rf"\[\s*\[{_FOUR}\]\s*\]"), full=1000),
    "paligemma": _Format(regex.compile(r"\s*".join([_LOC] * 4)), order=(1, 0, 3, 2), full=1024),
    "florence2": _Format(regex.compile(r"\s*".join([_LOC] * 4)), full=1000),
    "kosmos-2": _Format(regex.compile(r"<patch_index_(\d+)>\s*<patch_index_(\d+)>"), cells=_KOSMOS_SIDE),
    "molmo": _Format(regex.compile(rf'\bx\d*="{_NUMBER}"\s+y\d*="{_NUMBER}"'), order=(0, 1), full=100),
}
_OF_FAMILIES: Mapping[str, BoxFormat] = {
    **{name: name for name in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "florence2", "paligemma")},
    **{"qwen3_vl_moe": "qwen3_vl", "qwen3_5": "qwen3_vl", "qwen3_5_moe": "qwen3_vl"},
    **{"cogvlm": "cogvlm", "kosmos-2": "kosmos-2", "molmo": "molmo"},
}
"""The formats of families that were trained to answer with boxes, by `model_type`."""


def format_of(model_type: str) -> BoxFormat:
    """The format of a family; fractions of the picture for one that is not known to have its own."""
    return _OF_FAMILIES.get(model_type, "fractions")


@dataclass(frozen=True, kw_only=True)
class BoxScore:
    """How well an answer's best box fits an object.

    Attributes:
        boxes: how many boxes or points the answer gives; what is malformed is none.
        iou: with the true box, 0 without a box; NaN where the answer gives points.
        hit: whether the IoU is 0.5 or more, or a point lies in the true box.
    """

    boxes: int
    iou: float
    hit: bool


def boxes_in(text: str, format: BoxFormat, size: Size, *, resized: Size | None = None) -> tuple[Box, ...]:
    """The boxes that an answer gives, in pixels of the picture.

    A box is left out where it has no area (its right edge lies left of its left one) or lies outside the picture as a
    whole; a box that sticks out is cut at the picture's edges. A point is a box of no size.

    Args:
        text: the answer, special tokens included where a format writes boxes with them (Kosmos-2).
        format: how the model writes boxes, with the picture's whole width as

            - `fractions` (LLaVA, Shikra): `[x0, y0, x1, y1]`, 1;
            - `qwen2_vl`: `(x0,y0),(x1,y1)`, 1000, with `<|box_start|>` or not;
            - `qwen2_5_vl`: `"bbox_2d": [x0, y0, x1, y1]`, pixels of the picture as the processor resized it;
            - `qwen3_vl`: the same, 1000;
            - `internvl`, `cogvlm`: `[[x0, y0, x1, y1]]`, 1000;
            - `paligemma`: `<loc0010>` four times, y0 first, 1024;
            - `florence2`: `<loc_10>` four times, x0 first, 1000;
            - `kosmos-2`: `<patch_index_0044><patch_index_0863>`, corners among 32 x 32 cells;
            - `molmo`: `<point x="10.5" y="20.1">`, points, 100.
        size: `(width, height)` of the picture.
        resized: that of the resized picture, for `qwen2_5_vl`.

    Raises:
        SpecError: no such format; no size.

    >>> boxes_in("the dog is at [0.25, 0.5, 0.75, 1.0].", "fractions", (80, 40))
    ((20.0, 20.0, 60.0, 40.0),)
    """
    row = _FORMATS[one_of("format", format, BOX_FORMATS, "format of boxes")]
    width, height = _size_given("size", size)
    if row.full is None:
        if resized is None:
            raise SpecError(f"format={format!r} gives pixels of the resized picture; write resized=(width, height)")
        whole: tuple[float, float] = _size_given("resized", resized)
    else:
        whole = (row.full, row.full)
    found = []
    for match in row.pattern.finditer(text_given("text", text)):
        numbers = [float(group) for group in match.groups()]
        edges = _cell_edges(int(numbers[0]), int(numbers[1]), row.cells) if row.cells else _in_order(numbers, row.order)
        scale = (width / whole[0], height / whole[1]) * 2
        box = _inside([edge * by for edge, by in zip(edges, scale, strict=True)], width, height)
        if box is not None:
            found.append(box)
    return tuple(found)


def _size_given(name: str, given: Any) -> tuple[int, int]:
    write = f"{name}=(width, height) in pixels"
    sides = listed(name, given, write)
    if len(sides) != 2:
        refuse(name, given, "size of a picture", write)
    width, height = (whole_number(name, side, least=1, kind="number of pixels") for side in sides)
    return width, height


def _in_order(numbers: Sequence[float], order: Sequence[int]) -> list[float]:
    """The edges `x0, y0, x1, y1`; a point is both corners of its box."""
    edges = [0.0] * len(order)
    for place, value in zip(order, numbers, strict=True):
        edges[place] = value
    return edges if len(edges) == 4 else edges * 2


def _cell_edges(first: int, last: int, side: int) -> list[float]:
    """The box between two cells of a grid, as shares of the picture: from centre to centre.

    Where the cells share a row or a column, it is the whole of them, as in Kosmos-2's own code.
    """
    (top, left), (bottom, right) = divmod(first, side), divmod(last, side)
    if max(top, bottom) >= side:
        return [math.inf] * 4
    inset = 0.0 if top == bottom or left == right else 0.5
    return [(left + inset) / side, (top + inset) / side, (right + 1 - inset) / side, (bottom + 1 - inset) / side]


def _inside(edges: Sequence[float], width: int, height: int) -> Box | None:
    """A box cut at the picture's edges; None where it has no area, or where nothing of it is left."""
    x0, y0, x1, y1 = edges
    is_point = x0 == x1 and y0 == y1
    if is_point:
        return (x0, y0, x1, y1) if 0 <= x0 <= width and 0 <= y0 <= height else None
    x0, x1, y0, y1 = max(x0, 0.0), min(x1, float(width)), max(y0, 0.0), min(y1, float(height))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def box_of(mask: np.ndarray) -> Box | None:
    """The smallest box around the pixels of a mask, the right and lower edge excluded; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def box_iou(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / union if union > 0 else 0.0


def box_scores(
    text: str,
    truth: Sequence[float] | Sequence[Sequence[float]],
    *,
    format: BoxFormat,
    size: Size,
    resized: Size | None = None,
) -> BoxScore:
    """How well the first box of an answer fits an object: IoU, and whether that is 0.5 or more.

    The first box counts, because a model is asked for one; further ones would be further guesses. Where several
    objects are right (two dogs), the box is compared with the one that it fits best.

    Args:
        text: the answer.
        truth: the true box `(x0, y0, x1, y1)` in pixels of the picture, or several.
        format, size, resized: see `boxes_in`.

    Raises:
        SpecError: see `boxes_in`; no true box.

    >>> box_scores("[0.0, 0.0, 0.5, 1.0]", (0, 0, 80, 40), format="fractions", size=(80, 40))
    BoxScore(boxes=1, iou=0.5, hit=True)
    """
    right, found = _boxes_given(truth), boxes_in(text, format, size, resized=resized)
    gives_points = len(_FORMATS[format].order) == 2
    if not found:
        return BoxScore(boxes=0, iou=math.nan if gives_points else 0.0, hit=False)
    x, y = found[0][:2]
    if gives_points:
        inside = any(box[0] <= x < box[2] and box[1] <= y < box[3] for box in right)
        return BoxScore(boxes=len(found), iou=math.nan, hit=inside)
    best = max(box_iou(found[0], box) for box in right)
    return BoxScore(boxes=len(found), iou=best, hit=best >= HIT)


def _boxes_given(given: Any) -> list[Box]:
    """One true box or several, as a user gives them."""
    write = "truth=(x0, y0, x1, y1) in pixels, or a list of such boxes"
    parts = listed("truth", given.tolist() if hasattr(given, "tolist") else given, write)
    boxes = [listed("truth", part, write) for part in parts] if parts and np.ndim(parts[0]) else [parts]
    found = list[Box]()
    for box in boxes:
        if len(box) != 4:
            refuse("truth", given, "box", write)
        x0, y0, x1, y1 = (number("truth", edge, kind="edge of a box", write=write) for edge in box)
        if x1 <= x0 or y1 <= y0:
            refuse("truth", given, "box with an area", write)
        found.append((x0, y0, x1, y1))
    return found
