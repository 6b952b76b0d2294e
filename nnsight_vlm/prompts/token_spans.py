"""Which characters of a text each token spells, in time linear in the text, for any tokenizer.

A tokenizer says what many tokens are together, not what each of them adds: a character may be spread over several
tokens (byte-level vocabularies, bytes as a fallback), and a token read alone may lose the space before it. So each
token is decoded with the few before it, and what comes out is held against the text of all tokens: as far as the two
agree, the characters are complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    text = decode(tokens)
    borders = _borders(decode, tokens, text)
    spans = [
        (before.complete, max(before.complete, after.complete) + after.is_cut)
        for before, after in pairwise([_Border(0, is_cut=False), *borders])
    ]
    return SpelledTokens(text, spans)


def _borders(decode: Decode, tokens: Sequence[int], text: str) -> list[_Border]:
    """The end of each token.

    `whole` tokens spell `written` characters and no part of another one. What follows is decoded behind the last of
    them that have a text, which begin at `context` and are `before` by themselves. Where that does not tell, it is
    decoded behind all of them: bytes that are no text spoil what stands around them, and so may unusual decoders.
    """
    borders, context, whole, written, before, behind_all = list[_Border](), 0, 0, 0, "", False
    for stop in range(1, len(tokens) + 1):
        if not behind_all:
            now = decode(tokens[context:stop])
            border = _border(now[len(before) :], text, written) if now.startswith(before) else _Border(written, True)
            behind_all = border.is_cut and (stop - whole > LONGEST or stop == len(tokens))
            if behind_all:
                borders[whole:] = [_border(decode(tokens[:end]), text, 0) for end in range(whole + 1, stop)]
        if behind_all:
            border = _border(decode(tokens[:stop]), text, 0)
        borders.append(border)
        if not border.is_cut:
            context = whole if border.complete > written else context
            whole, written, before, behind_all = stop, border.complete, decode(tokens[context:stop]), False
    return borders


def _border(new: str, text: str, written: int) -> _Border:
    """Where a text ends that continues another one behind so many characters; what is no part of it is cut off."""
    if text.startswith(new, written):
        return _Border(written + len(new), is_cut=False)
    agreeing = takewhile(lambda pair: pair[0] == pair[1], zip(new, text[written : written + len(new)], strict=False))
    return _Border(written + sum(1 for _ in agreeing), is_cut=True)
