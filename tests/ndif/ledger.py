"""The costs of analyses on this machine and on a server: a table with one line for each analysis and place."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nnsight_vlm.remote import counting


@dataclass(kw_only=True)
class Line:
    """One analysis in one place.

    Attributes:
        difference: the largest difference from the result on this machine, relative as in `alike.EXACT`.
    """

    analysis: str
    place: str
    difference: float = 0.0
    jobs: int = 0
    payload: int = 0
    answer: int = 0
    seconds: float = 0.0


@dataclass
class Ledger:
    """The lines in the order in which they were measured."""

    lines: list[Line] = field(default_factory=list)

    @contextlib.contextmanager
    def line(self, analysis: str, place: str) -> Iterator[Line]:
        """Measure the body of the `with` block."""
        line = Line(analysis=analysis, place=place)
        start = time.perf_counter()
        with counting() as traffic:
            yield line
        line.seconds = time.perf_counter() - start
        line.jobs, line.payload, line.answer = traffic.jobs, traffic.payload, traffic.answers
        self.lines.append(line)

    def frame(self) -> pd.DataFrame:
        """One row for each analysis and place."""
        return pd.DataFrame([vars(line) for line in self.lines])

    def write(self, path: Path) -> None:
        """Write the table as CSV."""
        self.frame().to_csv(path, index=False)

    def __str__(self) -> str:
        """The table in Markdown."""
        if not self.lines:
            return ""
        names = ("analysis", "place", "max difference", "jobs", "payload", "answer", "seconds")
        head = f"| {' | '.join(names)} |\n{'|---' * len(names)}|"
        rows = (
            f"| {one.analysis} | {one.place} | {one.difference:.1e} | {one.jobs} | {one.payload} | {one.answer} "
            f"| {one.seconds:.2f} |"
            for one in self.lines
        )
        return "\n".join([head, *rows])
