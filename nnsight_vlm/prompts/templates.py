"""A chat as the text that its template makes of it, and which of this text is whose words.

Whose words they are is told by a second rendering, in which a *mark* stands for each text of the messages: characters
that neither chat nor template has. What lies between the marks is the template's. Nothing is looked for in the text
itself, so words that look like the template's own mislead nobody; and the two renderings must agree to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..errors import SpecError
from .marks import Marked, Marks, Piece
from .messages import Chat, Placeholders, forms_of, kinds_in, with_words

PRESET = -1
"""The number of the message that the template writes where no system message is given."""
UNUSED = range(0xE000, 0xF8FF)
"""Characters that Unicode leaves to private use: candidates for marks."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A chat as text.

    Attributes:
        text: what the processor takes.
        marks: how marks are written.
        marked: the text with marks.
        pieces: the words that each mark stands for.
        unknown: why it cannot be told whose words are whose; empty where it can.
    """

    text: str
    marks: Marks
    marked: Marked
    pieces: tuple[Piece, ...]
    unknown: str = ""


class Unfit(Exception):
    """A template does not take a chat in some form.

    Args:
        why: as the user reads it.
        near: how much of it the template takes; of several forms, the one is told of that it takes best.
    """

    def __init__(self, why: str, near: int = 0) -> None:
        super().__init__(why)
        self.near = near


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatTemplate:
    """The template of a processor, with what it is told beside the messages.

    Attributes:
        processor: whose template it is.
        source: the template itself.
        tools: descriptions of tools, or functions.
        continues: the last message is left open, and the model goes on with it.
        is_own: whether the processor takes a template of its own in place of this one.
    """

    processor: Any
    source: str
    tools: Sequence[Any] | None = None
    continues: bool = False
    is_own: bool = False

    def __call__(self, chat: Chat) -> str:
        """A chat as text.

        Raises:
            Unfit: the template refuses it.
        """
        from jinja2 import TemplateError

        ending = "continue_final_message" if self.continues else "add_generation_prompt"
        options: dict[str, Any] = {ending: True} | ({} if self.tools is None else {"tools": [*self.tools]})
        options |= {} if self.is_own else {"chat_template": self.source}
        try:
            return str(self.processor.apply_chat_template([*chat], **options))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Unfit(f"the chat template does not take these messages: {error}") from error


def template_of(
    processor: Any, tools: Sequence[Any] | None = None, continues: bool = False, *, is_own: bool = False
) -> ChatTemplate | None:
    """The chat template of a processor, or of its tokenizer; None where neither has one.

    Of several templates it is the one named `tool_use` where tools are given, else `default`.
    """
    holders = (processor, getattr(processor, "tokenizer", None))
    found = next((template for holder in holders if (template := getattr(holder, "chat_template", None))), None)
    if isinstance(found, Mapping):
        found = found.get("tool_use" if tools is not None and "tool_use" in found else "default")
    if found is None:
        return None
    return ChatTemplate(processor=processor, source=found, tools=tools, continues=continues, is_own=is_own)


def rendered(template: ChatTemplate, chat: Chat, placeholders: Placeholders, shown: Sequence[str] | None) -> Rendered:
    """A chat as text, in the first form that its template takes without leaving anything out.

    Args:
        template: the chat template.
        chat: messages that have been checked.
        placeholders: what stands for images and videos in a text.
        shown: `"image"` or `"video"` for each that the chat has; None where the processor may write them itself.

    Raises:
        SpecError: the template does not take the chat in any form.
    """
    _check_tools(template, chat)
    refusals = list[Unfit]()
    for form in forms_of(chat, placeholders):
        try:
            return _in_form(template, form, placeholders, shown)
        except Unfit as refusal:
            refusals.append(refusal)
    nearest = max(refusals, key=lambda refusal: refusal.near)
    raise SpecError(str(nearest)) from nearest


def _check_tools(template: ChatTemplate, chat: Chat) -> None:
    """Refuse tools that a template does not write."""
    if template.tools is None:
        return
    for form in forms_of(chat, Placeholders()):
        with suppress(Unfit):
            if template(form) == replace(template, tools=None)(form):
                raise SpecError("tools= change nothing: its chat template takes no tools; leave them out")
            return


def _in_form(template: ChatTemplate, form: Chat, placeholders: Placeholders, shown: Sequence[str] | None) -> Rendered:
    """A chat as text in one form.

    Raises:
        Unfit: the template refuses it, or leaves something out.
    """
    text = template(form)
    draft = _Draft(template, form, placeholders, text)
    marked = draft.marked()
    _check_nothing_is_lost(draft, marked, placeholders, shown)
    known = Rendered(text=text, marks=draft.marks, marked=marked, pieces=tuple(draft.pieces))
    if len(set(marked.numbers)) < len(marked.numbers):
        return replace(known, unknown="its chat template writes some words of a message twice")
    return _with_preset(draft, _with_words_as_rendered(draft, known))


def sign_of_template(template: ChatTemplate, text: str) -> str:
    """Why a text may be in the template already: a token of its that the template writes; empty where there is none."""
    try:
        known = rendered(template, [{"role": "user", "content": "?"}], Placeholders(), None)
    except SpecError:
        return ""
    literals = known.marked.literals
    tokens = template.processor.tokenizer.get_added_vocab()
    found = [token for token in tokens if token in text and any(token in literal for literal in literals)]
    before, behind = literals[-2].strip(), literals[-1].strip()
    if before and behind and before in text and text.rstrip().endswith(behind):
        found.append(before)
    return max(found, key=len, default="")


class _Draft:
    """One form of a chat, and the pieces in it: the texts of its messages, without the placeholders in them.

    Its marks are of two characters that neither the chat, as it was given and as text, nor the template has.
    """

    def __init__(self, template: ChatTemplate, form: Chat, placeholders: Placeholders, text: str) -> None:
        self.template, self.form, self.placeholders = template, form, placeholders
        self.pieces: list[Piece] = []

        def take(message: int, key: str, text: str) -> str:
            self.pieces += [Piece(message, key, part) for part in self._parts(text)[::2] if part]
            return text

        with_words(form, take)
        met = {*text, *template.source, *(letter for piece in self.pieces for letter in piece.words)}
        free = (chr(code) for code in UNUSED if chr(code) not in met)
        self.marks = Marks(next(free), next(free))

    def _parts(self, text: str) -> list[str]:
        """A text cut at its placeholders, which stand at the odd places."""
        there = self.placeholders.there
        return re.split(f"({'|'.join(map(re.escape, there))})", text) if there else [text]

    def marked(self, shown: int | None = None, before: Chat = ()) -> Marked:
        """The chat as text with a mark for each piece.

        Args:
            shown: the number of a piece that stands there itself.
            before: more messages before it.
        """
        numbers = iter(range(len(self.pieces)))

        def write(_message: int, _key: str, text: str) -> str:
            return "".join(
                part if place % 2 or not part or (number := next(numbers)) == shown else self.marks(number)
                for place, part in enumerate(self._parts(text))
            )

        return self.marks.split(self.template([*before, *with_words(self.form, write)]))


def _check_nothing_is_lost(
    draft: _Draft, marked: Marked, placeholders: Placeholders, shown: Sequence[str] | None
) -> None:
    """Refuse a form in which the template drops words, images or videos, or writes a list as data."""
    for number, piece in enumerate(draft.pieces):
        if number not in marked.numbers and piece.key == "content":
            raise Unfit(f"the chat template leaves out words of message {piece.message}: {piece.words[:60]!r}", near=1)
    if any(literal.endswith('"text": "') for literal in marked.literals):
        raise Unfit("the chat template takes texts as content, and writes lists as JSON")
    if shown is None:
        return
    written = [kind for literal in marked.literals for kind in kinds_in(literal, placeholders)]
    for kind, placeholder in placeholders._asdict().items():
        has, there = shown.count(kind), written.count(kind)
        if there != has and (placeholder or kind == "video"):
            raise Unfit(
                f"the chat template writes {there} {kind}(s) ({placeholder!r}) where the chat has {has}", near=2
            )


def _with_words_as_rendered(draft: _Draft, known: Rendered) -> Rendered:
    """The words of each piece as the text has them: templates trim them, or drop thoughts from them."""
    marked, mark = known.marked, draft.marks
    if marked.filled(lambda number: known.pieces[number].words) == known.text:
        return known
    pieces = list(known.pieces)
    for number in marked.numbers:
        alone = draft.marked(shown=number).filled(mark)
        before, behind = marked.around(number, mark)
        if alone.startswith(before) and alone.endswith(behind) and len(alone) >= len(before) + len(behind):
            pieces[number] = pieces[number]._replace(words=alone[len(before) : len(alone) - len(behind)])
    if marked.filled(lambda number: pieces[number].words) != known.text:
        return replace(known, unknown="what its chat template writes around some words depends on these words")
    return replace(known, pieces=tuple(pieces))


def _with_preset(draft: _Draft, known: Rendered) -> Rendered:
    """The system message that the template writes where none is given, as a piece: what one that is given replaces."""
    if known.unknown or not draft.form or draft.form[0]["role"] == "system":
        return known
    number, mark = len(known.pieces), draft.marks
    is_listed = any(isinstance(message.get("content"), list) for message in draft.form)
    content = [{"type": "text", "text": mark(number)}] if is_listed else mark(number)
    try:
        marked = draft.marked(before=[{"role": "system", "content": content}])
    except Unfit:
        return known
    if sorted(marked.numbers) != sorted((*known.marked.numbers, number)):
        return known
    (before, behind), whole = marked.around(number, mark), known.marked.filled(mark)
    words = whole[len(before) : len(whole) - len(behind)]
    if before + words + behind != whole or not words.strip() or mark.opening in words:
        return known
    return replace(known, marked=marked, pieces=(*known.pieces, Piece(PRESET, "content", words)))
