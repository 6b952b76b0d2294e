"""What a report asks about which pictures, of a folder or a table: all are opened before a model is loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..identity import setting_digest
from ..questions.item_lists import Item, Items, LeftOut
from ..questions.making import items as items_of
from ..questions.making import unusable_words
from ..questions.tables import table_given
from ..studies.item_prompts import things_digest
from .config import ReportConfig

OUR_NAMES = {"objects": "annotations", "folder": "pictures", "question": "query", "source": "items"}
"""What arguments of `nv.items` are called in a report, on the command line with `--`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """The pictures of a report and what is asked about them.

    Attributes:
        described: every picture with the text that the model answers at length.
        answered: the same rows with their own questions and answers; None where there are no answers.
        called: the table's file, or what it is in words; empty for a folder.
        names: of the objects that have boxes or masks, each once.
        digest: of texts, pixels, boxes and masks, and of what was left out.
    """

    described: Items
    answered: Items | None
    called: str
    names: tuple[str, ...]
    digest: str


def asked_of(config: ReportConfig) -> Asked | None:
    """The pictures and questions of a folder or a table; None where synthetic scenes are drawn.

    Raises:
        SpecError: a table that cannot be read, rows or pictures that cannot be used, annotations of other pictures.
    """
    if config.items is None and config.images is None:
        return None
    try:
        items = _of_folder(config) if config.items is None else _of_table(config)
        items, names, digest = _opened(items)
    except SpecError as error:
        words = str(error) if config.items is not None else str(error).replace("the list source=", "the folder")
        raise SpecError(_in_our_names(words)) from error
    of_all = config.items is not None and config.query is not None
    return Asked(
        described=_asking(items, str(config.query)) if of_all else items,
        answered=items if items.has_answers else None,
        called="" if config.items is None else _called(config.items, items),
        names=names,
        digest=digest,
    )


def _called(given: Any, items: Items) -> str:
    return Path(given).name if isinstance(given, (str, Path)) else items.source.table.called


def _of_folder(config: ReportConfig) -> Items:
    """The pictures of a folder with one question, each called by its file's name."""
    folder = Path(str(config.images))
    # a path, because a text may be a URL or a list
    rows = [{"id": name, "image": folder / name if ":" in name else Path(name)} for name in config.names]
    return items_of(
        rows,
        question=config.query,
        folder=folder,
        objects=config.annotations,
        unusable="leave out" if config.leave_out else "error",
    )


def _of_table(config: ReportConfig) -> Items:
    """The rows of a table with their own questions; with the one query where they have none, or none is needed."""
    columns = dict(config.columns or {})
    names = (*columns, *table_given(config.items).cells.names)
    own = config.query is None or ("question" in names and "answer" in names)
    if not own:
        columns.pop("question", None)
    return items_of(
        config.items,
        columns=columns or None,
        question=None if own else config.query,
        folder=config.pictures,
        objects=config.annotations,
        unusable="leave out" if config.leave_out else "error",
    )


def _asking(items: Items, query: str) -> Items:
    """The same pictures with one query for all; options belong to the rows' own questions."""
    return replace(items, lines=tuple(line._replace(question=query, options=()) for line in items.lines))


def _opened(items: Items) -> tuple[Items, tuple[str, ...], str]:
    """The items whose pictures and objects can be opened, the names of all objects, and a digest of everything.

    Raises:
        SpecError: some cannot, and are not to be left out; or none can.
    """
    numbers, left_out = list[int](), list[LeftOut]()
    names, digests = dict[str, None](), list[str]()
    for number, item in enumerate(items):
        try:
            digests.append(_digest(item))
        except SpecError as error:
            left_out.append(LeftOut(item.id, str(error).removeprefix(f"item {item.id!r}: ")))
            continue
        numbers.append(number)
        names |= dict.fromkeys(thing.name.strip().lower() for thing in item.things or ())
    if left_out and (not items.skip or not numbers):
        called = items.source.table.called
        raise SpecError(unusable_words(left_out, len(items), called, all_of_them=not numbers))
    used = replace(items.only(numbers), left_out=(*items.left_out, *left_out))
    return used, tuple(names), setting_digest([digests, [str(each.id) for each in used.left_out]])


def _digest(item: Item) -> str:
    """Of all that an item holds."""
    texts = [item.id, item.question, item.answer, item.options, str(item.cluster), item.other_answer]
    pictures: Sequence[Any] = (*item.images, *item.other_images)
    return setting_digest([texts, list(pictures), None if item.things is None else things_digest(item.things)])


def _in_our_names(words: str) -> str:
    """A message of `nv.items` with the names that a report has for its arguments."""
    said = words.replace('nv.items(..., unusable="leave out")', "--leave-out (leave_out=True)")
    return re.sub(rf"\b({'|'.join(OUR_NAMES)})=", lambda found: f"{OUR_NAMES[found[1]]}=", said)
