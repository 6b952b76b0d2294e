"""Boxes and masks that lie beside a table: in a COCO file, or in a table of boxes."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd

from ..arguments import refuse, spelled
from ..errors import SpecError, reason_of
from .masks import Size, box_given
from .object_cells import Outline
from .tables import Table, table_given

BOX_COLUMNS = ("image", "label", "x0", "y0", "x1", "y1")
WRITE = (
    'objects="instances.json" in the format of COCO, or a table with the columns image, label, x0, y0, x1, y1, '
    'objects="boxes.csv"'
)

ByPicture = Mapping[str, tuple[Outline, ...]]
"""The objects of each picture, by its path as the annotations have it."""


def annotations_given(given: Any, table: Table, image: Any) -> Callable[[int], tuple[Outline, ...]]:
    """From the number of a row to the objects of its picture.

    Args:
        given: a path or a DataFrame.
        table: the table whose pictures are looked for.
        image: the column of their paths; of several columns, the first counts.

    Raises:
        SpecError: no annotations, or none about any picture of the table.
    """
    if isinstance(given, (str, Path)) and Path(given).suffix.lower() == ".json":
        found, called = _of_coco(Path(given)), repr(str(given))
    else:
        boxes = table_given(given, "objects")
        found, called = _of_boxes(boxes), boxes.called
    column = image[0] if isinstance(image, list) else image
    return Lookup(found, called, table, column)


@dataclass(frozen=True, eq=False)
class Lookup:
    """Finds a picture's objects by its path as the table has it, else by its file name.

    Attributes:
        found: the objects of each picture.
        called: what a message calls the annotations.
        table: the table whose rows are looked up.
        column: its column of paths.
    """

    found: ByPicture
    called: str
    table: Table
    column: Hashable

    @cached_property
    def by_name(self) -> Mapping[str, str]:
        """The path of each picture by its file name, where only one has that name."""
        names = pd.Series([_file_name(path) for path in self.found], dtype=object).value_counts()
        return {_file_name(path): path for path in self.found if names[_file_name(path)] == 1}

    @cached_property
    def paths_by_name(self) -> Mapping[str, set[str]]:
        """The paths of the table's pictures by their file names."""
        paths = dict[str, set[str]]()
        for row in range(len(self.table.cells)):
            path = _path_in(self.table.cells.cell(self.column, row))
            paths.setdefault(_file_name(path), set()).add(path)
        return paths

    def __call__(self, row: int) -> tuple[Outline, ...]:
        """The objects of a row's picture.

        Raises:
            SpecError: the annotations have nothing about it, or it has no path, or only a file name tells, and
                another picture of the table has the same.
        """
        cell = self.table.cells.cell(self.column, row)
        path = _path_in(cell)
        if not path:
            raise SpecError(f"its image is {spelled(cell)}, which has no file name to be found in {self.called} by")
        key = path if path in self.found else self.by_name.get(_file_name(path))
        if key != path and key is not None and len(others := self.paths_by_name[_file_name(path)]) > 1:
            raise SpecError(
                f"its image {path!r} has the file name of {(others - {path}).pop()!r}, and {self.called} has {key!r} "
                "alone; write paths there as the table has them"
            )
        if key is None:
            raise SpecError(
                f"its image {path!r} is not in {self.called}, so nothing says which objects it shows; for a "
                "picture without objects, a COCO file lists it among its images, and a table of boxes has a line with "
                "an empty label"
            )
        return self.found[key]


def _path_in(cell: Any) -> str:
    """The path of a picture's cell; empty where it has none."""
    path = cell.get("path") if isinstance(cell, Mapping) else cell
    return str(path) if isinstance(path, (str, Path)) else ""


def _file_name(path: str) -> str:
    return PureWindowsPath(path).name  # which takes / as well as \


# tables of boxes ----------------------------------------------------------------------------------


def _of_boxes(table: Table) -> ByPicture:
    missing = [name for name in BOX_COLUMNS if name not in table.cells.names]
    if missing:
        raise SpecError(f"objects= has no column {missing[0]!r}; its columns are {table.shown_names()}. Write {WRITE}")
    columns = [table.cells.column(name) for name in BOX_COLUMNS]
    found = dict[str, list[Outline]]()
    for number, (image, label, *corners) in enumerate(zip(*columns, strict=True)):
        where = f"objects=, line {number}"
        if not isinstance(image, (str, Path)) or not str(image).strip():
            raise SpecError(f"{where}: its image is {spelled(image)}, and a path was expected")
        of_picture = found.setdefault(str(image), [])
        if pd.isna(label) or not str(label).strip():
            continue
        try:
            box = box_given([float(corner) for corner in corners])
        except (SpecError, TypeError, ValueError):
            raise SpecError(
                f"{where}: {spelled(corners)} is no box; write x0, y0, x1, y1 with x0 < x1 and y0 < y1"
            ) from None
        of_picture.append(Outline(str(label).strip(), "box", box))
    return {image: tuple(outlines) for image, outlines in found.items()}


# COCO ---------------------------------------------------------------------------------------------


def _of_coco(path: Path) -> ByPicture:
    """The objects of a COCO file: masks where it has segmentations, else boxes.

    Raises:
        SpecError: it is no such file.
    """
    try:
        read = json.loads(path.read_text(encoding="utf-8-sig"))
        images = {entry["id"]: str(entry["file_name"]) for entry in read["images"]}
        sizes = {entry["id"]: _size(entry) for entry in read["images"]}
        names = {entry["id"]: str(entry["name"]) for entry in read["categories"]}
        found = {name: list[Outline]() for name in images.values()}
        for entry in read["annotations"]:
            key = entry["image_id"]
            found[images[key]].append(_outline(entry, names[entry["category_id"]], sizes[key]))
    except OSError as error:
        raise SpecError(f"objects={str(path)!r} cannot be read ({reason_of(error)}); write {WRITE}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise SpecError(
            f"objects={str(path)!r} is no COCO file: images with id and file_name, categories with id and name, "
            f"annotations with image_id, category_id and segmentation or bbox were expected ({reason_of(error)})"
        ) from error
    if len(found) < len(images):
        raise SpecError(f"objects={str(path)!r} has two images of one file_name; give each its own")
    return {name: tuple(outlines) for name, outlines in found.items()}


def _outline(entry: Mapping[str, Any], label: str, size: Size | None) -> Outline:
    if not label.strip():
        refuse("the name of a category", label, "name", WRITE)
    shape = entry.get("segmentation")
    if shape:
        return Outline(label, "mask", shape, size)
    x, y, width, height = map(float, entry["bbox"])
    return Outline(label, "box", box_given([x, y, x + width, y + height]), size)


def _size(entry: Mapping[str, Any]) -> Size | None:
    return Size(int(entry["width"]), int(entry["height"])) if {"width", "height"} <= entry.keys() else None
