"""Where characters and words begin and end, in a text of any script.

A character is what a reader takes for one: a letter with its accents and vowel signs (a grapheme cluster of Unicode's
UAX 29). Most scripts write spaces between words, so there a word is a stretch of letters and digits. Han, Kana, Thai,
Lao, Khmer and Burmese do not, so there words may begin and end at any character. Korean does, but writes particles at
the end of nouns, so a noun is found in front of them (`korean`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple

import regex

from .korean import are_particles

_KINDS = regex.compile(
    r"""
      (?P<m> (?=\p{Lm}) [\p{scx=Han}\p{scx=Hira}\p{scx=Kana}] )             # 々 and ー go with what precedes them
    | (?P<k> (?=[\p{L}\p{N}]) \p{scx=Kana} )                                # Katakana
    | (?P<s> (?=[\p{L}\p{N}\p{M}]) [\p{scx=Han}\p{scx=Hira}\p{scx=Bopo}\p{Line_Break=SA}] )
    | (?P<h> (?=\p{L}) \p{scx=Hang} )
    | (?P<d> \p{N} )
    | (?P<w> [\p{L}\p{M}] )
    | (?P<e> \p{Extended_Pictographic} | \p{Regional_Indicator} )
    | (?P<a> ['\u2019] )                                                    # within a word: dog's
    | (?P<p> [.,] )                                                         # within a number: 3.5
    """,
    regex.VERBOSE,
)
"""What characters are, by their first code point; `s` are all other scripts without spaces."""
_OTHER, _MARKER = " ", "#"
_WORDS = re.compile(r"[wd]+(?:(?<=w)a(?=w)[wd]+|(?<=d)p(?=d)[wd]+)*|h+|k[km]*|sm*|e")
"""Words in the kinds of characters."""
_JOINED = ("ww", "wd", "dw", "dd", "hh")
"""Neighbours that belong to one word."""


class Span(NamedTuple):
    """The characters `start .. stop - 1` of a text."""

    start: int
    stop: int


class Atom(NamedTuple):
    """The characters of a token that is found as a whole or not at all.

    Attributes:
        start: the first character.
        stop: one past the last.
        is_marker: whether it belongs to no word, as special tokens do.
    """

    start: int
    stop: int
    is_marker: bool


class Writing:
    """A text with its characters and words.

    A border lies in front of every character, and one behind the last.

    Args:
        text: the text.
        atoms: tokens that are found as a whole or not at all.

    >>> writing = Writing("der Hund, das Hundehaus")
    >>> writing.find("Hund"), writing.find("Hund", whole_words=False)
    ([Span(start=4, stop=8)], [Span(start=4, stop=8), Span(start=14, stop=18)])
    """

    def __init__(self, text: str, atoms: Sequence[Atom] = ()) -> None:
        self.text = text
        self.atoms = tuple(atoms)

    def find(self, words: str, *, whole_words: bool = True, ignore_case: bool = False) -> list[Span]:
        """Every place where the text has these words; places may overlap.

        Args:
            words: equal text matches, however its accents are encoded (NFC).
            whole_words: leave out parts of longer words; else places begin and end at any character.
            ignore_case: whether capitals match small letters.
        """
        text, border_at = self._folded[ignore_case]
        wanted, found = "".join(_fold(part, ignore_case) for part in _characters(words)), list[Span]()
        place = text.find(wanted) if wanted else -1
        while place >= 0:
            start, stop = border_at.get(place), border_at.get(place + len(wanted))
            if start is not None and stop is not None and (not whole_words or self._is_word(start, stop)):
                found.append(Span(self._starts[start], self._starts[stop]))
            place = text.find(wanted, place + 1)
        return found

    def words(self, is_divided: Callable[[int], bool] = lambda _: True) -> list[Span]:
        """The words, in order: without spaces, punctuation and markers.

        A pictograph is a word. In scripts without spaces a word is a character, a run of Katakana, or the least number
        of characters that can be divided.

        Args:
            is_divided: whether the text may be divided in front of a character in these scripts, by its place.
        """
        found = list[Span]()
        for match in _WORDS.finditer(self._kinds):
            start, stop = match.span()
            if self._cut_atoms.isdisjoint((start, stop)):
                span = Span(self._starts[start], self._starts[stop])
                if found and self._is_spaceless(start) and found[-1].stop == span.start and not is_divided(span.start):
                    span = Span(found.pop().start, span.stop)
                found.append(span)
        return found

    def word_around(self, span: Span) -> str:
        """The longer word, or the atom, of which a span is a part; the span's own text where it is whole."""
        for atom in self.atoms:
            if atom.start < span.stop and span.start < atom.stop:
                return self.text[atom.start : atom.stop]
        start, stop = (self._border_at[place] for place in span)
        while not self._is_word_border[start]:
            start -= 1
        while not self._is_word_border[stop]:
            stop += 1
        return self.text[self._starts[start] : self._starts[stop]]

    def _is_word(self, start: int, stop: int) -> bool:
        """Whether the characters between two borders are words of their own, or a Korean noun before its particles."""
        if not self._is_word_border[start]:
            return False
        if self._is_word_border[stop] or self._kinds[stop] != "h":
            return self._is_word_border[stop]
        end = next(border for border in range(stop, len(self._starts)) if self._is_word_border[border])
        noun = max(border for border in range(start, stop) if self._is_word_border[border])
        first, behind, last = (self._starts[border] for border in (noun, stop, end))
        return are_particles(self.text[first:behind], self.text[behind:last])

    def _is_spaceless(self, border: int) -> bool:
        return border > 0 and self._kinds[border] in "skm" and self._kinds[border - 1] in "skm"

    @cached_property
    def _starts(self) -> list[int]:
        """Where each border lies in the text."""
        places = [0]
        for part in _characters(self.text):
            places.append(places[-1] + len(part))
        return places

    @cached_property
    def _border_at(self) -> dict[int, int]:
        return {place: border for border, place in enumerate(self._starts)}

    @cached_property
    def _kinds(self) -> str:
        """What each character is; all of a marker is `#`."""
        kinds = [_kind(self.text[place]) for place in self._starts[:-1]]
        for atom in self.atoms:
            if atom.is_marker:
                for border in self._borders_within(atom.start, atom.stop):
                    kinds[border] = _MARKER
        return "".join(kinds)

    @cached_property
    def _cut_atoms(self) -> set[int]:
        """Borders inside atoms."""
        return {border for atom in self.atoms for border in self._borders_within(atom.start + 1, atom.stop)}

    def _borders_within(self, start: int, stop: int) -> Iterator[int]:
        return (self._border_at[place] for place in range(start, stop) if place in self._border_at)

    @cached_property
    def _is_word_border(self) -> list[bool]:
        """For each border, whether a word may begin or end there."""
        pairs = (self._kinds[border - 1 : border + 1] for border in range(1, len(self._starts) - 1))
        return [True, *(pair not in _JOINED for pair in pairs), True][: len(self._starts)]

    @cached_property
    def _folded(self) -> tuple[tuple[str, dict[int, int]], tuple[str, dict[int, int]]]:
        """The text as it is compared, with and without capitals, and the borders at which a place may begin or end."""
        return self._compared(ignore_case=False), self._compared(ignore_case=True)

    def _compared(self, ignore_case: bool) -> tuple[str, dict[int, int]]:
        parts, border_at, length = list[str](), dict[int, int](), 0
        for border, part in enumerate([*_characters(self.text), ""]):
            if border not in self._cut_atoms:
                border_at[length] = border
            parts.append(_fold(part, ignore_case))
            length += len(parts[-1])
        return "".join(parts), border_at


def _characters(text: str) -> list[str]:
    parts: list[str] = regex.findall(r"\X", text)
    return parts


def _fold(part: str, ignore_case: bool) -> str:
    """One character as it is compared. Canonically equivalent text is equal; nothing else is."""
    part = unicodedata.normalize("NFC", part)
    return unicodedata.normalize("NFC", part.casefold()) if ignore_case else part


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    match = _KINDS.match(character)
    return str(match.lastgroup) if match else _OTHER
