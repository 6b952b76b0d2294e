"""Figures of the package's own, the axes of others, and what stands outside of the data: legends and notes."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from ..arguments import instance, spelled
from ..errors import SpecError
from .style import BEYOND, BLACK, COLUMN, GREY, LARGE, SMALL

LETTER = 0.55
"""The mean width of a letter, as a share of the size of the font."""
HANDLE = 0.5
"""Inches that a legend takes beside the letters of one entry."""
POINTS = 72.0
NOTEBOOK = 150
"""Dots per inch at which a notebook shows a figure."""
AX = "ax=figure.subplots()"


class OwnFigure(Figure):
    """A figure of the package's own; as the value of a cell a notebook shows it, also without pyplot."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=NOTEBOOK, bbox_inches="tight")
        return content.getvalue()


def axes_of(ax: Axes | None, height: float = 1.8, width: float = COLUMN) -> Axes:
    """The axes that were given, or those of a figure of one panel; sizes are in inches."""
    own: Axes = stacked(1, height, width)[0] if ax is None else instance("ax", ax, Axes, AX)
    dress(own)
    return own


def stacked(count: int, height: float = 1.2, width: float = COLUMN, **options: Any) -> np.ndarray:
    """Axes `[panel]` of a figure of panels one below the other; `height` is that of a panel, in inches."""
    figure = OwnFigure(figsize=(width, (height + 1.0) * count), layout="constrained")
    axes = figure.subplots(count, 1, squeeze=False, **options)[:, 0]
    for axis in axes:
        dress(axis)
    return np.asarray(axes)


def panels_of(count: int, ax: Axes | None, height: float = 1.2, **options: Any) -> np.ndarray:
    """Axes `[panel]` of a figure of several panels: those that were given for one, or those of a figure of its own."""
    return stacked(count, height, **options) if ax is None else np.asarray([axes_of(ax)])


def drawn_panels(axes: np.ndarray, ax: Axes | None, height: float) -> Axes | np.ndarray:
    """What a figure of several panels returns, once all is drawn: the axes that were given, or all of its own.

    Panels of its own get their height here, when titles and legends have taken their room.
    """
    if ax is not None:
        return ax
    grown(axes, height)
    return axes


def dress(axis: Axes) -> None:
    """The spines and the letters of axes."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=SMALL)


def grown(axes: np.ndarray | Axes, height: float) -> None:
    """Make a figure of the package's own so tall that each panel has this height in inches."""
    panels = np.atleast_1d(np.asarray(axes))
    figure = figure_of(panels[0])
    laid_out(figure)
    missing = sum(height - inches(axis)[1] for axis in panels)
    figure.set_figheight(max(figure.get_figheight() + missing, 0.5))


def laid_out(figure: Figure) -> None:
    """Give axes the places that the figure's layout will give them, so that they can be measured."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)


def titled(axis: Axes, title: str) -> None:
    """Write a title, in lines as wide as the axes; it has been made safe for figures."""
    axis.set_title(broken(title, inches(axis)[0] + 0.3, LARGE), fontsize=LARGE)


def named(axis: Axes, x: str = "", y: str = "") -> None:
    """Name the axes; lines that are too long for the panel are broken."""
    width, height = inches(axis)
    if x:
        axis.set_xlabel(broken(x, width), fontsize=SMALL)
    if y:
        axis.set_ylabel(broken(y, max(height, 1.2)), fontsize=SMALL)


def inches(axis: Axes) -> tuple[float, float]:
    """Width and height of axes as they are now."""
    box, dpi = axis.get_window_extent(), figure_of(axis).dpi
    return float(box.width / dpi), float(box.height / dpi)


def figure_of(axis: Axes) -> Figure:
    """The whole figure, of which axes may be in a part."""
    part: Any = axis.figure
    whole: Figure = part.figure
    return whole


def broken(text: str, width: float, size: float = SMALL) -> str:
    """A text in lines that are no wider than so many inches; it has been made safe for figures, and stays so."""
    letters = max(int(width * POINTS / (LETTER * size)), 8)
    lines = textwrap.wrap(text.replace(r"\$", "$"), letters, break_on_hyphens=False)  # an escape is never broken
    return "\n".join(lines).replace("$", r"\$")


def chosen_panel(name: str, chosen: Any, panels: Iterable[str], ax: Any) -> list[str]:
    """The panels that are drawn, by what tells them apart.

    Args:
        name: of the argument that chooses one.
        chosen: its value; None for all.
        panels: what can be chosen.
        ax: axes of the user, which hold one panel; None for a figure of its own.

    Raises:
        SpecError: no such panel; several, and axes for one; or `ax` are no axes.
    """
    known = list(panels)
    if ax is not None:
        instance("ax", ax, Axes, AX)
    if chosen is not None and (not isinstance(chosen, str) or chosen not in known):
        raise SpecError(f"there is no panel of {name}={spelled(chosen)}; write {name}= one of {', '.join(known)}")
    if chosen is not None:
        return [chosen]
    if ax is not None and len(known) > 1:
        raise SpecError(f"ax= holds one panel, and there are {len(known)}; choose one with {name}={known[0]!r}")
    return known


def legend_below(axis: Axes, *, others: Iterable[Axes] = ()) -> None:
    """A legend beneath the axes, with one entry for each label that has data; nothing where there is none.

    Controls, which are grey, come last, and behind them what is said of intervals that are cut.

    Args:
        axis: where it stands, below the name of the x axis.
        others: axes of the same figure whose labels it has too.
    """
    by_label: dict[str, Any] = {}
    for each in (*others, axis):
        handles, labels = each.get_legend_handles_labels()
        by_label |= {label: handle for handle, label in zip(handles, labels, strict=True) if label not in by_label}
    if not by_label:
        return
    figure: Any = figure_of(axis)
    laid_out(figure)
    below, (width, _) = depth_below(axis), inches(axis)
    ordered = sorted(by_label, key=lambda label: (label == BEYOND, _color(by_label[label]) == GREY))
    if BEYOND in by_label:
        by_label[BEYOND] = Line2D([], [], marker=">", ms=4, color=BLACK, ls="none")
    shown = [broken(label, width - HANDLE) for label in ordered]
    axis.legend(
        [by_label[label] for label in ordered],
        shown,
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axis.transAxes + ScaledTranslation(0, -below / POINTS, figure.dpi_scale_trans),
        borderaxespad=0,
        ncols=legend_columns(shown, width),
        frameon=False,
        fontsize=SMALL,
        handlelength=2.2,
        columnspacing=1.0,
        handletextpad=0.5,
    )


def _color(handle: Any) -> Any:
    """The colour of a line, or of the line of a container."""
    artist = handle[0] if isinstance(handle, tuple) else handle
    return artist.get_color() if hasattr(artist, "get_color") else None


def depth_below(axis: Axes) -> float:
    """How many points ticks and the name of the x axis reach below the axes."""
    box = axis.xaxis.get_tightbbox()
    reach = 0.0 if box is None else axis.get_window_extent().y0 - box.y0
    return float(max(reach, 0.0) * POINTS / figure_of(axis).dpi + 5)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit into so many inches.

    Entries fill one column after the other; where they are not equal, the first ones have one entry more.
    """
    widths = [max(map(len, label.split("\n"))) * LETTER * SMALL / POINTS + HANDLE for label in labels]
    for count in range(min(4, len(labels)), 1, -1):
        if sum(column.max() for column in np.array_split(np.asarray(widths), count)) <= width:
            return count
    return 1


def say(axis: Axes, text: str) -> None:
    """Write into axes that have no data why that is so."""
    axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", va="center", fontsize=SMALL, wrap=True)


def thinned(axis: Any, places: Sequence[float], labels: Sequence[str], room: float, size: float) -> None:
    """Ticks of which as many are labelled as fit side by side.

    Args:
        axis: `ax.xaxis` or `ax.yaxis`.
        places: where they are.
        labels: what they are called.
        room: length of the axis in points.
        size: points that one label takes.
    """
    step = max(1, -(-int(len(places) * size) // max(int(room), 1)))
    axis.set_ticks(list(places)[::step], list(labels)[::step], fontsize=SMALL)
