"""Blocks of code in a page of Markdown: which lines they take, and which of them are run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

FENCE = re.compile(r"^(?P<mark>`{3,})(?P<info>[^`\n]*)\n(?P<code>.*?)^(?P=mark)[ \t]*$\n?", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"<!-- not run: (?P<why>(?:(?!-->).)+) -->\s*\Z", re.DOTALL)


class Block(NamedTuple):
    """A block of code of a page.

    Attributes:
        start, end: where it lies in the text, fences included.
        line: the line of its first line of code, from 1.
        info: what stands behind the opening fence.
        why_not: why it is not run, from the comment `<!-- not run: why -->` above it; None for one without.
    """

    start: int
    end: int
    line: int
    info: str
    code: str
    why_not: str | None

    @property
    def is_python(self) -> bool:
        """Whether it is Python, run or not."""
        return self.info.strip() == "python"

    @property
    def is_doctest(self) -> bool:
        """Whether pytest runs it."""
        return self.is_python and self.code.lstrip().startswith(">>>")

    @property
    def is_run(self) -> bool:
        """Whether a build of the site runs it."""
        return self.is_python and not self.is_doctest and self.why_not is None


def blocks(text: str) -> Iterator[Block]:
    """All blocks of a page, in order."""
    for found in FENCE.finditer(text):
        reason = NOT_RUN.search(text, 0, found.start())
        yield Block(
            start=found.start(),
            end=found.end(),
            line=text.count("\n", 0, found.start("code")) + 1,
            info=found["info"],
            code=found["code"],
            why_not=reason["why"] if reason else None,
        )


def outside(text: str) -> Iterator[tuple[bool, str]]:
    """A page in pieces, in order, each with whether it lies outside of every block."""
    place = 0
    for block in blocks(text):
        yield True, text[place : block.start]
        yield False, text[block.start : block.end]
        place = block.end
    yield True, text[place:]
