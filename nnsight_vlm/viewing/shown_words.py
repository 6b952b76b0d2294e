"""A prompt and its answer as the words of a page: each with its tokens, and where its attention is read.

A generated word is read where it was written: at the position before each of its tokens, from which the model
predicted it (Kaduri et al. 2024, arXiv 2411.17491; `predicting` in `recipes.patch_grounding`). A word of the prompt is
read at its own tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import chain, groupby
from typing import NamedTuple

from ..prompts.prompt import Prompt
from ..prompts.prompt_text import PromptText, Word, prompt_text
from ..prompts.token_map import PARTS, TokenMap
from ..showing import visible
from .panels import Shown, called

BEFORE = "It stands before the picture, so it could not read any of it."
ENCODED = "The encoder reads it beside the picture; the rows of this page are what the decoder reads."
PICTURE = "The picture's own tokens stand here."


class ShownWord(NamedTuple):
    """A word, a punctuation mark or a special token.

    Attributes:
        text: as it is shown.
        part: the group of the prompt that it belongs to.
        positions: of its tokens; none for a picture.
        space, line: whether a space, or a line break, comes before it.
        read_at: where its attention is read; empty where there is none.
        why: why there is none.
        picture: the number of the picture that it stands for.
    """

    text: str
    part: str
    positions: tuple[int, ...]
    space: bool = False
    line: bool = False
    read_at: tuple[int, ...] = ()
    why: str = ""
    picture: int | None = None

    @property
    def is_generated(self) -> bool:
        """Whether the model wrote it."""
        return self.part == "generated"


def shown_words(prompt: Prompt, shown: Shown) -> list[ShownWord]:
    """The words of a prompt of one row and of its answer, in the order of the text, with a word for each picture.

    Tokens inside a picture (line breaks between patches, numbers of tiles) are left out.

    Raises:
        SpecError: the model was loaded without a tokenizer.
    """
    tokens = prompt.rows[0]
    parts = {place: part for part in PARTS for place in tokens.group(part).positions(tokens.stop)}
    inside = {
        place
        for visual in tokens.visuals
        for place in visual.stretch
        if parts.get(place) in ("markup", "image", "video")
    }
    words = [
        _word(piece, parts, tokens)
        for piece in _pieces(prompt_text(prompt.model, tokens), tokens.answer)
        if not inside.issuperset(piece.positions)
    ]
    for visual in reversed(tokens.visuals):
        number = shown.starts[visual.name]
        at = next((n for n, word in enumerate(words) if min(word.positions, default=-1) > visual.positions[0]), 0)
        label = called(visual, alone=sum(other.kind == visual.kind for other in tokens.visuals) == 1)
        words.insert(at, ShownWord(f"[{label}]", "markup", (), space=True, why=PICTURE, picture=number))
    return words


class _Piece(NamedTuple):
    """A stretch of the text, the positions of its tokens, and the spaces before it."""

    text: str
    positions: tuple[int, ...]
    before: str


def _pieces(written: PromptText, answer: int) -> Iterator[_Piece]:
    """Words, and what stands between them without the spaces: punctuation and special tokens, each by itself.

    A word that the prompt begins and the answer ends is two pieces.
    """
    ends, text = 0, written.text
    for word in [*written.words(), None]:
        start = len(text) if word is None else word.start
        spans = [*_between(written, ends, start), *([] if word is None else _halves(written, word, answer))]
        for first, last in spans:
            positions = tuple(sorted(set(chain.from_iterable(written.positions[first:last]))))
            if positions:
                yield _Piece(text[first:last], positions, text[_space_before(text, first) : first])
        ends = max(ends, start if word is None else word.stop)


def _between(written: PromptText, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """The stretches between two words whose letters have the same tokens and are no spaces."""
    letters = [place for place in range(start, stop) if not written.text[place].isspace()]
    for _, group in groupby(enumerate(letters), lambda pair: (pair[1] - pair[0], written.positions[pair[1]])):
        places = [place for _, place in group]
        yield places[0], places[-1] + 1


def _halves(written: PromptText, word: Word, answer: int) -> Iterator[tuple[int, int]]:
    """A word, divided where the answer begins."""
    letters = range(word.start, word.stop)
    for _, group in groupby(letters, lambda place: max(written.positions[place], default=0) >= answer):
        places = list(group)
        yield places[0], places[-1] + 1


def _space_before(text: str, place: int) -> int:
    """Where the spaces before a place begin."""
    while place and text[place - 1].isspace():
        place -= 1
    return place


def _word(piece: _Piece, parts: Mapping[int, str], tokens: TokenMap) -> ShownWord:
    """A piece of text as a word of the page."""
    part = next((parts[place] for place in piece.positions if place in parts), "markup")
    read_at, why = _reads(piece.positions, part, tokens)
    return ShownWord(
        text=visible(piece.text),
        part=part,
        positions=piece.positions,
        space=bool(piece.before),
        line="\n" in piece.before,
        read_at=read_at,
        why=why,
    )


def _reads(positions: Sequence[int], part: str, tokens: TokenMap) -> tuple[tuple[int, ...], str]:
    """Where a word's attention is read; or that it is not, and why."""
    if min(positions) < 0:
        return (), ENCODED
    if part == "generated":
        return tuple(place - 1 for place in positions), ""
    first = min(place for visual in tokens.visuals for place in visual.positions)
    if first < 0:  # read through cross-attention, from the picture's mark in the text on
        can_read = max(positions) >= min(tokens.marks, default=0)
    else:
        can_read = any(tokens.last_seen(place) >= first for place in positions)
    return (tuple(positions), "") if can_read else ((), BEFORE)


def changed_words(words: Sequence[ShownWord], others: Sequence[ShownWord]) -> set[int]:
    """Which generated words of a text are not in another, by their numbers: what is left when both are aligned.

    The words are aligned as `difflib` does it: the longest stretch that both have, and so on to its left and right.
    """
    own = [number for number, word in enumerate(words) if word.is_generated]
    texts = [words[number].text for number in own]
    matcher = SequenceMatcher(None, texts, [word.text for word in others if word.is_generated], autojunk=False)
    same = {place for block in matcher.get_matching_blocks() for place in range(block.a, block.a + block.size)}
    return {number for place, number in enumerate(own) if place not in same}
