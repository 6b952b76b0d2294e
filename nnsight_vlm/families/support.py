"""What works in each family, from the rows of the table: `nnsight-vlm families` and docs/families.md."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from .columns import Family

SITES = ("features", "embedding", "mlp")
"""Sites that a family may lack; the others work."""
COLUMNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "knockout": ("knockout", ()),
    "patch": ("patch", SITES),
    "ablate": ("ablate", SITES),
    "heads": ("heads", ()),
    "attention rows": ("attention", ()),
    "grid": ("grid", ()),
    "generate": ("generate", ("padded generation",)),
    "several images": ("several images", ()),
    "packed sweep": ("packed", ()),
    "cached prefix": ("prefix", ()),
    "image seen once": ("embedded", ()),
    "sdpa": ("sdpa", ()),
    "static cache": ("static cache", ()),
}
"""For each column of what works: what a row lacks where it does not, and what it may lack where most of it does."""


INSIDE = "positions are counted inside the model"
STATE = "some layers carry a state through the sequence, which variants cannot share; they run as rows"


def unsupported(row: Family) -> dict[str, str]:
    """What does not work, and why: what the row says, and what follows from its layers."""
    follows = {"packed": STATE} if row.decoder.attention.layers == "typed" else {}
    follows |= {"prefix": row.limitations["packed"]} if "packed" in row.limitations else {}
    follows |= {"embedded": INSIDE} if row.positions == "own" else {}
    return {**follows, **row.limitations}


def works(rows: Iterable[Family]) -> tuple[pd.DataFrame, list[str]]:
    """One line a row, and the footnotes.

    A cell says "yes"; "-" where the row says that it does not work. The numbers behind are footnotes.
    """
    notes: list[str] = []
    return pd.DataFrame([_line(row, notes) for row in rows]), notes


def _line(row: Family, notes: list[str]) -> dict[str, Any]:
    said = {"family": row.name, "model type": row.model_type, "stages": ", ".join(row.stages)}
    return said | {column: _cell(unsupported(row), column, *wanted, notes) for column, wanted in COLUMNS.items()}


def _cell(limitations: dict[str, str], column: str, whole: str, parts: tuple[str, ...], notes: list[str]) -> str:
    """Whether a column works, and the numbers of the footnotes."""
    subjects = {whole: column} | {part: f'site "{part}"' if part in SITES else part for part in parts}
    missing = [name for name in subjects if name in limitations]
    numbers = [_number(f"no {subjects[name]}: {limitations[name]}", notes) for name in missing]
    return " ".join(["-" if whole in missing else "yes", *(f"[{number}]" for number in numbers)])


def _number(note: str, notes: list[str]) -> int:
    if note not in notes:
        notes.append(note)
    return notes.index(note) + 1


def markdown(rows: Iterable[Family]) -> str:
    """The table and its footnotes as docs/families.md has them."""
    table, notes = works(rows)
    lines = [list(table.columns), ["---"] * len(table.columns), *table.itertuples(index=False)]
    told = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*told, "", *(f"[{number}] {note}  " for number, note in enumerate(notes, 1))])
