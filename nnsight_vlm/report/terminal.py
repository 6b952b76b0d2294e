"""Tables as the terminal shows them."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

from ..showing import for_terminal
from .pieces import claim_lines


def claims_table(claims: pd.DataFrame) -> Table:
    """The claims; controls are dim."""
    table = Table(title="What's in the image? (arXiv 2411.17491)", title_justify="left")
    for name in ("claim", "", "measured [95 % interval]", "criterion", "verdict"):
        table.add_column(for_terminal(name), no_wrap=name in ("claim", "criterion"), overflow="fold")
    for line in claim_lines(claims):
        cells = (line.key, line.statement, line.measured, line.criterion, line.verdict)
        table.add_row(*map(for_terminal, cells), style="dim" if line.control else "", end_section=line.control)
    return table


def as_table(frame: pd.DataFrame) -> Table:
    """Any frame, its texts as exactly their characters; what does not fit into a line goes on in the next one.

    Numbers are right-aligned and have three digits after the point.
    """
    table = Table()
    for name in frame.columns:
        is_number = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(for_terminal(str(name)), justify="right" if is_number else "left", overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(for_terminal(f"{cell:.3f}" if isinstance(cell, float) else str(cell)) for cell in row))
    return table
