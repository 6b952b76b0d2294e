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
        label: what the values are, and below it the range.
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
    return ColorScale(low, high, colors, f"{unit.label}\n{reach}", beyond[over, under])


def color_bar(axis: Axes, scale: ColorScale, *, alpha: float = 1.0) -> None:
    """A bar beside axes that says which colour is which value.

    It is part of these axes: the figure has no more axes than before.
    """
    bar: Any = axis.inset_axes((1.03, 0.0, 0.04, 1.0))
    figure: Any = axis.figure
    drawn = figure.colorbar(ScalarMappable(scale.norm, scale.colors), cax=bar, extend=scale.extend, alpha=alpha)
    dress_bar(drawn, scale, max(inches(axis)[1], 1.2))


def dress_bar(bar: Any, scale: ColorScale, room: float) -> None:
    """Ticks at the ends and the middle of a colour bar, and its label in lines of so many inches."""
    ticks = [scale.low, (scale.low + scale.high) / 2, scale.high]
    bar.set_ticks(ticks, labels=[f"{tick:.3g}" for tick in ticks], fontsize=SMALL)
    bar.ax.tick_params(width=0.5)
    bar.outline.set_linewidth(0.5)
    bar.set_label("\n".join(broken(part, room) for part in scale.label.split("\n")), fontsize=SMALL)
