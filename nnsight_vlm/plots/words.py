"""Words over a picture: what the image token of each patch stands for in one layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ..arguments import frame_given, instance, whole_number
from ..errors import SpecError
from ..grids import Grid
from ..prompts.pictures import as_rgb
from ..showing import for_figure
from .canvas import OwnFigure
from .style import BLACK, BLUE, ORANGE

COLUMNS = ("position", "layer", "rank", "token", "text", "logprob")
PATCH_INCHES = 0.5
"""The width of a patch in a figure of this module's own, where that makes it no wider than `WIDEST`."""
WIDEST = 12.0
LETTERS = 10
"""Longer words end in `...`."""
LETTER_WIDTH, LINE_HEIGHT = 0.75, 1.6
"""Of a letter and a line, as a share of the font's size."""
PALENESS, BAR = 0.45, 0.08
"""How much of the picture's colours is left, and the height of a bar as a share of its patch's."""
SMALLEST, LARGEST = 3.0, 11.0
"""Sizes of the font, in points."""


def image_words(
    frame: pd.DataFrame, grid: Grid, *, layer: int, rank: int = 0, tile: int | None = None, ax: Axes | None = None
) -> Axes:
    """The word of each image token in one layer, at the place of its patch, over a bar as long as its probability.

    Tiles have an orange border. Where a picture has several, that of the whole picture is left out, because its words
    would lie over the others.

    Args:
        frame: what `nv.lens` returns for `where="image"`.
        grid: of the same prompt: `prompt.grid(0)`. Its picture is drawn behind the words, where it is known.
        layer: the layer; -1 is the last one in the frame.
        rank: which word of each token, 0 the most probable. A frame of chosen `tokens=` has its words at ranks of
            their own: those of this rank are drawn, and others are left out.
        tile: the number of one tile, drawn alone; None for all but the whole picture.
        ax: where to draw; default a figure of its own, whose size follows the number of patches.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or one that has no word of this layer and rank at a patch of the grid.
    """
    frame_given("frame", frame, COLUMNS, "nv.lens")
    instance("grid", grid, Grid, "grid=prompt.grid()")
    tiles = _tiles(grid, tile)
    words = _words(frame, grid, tiles, whole_number("layer", layer), whole_number("rank", rank, least=0))
    if ax is None:
        ax = _own_axes(grid, tiles)
    instance("ax", ax, Axes, "ax=figure.subplots()")
    _draw_picture(ax, grid)
    points = _points_a_pixel(ax, grid)
    for box, text, logprob in words:
        _draw_word(ax, box, text, logprob, points)
    for number in tiles if len(grid.shapes) > 1 else ():
        x0, y0, x1, y1 = _edges(grid, number)
        ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=ORANGE, lw=1.6))
    ax.axis("off")
    return ax


def _tiles(grid: Grid, tile: int | None) -> tuple[int, ...]:
    """The tiles that are drawn.

    Raises:
        SpecError: no such tile.
    """
    there = tuple(sorted(set(grid.placed.tiles)))
    if tile is not None:
        number = whole_number("tile", tile, kind="number of a tile")
        if number not in there:
            raise SpecError(f"tile={tile} is no tile of this picture, which has {', '.join(map(str, there))}")
        return (number,)
    parts = tuple(number for number in there if not _holds_others(grid, number, there))
    return parts or there


def _holds_others(grid: Grid, number: int, tiles: tuple[int, ...]) -> bool:
    """Whether a tile shows all that the others show, and more than each of them: the whole picture."""
    others = [_edges(grid, other) for other in tiles if other != number]
    if not others:
        return False
    x0, y0, x1, y1 = _edges(grid, number)
    around = np.asarray(others)
    sizes = (around[:, 2] - around[:, 0]) * (around[:, 3] - around[:, 1])
    is_around = bool((around[:, 0] >= x0 - 1).all() and (around[:, 1] >= y0 - 1).all())
    is_around &= bool((around[:, 2] <= x1 + 1).all() and (around[:, 3] <= y1 + 1).all())
    return is_around and bool((sizes < 0.99 * (x1 - x0) * (y1 - y0)).all())


def _edges(grid: Grid, tile: int) -> np.ndarray:
    """The box `(x0, y0, x1, y1)` of all patches of a tile."""
    boxes = grid.boxes[np.asarray(grid.tiles) == tile]
    return np.asarray([*boxes[:, :2].min(0), *boxes[:, 2:].max(0)])


def _words(
    frame: pd.DataFrame, grid: Grid, tiles: tuple[int, ...], layer: int, rank: int
) -> list[tuple[np.ndarray, str, float]]:
    """Box, text and log-probability of each word that is drawn.

    Raises:
        SpecError: there is none.
    """
    known = sorted(set(frame["layer"]))
    wanted = known[layer] if known and -len(known) <= layer < 0 else layer
    rows = frame[(frame["layer"] == wanted) & (frame["rank"] == rank)]
    found = {row.position: (row.text, row.logprob) for row in rows.itertuples()}
    placed = zip(grid.positions, grid.tiles, grid.boxes, strict=True)
    words = [(box, *found[position]) for position, tile, box in placed if tile in tiles and position in found]
    if not words:
        raise SpecError(
            f"there is nothing to draw: frame= has no word of layer={layer} and rank={rank} at a patch of grid= (its "
            f"layers are {', '.join(map(str, known)) or 'none'}); write frame=nv.lens(model, prompt, where='image') of "
            "the grid's own prompt"
        )
    return words


def _own_axes(grid: Grid, tiles: tuple[int, ...]) -> Axes:
    """Axes of a figure that is as wide as its patches need."""
    width, height = grid.size
    patch = np.median([box[2] - box[0] for box, tile in zip(grid.boxes, grid.tiles, strict=True) if tile in tiles])
    inches = min(max(PATCH_INCHES * width / max(float(patch), 1e-9), 3.0), WIDEST)
    figure = OwnFigure(figsize=(inches, inches * height / width))
    axes: Axes = figure.add_axes((0, 0, 1, 1))
    return axes


def _draw_picture(ax: Axes, grid: Grid) -> None:
    """The picture in pale colours, and its edges as limits; nothing but these where the picture is not known."""
    width, height = grid.size
    if grid.picture is not None:
        pale = 1 - (1 - np.asarray(as_rgb(grid.picture)) / 255) * PALENESS
        ax.imshow(pale, extent=(0, width, height, 0), interpolation="nearest")
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
    ax.set_aspect("equal")


def _points_a_pixel(ax: Axes, grid: Grid) -> float:
    """How many points of a font one pixel of the picture is wide, in the axes as they are now."""
    figure: Any = ax.figure
    width, height = grid.size
    box = ax.get_window_extent()
    return float(min(box.width / width, box.height / height) * 72 / figure.dpi)


def _draw_word(ax: Axes, box: np.ndarray, text: str | None, logprob: float, points: float) -> None:
    """One word in its patch, as large as fits; a state without words is left out."""
    if text is None or np.isnan(logprob):
        return
    x0, y0, x1, y1 = (float(edge) for edge in box)
    bar = BAR * (y1 - y0)
    ax.add_patch(Rectangle((x0, y1 - bar), float(np.exp(logprob)) * (x1 - x0), bar, fc=BLUE, ec="none"))
    ax.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="white", lw=0.4))
    word = for_figure(text.strip() or repr(text), longest=LETTERS)
    fitting = min((x1 - x0) / (LETTER_WIDTH * max(len(word), 2)), (y1 - y0) / LINE_HEIGHT) * points
    size = float(np.clip(fitting, SMALLEST, LARGEST))
    ax.text((x0 + x1) / 2, (y0 + y1) / 2, word, size=size, color=BLACK, ha="center", va="center", clip_on=True)
