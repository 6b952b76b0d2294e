"""How every figure of the package looks: colours, markers, sizes.

The colours are those of Okabe and Ito, which people with colour-blindness can tell apart; lines differ in their markers
too. Controls are grey. A figure of the package's own is as wide as one column of a journal, with letters of 7 points.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Literal, NamedTuple

from ..showing import LONGEST_IN_FIGURE, for_figure
from ..studies.labels import Form

BLUE, ORANGE, GREEN, PINK, SKY, RED, BLACK = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#222222"
YELLOW = "#F0E442"
GREY, PALE = "#7F7F7F", "#D9D9D9"
PALETTE = (BLUE, ORANGE, GREEN, PINK, RED, SKY, BLACK)
"""The colours of lines, in the order in which they are given out."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""The markers of lines; there is one more than colours, so that no pair of both comes twice before the 57th line."""
DASHES = ("--", ":", "-.", (0, (4, 1, 1, 1, 1, 1)))
"""The dashes of controls, in the order in which they are given out."""
FILLS: tuple[Literal["full", "none", "left", "bottom"], ...] = ("full", "none", "left", "bottom")
"""How the markers of controls are filled, in the same order."""
COLORS = {
    "image": BLUE,
    "video": YELLOW,
    "query": ORANGE,
    "question": ORANGE,
    "generated": GREEN,
    "system": PINK,
    "last": GREEN,
    "markup": SKY,
    "other": RED,
}
"""The colour of each token group."""

COLUMN = 3.3
"""The width of a figure in inches: one column of a journal."""
SMALL, LARGE = 7.0, 8.0
"""Sizes of letters in points: ticks, legends and axes; titles."""
DIVERGING, SEQUENTIAL = "RdBu_r", "magma_r"
"""Colour maps of signed values (0 is white) and of all others (0 is pale); safe for colour-blindness."""
ARROW = " → "


class Style(NamedTuple):
    """How one line or one kind of row is drawn, and what the legend says of it (None: it has no entry)."""

    color: str
    marker: str
    label: str | None
    dashes: str | tuple[int, tuple[int, ...]] = "-"
    fill: Literal["full", "none", "left", "bottom"] = "full"


FORM_STYLES: Mapping[Form, Style] = {
    "block": Style(BLUE, "o", "route cut in these layers"),
    "allow": Style(ORANGE, "s", "route open in these layers only"),
}


def line_styles(names: Sequence[object]) -> Iterator[Style]:
    """A style for each line. Token groups have colours of their own, where no two of them share one."""
    own = [COLORS.get(str(name)) for name in names]
    has_own = None not in own and len(set(own)) == len(own)
    colors = iter(own) if has_own else cycle(PALETTE)
    for name, color, marker in zip(names, colors, cycle(MARKERS), strict=False):
        yield Style(str(color), marker, spell_name(name))


def spell_name(name: object, longest: int = LONGEST_IN_FIGURE) -> str:
    """A name in a frame as a figure shows it, routes with an arrow."""
    return for_figure(str(name).replace("->", ARROW), longest=longest)
