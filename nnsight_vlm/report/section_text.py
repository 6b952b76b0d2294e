"""The further analyses in words: what is asked, what such numbers show, and the numbers beside their controls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from ..showing import for_markdown
from ..studies.registry import Recipe
from .numbers import NO_BOUND, with_interval
from .results import Results
from .section import Section
from .sections import MOST, SECTIONS

SHOWS = {
    "could": "It shows what the model *could* do without what was taken away.",
    "does": "States are interchanged and every way stays open, so it shows what the model *does*.",
    "reads": "Nothing is changed, so it *reads* what is there and shows no cause.",
}
READS_AND_CUTS = "Where nothing is changed, it *reads* what is there and shows no cause."
"""Of a recipe that reads, and has rows of cuts beside."""
FURTHER = "Further analyses"
INTRODUCTION = (
    "Each is a small run of a recipe, on the first pictures and in a few layers: it tells whether more of it is worth "
    "while (`nnsight-vlm run RECIPE`). Controls stand beside the numbers that they are of; all numbers are in "
    "`frames/`."
)
BOUNDLESS = (
    f"An interval has *{NO_BOUND}* on a side where so few images, or images whose numbers lie so far apart, tell "
    "nothing: shares of a difference between two answers are of any size where the two are nearly equally probable."
)


class SectionLine(NamedTuple):
    """One number of a section, as Markdown.

    Attributes:
        words: what it is of.
        measured: the number with its interval.
        controls: the same of each of its controls.
        images: how many images it is of.
    """

    words: str
    measured: str
    controls: tuple[str, ...]
    images: str


class SectionTold(NamedTuple):
    """A further analysis in words, as Markdown.

    Attributes:
        section: which.
        about: what is asked, and what such numbers show.
        lines: the numbers that are told.
        note: how many more there are, or why there are none; empty where all are told.
        has_figure: whether it has one.
    """

    section: Section
    about: str
    lines: tuple[SectionLine, ...]
    note: str
    has_figure: bool


def sections_told(results: Results) -> list[SectionTold]:
    """All further analyses that were made."""
    return [_told(section, results) for section in SECTIONS if section.name in results.frames]


def introduction(told: list[SectionTold]) -> str:
    """What is said before them all."""
    has_no_bound = any(NO_BOUND in "".join([line.measured, *line.controls]) for each in told for line in each.lines)
    return f"{INTRODUCTION} {BOUNDLESS}" if has_no_bound else INTRODUCTION


def sections_text(results: Results) -> str:
    """All further analyses that were made, as Markdown; empty where none was."""
    told = sections_told(results)
    if not told:
        return ""
    return "\n\n".join([f"## {FURTHER}\n\n{introduction(told)}", *map(_text, told)])


def _text(told: SectionTold) -> str:
    parts = [f"### {told.section.title}", told.about]
    if told.lines:
        table = ["| | measured [95 % interval] | control | images |", "|---|---|---|---|"]
        parts.append("\n".join([*table, *map(_row, told.lines)]))
    parts += [told.note] if told.note else []
    if told.has_figure:
        parts.append(f"![{told.section.title}](figures/{told.section.figure}.png)")
    return "\n\n".join(parts)


def _row(line: SectionLine) -> str:
    return f"| {line.words} | {line.measured} | {'; '.join(line.controls)} | {line.images} |"


def _told(section: Section, results: Results) -> SectionTold:
    rows = results.per_image[section.name]
    images = 0 if rows.empty else int(rows["cluster"].nunique())
    lines = tuple(_lines(section, results.frames[section.name]))
    note = "" if lines else "No number of it could be measured."
    if len(lines) > MOST:
        note = f"These are {MOST} of {len(lines)} numbers; `frames/{section.name}.csv` has all."
    return SectionTold(
        section=section,
        about=f"{section.recipe.asks} `{section.name}`, after {section.recipe.papers[0].cited}, on {images} "
        f"image{'s' * (images != 1)}. {_shown(section.recipe)} {section.reading}",
        lines=lines[:MOST],
        note=note,
        has_figure=section.figure in results.figures,
    )


def _shown(recipe: Recipe) -> str:
    return READS_AND_CUTS if recipe.shows == "reads" and recipe.shows_of else SHOWS[recipe.shows]


def _lines(section: Section, frame: pd.DataFrame) -> Iterator[SectionLine]:
    for told in section.told:
        for _, row in told.rows(frame).iterrows() if len(frame) else ():
            controls = tuple(
                f"{for_markdown(str(each['control']))}: {_number(each)}"
                for _, each in told.controls(frame, row).iterrows()
            )
            words = told.words.format(**row.to_dict())
            yield SectionLine(words, _number(row), controls, str(int(row["images"])))


def _number(row: pd.Series) -> str:
    """A mean with its interval, with two digits after the point: what is smaller is next to nothing here."""
    return with_interval(float(row["mean"]), float(row["low"]), float(row["high"]), digits=2)
