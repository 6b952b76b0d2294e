"""A page's content as plain values, which are its JSON: what the browser is given, and all that it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..notebook import picture_uri
from ..showing import visible
from ..versions import installed
from .asking import QUANTITIES, Asked, Quantity
from .columns import Column
from .facts import ABOUT, TITLES, UNITS, spelled_out
from .packing import MOST_TOKENS, dense, sparse
from .panels import Shown
from .reading import Maps, rows_of
from .shown_words import ShownWord, changed_words

FORMAT = 1
SIDES = ((1, 1024), (4, 768), (16, 448))
"""How long the longest side of a picture is, in pixels, where there are so many pictures at most; else `SMALLEST`."""
SMALLEST = 256
LONGEST_TITLE = 80


class Level(NamedTuple):
    """How much is left out of a page, so that it becomes small enough.

    Attributes:
        floor: values below this share of their row's largest are left out; 0 for none.
        every: only each so-manieth layer is there, counted from the last.
    """

    floor: float = 0.0
    every: int = 1

    def layers(self, layers: Sequence[int]) -> list[int]:
        """The layers that are there."""
        return list(layers)[:: -self.every][::-1]


class Content(NamedTuple):
    """All that a page shows, before it is packed.

    Attributes:
        asked: what was asked for.
        facts: pairs of a label and a text.
        columns: one, or the clean one and the changed one.
        question: the positions of the question's tokens.
    """

    asked: Asked
    facts: Sequence[Sequence[str]]
    columns: Sequence[Column]
    question: Sequence[int] = ()


def payload_of(content: Content, level: Level) -> dict[str, Any]:
    """The content as a page has it."""
    asked, columns = content.asked, content.columns
    shown = asked.shown
    pictures, notes = _pictures(shown)
    changed = [set[int]()] * len(columns)
    if len(columns) == 2:
        changed = [changed_words(columns[n].words, columns[1 - n].words) for n in (0, 1)]
    named = [
        _column(content, column, level, marked, key)
        for column, marked, key in zip(columns, changed, ("clean", "changed"), strict=False)
    ]
    return {
        "format": FORMAT,
        "version": installed("nnsight_vlm") or "",
        "title": _title(content),
        "facts": [list(fact) for fact in content.facts],
        "notes": [*notes, *_notes(content, level, named)],
        "pictures": pictures,
        "tokens": len(shown.positions),
        "positions": list(shown.positions),
        "panels": [
            panel._asdict() | {"crop": list(panel.crop), "boxes": [list(box) for box in panel.boxes]}
            for panel in shown.panels
        ],
        "unplaced": list(shown.unplaced),
        "objects": [thing._asdict() for thing in asked.objects],
        "missing": {name: _how_to_get(asked, name) for name in QUANTITIES if name not in asked.quantities},
        "columns": named,
    }


def _title(content: Content) -> str:
    """The model's name, and the question without the template's words."""
    asked = set(content.question)
    question = "".join(
        (" " if word.space else "") + word.text
        for word in content.columns[0].words
        if asked.intersection(word.positions) and not word.is_generated
    ).strip()
    model = next((text for label, text in content.facts if label == "model"), "model")
    text = f"{model}: {question}" if question else model
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"


def _pictures(shown: Shown) -> tuple[list[dict[str, Any]], list[str]]:
    """The pictures, and what is to be said of those that cannot be read any more."""
    side = next((size for count, size in SIDES if len(shown.pictures) <= count), SMALLEST)
    found, notes = list[dict[str, Any]](), list[str]()
    for picture in shown.pictures:
        try:
            uri = picture_uri(picture.image, side)
        except (OSError, ValueError) as error:  # a file that was closed
            uri = ""
            notes.append(visible(f"{picture.label} cannot be shown: {error}"))
        width, height = picture.image.size
        found.append({"uri": uri, "width": width, "height": height, "label": picture.label})
    return found, notes


# columns --------------------------------------------------------------------------------------------


def _column(content: Content, column: Column, level: Level, changed: set[int], key: str) -> dict[str, Any]:
    asked = content.asked
    change = asked.intervention
    title = "clean" if key == "clean" or change is None else visible(spelled_out(change))
    return {
        "key": key,
        "title": title,
        "answer": visible(column.answer, keep_lines=True),
        "words": _words(column, changed),
        "sinks": _sinks(asked, column),
        "lens": None if column.lens is None else column.lens.block(),
        "quantities": {name: _quantity(name, maps, column, asked, level) for name, maps in column.maps.items()},
    }


def _words(column: Column, changed: set[int]) -> list[dict[str, Any]]:
    rows = {id(word): number for number, word in enumerate(rows_of(column.words))}
    found = list[dict[str, Any]]()
    for number, (word, logprob) in enumerate(zip(column.words, column.logprobs, strict=True)):
        shown: dict[str, Any] = {
            "text": word.text,
            "space": word.space,
            "part": word.part,
            "row": rows.get(id(word), -1),
            "why": word.why,
            "changed": number in changed,
            "logprob": logprob,
        }
        found.append(shown | ({"line": True} if word.line else {}) | _of_picture(word))
    return found


def _of_picture(word: ShownWord) -> dict[str, int]:
    return {} if word.picture is None else {"picture": word.picture}


def _sinks(asked: Asked, column: Column) -> dict[str, Any] | None:
    if column.sinks is None:
        return None
    return {"layers": list(asked.layers), "tokens": [np.flatnonzero(layer).tolist() for layer in column.sinks]}


def _quantity(name: Quantity, maps: Maps, column: Column, asked: Asked, level: Level) -> dict[str, Any]:
    signed, layers = name == "causal", level.layers(maps.layers)
    values = maps.values[[maps.layers.index(layer) for layer in layers]] if maps.layers else maps.values
    is_sparse = level.floor > 0 and values.shape[-1] <= MOST_TOKENS
    return {
        "title": TITLES[name],
        "unit": UNITS[name],
        "about": ABOUT[name],
        "signed": signed,
        "least": maps.least,
        "layers": layers if maps.layers else ["all"],
        "heads": list(maps.heads),
        "rows": len(rows_of(column.words)),
        "has": None if maps.has is None else list(maps.has),
        "missing": _lacking(name, asked),
        "data": sparse(values, signed=signed, floor=level.floor) if is_sparse else dense(values, signed=signed),
    }


# what is not there ----------------------------------------------------------------------------------


def _lacking(name: Quantity, asked: Asked) -> str:
    """The line of Python that gives what a quantity lacks; empty where it lacks nothing."""
    if name in ("gradient", "causal"):
        return "" if asked.words is None else f"{_how_to_get(asked)}  # of all words of the answer"
    if asked.heads or asked.shown.stage != "decoder":
        return ""
    return f'{_how_to_get(asked).removesuffix(")")}, heads="all")'


def _how_to_get(asked: Asked, *also: Quantity) -> str:
    """The line of Python for a page that has what this one has, and some more."""
    names = ", ".join(f'"{name}"' for name in QUANTITIES if name in (*asked.quantities, *also))
    return f"nv.view(model, prompt, quantities=[{names}])"


def _notes(content: Content, level: Level, columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was left out, and why."""
    asked, shown = content.asked, content.asked.shown
    notes = list[str]()
    if shown.padding:
        notes.append(f"{shown.padding} image tokens saw only padding around the picture, and have no place on it.")
    if ends := len(shown.unplaced) - shown.padding:
        notes.append(f"{ends} image tokens have no place in a picture: they end rows of patches, or a tile or a video.")
    if level.floor:
        dropped = max(
            (each["data"].get("dropped", 0) for column in columns for each in column["quantities"].values()), default=0
        )
        notes.append(
            f"To stay below {asked.limit / 1e6:g} MB, values below {level.floor:.2g} of their row's largest were left "
            f"out: of no row more than {dropped:.1%} of its sum. A larger limit= keeps them."
        )
    gone = sorted(set(asked.layers) - set(level.layers(asked.layers)))
    if gone:
        notes.append(
            f"To stay below {asked.limit / 1e6:g} MB, layers {', '.join(map(str, gone))} were left out. layers= "
            "chooses others, and a larger limit= keeps all."
        )
    for word in asked.words or ():
        if all(word.casefold() not in column.answer.casefold() for column in content.columns):
            notes.append(visible(f"No answer has the word {word!r}."))
    return notes
