"""What a cell of text may hold: a question, an answer, options, a name; and whether a cell is empty."""

from __future__ import annotations

import json
import string
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..arguments import as_index, is_bool, spelled
from ..errors import SpecError


def is_missing(cell: Any) -> bool:
    """Whether a cell is empty: None, NaN, a text of spaces, or a list of nothing."""
    if isinstance(cell, str):
        return not cell.strip()
    if isinstance(cell, (list, tuple, dict, bytes)):
        return not cell
    return bool(pd.api.types.is_scalar(cell) and pd.isna(cell))


def text_cell(name: str, cell: Any) -> str:
    """A text that is not empty.

    Raises:
        SpecError: it is empty, or no text.
    """
    if is_missing(cell):
        raise SpecError(f"its {name} is empty")
    if not isinstance(cell, str):
        raise SpecError(f"its {name} is {spelled(cell)}, and a text was expected")
    return str(cell)


def answer_cell(name: str, cell: Any) -> str:
    """An answer as text; a whole number is the text that spells it, and not the id of a token.

    Raises:
        SpecError: it is empty, or neither.
    """
    if is_missing(cell):
        raise SpecError(f"its {name} is empty")
    number = as_index(cell)
    if number is not None:
        return str(number)
    if not isinstance(cell, str):
        raise SpecError(
            f"its {name} is {spelled(cell)}, and a text or a whole number was expected; write the text, such as 'yes' "
            "or '3' (pandas makes fractions of whole numbers where a cell is empty)"
        )
    return str(cell)


def id_cell(cell: Any) -> str | int:
    """What a row is called: a text or a whole number.

    Raises:
        SpecError: it is empty, or neither.
    """
    if is_missing(cell):
        raise SpecError("its id is empty")
    number = as_index(cell)
    if number is None and not isinstance(cell, str):
        raise SpecError(f"its id is {spelled(cell)}, and a text or a whole number was expected")
    return str(cell) if number is None else number


def cluster_cell(cell: Any) -> Hashable:
    """A key that is equal where rows are about one picture.

    Raises:
        SpecError: it is empty, or cannot be compared.
    """
    if is_missing(cell):
        raise SpecError("its cluster is empty")
    try:
        hash(cell)
    except TypeError:
        raise SpecError(f"its cluster is {spelled(cell)}, and a text or a number was expected") from None
    key: Hashable = cell
    return key


# options ------------------------------------------------------------------------------------------


def options_cell(cell: Any) -> tuple[str, ...]:
    """The options of a question, two or more: a list of texts, also as JSON; none where the cell is empty.

    Raises:
        SpecError: something else, or options that are equal.
    """
    cell = cell.tolist() if isinstance(cell, np.ndarray) else cell
    if is_missing(cell):
        return ()
    given = as_json(cell) if isinstance(cell, str) else cell
    write = 'write a list of two texts or more, ["red", "blue"], in a file as JSON'
    if not isinstance(given, (list, tuple)) or not 2 <= len(given) <= len(string.ascii_uppercase):
        raise SpecError(f"its options are {spelled(cell)}; {write}")
    options = tuple(str(each).strip() if _is_plain(each) else "" for each in given)
    if not all(options) or len(set(options)) < len(options):
        raise SpecError(f"its options are {spelled(cell)}, of which one is empty or there twice; {write}")
    return options


def _is_plain(option: Any) -> bool:
    return isinstance(option, str) or as_index(option) is not None


def as_json(text: str) -> Any:
    """The value of a text in JSON; None where it is none."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return None


def letter_of(answer: Any, options: Sequence[str]) -> str:
    """The letter of the right option, `A` for the first.

    Args:
        answer: the option's text, its letter, or its number counted from 0.
        options: of the question.

    Raises:
        SpecError: it is none of them, or may be two of them (option "2" of 1, 2, 3 and 4, and the option number 2).

    >>> letter_of("blue", ["red", "blue"]), letter_of("b", ["red", "blue"]), letter_of(1, ["red", "blue"])
    ('B', 'B', 'B')
    """
    letters = string.ascii_uppercase[: len(options)]
    if is_missing(answer):
        raise SpecError("its answer is empty")
    spelled_answer = "" if is_bool(answer) or isinstance(answer, float) else str(answer).strip()
    readings = {number for number, option in enumerate(options) if option == spelled_answer}
    if len(spelled_answer) == 1 and spelled_answer.upper() in letters:
        readings.add(letters.index(spelled_answer.upper()))
    if spelled_answer.isascii() and spelled_answer.isdigit() and int(spelled_answer) < len(options):
        readings.add(int(spelled_answer))
    if len(readings) != 1:
        why = "is none of its options" if not readings else "may be two of its options"
        raise SpecError(
            f"its answer {spelled(answer)} {why}; write the letter of the right one, {letters[0]} to {letters[-1]}"
        )
    return letters[readings.pop()]


def with_options(question: str, options: Sequence[str]) -> str:
    r"""A question with its options under it, each with its letter.

    >>> with_options("Which color?", ["red", "blue"])
    "Which color?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    """
    if not options:
        return question
    lines = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    return "\n".join([question, *lines, "Answer with the option's letter from the given choices directly."])
