"""How many objects one mention in an English text stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .denials import DEFINITE, ENDS, words_in

MOST = 20
"""The largest number that is counted; a text that names more names so many."""
_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
NUMBERS = {word: number for number, word in enumerate(_NUMBERS.split(), 1)} | {"dozen": 12}
SEVERAL = 2
"""What a plural without a number stands for, `several` and `many` too: the least that it can mean."""
MANY = words_in("several many some few")
BACK = 4
"""How many words in front of a name the number may stand, with adjectives between: `two large brown dogs`."""
REFERRING = DEFINITE | {"one", "each", "every", "both", "all", "either"}
"""Words with which a text takes up what it has named before."""
BETWEEN = words_in(", and or on in at with near under behind beside by from over to is are was were has")


class Amount(NamedTuple):
    """How many objects a mention stands for.

    Attributes:
        number: of objects.
        is_new: whether they come on top of those named before; `the dog` and `one dog` take up an earlier one.
    """

    number: int
    is_new: bool


def amount_at(tokens: Sequence[str], start: int, *, plural: bool, pair: bool) -> Amount:
    """How many objects the mention that begins at `start` stands for.

    Args:
        tokens: words and punctuation in small letters.
        start: the mention's first token.
        plural: whether it is a plural; a number in front of a singular (`the 12 bus`) is no amount.
        pair: whether one object is called so, too, as scissors are: then a pair is one.
    """
    number, is_new = (SEVERAL if plural and not pair else 1), True
    first = max(start - BACK, 0)
    for place in range(start - 1, first - 1, -1):
        word = tokens[place]
        if word in ENDS or word in BETWEEN:
            break
        if word == "of" and place > first and tokens[place - 1] in ("pair", "couple"):
            return Amount(1 if pair else 2, _is_new(tokens, place - 2))
        if plural and (count := _number(word)) is not None:
            is_new = count > 1 and is_new and not _refers(tokens, place - 1)
            return Amount(count, is_new)
        if plural and word in MANY:
            return Amount(SEVERAL, is_new)
        if word in REFERRING:
            is_new = False
    return Amount(number, is_new)


def _number(word: str) -> int | None:
    if word.isascii() and word.isdigit():
        return min(int(word[:4]), MOST) or None
    return NUMBERS.get(word)


def _is_new(tokens: Sequence[str], place: int) -> bool:
    return place < 0 or tokens[place] not in DEFINITE


def _refers(tokens: Sequence[str], place: int) -> bool:
    return place >= 0 and tokens[place] in REFERRING
