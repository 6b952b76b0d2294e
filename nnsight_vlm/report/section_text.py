"""The further analyses as text: what is asked, what such numbers show, and the numbers beside their controls."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import pandas as pd

from ..showing import for_markdown
from .numbers import number
from .section import Section
from .sections import MOST, SECTIONS

SHOWS = {
    "could": "It shows what the model *could* do without what was taken away.",
    "does": "States are interchanged and every way stays open, so it shows what the model *does*.",
    "reads": "Nothing is changed, so it *reads* what is there and shows no cause.",
}


def sections_text(
    frames: Mapping[str, pd.DataFrame], per_image: Mapping[str, pd.DataFrame], figures: Collection[str]
) -> str:
    """All further analyses that were made; empty where none was.

    Args:
        frames, per_image: the means of every part, and the rows behind them.
        figures: the names of those that there are.
    """
    told = [
        _text(section, frames[section.name], per_image[section.name], section.figure in figures)
        for section in SECTIONS
        if section.name in frames
    ]
    if not told:
        return ""
    head = (
        "## Further analyses\n\nEach is a small run of a recipe, on the first pictures and in a few layers: it tells "
        "whether more of it is worth while (`nnsight-vlm run RECIPE`). Controls stand beside the numbers that they are "
        "of; all numbers are in `frames/`."
    )
    return "\n\n".join([head, *told])


def _text(section: Section, frame: pd.DataFrame, rows: pd.DataFrame, has_figure: bool) -> str:
    images = 0 if rows.empty else int(rows["cluster"].nunique())
    papers = section.recipe.papers
    parts = [
        f"### {section.title}",
        f"{section.recipe.asks} `{section.name}`, after {papers[0].cited}, on {images} image{'s' * (images != 1)}. "
        f"{SHOWS[section.recipe.shows]} {section.reading}",
    ]
    lines = list(_lines(section, frame))
    if lines:
        parts.append(
            "\n".join(["| | measured [95 % interval] | control | images |", "|---|---|---|---|", *lines[:MOST]])
        )
    if len(lines) > MOST:
        parts.append(f"These are {MOST} of {len(lines)} numbers; `frames/{section.name}.csv` has all.")
    if not lines:
        parts.append("No number of it could be measured.")
    if has_figure:
        parts.append(f"![{section.title}](figures/{section.figure}.png)")
    return "\n\n".join(parts)


def _lines(section: Section, frame: pd.DataFrame) -> Iterator[str]:
    for told in section.told:
        for _, row in told.rows(frame).iterrows() if len(frame) else ():
            controls = [
                f"{for_markdown(str(each['control']))}: {_number(each)}"
                for _, each in told.controls(frame, row).iterrows()
            ]
            words = told.words.format(**row.to_dict())
            yield f"| {words} | {_number(row)} | {'; '.join(controls)} | {int(row['images'])} |"


def _number(row: pd.Series) -> str:
    """A mean with its interval, with two digits after the point: what is smaller is next to nothing here."""
    mean, low, high = (number(float(row[name])) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]" if low or high else f"{mean} (no interval)"
