"""Figures of one answer under knockouts: what each patch is worth to it, and its score by window of layers."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from PIL import Image

from ..arguments import frame_given, instance, number, text, whole_number
from ..errors import SpecError
from ..prompts.pictures import as_rgb
from ..showing import for_figure
from .canvas import broken, dress, inches, legend_below, named
from .depths import spans_of
from .frames import frame_of, refuse_several
from .lines import layer_axis
from .marks import level, line, show_at_least
from .overlays import (
    ALONE,
    BAR,
    GAP,
    OPACITY,
    Overlay,
    Sheet,
    draw_map,
    faded,
    map_axes,
    note_of,
    noted,
    peaked,
    text_inches,
    title_of,
)
from .quantities import NATS, UNITS
from .scales import color_bar, color_scale
from .style import BLACK, COLUMN, FORM_STYLES, GREY, LARGE, Style

HEAD, SCORES = 0.25, 2.5
"""Inches that the title of a figure takes, and the panel of scores with its legend."""
ASKED_FOR = "asked for"
"""In the column `layers` of an answer's scores: the layers that the user gave. All other values are windows."""


def patch_knockout(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    picture: Image.Image | None = None,
    tile: int | None = None,
    limit: float | None = None,
) -> Axes:
    """What hiding each patch and its neighbours does to an answer's log-probability, at the patch's place.

    Losses are blue, gains red, and what changes nothing is white. The scale reaches equally far on both sides, to 0.1
    nats at least, and its range is written.

    Args:
        frame: what `nv.recipes.patch_knockout` returns for one prompt.
        ax: where to draw; default a figure of its own, one column wide. The colour scale is an inset of these axes.
        picture: drawn behind the map: `prompt.image()`.
        tile: the number of one tile; default all of them. A pixel that several tiles show is their mean.
        limit: how far the scale reaches, in nats. Values beyond have the colour of the end, and the scale says so.

    Returns:
        The axes; `.figure` is the figure, `.images[-1].get_array()` the change at every pixel, masked where no patch
        covers it.

    Raises:
        SpecError: another frame, no such tile, or a picture of another size.
    """
    frame_of("patch_knockout", frame)
    frame = frame.reset_index(drop=True)
    refuse_several(frame, ["token"], "one patch")
    limit = None if limit is None else number("limit", limit, above=0)
    tiles = sorted(set(frame["tile"].astype(int)))
    if tile is not None and whole_number("tile", tile, kind="number of a tile") not in tiles:
        raise SpecError(f"tile={tile} is no tile of this frame, which has {', '.join(map(str, tiles))}")
    rows = frame if tile is None else frame[frame["tile"] == tile]
    size = _size(frame, picture)
    heat, note, peak = _by_pixel(rows, size), *_peak(rows)
    scale = color_scale(heat, UNITS["logprob_change"], limit)
    axis = map_axes(ax, size, "", broken(note, ALONE))
    opacity = 1.0 if picture is None else OPACITY
    if picture is not None:
        faded(axis, picture)
    axis.imshow(np.ma.masked_invalid(heat), cmap=scale.colors, norm=scale.norm, alpha=opacity, interpolation="nearest")
    axis.axis("off")
    if peak is not None:
        peaked(axis, peak)
    noted(axis, broken(note, inches(axis)[0]))
    color_bar(axis, scale, alpha=opacity)
    return axis


def _peak(rows: pd.DataFrame) -> tuple[str, tuple[float, float] | None]:
    """What is written of the patch with the largest change, and its centre; None where no change is a number."""
    known = rows[np.isfinite(rows["logprob_change"])]
    if known.empty:
        return "no change is a number", None
    peak = known.loc[known["logprob_change"].abs().idxmax()]
    hidden, change = int(peak["hidden"]), float(peak["logprob_change"])
    whose = "this patch" if hidden == 1 else f"this patch and its neighbours ({hidden} patches)"
    control = rows["random_patches"].abs().max() if "random_patches" in rows else math.nan
    beside = "" if math.isnan(control) else f"; as many random patches: {control:.2g} at most"
    centre = (float(peak["x0"] + peak["x1"]) / 2, float(peak["y0"] + peak["y1"]) / 2)
    return f"peak: {change:+.3g} nats with {whose} hidden{beside}", centre


def _size(frame: pd.DataFrame, picture: Image.Image | None) -> tuple[int, int]:
    """Width and height of the map in pixels.

    Raises:
        SpecError: the patches reach beyond the picture.
    """
    size = math.ceil(frame["x1"].max() - 1e-6), math.ceil(frame["y1"].max() - 1e-6)
    if picture is None:
        return size
    instance("picture", picture, Image.Image, "picture=prompt.image()")
    width, height = picture.size
    if size[0] > width + 1 or size[1] > height + 1:
        raise SpecError(
            f"picture= has {width} x {height} pixels, and the patches of frame= reach to {size[0]} x {size[1]}; write "
            "picture=prompt.image() of the frame's own prompt"
        )
    return width, height


def _by_pixel(rows: pd.DataFrame, size: tuple[int, int]) -> np.ndarray:
    """The change at every pixel `[height, width]`, the mean over the patches that cover it; NaN where none does."""
    width, height = size
    total, count = np.zeros((height, width)), np.zeros((height, width))
    for box in rows[np.isfinite(rows["logprob_change"])].itertuples():
        where = (
            slice(round(box.y0), max(round(box.y1), round(box.y0) + 1)),
            slice(round(box.x0), max(round(box.x1), round(box.x0) + 1)),
        )
        total[where] += box.logprob_change
        count[where] += 1
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def answer_map(picture: Image.Image, overlay: Overlay | None, scores: pd.DataFrame | None, *, title: str) -> np.ndarray:
    """One question under knockouts: the picture, what each patch is worth, and the score by window of layers.

    Args:
        picture: what the question is about.
        overlay: the change of log-probability when a patch is hidden, in nats; None for no such panel.
        scores: `layers, form, logprob_change`, one row a cut; None for no such panel.
        title: of the figure.

    Returns:
        Axes `[panel]` of a figure of its own.
    """
    instance("picture", picture, Image.Image, "picture=prompt.image()")
    text("title", title)
    if overlay is not None:
        instance("overlay", overlay, Overlay, "Overlay.of(image, grid, values, title=...)")
    if scores is not None:
        frame_given("scores", scores, ("layers", "form", "logprob_change"))
    side = (COLUMN - GAP) / 2
    tall = side * min(picture.height / picture.width, 2.0)
    title_room, note_room = (
        (0.0, 0.0) if overlay is None else (text_inches(title_of(overlay, side)), text_inches(note_of(overlay, side)))
    )
    maps = title_room + tall + note_room
    sheet = Sheet(HEAD + maps + BAR * (overlay is not None) + SCORES * (scores is not None))
    sheet.figure.text(0.5, 1 - 0.05 / sheet.height, for_figure(title), fontsize=LARGE, ha="center", va="top")
    sheet.down(HEAD)
    axes = [sheet.axes(place * (side + GAP), title_room, side, tall) for place in range(1 + (overlay is not None))]
    axes[0].imshow(as_rgb(picture), interpolation="nearest")
    axes[0].axis("off")
    sheet.down(maps)
    if overlay is not None:
        draw_map(axes[1], overlay)
        sheet.bar(overlay.scale)
    if scores is not None:
        axes.append(sheet.axes(0.65, 0.1, COLUMN - 0.75, 1.4))
        _window_lines(axes[-1], scores)
    return np.asarray(axes)


def _window_lines(axis: Axes, scores: pd.DataFrame) -> None:
    """The score by window of layers, and under the cut that was asked for."""
    dress(axis)
    values = scores["logprob_change"].astype(float)
    shown = scores.assign(mean=values, low=values, high=values)
    windows = shown[shown["layers"] != ASKED_FOR]
    for form, style in FORM_STYLES.items():
        rows = windows[windows["form"] == form]
        line(axis, spans_of(rows["layers"], "layers"), rows, style)
    asked = shown[shown["layers"] == ASKED_FOR]
    level(axis, asked, Style(BLACK, "D", "cut in the layers asked for", "--"))
    axis.axhline(0, color=GREY, lw=0.6, zorder=0, label="_zero")
    show_at_least(axis, -NATS, NATS)
    layer_axis(axis)
    named(axis, "layer (bars: windows of layers)", UNITS["logprob_change"].label)
    legend_below(axis)
