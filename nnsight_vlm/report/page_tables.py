"""Frames as tables of a page: the first rows of each, and beside every number that was rounded the number itself."""

from __future__ import annotations

import inspect
import math
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from ..arguments import as_index
from ..showing import visible
from ..studies.registry import RECIPES
from .results import Results

MOST_MEANS, MOST_IMAGES = 200, 30
"""Most rows of a frame that the page shows: of means, and of the rows behind them."""
LONGEST_TEXT = 200
"""Most letters of a text in a cell."""


class FrameTable(NamedTuple):
    """A frame as a table.

    Attributes:
        name: of its files, without their ending; also its name in the page.
        columns: their names, and whether each holds numbers.
        rows: the cells of the rows that are shown, as HTML.
        shown: how many rows are shown.
        total: how many the frame has.
        about: what its columns and measures are, as Markdown; empty where nothing is known of them.
    """

    name: str
    columns: tuple[tuple[str, bool], ...]
    rows: Markup
    shown: int
    total: int
    about: str


def frame_tables(results: Results) -> Iterator[tuple[FrameTable, FrameTable]]:
    """Every frame of means, with the rows behind it."""
    for name, frame in results.frames.items():
        about = columns_of(name)
        behind = results.per_image[name]
        yield (
            table_of(f"frames/{name}", frame, MOST_MEANS, about),
            table_of(f"frames/{name}_per_image", behind, MOST_IMAGES),
        )


def table_of(name: str, frame: pd.DataFrame, most: int, about: str = "") -> FrameTable:
    """A frame's first rows as a table."""
    shown = frame.head(most)
    columns = tuple((str(column), _is_number(frame[column])) for column in frame.columns)
    rows = [
        Markup("<tr>") + Markup("").join(map(_cell, row)) + Markup("</tr>\n")
        for row in shown.itertuples(index=False, name=None)
    ]
    return FrameTable(name, columns, Markup("").join(rows), len(shown), len(frame), about)


def columns_of(recipe: str) -> str:
    """What a recipe says of the frame that it returns: that part of its docstring, which is Markdown."""
    known = RECIPES.get(recipe)
    text = inspect.getdoc(known.function) or "" if known else ""
    _, _, rest = text.partition("\nReturns:\n")
    lines = list[str]()
    for line in rest.splitlines():
        if line and not line.startswith(" "):
            break
        lines.append(line)
    return textwrap.dedent("\n".join(lines)).strip()


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _cell(value: Any) -> Markup:
    """One cell. A number that is written shorter than it is has all of its digits in `data-value`."""
    if isinstance(value, (float, np.floating)):
        text, exact = written(float(value)), repr(float(value))
        if text == "" or float(text.replace("∞", "inf")) == float(value):
            return Markup('<td class="n">') + text + Markup("</td>")
        return Markup('<td class="n" data-value="') + exact + Markup('">') + text + Markup("</td>")
    number = None if isinstance(value, (bool, np.bool_)) else as_index(value)
    if number is not None:
        return Markup('<td class="n">') + str(number) + Markup("</td>")
    return Markup("<td>") + escape(_text(value)) + Markup("</td>")


def written(value: float) -> str:
    """A number in four digits, or as a whole number where it is one; empty where there is none.

    >>> [written(each) for each in (0.123456, 1228800.0, 1e-7, float("nan"), float("-inf"))]
    ['0.1235', '1228800', '1e-07', '', '-∞']
    """
    if math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"


def _text(value: Any) -> str:
    if value is None or value is pd.NA or value is pd.NaT:
        return ""
    text = visible(str(value))
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
