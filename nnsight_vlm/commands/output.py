"""What commands print: their result, on standard output; all else goes to standard error (`working`)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ..showing import for_terminal

console = Console(width=None)


def print_line(text: str) -> None:
    """Print text as exactly its characters: no colours, no breaking of lines, no meaning of brackets."""
    console.print(for_terminal(text), soft_wrap=True)


def print_words(text: str) -> None:
    """Print a sentence in lines that fit into the terminal."""
    console.print(for_terminal(text))


def print_table(table: Table) -> None:
    """Print a table as wide as the terminal is."""
    console.print(table)


def print_json(facts: Any) -> None:
    """Print facts as JSON in ASCII, so that no text of others acts on a terminal."""
    typer.echo(json.dumps(plain(facts), indent=2, allow_nan=False))


def plain(value: Any) -> Any:
    """A value as JSON has it: paths are texts, what is not a number is null, tables are lists of rows.

    >>> plain({"folder": Path("out"), "mean": float("nan"), "layers": (1, 2)})
    {'folder': 'out', 'mean': None, 'layers': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "to_dict"):  # a table
        return plain(value.to_dict("records"))
    if hasattr(value, "item"):  # a number of numpy
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
