"""The rows of any frame as they are drawn together: one series for each name, and one for each of its controls."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from ..arguments import text
from ..errors import SpecError
from ..studies.labels import NONE
from .frames import any_frame, column_of, numbers_of, refuse_several
from .marks import has_values
from .quantities import Unit, quantity_of
from .style import BLUE, DASHES, FILLS, GREY, Style, line_styles, spell_name

INTERVAL = ("mean", "low", "high")


class Series(NamedTuple):
    """Some rows, and how they look."""

    rows: pd.DataFrame
    style: Style


class Drawn(NamedTuple):
    """A frame whose columns `mean`, `low` and `high` are what is drawn, and the unit of these."""

    frame: pd.DataFrame
    unit: Unit


def drawn_of(given: Any, place: str, hue: Any, value: Any = None, baseline: Any = None, label: Any = None) -> Drawn:
    """A frame of a user, checked: one number for each series and place.

    Args:
        given: the frame.
        place: the column that says where along the axis a row lies.
        hue: the column that tells series apart, or None.
        value, baseline, label: see `layer_lines`.

    Raises:
        SpecError: no such column, several rows for one place, or names that are missing.
    """
    frame = any_frame(given)
    if hue is not None:
        names_in(frame, column_of("hue", hue, frame))
    if label is not None:
        text("label", label)
    quantity = quantity_of(frame, value, baseline, label)
    has_control = "control" in frame.columns
    if has_control:
        names_in(frame, "control")
    keys = [*([] if hue is None else [hue]), *(["control"] if has_control else []), place]
    refuse_several(frame, keys, "one place")
    has_interval = baseline is None and value in (None, "mean") and set(INTERVAL) <= set(frame.columns)
    ends = {name: numbers_of(frame, name) if has_interval else quantity.numbers for name in ("low", "high")}
    return Drawn(frame.assign(mean=quantity.numbers, **ends), quantity.unit)


def names_in(frame: pd.DataFrame, column: str) -> list[Any]:
    """The different values of a column, in the order in which they come.

    Raises:
        SpecError: a value is missing, or is nothing that rows could be told apart by.
    """
    cells = frame[column]
    if not all(isinstance(cell, Hashable) for cell in cells) or cells.isna().any():
        raise SpecError(
            f"the column {column!r} has missing values, or values that are no names, so rows cannot be told apart by "
            f"it; leave such rows out: frame[frame[{column!r}].notna()]"
        )
    return list(dict.fromkeys(cells))


def series_of(frame: pd.DataFrame, hue: str | None) -> Iterator[Series]:
    """The series, and behind each those of its controls, grey; a control has one entry in the legend."""
    names: Sequence[Any] = [None] if hue is None else names_in(frame, hue)
    control = frame["control"] if "control" in frame.columns else pd.Series(NONE, index=frame.index)
    controls = [name for name in dict.fromkeys(control) if name != NONE]
    styles = [Style(BLUE, "o", "measurement" if controls else None)] if hue is None else list(line_styles(names))
    labelled = set[object]()
    for name, style in zip(names, styles, strict=True):
        own = pd.Series(True, index=frame.index) if hue is None else frame[hue] == name
        yield Series(frame[own & (control == NONE)], style)
        for number, of_control in enumerate(controls):
            rows = frame[own & (control == of_control)]
            label = None if of_control in labelled else f"control: {spell_name(of_control)}"
            if has_values(rows):
                labelled.add(of_control)
            dashes, fill = DASHES[number % len(DASHES)], FILLS[number % len(FILLS)]
            yield Series(rows, Style(GREY, style.marker, label, dashes, fill))
