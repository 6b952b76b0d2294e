"""What the pages of the project say, taken apart for tests: their code, their links, their tables."""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from extensions.fences import blocks, outside

import nnsight_vlm as nv

ROOT = Path(nv.__file__).parent.parent
DOCS = ROOT / "docs"
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"(?<!`)\]\(([^()\s]+(?:\([^()\s]*\))?)\)")
MADE = ("gallery", "_made")
"""Folders that a build writes."""


class Piece(NamedTuple):
    """A piece of Python on a page, with the page and the line on which it begins."""

    page: str
    line: int
    code: str


@cache
def pages() -> tuple[Path, ...]:
    """Every page: those of the site, of the repository, and the cards of models."""
    folders = (ROOT / "nnsight_vlm", DOCS, ROOT / "examples")
    found = [*ROOT.glob("*.md"), *(page for folder in folders for page in folder.rglob("*.md"))]
    return tuple(page for page in sorted(found) if not {*MADE, "node_modules"} & set(page.parts))


def called(page: Path) -> str:
    """A page as a person names it."""
    return str(page.relative_to(ROOT))


def programs() -> Iterator[Piece]:
    """Every block of Python, doctests as the code that they run, but for what is refused on purpose."""
    for page in pages():
        for block in blocks(page.read_text()):
            if block.is_doctest:
                for example in doctest.DocTestParser().get_examples(block.code):
                    if example.exc_msg is None:
                        yield Piece(called(page), block.line + example.lineno, example.source)
            elif block.is_python:
                yield Piece(called(page), block.line, block.code)


def words(page: Path) -> Iterator[tuple[int, str]]:
    """What stands in code marks within the text, with its line."""
    line = 1
    for is_text, piece in outside(page.read_text()):
        if is_text:
            for found in INLINE.finditer(piece):
                yield line + piece.count("\n", 0, found.start()), found[1]
        line += piece.count("\n")


def links(text: str) -> Iterator[str]:
    """Where the links of a page lead to."""
    for is_text, piece in outside(text):
        if is_text:
            yield from LINK.findall(INLINE.sub("`code`", piece))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    found: dict[str, int] = {}
    for is_text, piece in outside(text):
        for heading in re.findall(r"^#{1,6} +(.+?)\s*$", piece, re.MULTILINE) if is_text else ():
            said = re.sub(r"\]\([^)]*\)|[`*\[]", "", heading).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", said).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
            if found[slug]:
                found[f"{slug}-{found[slug]}"] = 0
    return set(found)


# names ----------------------------------------------------------------------------------------------------


def chain(node: ast.AST) -> list[str]:
    """`["nv", "recipes", "heads"]` of the expression `nv.recipes.heads`; nothing of any other."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return [node.id, *parts] if isinstance(node, ast.Name) else []


def value_of(names: list[str]) -> Any:
    """What such a chain is, as far as it goes through modules and classes.

    Raises:
        AttributeError: one of them has no such name.
    """
    value: Any = nv
    for name in names[1:]:
        if not (isinstance(value, type) or hasattr(value, "__path__") or hasattr(value, "__file__")):
            break
        value = getattr(value, name)
    return value
