"""The report as text: the table of the claims, how to read it, and what the folder holds."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from . import pieces
from .pieces import FIGURE_TITLES, claim_lines
from .results import Results
from .section_text import sections_text


def markdown(results: Results) -> str:
    """The text of `report.md`."""
    config, frames = results.config, results.frames
    sections = [
        f"# {pieces.title(config)}\n\n{pieces.about(results)}\n\n{pieces.SOURCE}",
        _table(results.claims),
        f"## How to read it\n\n{pieces.definitions(results.claims)}\n\n{pieces.READING}",
        _quality(results),
        _figures(results),
        sections_text(results),
        _listed("Not measured", pieces.missing_lines(results)),
        pieces.not_wanted(config),
        _listed("Files", pieces.file_lines(frames)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _listed(heading: str, lines: Sequence[str]) -> str:
    """A heading and a list; empty where the list is."""
    return f"## {heading}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _table(claims: pd.DataFrame) -> str:
    lines = ["| claim | | measured [95 % interval] | criterion | verdict |", "|---|---|---|---|---|"]
    for line in claim_lines(claims):
        statement = f"*{line.statement}*" if line.control else f"**{line.statement}**"
        lines.append(f"| {line.key} | {statement} | {line.measured} | {line.criterion} | {line.verdict} |")
    return "\n".join(lines)


def _quality(results: Results) -> str:
    lines = pieces.quality_lines(results.frames)
    if not lines:
        return ""
    rows = [f"| {' | '.join(line)} |" for line in (pieces.QUALITY_HEADINGS, *lines)]
    table = "\n".join([rows[0], "|---|---|---|---|---|", *rows[1:]])
    return "\n\n".join([f"## {pieces.QUALITY}", table, *pieces.quality_notes(results)])


def _figures(results: Results) -> str:
    """The figures that stand in no section."""
    shown = pieces.figures_apart(results)
    head = ["\n\n".join(filter(None, ["## Figures", pieces.halved(results)]))] if shown else []
    return "\n\n".join(
        head + [f"{FIGURE_TITLES[name]}\n\n![{FIGURE_TITLES[name]}](figures/{name}.png)" for name in shown]
    )
