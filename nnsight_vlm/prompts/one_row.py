"""A text or a chat, its pictures and its videos as a prompt of one row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from ..errors import SpecError
from ..families import Family, Model, unsupported, view_of
from ..families.locks import lock_of
from ..grids import video_spec
from .conversation import COMPLETE, Conversation
from .from_inputs import from_inputs
from .listening import ListeningProcessor
from .messages import Chat, Placeholders, check_chat, contents_of, kinds_in, shown_entries, with_types
from .pictures import as_rgb
from .prompt import Prompt
from .templates import ChatTemplate, rendered, sign_of_template, template_of
from .turns import Asked, Untold, conversation_of, speaking, unspoken
from .unknown_words import unknown_words
from .video_sources import Video, as_video, require_video_processor


@dataclass(frozen=True, kw_only=True)
class RowEncoder:
    """How the rows of one call of `encode` are encoded.

    Attributes:
        model: the model.
        chat: whether a text is put into the chat template; None where the text says it.
        tools: what the template is told of tools.
        continues: the last message of a chat is left open.
        unknown: the words that the tokenizer did not know, of all rows so far.
    """

    model: Model
    chat: bool | None
    tools: Sequence[Any] | None
    continues: bool
    unknown: list[str] = field(default_factory=list)

    def encode(self, given: str | Chat, pictures: Sequence[Image.Image], videos: Sequence[Any] = ()) -> Prompt:
        """A text or a chat as a prompt.

        Args:
            given: the text or the chat.
            pictures: those that were given apart.
            videos: what was given for videos, not opened yet.

        Raises:
            SpecError: see `encode`.
        """
        if videos:
            self._check_videos(pictures)
        if not isinstance(given, str):
            return self._chat(given, pictures, videos)
        if self.continues:
            raise SpecError(
                "continue_final_message=True goes on with the last message of a chat, and a text was given; write "
                '[{"role": "user", "content": ...}, {"role": "assistant", "content": "..."}]'
            )
        if self._is_complete(given):
            return self._complete(given, pictures, [as_video(view_of(self.model), video) for video in videos])
        there = kinds_in(given, self._placeholders)
        content: list[dict[str, Any]] = [
            *[{"type": "image"}] * (len(pictures) - there.count("image")),
            *[{"type": "video"}] * (len(videos) - there.count("video")),
            {"type": "text", "text": given},
        ]
        return self._in_template([{"role": "user", "content": content}], pictures, videos)

    @property
    def _family(self) -> Family:
        return view_of(self.model).family

    @property
    def _placeholders(self) -> Placeholders:
        """What stands for an image and for a video in a text; in some processors it is an AddedToken."""
        image, video = (str(getattr(self.model.processor, f"{kind}_token", None) or "") for kind in ("image", "video"))
        return Placeholders(image, video if self._family.video is not None else "")

    def _template(self, *, has_video: bool = False) -> ChatTemplate | None:
        video = self._family.video
        is_own = has_video and video is not None and video.own_template
        return template_of(self.model.processor, self.tools, self.continues, is_own=is_own)

    # complete texts -------------------------------------------------------------------------------

    def _is_complete(self, text: str) -> bool:
        """Whether a text is taken as it is.

        Raises:
            SpecError: it may be in the chat template already.
        """
        if self.chat is not None:
            return not self.chat
        template = self._template()
        if kinds_in(text, self._placeholders) or (self._family.writes_image and template is None):
            return True
        sign = "" if template is None else sign_of_template(template, text)
        if sign:
            raise SpecError(
                f"the text has {sign!r}, which the chat template writes; if the text is in the template already, write "
                "nv.encode(..., chat=False), and if these are its words, chat=True"
            )
        return False

    def _complete(self, text: str, pictures: Sequence[Image.Image], videos: Sequence[Video]) -> Prompt:
        """A complete text as a prompt."""
        if self.tools is not None:
            raise SpecError("tools= are for the chat template, and the text is complete; leave them out")
        there, given = kinds_in(text, self._placeholders), {"image": len(pictures), "video": len(videos)}
        for (kind, placeholder), thing in zip(self._placeholders._asdict().items(), ("picture", "video"), strict=True):
            count = there.count(kind) if placeholder else given[kind]
            if count != given[kind] and not (kind == "image" and self._family.writes_image and count == 0):
                raise SpecError(
                    f"the text has {count} {kind} placeholder(s) {placeholder!r} and {given[kind]} {thing}(s) were "
                    f"given; write one placeholder per {thing}"
                )
        if self._family.wants_placeholders and "image" not in there:
            text = self._placeholders.image * len(pictures) + text
        prompt = self._processed(self._listener(), text, pictures, videos)
        return self._with(prompt, self._unspoken(prompt, COMPLETE))

    # chats ----------------------------------------------------------------------------------------

    def _chat(self, chat: Chat, apart: Sequence[Image.Image], videos: Sequence[Any]) -> Prompt:
        """A chat as a prompt; some of its pictures and videos may be given apart."""
        if self.chat is False:
            raise SpecError("chat=False takes a text as it is, and messages go into the chat template; leave it out")
        check_chat(chat)
        return self._in_template(with_types(chat), apart, videos)

    def _in_template(self, chat: Chat, apart: Sequence[Image.Image], apart_videos: Sequence[Any]) -> Prompt:
        entries = list(shown_entries(chat, self._placeholders))
        given, pictures = contents_of("video", entries, apart_videos), contents_of("image", entries, apart)
        if given:
            self._check_videos(pictures)
        videos = [as_video(view_of(self.model), video) for video in given]
        template = self._template(has_video=bool(videos))
        if template is None:
            raise SpecError(
                "the processor has no chat template; write the complete text yourself, image placeholder "
                f"{self._placeholders.image or '<image>'!r} included, with nv.encode(..., chat=False)"
            )
        kinds = None if self._family.writes_image else [entry.kind for entry in entries]
        known = rendered(template, chat, self._placeholders, kinds)
        listener = self._listener()
        prompt = self._processed(listener, known.text, pictures, videos)
        shown = [as_rgb(picture) for picture in pictures]
        asked = Asked(chat, entries, known, shown, videos, self._options(known.text))
        try:
            return self._with(prompt, conversation_of(asked, listener, prompt.rows[0]))
        except Untold as reason:
            return self._with(prompt, self._unspoken(prompt, str(reason)))

    # both -----------------------------------------------------------------------------------------

    def _listener(self) -> ListeningProcessor:
        return ListeningProcessor(self.model.processor, flat=self._family.flat_pictures)

    def _processed(
        self, listener: ListeningProcessor, text: str, pictures: Sequence[Image.Image], videos: Sequence[Video]
    ) -> Prompt:
        """A text as the processor encodes it."""
        shown = [as_rgb(picture) for picture in pictures]
        try:
            with lock_of(view_of(self.model).module):  # a tokenizer serves one thread at a time
                encoding = listener(text, shown, videos, **self._options(text))
                self.unknown.extend(unknown_words(listener.heard, self.model.processor.tokenizer))
        except SpecError:
            raise
        except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as error:
            sizes = " and ".join(f"{picture.width} x {picture.height}" for picture in pictures) or "none"
            said = str(error).strip() or type(error).__name__
            of_frames = ", ".join(f"{len(video.frames)} of {video.frames[0].size}" for video in videos)
            if of_frames:
                raise SpecError(
                    f"the processor of this model cannot encode this text with {len(videos)} video(s), frames of size "
                    f"{of_frames}, and {len(pictures)} picture(s): {said.splitlines()[0]}"
                ) from error
            raise SpecError(
                f"the processor of this model cannot encode this text with {len(pictures)} picture(s), {sizes} pixels: "
                f"{said.splitlines()[0]}. Give pictures of one size and shape, which it cuts into equally many tiles, "
                "or fewer of them"
            ) from error
        placeholders = iter(videos)
        films = [
            len(next(placeholders).frames) if kind == "video" else 0 for kind in kinds_in(text, self._placeholders)
        ]
        return from_inputs(self.model, encoding, [pictures], [[video.frames for video in videos]], [films])

    def _check_videos(self, pictures: Sequence[Image.Image]) -> None:
        """Refuse videos where nothing takes them, or not beside images."""
        view = view_of(self.model)
        video_spec(view)
        require_video_processor(view)
        why = unsupported(view.family).get("video beside images")
        if pictures and why:
            raise SpecError(
                f"{view.family.name!r} models take no images beside a video: {why}; give the images as frames of it, "
                "or the frames as images"
            )

    def _options(self, text: str) -> dict[str, bool]:
        """The option that keeps the tokenizer from adding an opening token to a text that has one."""
        bos = self.model.processor.tokenizer.bos_token
        return {"add_special_tokens": False} if bos and text.startswith(bos) else {}

    def _unspoken(self, prompt: Prompt, why: str) -> Conversation:
        return unspoken(prompt.rows[0], self.model.processor.tokenizer, why)

    def _with(self, prompt: Prompt, conversation: Conversation) -> Prompt:
        return replace(prompt, rows=(speaking(prompt.rows[0], conversation),))
