"""Which cells of the table of families are compared with an independent reference, and with which versions.

`python tests/verified.py` collects the tests that compare and writes verified.json; nobody writes it by hand.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

PATH = Path(__file__).parent / "verified.json"
Status = Literal["verified", "loads", "untried", "broken"]
MEANING: dict[Status, str] = {
    "verified": "a test compares it with an independent reference, on a tiny model of the family: they are equal",
    "loads": "a tiny model of the family loads and runs, and nothing known speaks against it; no such test of this",
    "untried": "no model of the family is run",
    "broken": "it does not work, and is refused in words; the footnote says why",
}
"""What each word of the table means."""


class Verified(NamedTuple):
    """What the tests hold.

    Attributes:
        versions: of transformers, torch, nnsight and Python, with which they ran.
        loads: families of which a tiny model loads and runs.
        columns: for each family, the columns that are verified.
    """

    versions: dict[str, str]
    loads: frozenset[str]
    columns: dict[str, frozenset[str]]

    @property
    def told(self) -> str:
        """The versions in words."""
        *most, last = (f"{name} {number}" for name, number in self.versions.items())
        return f"{', '.join(most)} and {last}"


@cache
def record() -> Verified:
    """What verified.json holds."""
    kept = json.loads(PATH.read_text())
    columns = {name: frozenset(each.split(", ") if each else ()) for name, each in kept["verified"].items()}
    return Verified(kept["versions"], frozenset(kept["loads"]), columns)


def status_of(family: str, column: str, works: str) -> Status:
    """The word for a cell of the table."""
    if works == "no":
        return "broken"
    if column in record().columns.get(family, ()):
        return "verified"
    return "loads" if family in record().loads else "untried"
