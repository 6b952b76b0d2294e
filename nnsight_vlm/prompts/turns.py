"""From the words of each message to its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from PIL import Image

from .conversation import Conversation, Turn
from .listening import ListeningProcessor
from .messages import ShownEntry
from .ranges import NOWHERE, Ranges
from .templates import PRESET, Rendered
from .token_map import TokenMap
from .token_text import added_tokens
from .video_sources import Video

TEMPLATE = -2
"""Whose words those of the template are, beside `PRESET` and the numbers of messages."""


class Untold(Exception):
    """It cannot be told whose words a prompt's tokens spell; the message says why."""


class Asked(NamedTuple):
    """A chat that was encoded.

    Attributes:
        chat: its messages.
        shown: its images and videos, and which message shows each.
        known: the chat as text.
        pictures: its pictures.
        videos: its videos.
        options: what the processor was told beside them.
    """

    chat: Sequence[Mapping[str, Any]]
    shown: Sequence[ShownEntry]
    known: Rendered
    pictures: Sequence[Image.Image]
    videos: Sequence[Video]
    options: Mapping[str, Any]


def conversation_of(asked: Asked, listener: ListeningProcessor, tokens: TokenMap) -> Conversation:
    """Who says what in a row that `listener` has just encoded.

    Raises:
        Untold: the template, the processor or its tokenizer does not let it be told.
    """
    row, text = _encoded(tokens), _text_tokens(tokens)
    owners = dict(enumerate(_owners(asked, listener, row)))

    def words_of(owner: int) -> Ranges:
        return Ranges.of(place for place in text if owners[place] == owner)

    turns = (
        Turn(
            role=message["role"],
            words=words_of(number),
            images=_shown_by(asked.shown, "image", number),
            videos=_shown_by(asked.shown, "video", number),
        )
        for number, message in enumerate(asked.chat)
    )
    return Conversation(turns=tuple(turns), preset=words_of(PRESET), markers=words_of(TEMPLATE))


def _shown_by(shown: Sequence[ShownEntry], kind: str, message: int) -> tuple[int, ...]:
    """The numbers of the images or videos that a message shows."""
    own = (entry for entry in shown if entry.kind == kind)
    return tuple(number for number, entry in enumerate(own) if entry.message == message)


def unspoken(tokens: TokenMap, tokenizer: Any, why: str) -> Conversation:
    """Of a row of which it is not known who says what: its special tokens are its markers.

    Args:
        tokens: the row.
        tokenizer: None where there is none; then special tokens are not known either.
        why: as the reader of an error sees it.
    """
    if tokenizer is None:
        return Conversation(unknown=why)
    is_special, row = added_tokens(tokenizer), _encoded(tokens)
    return Conversation(
        markers=Ranges.of(place for place in _text_tokens(tokens) if is_special.get(row.tokens[place])), unknown=why
    )


def _encoded(tokens: TokenMap) -> TokenMap:
    """The map of a row's `input_ids`: the encoder's where there is one."""
    return dict(tokens.stages).get("encoder", tokens)


def _text_tokens(tokens: TokenMap) -> list[int]:
    """Positions in `input_ids` of all tokens that belong to no image or video, and are not generated."""
    row = _encoded(tokens)
    return [place for part in ("system", "query") for place in row.group(part).positions(row.stop) if place >= 0]


# whose words a token spells -----------------------------------------------------------------------


def _owners(asked: Asked, listener: ListeningProcessor, row: TokenMap) -> list[int]:
    """For each token the number of the message whose words it spells, `PRESET` or `TEMPLATE`."""
    known, heard = asked.known, listener.heard
    if known.unknown:
        raise Untold(known.unknown)
    if heard is None or heard.spans is None:
        raise Untold("its tokenizer does not tell where in the text a token lies")
    if tuple(heard.ids) != row.tokens:
        raise Untold("its processor changes the tokens that its tokenizer gives")
    listener(known.marked.filled(known.marks), asked.pictures, asked.videos, **asked.options)
    marked = known.marks.split("" if listener.heard is None else listener.heard.text)
    if marked.numbers != known.marked.numbers or _filled(marked.literals, known) != heard.text:
        raise Untold("its processor changes the words of the text")
    return _owners_of_tokens(heard.text, heard.spans, _owners_of_letters(marked.literals, known))


def _filled(literals: Sequence[str], known: Rendered) -> str:
    return replace(known.marked, literals=tuple(literals)).filled(lambda number: known.pieces[number].words)


def _owners_of_letters(literals: Sequence[str], known: Rendered) -> list[int]:
    """For each letter of the text whose it is."""
    owners = [TEMPLATE] * len(literals[0])
    for number, literal in zip(known.marked.numbers, literals[1:], strict=True):
        piece = known.pieces[number]
        owners += [piece.message] * len(piece.words) + [TEMPLATE] * len(literal)
    return owners


def _owners_of_tokens(text: str, spans: Sequence[tuple[int, int]], owners: Sequence[int]) -> list[int]:
    """For each token whose words it spells: of one that spells letters of several, a message's before the template's.

    Space that no token claims is the next token's (tokenizers leave it out of spans). A token that is all space is a
    message's only if all of it is.
    """
    found, claimed = list[int](), 0
    for start, stop in spans:
        letters = range(min(start, claimed), stop)
        said = [owners[place] for place in letters if not text[place].isspace()]
        spelled = said or [owners[place] for place in letters]
        in_messages = [owner for owner in spelled if owner != TEMPLATE]
        belongs = in_messages and (said or len(in_messages) == len(spelled))
        found.append(in_messages[0] if belongs else TEMPLATE)
        claimed = max(claimed, stop)
    return found


# rows that know -----------------------------------------------------------------------------------


def spoken(tokens: TokenMap) -> Conversation:
    """Who says what in a row, at positions of `input_ids`."""
    return _encoded(tokens).conversation


def speaking(tokens: TokenMap, conversation: Conversation) -> TokenMap:
    """The same row, of which it is known who says what, at positions of `input_ids`."""
    stages = dict(tokens.stages)
    if "encoder" not in stages:
        return _knowing(tokens, conversation)
    stages["encoder"] = _knowing(stages["encoder"], conversation)
    outside = conversation.mapped(lambda ranges: ranges.outside_of(tokens.outside))
    return _knowing(replace(tokens, stages=tuple(stages.items())), outside)


def _knowing(tokens: TokenMap, conversation: Conversation) -> TokenMap:
    markers = conversation.markers or NOWHERE
    named = ((name, ranges.without(markers) if name == "question" else ranges) for name, ranges in tokens.named)
    return replace(tokens, conversation=conversation, named=tuple(named))
