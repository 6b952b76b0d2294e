"""A text or a chat and its pictures as a prompt of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..errors import SpecError
from ..families import Family, Model, view_of
from ..families.locks import lock_of
from .conversation import COMPLETE, Conversation
from .from_inputs import from_inputs
from .listening import ListeningProcessor
from .messages import Chat, check_chat, image_entries, pictures_of, with_types
from .pictures import as_rgb
from .prompt import Prompt
from .templates import ChatTemplate, rendered, sign_of_template, template_of
from .turns import Asked, Untold, conversation_of, speaking, unspoken


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """How the rows of one call of `encode` are encoded.

    Attributes:
        model: the model.
        chat: whether a text is put into the chat template; None where the text says it.
        tools: what the template is told of tools.
        continues: the last message of a chat is left open.
    """

    model: Model
    chat: bool | None
    tools: Sequence[Any] | None
    continues: bool

    def encode(self, given: str | Chat, pictures: Sequence[Image.Image]) -> Prompt:
        """A text or a chat as a prompt.

        Raises:
            SpecError: see `encode`.
        """
        if not isinstance(given, str):
            return self._chat(given, pictures)
        if self.continues:
            raise SpecError(
                "continue_final_message=True goes on with the last message of a chat, and a text was given; write "
                '[{"role": "user", "content": ...}, {"role": "assistant", "content": "..."}]'
            )
        if self._is_complete(given):
            return self._complete(given, pictures)
        missing = len(pictures) - self._placeholders(given, 0)
        content = [*[{"type": "image"}] * missing, {"type": "text", "text": given}]
        return self._in_template([{"role": "user", "content": content}], pictures)

    @property
    def _family(self) -> Family:
        return view_of(self.model).family

    @property
    def _placeholder(self) -> str:
        """What stands for an image in a text; in some processors it is an AddedToken."""
        return str(getattr(self.model.processor, "image_token", None) or "")

    def _placeholders(self, text: str, otherwise: int) -> int:
        """How many images stand in a text; another number where nothing stands for one."""
        return text.count(self._placeholder) if self._placeholder else otherwise

    def _template(self) -> ChatTemplate | None:
        return template_of(self.model.processor, self.tools, self.continues)

    # complete texts -------------------------------------------------------------------------------

    def _is_complete(self, text: str) -> bool:
        """Whether a text is taken as it is.

        Raises:
            SpecError: it may be in the chat template already.
        """
        if self.chat is not None:
            return not self.chat
        template = self._template()
        if self._placeholders(text, 0) or (self._family.writes_image and template is None):
            return True
        sign = "" if template is None else sign_of_template(template, text)
        if sign:
            raise SpecError(
                f"the text has {sign!r}, which the chat template writes; if the text is in the template already, write "
                "nv.encode(..., chat=False), and if these are its words, chat=True"
            )
        return False

    def _complete(self, text: str, pictures: Sequence[Image.Image]) -> Prompt:
        """A complete text as a prompt."""
        if self.tools is not None:
            raise SpecError("tools= are for the chat template, and the text is complete; leave them out")
        there = self._placeholders(text, len(pictures))
        if there != len(pictures) and not (self._family.writes_image and there == 0):
            raise SpecError(
                f"the text has {there} image placeholder(s) {self._placeholder!r} and {len(pictures)} picture(s) were "
                "given; write one placeholder per picture"
            )
        if self._family.wants_placeholders and there == 0:
            text = self._placeholder * len(pictures) + text
        prompt = self._processed(self._listener(), text, pictures)
        return self._with(prompt, self._unspoken(prompt, COMPLETE))

    # chats ----------------------------------------------------------------------------------------

    def _chat(self, chat: Chat, apart: Sequence[Image.Image]) -> Prompt:
        """A chat as a prompt; some of its pictures may be given apart."""
        if self.chat is False:
            raise SpecError("chat=False takes a text as it is, and messages go into the chat template; leave it out")
        check_chat(chat)
        return self._in_template(with_types(chat), apart)

    def _in_template(self, chat: Chat, apart: Sequence[Image.Image]) -> Prompt:
        template = self._template()
        if template is None:
            raise SpecError(
                "the processor has no chat template; write the complete text yourself, image placeholder "
                f"{self._placeholder or '<image>'!r} included, with nv.encode(..., chat=False)"
            )
        entries = list(image_entries(chat, self._placeholder))
        pictures = pictures_of(entries, apart)
        known = rendered(template, chat, self._placeholder, None if self._family.writes_image else len(pictures))
        listener = self._listener()
        prompt = self._processed(listener, known.text, pictures)
        shown = [as_rgb(picture) for picture in pictures]
        asked = Asked(chat, [entry.message for entry in entries], known, shown, self._options(known.text))
        try:
            return self._with(prompt, conversation_of(asked, listener, prompt.rows[0]))
        except Untold as reason:
            return self._with(prompt, self._unspoken(prompt, str(reason)))

    # both -----------------------------------------------------------------------------------------

    def _listener(self) -> ListeningProcessor:
        return ListeningProcessor(self.model.processor, flat=self._family.flat_pictures)

    def _processed(self, listener: ListeningProcessor, text: str, pictures: Sequence[Image.Image]) -> Prompt:
        """A text as the processor encodes it."""
        shown = [as_rgb(picture) for picture in pictures]
        try:
            with lock_of(view_of(self.model).module):  # a tokenizer serves one thread at a time
                encoding = listener(text, shown, **self._options(text))
        except SpecError:
            raise
        except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as error:
            sizes = " and ".join(f"{picture.width} x {picture.height}" for picture in pictures) or "none"
            said = str(error).strip() or type(error).__name__
            raise SpecError(
                f"the processor of this model cannot encode this text with {len(pictures)} picture(s), {sizes} pixels: "
                f"{said.splitlines()[0]}. Give pictures of one size and shape, which it cuts into equally many tiles, "
                "or fewer of them"
            ) from error
        return from_inputs(self.model, encoding, [pictures])

    def _options(self, text: str) -> dict[str, bool]:
        """The option that keeps the tokenizer from adding an opening token to a text that has one."""
        bos = self.model.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _unspoken(self, prompt: Prompt, why: str) -> Conversation:
        return unspoken(prompt.rows[0], self.model.processor.tokenizer, why)

    def _with(self, prompt: Prompt, conversation: Conversation) -> Prompt:
        return replace(prompt, rows=(speaking(prompt.rows[0], conversation),))
