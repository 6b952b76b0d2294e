"""Which characters of a text each token spells, in time linear in the text, for any tokenizer.

A tokenizer says what many tokens are together, not what each of them adds: a character may be spread over several
tokens (byte-level vocabularies, bytes as a fallback), and a token read alone may lose the space before it. So each
token is decoded with the few before it, and what comes out is held against the text of all tokens: as far as the two
agree, the characters are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, takewhile
from typing import NamedTuple

Decode = Callable[[Sequence[int]], str]
"""Token ids to text."""

LONGEST = 8
"""Most tokens of one character: four bytes at most, and room for tokens without any text."""


class SpelledTokens(NamedTuple):
    """Some tokens as text.

    Attributes:
        text: the text.
        spans: for each token, the characters `(start, stop)` of which it holds at least a part; an empty span for a
            token without text.
    """

    text: str
    spans: list[tuple[int, int]]


class _Border(NamedTuple):
    """The end of a token in the text.

    Attributes:
        complete: how many characters the tokens up to here spell completely.
        is_cut: whether they hold a part of the next one too.
    """

    complete: int
    is_cut: bool


def spelled_tokens(decode: Decode, tokens: Sequence[int]) -> SpelledTokens:
    """Tokens as text, and the characters of each.

    >>> words = ["the", " red", " dog"]
    >>> spelled_tokens(lambda some: "".join(words[token] for token in some), [0, 1, 2]).spans
    [(0, 3), (3, 7), (7, 11)]
    """
    if not tokens:
        return SpelledTokens("", [])
    text = decode(tokens)
    end = _Border(len(text), is_cut=False)
    borders = list(_borders_from_neighbours(decode, tokens, text))
    if len(borders) < len(tokens) or borders[-1] != end:  # what a token adds follows from more than its neighbours
        borders = [*(_border(decode(tokens[:stop]), text, 0) for stop in range(1, len(tokens))), end]
    spans = [
        (before.complete, max(before.complete, after.complete) + after.is_cut)
        for before, after in pairwise([_Border(0, is_cut=False), *borders])
    ]
    return SpelledTokens(text, spans)


def _borders_from_neighbours(decode: Decode, tokens: Sequence[int], text: str) -> Iterator[_Border]:
    """The end of each token, from decoding it with its neighbours; fewer than all where these do not tell.

    `whole` tokens spell `written` characters and no part of another one. What follows is decoded behind the last of
    them that have a text, which begin at `context` and are `before` by themselves.
    """
    context, whole, written, before = 0, 0, 0, ""
    for stop in range(1, len(tokens) + 1):
        now = decode(tokens[context:stop])
        border = _border(now[len(before) :], text, written) if now.startswith(before) else _Border(written, is_cut=True)
        if not border.is_cut:
            context = whole if border.complete > written else context
            whole, written = stop, border.complete
            before = decode(tokens[context:whole])
        elif stop - whole > LONGEST:
            return
        yield border


def _border(new: str, text: str, written: int) -> _Border:
    """Where a text ends that continues another one behind so many characters; what is no part of it is cut off."""
    if text.startswith(new, written):
        return _Border(written + len(new), is_cut=False)
    agreeing = takewhile(lambda pair: pair[0] == pair[1], zip(new, text[written : written + len(new)], strict=False))
    return _Border(written + sum(1 for _ in agreeing), is_cut=True)
