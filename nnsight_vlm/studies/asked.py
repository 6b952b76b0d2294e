"""What a recipe measures, as a user hands it over: prompts, or items; and whose answers, truths and clusters count."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import pandas as pd

from ..errors import SpecError
from ..prompts.given import prompts_given
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..questions.making import items as items_of
from ..questions.tables import is_data_set

Questions: TypeAlias = Items | pd.DataFrame | str | Path | Sequence[Mapping[str, Any]]
"""Items, or a table of which `nv.items` makes some; also a data set of Hugging Face's `datasets`."""
Columns = Mapping[str, Hashable | Sequence[Hashable]]
"""The names of a table's columns, by what items call them."""
NOT_TAKEN: Final = object()
"""In place of an argument that a recipe does not have."""


def asked_given(prompts: Any, items: Any, columns: Any) -> tuple[Prompt, ...] | Items:
    """Prompts as they are, or items of a table.

    Args:
        prompts: a list of prompts, or what `items` takes.
        items: `Items`, or a table of which `nv.items` makes some.
        columns: see `nv.items`.

    Raises:
        SpecError: both or none were given; columns of something that is no table; see `nv.items` and `prompts_given`.
    """
    if items is not None and prompts is not None:
        raise SpecError("prompts= and items= were both given; leave one of them out")
    if items is not None:
        return table_given(items, columns, "items")
    if is_table(prompts):
        return table_given(prompts, columns, "prompts")
    if columns is not None:
        raise SpecError(f"columns= names the columns of a table, and prompts= are none; write items= {_WRITE}")
    return prompts_given(prompts)


_WRITE = 'items="questions.csv", columns={"question": "query"}'


def table_given(given: Any, columns: Any, name: str) -> Items:
    """The items of a table that a recipe was handed.

    Raises:
        SpecError: see `nv.items`; names the recipe's argument.
    """
    try:
        return items_of(given, columns=columns)
    except SpecError as error:
        raise SpecError(f"{name}=: {error}") from error


def is_table(given: Any) -> bool:
    """Whether something is no list of prompts but a table."""
    rows = isinstance(given, (list, tuple)) and bool(given) and all(isinstance(row, Mapping) for row in given)
    named = rows and all("image" in row or "question" in row for row in given)
    return named or isinstance(given, (Items, pd.DataFrame, str, Path)) or is_data_set(given)


def own_or_given(name: str, given: Any, *, has_own: bool) -> bool:
    """Whether what items have themselves is taken, and not what the user gave.

    Args:
        name: of the argument.
        given: what the user gave; None for what items have, if anything, and True for what they must have.
        has_own: whether the items have it.

    Raises:
        SpecError: both are there, or none where one must be.
    """
    if given is True and not has_own:
        raise SpecError(f"{name}=True takes them from the items, which have none; give their table such a column")
    if given is NOT_TAKEN or given is None or isinstance(given, bool):
        return has_own and given is not NOT_TAKEN and given is not False
    if has_own:
        raise SpecError(f"{name}= was given, and the items have their own; leave it out, or take them out of the table")
    return False


def scores_answers(asked: tuple[Prompt, ...] | Items, answers: Any) -> bool:
    """Whether answers are scored: the user's, or those of items where the user says nothing else."""
    if answers is NOT_TAKEN or answers is False:
        return False
    return answers is not None or (isinstance(asked, Items) and asked.has_answers)
