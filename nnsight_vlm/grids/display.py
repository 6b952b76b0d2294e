"""A grid in a terminal and in a notebook: the picture, and for each tile the cells that its tokens saw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..notebook import SMALL, Html, element, joined, panel, picture_uri, shown_size

if TYPE_CHECKING:
    from .grid import Grid

SIDE, LARGEST, CELL = 320, 640, 12
"""The longest side of a tile's drawing, in pixels; up to the second where cells would be smaller than the third."""
TILES = 12
"""How many tiles are drawn."""
LINES = (("rgb(0,0,0)", 1.8), ("rgb(255,255,255)", 0.7))
"""Colour and width of the two lines around each cell: white on black is seen on any picture."""
PAPER = "rgb(200,200,200)"
"""Where there is no picture to draw on."""


def grid_line(grid: Grid) -> str:
    """What `repr` gives."""
    return f"Grid({_what(grid)}: {_shapes(grid)} cells, {grid.size[0]} x {grid.size[1]} pixels)"


def _what(grid: Grid) -> str:
    placed = sum(tile >= 0 for tile in grid.tiles)
    without = len(grid.positions) - placed
    more = f", {without:,} of them without a place" if without else ""
    return f"{len(grid.positions):,} image tokens{_ends(grid.positions)}{more}"


def _ends(positions: tuple[int, ...]) -> str:
    return f" at {positions[0]}..{positions[-1]}" if positions else ""


def _shapes(grid: Grid) -> str:
    """`24 x 24`, or of several tiles `24 x 24 and 24 x 18`; many alike are counted."""
    sizes = [f"{shape.rows} x {shape.columns}" for shape in grid.shapes]
    alike = {size: sizes.count(size) for size in dict.fromkeys(sizes)}
    return " and ".join(size if count == 1 else f"{count} times {size}" for size, count in alike.items()) or "no"


def grid_html(grid: Grid) -> Html:
    """What a notebook shows."""
    said = f"{_what(grid)} · {grid.size[0]} x {grid.size[1]} pixels"
    drawn = [tile_html(grid, tile) for tile in range(min(len(grid.shapes), TILES))]
    if len(grid.shapes) > TILES:
        drawn.append(element("span", f"… and {len(grid.shapes) - TILES} more tiles"))
    return panel("Grid", said, element("div", *drawn))


def tile_html(grid: Grid, tile: int, name: str | None = None) -> Html:
    """The picture with the cells of one tile; it says which positions they have, after the name of the tile."""
    numbers = np.flatnonzero((np.asarray(grid.tiles) == tile) & (grid.areas > 0))
    positions, shape = tuple(grid.positions[number] for number in numbers), grid.shapes[tile]
    side = min(LARGEST, max(SIDE, CELL * max(shape)))
    (width, height), (across, down) = grid.size, shown_size(grid.size, side, side)
    outline = " ".join(
        f"M{x0:.4g} {y0:.4g}H{x1:.4g}V{y1:.4g}H{x0:.4g}Z" for x0, y0, x1, y1 in grid.boxes[numbers].tolist()
    )
    lines = [
        element("path", d=outline, fill="none", stroke=color, stroke_width=thick, vector_effect="non-scaling-stroke")
        for color, thick in LINES
    ]
    if name is None:
        name = f"tile {tile}: " if len(grid.shapes) > 1 else ""
    caption = f"{name}{shape.rows} rows of {shape.columns} cells{_ends(positions)}" + ("" if positions else ", unseen")
    drawing = element(
        "svg",
        joined([_picture_html(grid, side), *lines]),
        viewBox=f"0 0 {width} {height}",
        width=across,
        height=down,
        style="display:block;overflow:visible",
        role="img",
        aria_label=caption,
    )
    label = element("figcaption", caption, style=SMALL)
    return element("figure", drawing, label, style="display:inline-block;margin:6px 14px 6px 2px;vertical-align:top")


def _picture_html(grid: Grid, side: int) -> Html:
    width, height = grid.size
    try:
        if grid.picture is not None:
            small = max(grid.size) < side
            style = "image-rendering:pixelated" if small else ""
            return element(
                "image",
                href=picture_uri(grid.picture, side),
                width=width,
                height=height,
                preserveAspectRatio="none",
                style=style,
            )
    except (OSError, ValueError):
        pass  # a file that was closed: the cells are shown all the same
    return element("rect", width=width, height=height, fill=PAPER)
