"""What analyses cost, here and on a server: one line for each analysis and place, as a table and as a file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nnsight_vlm.remote.background import counting


@dataclass(kw_only=True)
class Line:
    """One analysis in one place.

    Attributes:
        difference: the greatest from what it gives here, as `alike.EXACT` counts it.
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
        """Measure what is done inside."""
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
        """Keep the table as CSV."""
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
