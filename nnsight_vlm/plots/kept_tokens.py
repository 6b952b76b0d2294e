"""The figure of a compressed context: what is answered right with so many image tokens."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes

from .canvas import axes_of, grown, legend_below, named, say
from .depths import spans_of
from .frames import rows_of
from .lines import HEIGHT, thinner
from .marks import has_values, line, show_at_least
from .quantities import Unit
from .series import drawn_of, series_of
from .style import GREY

NAMES = {
    "attention": "most attended, by layer",
    "fastv": "FastV",
    "norm": "largest norm",
    "contribution": "largest contribution, by layer",
    "again": "most attended, chosen again",
}
"""What each choice of tokens is called, by the column `tokens`."""
UNITS = {
    "accuracy": Unit("share of right answers", 0, 1, False),
    "bytes": Unit("bytes of the cache", 0, 1, False),
    "tokens_per_second": Unit("tokens per second", 0, 1, False),
}


def compressed_context(frame: pd.DataFrame, ax: Axes | None = None, *, measure: str = "accuracy") -> Axes:
    """One measure against the share of image tokens that is kept, a line for each choice of tokens.

    Random choices of as many are grey, with the marker of the choice that they control. The shares stand at equal
    distances, in their order. Intervals are drawn of the choices; those of random ones are in the frame.

    Args:
        frame: what `nv.recipes.compressed_context` returns.
        ax: where to draw; default a figure of its own, one column wide.
        measure: which of its measures.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or a measure that it has not got.
    """
    rows = rows_of(frame, measure, "compressed_context")
    shares = sorted(set(rows["kept"].astype(float)))
    rows = rows.assign(
        place=[shares.index(float(share)) for share in rows["kept"]],
        choice=[NAMES.get(str(name), str(name)) for name in rows["tokens"]],
    )
    drawn, unit = drawn_of(rows, "place", "choice", unit=UNITS.get(measure))
    axis, series = axes_of(ax), list(series_of(drawn, "choice"))
    own = [style for _, style in series if style.color != GREY]
    for some, style in series:
        is_grey, ordered = style.color == GREY, some.sort_values("place")
        width = None if is_grey else thinner(own.index(style), len(own))
        line(axis, spans_of(ordered["place"], "place"), ordered, style, width=width, is_bare=is_grey)
    if not any(has_values(some) for some, _ in series):
        say(axis, "no value is a number")
    show_at_least(axis, unit.low, unit.high)
    axis.set_xticks(range(len(shares)), [f"{share:g}" for share in shares])
    named(axis, "image tokens kept (per cent)", unit.label)
    legend_below(axis)
    if ax is None:
        grown(axis, HEIGHT)
    return axis
