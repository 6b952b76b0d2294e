"""Where rows of a frame lie on an axis of layers: single layers, windows of layers, centres of windows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..arguments import as_index, spelled
from ..errors import SpecError

RUN = re.compile(r"(\d+)(?:-(\d+)|:(\d+))?")
"""Layers as frames spell them: `4`, `0-2` with both ends, as recipes do, `0:3` without its end, as sweeps do."""
AXES = ("layer", "centre", "layers", "window")
"""The columns that may hold layers, in the order in which they are looked for."""


class Span(NamedTuple):
    """Some layers on the axis.

    Attributes:
        centre: their mean.
        runs: first and last layer of each run of neighbours; empty where only the centre is known.
    """

    centre: float
    runs: tuple[tuple[int, int], ...]

    @property
    def is_window(self) -> bool:
        """Whether it is more than one layer."""
        return any(first < last for first, last in self.runs) or len(self.runs) > 1


def span_of(layers: Any, column: str = "layer") -> Span:
    """The layers that a cell of a frame names: a number, `"4"`, `"0-2"`, `"0:3"` or `"3,8,13"`.

    >>> span_of("2-4") == span_of("2:5"), span_of("3,8").centre, span_of(5).runs
    (True, 5.5, ((5, 5),))

    Raises:
        SpecError: a text that has no place on an axis of layers: all layers, a fraction of the depth, layers that are
            counted from the end.
    """
    number = as_index(layers)
    if number is not None and number >= 0:
        return Span(float(number), ((number, number),))
    if isinstance(layers, float) and math.isfinite(layers) and layers >= 0:
        whole = int(layers)
        return Span(layers, ((whole, whole),) if whole == layers else ())
    parts = [RUN.fullmatch(part) for part in layers.split(",")] if isinstance(layers, str) else [None]
    runs = [_ends(part) for part in parts if part is not None]
    if len(runs) < len(parts) or any(first > last for first, last in runs):
        raise SpecError(
            f"{column}={spelled(layers)} has no place on an axis of layers; leave such rows out, or name layers by "
            "their numbers: 4, [3, 4, 8] or nv.window(3, 9)"
        )
    members = [layer for first, last in runs for layer in range(first, last + 1)]
    return Span(sum(members) / len(members), tuple(joined(sorted(set(members)))))


def _ends(run: re.Match[str]) -> tuple[int, int]:
    """The first and the last layer of a run."""
    first, last, stop = run.groups()
    return int(first), int(last or first) if stop is None else int(stop) - 1


def joined(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of neighbours among ascending layers.

    >>> joined([3, 4, 8])
    [(3, 4), (8, 8)]
    """
    runs: list[tuple[int, int]] = []
    for layer in layers:
        if runs and runs[-1][1] == layer - 1:
            runs[-1] = (runs[-1][0], layer)
        else:
            runs.append((layer, layer))
    return runs


def spans_of(cells: Iterable[Any], column: str = "layer") -> list[Span]:
    """See `span_of`, for every row."""
    return [span_of(cell.item() if hasattr(cell, "item") else cell, column) for cell in cells]


def axis_column(columns: Iterable[str]) -> str | None:
    """The column of a frame that holds layers; None where no column does."""
    return next((name for name in AXES if name in set(columns)), None)
