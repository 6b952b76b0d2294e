"""Which recipes there are, as a terminal of 80 columns shows them."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from .. import recipes  # noqa: F401 - registers every recipe
from ..citing.references import ARXIV
from ..errors import SpecError
from ..showing import for_terminal
from ..studies.registry import RECIPES, Recipe


def recipes_table() -> Table:
    """Every recipe with its question and the paper that it follows."""
    table = Table()
    for name, wide in (("recipe", True), ("what it asks", False), ("paper", False)):
        table.add_column(for_terminal(name), no_wrap=wide, overflow="fold")
    for entry in known_recipes():
        paper = entry.papers[0]
        cited = f"{paper.cited} ({paper.arxiv})" if paper.authors else paper.cited
        table.add_row(*map(for_terminal, (entry.name, entry.asks, cited)))
    return table


def recipes_markdown() -> str:
    """The table of docs/recipes/README.md."""
    lines = ["| recipe | what it asks | it shows | papers |", "| --- | --- | --- | --- |"]
    for entry in known_recipes():
        papers = "; ".join(
            f"{paper.cited} ([{paper.arxiv}]({ARXIV}{paper.arxiv}))"
            if paper.authors
            else f"[{paper.cited}]({ARXIV}{paper.arxiv})"
            for paper in entry.papers
        )
        lines.append(f"| [`{entry.name}`]({entry.name}.md) | {entry.asks} | {entry.shows} | {papers} |")
    return "\n".join(lines)


def recipe_facts() -> list[dict[str, Any]]:
    """The recipes as data."""
    return [
        {
            "recipe": entry.name,
            "asks": entry.asks,
            "shows": entry.shows,
            "papers": [{"cited": paper.cited, "arxiv": paper.arxiv} for paper in entry.papers],
        }
        for entry in known_recipes()
    ]


def known_recipes() -> list[Recipe]:
    """All recipes, by name."""
    return [RECIPES[name] for name in sorted(RECIPES)]


def recipe_named(name: str) -> Recipe:
    """The recipe of a name; `knockout-windows` is `knockout_windows`.

    Raises:
        SpecError: there is none.
    """
    found = RECIPES.get(name.replace("-", "_"))
    if found is None:
        raise SpecError(f"no recipe {name!r}: write one of {', '.join(sorted(RECIPES))}")
    return found
