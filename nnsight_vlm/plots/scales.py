"""Colour scales of maps: signed values lie around a white 0, all others begin at 0; the range is always written."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from .canvas import broken, inches
from .quantities import Unit
from .style import DIVERGING, SEQUENTIAL, SMALL


class ColorScale(NamedTuple):
    """A colour for each value.

    Attributes:
        low, high: the ends; `-high` and `high` for signed values.
        colors: name of the matplotlib colour map.
        label: what the values are, with the range.
        extend: which ends have values beyond them, as matplotlib's colour bars say it.
    """

    low: float
    high: float
    colors: str
    label: str
    extend: str

    @property
    def norm(self) -> Normalize:
        """The scale as matplotlib takes it."""
        return Normalize(self.low, self.high)


def color_scale(values: np.ndarray, unit: Unit, limit: float | None = None) -> ColorScale:
    """The scale of some values.

    Args:
        values: all that are drawn; NaN is left out.
        unit: what they are; the scale reaches as far as the unit's own range at least.
        limit: the largest value of the scale, in place of what follows from the values and their unit.
    """
    finite = values[np.isfinite(values)]
    least = max(abs(unit.low), abs(unit.high))
    largest = float(np.abs(finite).max()) if len(finite) else 0.0
    high = limit if limit is not None else max(largest, least) or 1.0
    is_signed = unit.signed or bool((finite < 0).any())
    low = -high if is_signed else 0.0
    over, under = bool((finite > high).any()), bool((finite < low).any())
    beyond = {(True, True): "both", (True, False): "max", (False, True): "min", (False, False): "neither"}
    reach = f"{low:.3g} to {high:.3g}" + (", larger values cut off" if over or under else "")
    colors = DIVERGING if is_signed else SEQUENTIAL
    return ColorScale(low, high, colors, f"{unit.label}, {reach}", beyond[over, under])


def color_bar(axis: Axes, scale: ColorScale, *, alpha: float = 1.0, below: bool = False) -> None:
    """A bar beside axes, or below them, that says which colour is which value.

    It is part of these axes: the figure has no more axes than before.
    """
    place = (0.0, -0.16, 1.0, 0.06) if below else (1.03, 0.0, 0.04, 1.0)
    bar: Any = axis.inset_axes(place)
    figure: Any = axis.figure
    drawn = figure.colorbar(
        ScalarMappable(scale.norm, scale.colors),
        cax=bar,
        orientation="horizontal" if below else "vertical",
        extend=scale.extend,
        alpha=alpha,
    )
    drawn.outline.set_linewidth(0.5)
    bar.tick_params(labelsize=SMALL, width=0.5)
    width, height = inches(axis)
    drawn.set_ticks([scale.low, 0.0, scale.high] if scale.low else [0.0, scale.high / 2, scale.high])
    drawn.ax.set_label("colour bar")
    drawn.formatter.set_powerlimits((-3, 4))
    drawn.set_label(broken(scale.label, max(width if below else height, 1.2)), fontsize=SMALL)
