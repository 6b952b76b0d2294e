"""The objects of a picture in a cell: a label for each, with a box or a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arguments import spelled
from ..errors import SpecError
from .cells import as_json, is_missing
from .masks import Size, box_given, mask_given, mask_of_box
from .things import Thing

Form = Literal["box", "mask"]
WRITE: Mapping[Form, str] = {
    "box": '[{"label": "dog", "box": [x0, y0, x1, y1]}, ...], in a file as JSON; [] for a picture without objects',
    "mask": '[{"label": "dog", "mask": ...}, ...], in a file as JSON; [] for a picture without objects',
}
LABELS = ("label", "name")


class Outline(NamedTuple):
    """An object's label, and where it is; nothing is drawn yet.

    Attributes:
        label: how a text names it.
        form: what `place` is.
        place: a box or a mask as the table has it.
        size: of the picture, as the annotations have it; None where they do not say.
    """

    label: str
    form: Form
    place: Any
    size: Size | None = None

    def thing(self, size: Size, folder: Path | None) -> Thing:
        """The object in a picture of a size.

        Raises:
            SpecError: its box or mask is not one of this picture.
        """
        if self.size is not None and self.size != size:
            raise SpecError(
                f"its picture has {size.width} x {size.height} pixels upright, and its annotations are of one of "
                f"{self.size.width} x {self.size.height}"
            )
        draw: Callable[[], np.ndarray] = {
            "box": lambda: mask_of_box(self.place, size),
            "mask": lambda: mask_given(self.place, size, folder),
        }[self.form]
        try:
            return Thing(name=self.label, mask=draw())
        except SpecError as error:
            raise SpecError(f"its object {self.label!r}: {error}") from error


def outlines_in(cell: Any, labels: Any, form: Form) -> tuple[Outline, ...]:
    """The objects of a cell.

    Args:
        cell: a list of dicts with a label and a box or mask; a dict of two such lists; or boxes or masks alone. In a
            file of text as JSON.
        labels: the cell with the labels where they have a column of their own; None where they have not.
        form: whether the cell has boxes or masks.

    Raises:
        SpecError: something else, or labels of another number.
    """
    given, names = _plain(cell), None if labels is None else _plain(labels)
    if isinstance(given, Mapping):
        given = _as_rows(given, form)
    if not isinstance(given, list):
        raise SpecError(f"its {form}es are {spelled(cell)}" if form == "box" else f"its masks are {spelled(cell)}")
    if names is not None:
        if not isinstance(names, list) or len(names) != len(given):
            raise SpecError(f"its labels are {spelled(labels)}, and it has {len(given)} objects; give a label for each")
        return tuple(_outline(name, place, form) for name, place in zip(names, given, strict=True))
    for entry in given:
        if not isinstance(entry, Mapping) or form not in entry or not any(name in entry for name in LABELS):
            raise SpecError(
                f"its objects have an entry {spelled(entry)}; write {WRITE[form]}, or name the column of the labels, "
                'columns={"labels": ...}'
            )
    return tuple(_outline(next(entry[name] for name in LABELS if name in entry), entry[form], form) for entry in given)


def _outline(label: Any, place: Any, form: Form) -> Outline:
    if not isinstance(label, str) or not label.strip():
        raise SpecError(f"its objects have the label {spelled(label)}; write the word that names the object")
    if form == "box":
        return Outline(str(label), form, box_given(place))
    if is_missing(place):
        raise SpecError(f"its object {label!r} has an empty mask; write {WRITE[form]}")
    return Outline(str(label), form, place)


def _plain(cell: Any) -> Any:
    """A cell as lists and dicts, where it is written as JSON or as an array of objects."""
    if isinstance(cell, str):
        return as_json(cell)
    if isinstance(cell, np.ndarray):
        return list(cell) if cell.dtype == object or cell.ndim != 1 else cell.tolist()
    return list(cell) if isinstance(cell, tuple) else cell


def _as_rows(given: Mapping[str, Any], form: Form) -> list[dict[str, Any]] | None:
    """A dict of lists, as `datasets` keeps a list of dicts, as the list; None where it is none."""
    lists = {name: list(_plain(column)) for name, column in given.items() if isinstance(column, (Sequence, np.ndarray))}
    sizes = {len(column) for name, column in lists.items() if name in (*LABELS, form)}
    if form not in lists or len(sizes) != 1:
        return None
    return [
        {name: column[number] for name, column in lists.items() if name in (*LABELS, form)}
        for number in range(sizes.pop())
    ]
