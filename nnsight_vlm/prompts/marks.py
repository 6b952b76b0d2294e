"""A text in which marks stand for words."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import NamedTuple


class Piece(NamedTuple):
    """Words of a message: its number, the key that they were under, and the words as the text has them."""

    message: int
    key: str
    words: str


@dataclass(frozen=True)
class Marked:
    """A text in which marks stand for pieces.

    Attributes:
        literals: what stands before, between and behind the marks.
        numbers: the numbers of the pieces in their order; between two literals each.
    """

    literals: tuple[str, ...]
    numbers: tuple[int, ...]

    def filled(self, words: Callable[[int], str]) -> str:
        """The text with words in the place of each mark."""
        return "".join(chain.from_iterable(zip_longest(self.literals, map(words, self.numbers), fillvalue="")))

    def around(self, number: int, words: Callable[[int], str]) -> tuple[str, str]:
        """The text before and behind one mark, with words in the place of each other."""
        at = self.numbers.index(number)
        before, behind = Marked(self.literals[: at + 1], self.numbers[:at]), self.numbers[at + 1 :]
        return before.filled(words), Marked(self.literals[at + 1 :], behind).filled(words)


@dataclass(frozen=True)
class Marks:
    """How the mark of each piece is written."""

    opening: str
    closing: str

    def __call__(self, number: int) -> str:
        return f"{self.opening}{number}{self.closing}"

    def split(self, text: str) -> Marked:
        """A text that was written with these marks."""
        parts = re.split(f"{self.opening}([0-9]+){self.closing}", text)
        return Marked(tuple(parts[::2]), tuple(map(int, parts[1::2])))
