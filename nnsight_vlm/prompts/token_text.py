"""Tokens as text, for a model that may have been loaded without a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..errors import SpecError
from ..families import Model
from .token_map import TokenMap


class PositionedToken(NamedTuple):
    """A token id and its position in the prompt."""

    position: int
    token: int


class PromptText(NamedTuple):
    """A prompt of one row as text, every image a line break.

    Attributes:
        text: the text.
        positions: for each of its characters, the positions of the tokens that spell it.
    """

    text: str
    positions: list[tuple[int, ...]]

    def occurrences(self, words: str) -> Iterator[set[int]]:
        """Positions of the tokens that spell some words, for each time the text has them as words of their own."""
        for start in range(len(self.text)):
            if self.text.startswith(words, start) and _is_delimited(self.text, start, words):
                letters = [start + number for number, letter in enumerate(words) if letter != " "]
                yield {position for letter in letters for position in self.positions[letter]}


def _is_delimited(text: str, start: int, words: str) -> bool:
    """Whether words in a text are not the middle of longer words."""
    before, after = text[start - 1 : start], text[start + len(words) : start + len(words) + 1]
    return not (before.isalnum() and words[:1].isalnum()) and not (after.isalnum() and words[-1:].isalnum())


def prompt_text(model: Model, tokens: TokenMap) -> PromptText:
    """A prompt of one row as text.

    Raises:
        SpecError: the model was loaded without a tokenizer.
    """
    tokenizer = tokenizer_of(model)
    image_positions = {position for image in tokens.images for position in image}
    text, positions = "", list[tuple[int, ...]]()
    pending, written = list[PositionedToken](), 0  # the tokens since the last image; how many of them are in the text
    for token in _tokens_in_order(tokens):
        if token.position in image_positions:
            if token.position - 1 not in image_positions:
                text, positions = text + "\n", [*positions, (token.position,)]
            pending, written = [], 0
            continue
        pending.append(token)
        before, now = _decoded(tokenizer, pending[:written]), _decoded(tokenizer, pending)
        if len(now) > len(before):
            text += now[len(before) :]
            positions += [tuple(part.position for part in pending[written:])] * (len(now) - len(before))
            written = len(pending)
    return PromptText(text, positions)


def _tokens_in_order(tokens: TokenMap) -> Iterator[PositionedToken]:
    """The tokens outside the sequence, then those in it, without padding."""
    yield from map(PositionedToken, range(-tokens.outside, 0), tokens.outside_tokens)
    yield from map(PositionedToken, range(tokens.start, tokens.stop), tokens.tokens[tokens.start : tokens.stop])


def _decoded(tokenizer: Any, tokens: Sequence[PositionedToken]) -> str:
    """Tokens as text; without the last character if the tokens hold only some of its bytes."""
    ids = [token.token for token in tokens]
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).rstrip("\ufffd")


def known_tokenizer(model: Model) -> Any | None:
    """The tokenizer of the model's processor, or of the model; None if there is none."""
    return getattr(model.processor, "tokenizer", None) or model.tokenizer


def tokenizer_of(model: Model) -> Any:
    """The tokenizer of the model's processor, or of the model.

    Raises:
        SpecError: the model was loaded without one.
    """
    tokenizer = known_tokenizer(model)
    if tokenizer is None:
        raise SpecError("reading words needs a tokenizer; give token ids, or write nv.load(model, processor=...)")
    return tokenizer


def spell(model: Model, token: int) -> str:
    """One token as tables show it: its text, or its id where there is no tokenizer."""
    tokenizer = known_tokenizer(model)
    return str(token) if tokenizer is None else str(tokenizer.decode([token]))


def spell_answer(model: Model, tokens: Sequence[int]) -> str:
    """An answer's text without special tokens; empty where there is no tokenizer."""
    tokenizer = known_tokenizer(model)
    return "" if tokenizer is None else str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip()
