"""What a frame says of where it comes from, read back: the frame may have been in a file that somebody else wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from .. import recipes  # noqa: F401 - registers every recipe
from ..arguments import frame_given, spelled
from ..errors import SpecError
from ..studies.provenance import KEYS
from ..studies.registry import RECIPES, Recipe

WRITE = "cite the frame that a recipe returned, or the one that pd.read_parquet gives of its file"
TABLES = {"nv.sweep": {"variant", "top_token"}, "nv.lens": {"position", "layer", "rank", "token", "text", "logprob"}}
"""Columns by which the tables are known that no recipe makes."""
SHAPES = {
    **dict.fromkeys(("attention", "settings", "versions"), dict),
    **dict.fromkeys(("prompts", "images", "edits"), int),
    **dict.fromkeys(("call", "method", "model", "architecture", "dtype", "device", "remote"), str),
    "left_out": list,
}
"""What the values of some keys must be; others may be None as well."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A frame's account of itself.

    Attributes:
        recipe: the recipe that made the frame.
        said: its `attrs`.
    """

    recipe: Recipe
    said: Mapping[str, Any]


def record_of(frame: Any) -> Record:
    """The account that a recipe's frame gives of itself.

    Raises:
        SpecError: no frame, a frame that no recipe made, or one whose account is incomplete.
    """
    said = frame_given("frame", frame, of="a recipe").attrs
    name = said.get("recipe")
    if name is None:
        _refuse_tables(frame)
        raise SpecError(
            f"frame= does not say which recipe made it: CSV files, pd.concat and a new DataFrame keep no attrs; {WRITE}"
        )
    if not isinstance(name, str) or name not in RECIPES:
        raise SpecError(f"frame= was made by {spelled(name)}, which is no recipe of this version; {WRITE}")
    wrong = [key for key in KEYS if key not in said or not isinstance(said[key], SHAPES.get(key, object))]
    if wrong or any(not isinstance(each, (list, tuple)) or len(each) != 2 for each in said["left_out"]):
        raise SpecError(f"frame.attrs[{(wrong or ['left_out'])[0]!r}] is missing or broken; {WRITE}")
    return Record(recipe=RECIPES[name], said=said)


def _refuse_tables(frame: pd.DataFrame) -> None:
    """Refuse, by their names, tables of this package that are no recipe's.

    Raises:
        SpecError: it is one.
    """
    made = next((name for name, columns in TABLES.items() if columns <= set(frame.columns)), None)
    if made is not None:
        raise SpecError(
            f"frame= is a table of {made}, which is no recipe: it has one prompt, no controls and no intervals. "
            f"Describe it in your own words, or measure with a recipe (nnsight-vlm recipes lists them); {WRITE}"
        )
