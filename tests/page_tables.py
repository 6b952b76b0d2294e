"""Tables of a page of Markdown, as cells."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "docs"))

from extensions import fences

LINES = re.compile(r"(?:^\|.*\n)+", re.MULTILINE)
CELLS = re.compile(r"(?<!\\)\|")
"""What parts the cells of a line; a `\\|` is part of a cell."""
RULE = re.compile(r":?-+:?")


class Table(NamedTuple):
    """A table of a page: the cells of its first line, and of all lines below the rule."""

    head: list[str]
    rows: list[list[str]]


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return "".join(piece for is_outside, piece in fences.outside(text) if is_outside)


def lines_of(text: str) -> list[str]:
    """The lines of each table of a page, in order."""
    return LINES.findall(prose(text) + "\n")


def tables(text: str) -> list[Table]:
    """All tables of a page, in order."""
    return [_table(lines) for lines in lines_of(text)]


def without_tables(text: str) -> str:
    """The sentences of a page, each paragraph a line."""
    paragraphs = LINES.sub("\n", prose(text) + "\n").split("\n\n")
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as lines of a page."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _table(lines: str) -> Table:
    head, rule, *rows = ([cell.strip() for cell in CELLS.split(line.strip())[1:-1]] for line in lines.splitlines())
    if not all(RULE.fullmatch(cell) for cell in rule):
        raise ValueError(f"no rule below the head of a table: {head}")
    return Table(head, rows)
