"""A chat as the text that its template makes of it, and which of this text is whose words.

Whose words they are is told by a second rendering, in which a *mark* stands for each text of the messages: characters
that neither chat nor template has. What lies between the marks is the template's. Nothing is looked for in the text
itself, so words that look like the template's own mislead nobody; and the two renderings must agree to the letter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from typing import Any, NamedTuple

from ..errors import SpecError
from .messages import Chat, forms_of, with_words

PRESET = -1
"""The number of the message that the template writes where no system message is given."""
UNUSED = range(0xE000, 0xF8FF)
"""Characters that Unicode leaves to private use: candidates for marks."""


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
    """A template does not take a chat in some form; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChatTemplate:
    """The template of a processor, with what it is told beside the messages.

    Attributes:
        processor: whose template it is.
        source: the template itself.
        tools: descriptions of tools, or functions.
        continues: the last message is left open, and the model goes on with it.
    """

    processor: Any
    source: str
    tools: Sequence[Any] | None = None
    continues: bool = False

    def __call__(self, chat: Chat) -> str:
        """A chat as text.

        Raises:
            Unfit: the template refuses it.
        """
        from jinja2 import TemplateError

        ending = "continue_final_message" if self.continues else "add_generation_prompt"
        options: dict[str, Any] = {ending: True}
        if self.tools is not None:
            options["tools"] = list(self.tools)
        try:
            return str(self.processor.apply_chat_template([*chat], chat_template=self.source, **options))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Unfit(f"the chat template does not take these messages: {error}") from error


def template_of(processor: Any, tools: Sequence[Any] | None = None, continues: bool = False) -> ChatTemplate | None:
    """The chat template of a processor, or of its tokenizer; None where neither has one.

    Of several templates it is the one named `tool_use` where tools are given, else `default`.
    """
    holders = (processor, getattr(processor, "tokenizer", None))
    found = next((template for holder in holders if (template := getattr(holder, "chat_template", None))), None)
    if isinstance(found, Mapping):
        found = found.get("tool_use" if tools is not None and "tool_use" in found else "default")
    return None if found is None else ChatTemplate(processor=processor, source=found, tools=tools, continues=continues)


def rendered(template: ChatTemplate, chat: Chat, placeholder: str, images: int | None) -> Rendered:
    """A chat as text, in the first form that its template takes without leaving anything out.

    Args:
        template: the chat template.
        chat: messages that have been checked.
        placeholder: what stands for an image in a text; empty where the processor has nothing like it.
        images: how many images the chat has; None where the processor may write them itself.

    Raises:
        SpecError: the template does not take the chat in any form.
    """
    _check_tools(template, chat)
    refusals = list[Unfit]()
    for form in forms_of(chat, placeholder):
        try:
            return _in_form(template, form, placeholder, images)
        except Unfit as refusal:
            refusals.append(refusal)
    raise SpecError(str(refusals[0])) from refusals[0]


def _check_tools(template: ChatTemplate, chat: Chat) -> None:
    """Refuse tools that a template does not write."""
    if template.tools is None:
        return
    for form in forms_of(chat, ""):
        with suppress(Unfit):
            if template(form) == replace(template, tools=None)(form):
                raise SpecError("tools= change nothing: its chat template takes no tools; leave them out")
            return


def _in_form(template: ChatTemplate, form: Chat, placeholder: str, images: int | None) -> Rendered:
    """A chat as text in one form.

    Raises:
        Unfit: the template refuses it, or leaves something out.
    """
    text = template(form)
    draft = _Draft(template, form, placeholder, _unused_marks(text + template.source + repr(form)))
    marked = draft.marked()
    _check_nothing_is_lost(draft, marked, placeholder, images)
    known = Rendered(text=text, marks=draft.marks, marked=marked, pieces=tuple(draft.pieces))
    if len(set(marked.numbers)) < len(marked.numbers):
        return replace(known, unknown="its chat template writes some words of a message twice")
    return _with_preset(draft, _with_words_as_rendered(draft, known))


def _unused_marks(text: str) -> Marks:
    """Marks of two characters that a text does not have."""
    free = (chr(code) for code in UNUSED if chr(code) not in text)
    return Marks(next(free), next(free))


def sign_of_template(template: ChatTemplate, text: str) -> str:
    """Why a text may be in the template already: a token of its that the template writes; empty where there is none."""
    try:
        known = rendered(template, [{"role": "user", "content": "?"}], "", None)
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
    """One form of a chat, and the pieces in it: the texts of its messages, without the image placeholders in them."""

    def __init__(self, template: ChatTemplate, form: Chat, placeholder: str, marks: Marks) -> None:
        self.template, self.form, self.placeholder, self.marks = template, form, placeholder, marks
        self.pieces: list[Piece] = []

        def take(message: int, key: str, text: str) -> str:
            self.pieces += [Piece(message, key, part) for part in self._parts(text)[::2] if part]
            return text

        with_words(form, take)

    def _parts(self, text: str) -> list[str]:
        """A text cut at its placeholders, which stand at the odd places."""
        return re.split(f"({re.escape(self.placeholder)})", text) if self.placeholder else [text]

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


def _check_nothing_is_lost(draft: _Draft, marked: Marked, placeholder: str, images: int | None) -> None:
    """Refuse a form in which the template drops words or images, or writes a list as Python does."""
    for number, piece in enumerate(draft.pieces):
        if number not in marked.numbers and piece.key == "content":
            raise Unfit(f"the chat template leaves out words of message {piece.message}: {piece.words[:60]!r}")
    if any(re.search(r"""['"]text['"]: ['"]$""", literal) for literal in marked.literals):
        raise Unfit("the chat template takes texts as content, and writes a list as Python does")
    there = sum(literal.count(placeholder) for literal in marked.literals) if placeholder else images
    if images is not None and there != images:
        raise Unfit(f"the chat template writes {there} image(s) ({placeholder!r}) where the chat has {images}")


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
