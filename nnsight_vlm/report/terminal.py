"""Tables as the terminal shows them."""

from __future__ import annotations

import pandas as pd
from rich.table import Table

from .summary import claim_lines


def claims_table(claims: pd.DataFrame) -> Table:
    """The claims; controls are dim."""
    table = Table(title="What's in the image? (arXiv 2411.17491)", title_justify="left")
    for name in ("claim", "", "measured [95 % interval]", "criterion", "verdict"):
        table.add_column(name, no_wrap=name in ("claim", "criterion"))
    for line in claim_lines(claims):
        cells = (line.key, line.statement, line.measured, line.criterion, line.verdict)
        table.add_row(*cells, style="dim" if line.control else "", end_section=line.control)
    return table


def as_table(frame: pd.DataFrame) -> Table:
    """Any frame; numbers are right-aligned and have three digits after the point."""
    table = Table()
    for name in frame.columns:
        table.add_column(str(name), justify="right" if pd.api.types.is_numeric_dtype(frame[name]) else "left")
    for row in frame.itertuples(index=False):
        table.add_row(*(f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row))
    return table
