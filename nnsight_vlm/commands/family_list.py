"""The families of models in a terminal of 80 columns: what does not work in each, or one with all reasons."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from rich.table import Table

from ..errors import SpecError
from ..families import FAMILIES
from ..families.columns import Family
from ..families.support import COLUMNS, Works, cells_of
from ..families.verified import record
from ..showing import for_terminal

LEGEND = (
    f"Everything else is verified: {', '.join(COLUMNS)}. Tests compare it with an independent reference, on a tiny "
    f"model of the family, with {record().told}.",
    "nnsight-vlm families NAME shows one family with the reasons; docs/families.md has the whole table.",
)


def families_named(name: str | None) -> list[Family]:
    """The family of a name, or those of a model type; all where no name is given.

    Raises:
        SpecError: there is none.
    """
    if name is None:
        return list(FAMILIES.values())
    found = [family for family in FAMILIES.values() if name == family.name]
    found = found or [family for family in FAMILIES.values() if name == family.model_type]
    if not found:
        known = list(dict.fromkeys(each for family in FAMILIES.values() for each in (family.name, family.model_type)))
        near = get_close_matches(name, known) or known[:3]
        raise SpecError(
            f"no family {name!r}: write for example {', '.join(near)}; nnsight-vlm families lists all, and "
            "nnsight-vlm draft MODEL begins a new one"
        )
    return found


def families_table(families: Iterable[Family]) -> Table:
    """Each family with what does not work in it, or not all of it."""
    table = Table()
    headings = ("family", "transformers", "does not work", "in part", "not verified")
    for number, heading in enumerate(headings):
        table.add_column(for_terminal(heading), no_wrap=number < 2, overflow="fold")
    for family in families:
        untested = [heading for heading, cell in cells_of(family).items() if cell.status in ("loads", "untried")]
        row = (family.name, family.transformers, _that(family, "no"), _that(family, "in part"), ", ".join(untested))
        table.add_row(*map(for_terminal, row))
    return table


def one_family(family: Family) -> Table:
    """One family: what works in it, and why the rest does not."""
    title = f"{family.name}: model type {family.model_type}, stages {', '.join(family.stages)}"
    if family.transformers:
        title += f", transformers {family.transformers}"
    table = Table(title=for_terminal(title), title_justify="left")
    for heading in ("", "works", "status", "what does not, and why"):
        table.add_column(for_terminal(heading), overflow="fold")
    for heading, cell in cells_of(family).items():
        table.add_row(*map(for_terminal, (heading, cell.works, cell.status, "; ".join(cell.missing))))
    return table


def family_facts(families: Sequence[Family]) -> list[dict[str, Any]]:
    """The same as data."""
    return [
        {
            "family": family.name,
            "model_type": family.model_type,
            "transformers": family.transformers or None,
            "stages": list(family.stages),
            "works": {heading: cell.works for heading, cell in cells_of(family).items()},
            "status": {heading: cell.status for heading, cell in cells_of(family).items()},
            "verified_with": record().versions,
            "missing": {heading: cell.missing for heading, cell in cells_of(family).items() if cell.missing},
        }
        for family in families
    ]


def _that(family: Family, works: Works) -> str:
    """The headings under which a family has a word."""
    return ", ".join(heading for heading, cell in cells_of(family).items() if cell.works == works)
