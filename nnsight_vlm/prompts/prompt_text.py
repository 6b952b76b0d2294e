"""A prompt as text: its words, and the tokens that spell each of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

from ..families import Model
from .token_map import TokenMap
from .token_spans import SpelledTokens, spelled_tokens
from .token_text import added_tokens, tokenizer_of
from .writing import Atom, Span, Writing

_SHOWN = 2000
"""Most characters of a prompt that a message shows."""


@dataclass(frozen=True, kw_only=True)
class Word:
    """Words of a prompt.

    Attributes:
        text: the words as the prompt has them.
        positions: of the tokens that hold at least a part of one of their letters.
        start: the place of the first letter in `prompt.text`.
        stop: one past the place of the last.
    """

    text: str
    positions: tuple[int, ...]
    start: int
    stop: int


class _Piece(NamedTuple):
    """A token id and its position in the prompt."""

    position: int
    token: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptText:
    """A prompt of one row as text, every image and every frame of a video a line break.

    Attributes:
        writing: the text, with the borders of characters and words.
        positions: for each of its characters, the positions of the tokens that hold a part of it; none for an image or
            a frame.
        tokenizer: what spells the text.
    """

    writing: Writing
    positions: Sequence[tuple[int, ...]]
    tokenizer: Any

    @property
    def text(self) -> str:
        return self.writing.text

    def find(
        self, words: str, within: Container[int] | None = None, *, whole_words: bool = True, ignore_case: bool = False
    ) -> list[Word]:
        """Every place that has these words, in the order of the text.

        Args:
            words: what to find, as the prompt has it, or as it was before the tokenizer changed it (capitals, width).
            within: positions that all tokens of a place must have; None for any.
            whole_words, ignore_case: see `Writing.find`.
        """
        forms = (words, self._as_tokenized(words)) if words.strip() else ()
        places = {
            place
            for form in forms
            for place in self.writing.find(form, whole_words=whole_words, ignore_case=ignore_case)
        }
        return list(self._words_at(sorted(places), within))

    def words(self, within: Container[int] | None = None) -> list[Word]:
        """The words whose tokens are all within some positions; see `Writing.words`."""
        return list(self._words_at(self.writing.words(self._is_divided), within))

    def why_not_found(self, words: str, within: Container[int] | None) -> str:
        """What the prompt reads in place of words that it has not got, and what to write to find them."""
        if not words.strip():
            return "there are no words to find"
        for changed, advice in (
            ({"whole_words": False}, "which is found in parts with whole_words=False"),
            ({"ignore_case": True}, "which ignore_case=True finds"),
            ({"whole_words": False, "ignore_case": True}, "which whole_words=False, ignore_case=True find"),
        ):
            for place in self.find(words, within, **changed):
                return f"there is {self.writing.word_around(Span(place.start, place.stop))!r}, {advice}"
        for atom in self.writing.atoms:
            token = self.text[atom.start : atom.stop]
            if words in token:
                return f"there is the token {token!r}, which is found by its whole text only"
        elsewhere = [place.positions for place in self.find(words)][:1]
        return f"it is elsewhere, at {elsewhere[0]}" if elsewhere else f"which reads {_abridged(self.text.strip())!r}"

    def _words_at(self, places: Sequence[Span], within: Container[int] | None) -> Iterator[Word]:
        """The places all of whose letters have tokens, and these within some positions."""
        for start, stop in places:
            of_letters = [self.positions[place] for place in range(start, stop) if self.text[place] != " "]
            positions = tuple(sorted(set(chain.from_iterable(of_letters))))
            if all(of_letters) and (within is None or all(position in within for position in positions)):
                yield Word(text=self.text[start:stop], positions=positions, start=start, stop=stop)

    def _is_divided(self, place: int) -> bool:
        """Whether a token begins at a place of the text."""
        return set(self.positions[place - 1]).isdisjoint(self.positions[place])

    def _as_tokenized(self, words: str) -> str:
        """Words as they read once the tokenizer has changed them; as they are where anything would be lost.

        It may change capitals, accents and width, and write more spaces; but not leave out letters, as where it has no
        token for one.
        """
        tokens = self.tokenizer.encode(words, add_special_tokens=False)
        changed = _decoded(self.tokenizer, tokens)
        is_same = _letters(changed) == _letters(words) and changed.count(" ") >= words.count(" ")
        return changed if is_same else words


def prompt_text(model: Model, tokens: TokenMap) -> PromptText:
    """A prompt of one row as text.

    Raises:
        SpecError: the model was loaded without a tokenizer.
    """
    tokenizer = tokenizer_of(model)
    added, within = added_tokens(tokenizer), {p for image in tokens.images for p in range(image[0], image[-1] + 1)}
    texts, positions, atoms, length = list[str](), list[tuple[int, ...]](), list[Atom](), 0
    for pieces in _stretches(tokens):
        if pieces is None:
            spelled, own = SpelledTokens("\n", []), list[tuple[int, ...]]([()])
        else:
            spelled = spelled_tokens(partial(_decoded, tokenizer), [piece.token for piece in pieces])
            own = _positions_of(spelled, pieces)
            markers = {piece.position: added[piece.token] for piece in pieces if piece.token in added}
            markers |= {piece.position: True for piece in pieces if piece.position in within}
            atoms += _atoms(spelled, pieces, length, markers)
        texts.append(spelled.text)
        positions += own
        length += len(spelled.text)
    return PromptText(writing=Writing("".join(texts), atoms), positions=positions, tokenizer=tokenizer)


def _positions_of(spelled: SpelledTokens, pieces: Sequence[_Piece]) -> list[tuple[int, ...]]:
    """For each character of some tokens' text, the positions of those that hold a part of it."""
    positions: list[tuple[int, ...]] = [()] * len(spelled.text)
    for piece, (start, stop) in zip(pieces, spelled.spans, strict=True):
        for place in range(start, stop):
            positions[place] = (*positions[place], piece.position)
    return positions


def _atoms(
    spelled: SpelledTokens, pieces: Sequence[_Piece], offset: int, markers: Mapping[int, bool]
) -> Iterator[Atom]:
    """The tokens at some positions, in a text that begins at `offset`, without the spaces that a decoder writes.

    These are added tokens, and all within an image, such as the ends of its lines: they belong to no word. What stands
    between the frames of a video, such as their times, is text.
    """
    for piece, (start, stop) in zip(pieces, spelled.spans, strict=True):
        token = spelled.text[start:stop]
        if piece.position in markers and token:
            inner = token.strip() or token
            first = offset + start + token.index(inner)
            yield Atom(first, first + len(inner), is_marker=markers[piece.position])


def _stretches(tokens: TokenMap) -> Iterator[list[_Piece] | None]:
    """The tokens outside the sequence, then those in it, without padding, divided by images and frames.

    None stands for each image and frame.
    """
    images = tokens.visual_tokens
    pieces = list[_Piece]()
    for piece in _in_order(tokens):
        if piece.position not in images:
            pieces.append(piece)
        elif piece.position - 1 not in images:
            yield pieces
            yield None
            pieces = []
    yield pieces


def _in_order(tokens: TokenMap) -> Iterator[_Piece]:
    encoder = dict(tokens.stages).get("encoder")
    if encoder is not None:
        read = range(encoder.start, encoder.stop)
        yield from (_Piece(place - tokens.outside, tokens.outside_tokens[place]) for place in read)
    yield from map(_Piece, range(tokens.start, tokens.stop), tokens.tokens[tokens.start : tokens.stop])


def _decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    return str(tokenizer.decode(list(tokens), clean_up_tokenization_spaces=False))


def _letters(text: str) -> str:
    """A text without what a tokenizer may change."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if not (letter.isspace() or unicodedata.category(letter).startswith("M")))


def _abridged(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} ... {text[-_SHOWN // 2 :]}"
