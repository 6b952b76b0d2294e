"""The page of a report, read back: its elements, its texts and its tables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

VOID = ("meta", "img", "br", "input", "hr", "link")
OUTSIDE = re.compile(r"(?:https?:)?//[^\s\"'<>)]+")


@dataclass
class Element:
    """One element with what is in it."""

    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def every(self, tag: str, **attributes: str) -> list[Element]:
        """The elements below this one with a tag and attributes, in order; `tag` may be empty."""
        inside = [child for child in self.children if isinstance(child, Element)]
        found = [each for child in inside for each in ([child] if child.fits(tag, attributes) else [])]
        return [*found, *(each for child in inside for each in child.every(tag, **attributes))]

    def fits(self, tag: str, attributes: dict[str, str]) -> bool:
        named = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return tag in ("", self.tag) and all(self.attributes.get(name) == value for name, value in named.items())

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Reader(HTMLParser):
    """Puts the elements of a page together; every element must be closed."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag, attrs):
        made = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(made)
        if tag not in VOID:
            self.open.append(made)

    def handle_endtag(self, tag):
        assert self.open.pop().tag == tag

    def handle_data(self, data):
        self.open[-1].children.append(data)


def read(path: Path) -> Element:
    """A page as elements."""
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == [reader.root]
    return reader.root


def tables(page: Element) -> dict[str, pd.DataFrame]:
    """The tables of frames by their files' names: numbers with all digits, other cells as texts."""
    return {each.attributes["data-frame"]: _table(each) for each in page.every("table", class_="frame")}


def _table(table: Element) -> pd.DataFrame:
    headings = table.every("th")
    rows = [[_value(cell) for cell in row.every("td")] for row in table.every("tbody")[0].every("tr")]
    frame = pd.DataFrame(rows, columns=[each.text for each in headings])
    for each in headings:
        if each.attributes.get("class") == "number":
            frame[each.text] = [float(value.replace("∞", "inf") or "nan") for value in frame[each.text]]
    return frame


def _value(cell: Element) -> str:
    return cell.attributes.get("data-value", cell.text)


def assert_same_numbers(shown: pd.DataFrame, frame: pd.DataFrame) -> None:
    """The rows of a table are the first ones of its frame: numbers to the last bit, texts to the letter."""
    assert list(shown.columns) == list(map(str, frame.columns))
    first = frame.head(len(shown)).reset_index(drop=True)
    for name in shown.columns:
        if shown[name].dtype == float:
            np.testing.assert_array_equal(shown[name].to_numpy(), first[name].to_numpy(dtype=float))
        else:
            known = ["" if value is None or value is pd.NA else str(value) for value in first[name]]
            assert list(shown[name]) == [text if len(text) <= 200 else f"{text[:199]}…" for text in known]
