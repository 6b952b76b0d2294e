"""Chat messages in transformers' form: what they may hold, and the pictures and videos in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from PIL import Image

from ..errors import SpecError
from .picture_sources import as_picture, of_base64

Message = Mapping[str, Any]
Chat = Sequence[Message]

Change = Callable[[int, str, str], str]
"""The number of a message, the key of a text in it and the text, to the text in its place."""

WRITE_CHAT = '[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe the image."}]}]'
SOURCES: Mapping[str, Callable[[Any], Image.Image]] = {
    "image": as_picture,
    "url": as_picture,
    "path": as_picture,
    "base64": of_base64,
    "image_url": lambda given: as_picture(given["url"] if isinstance(given, Mapping) else given),
}
"""How the picture of an image entry is opened, by the key that holds it."""
VIDEO_SOURCES = ("video", "url", "path", "video_url")
"""The keys that hold the video of a video entry, beside `fps`; see `video_sources`."""
NOT_TAKEN = {"audio": "no model of the table hears"}
"""Types of entries that transformers knows and this package refuses."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message whose texts are words of its role, as those of its content are."""


class Placeholders(NamedTuple):
    """What stands in a text for an image, and for a video; empty where the processor has nothing like it."""

    image: str = ""
    video: str = ""

    @property
    def there(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(filter(None, self))


class ShownEntry(NamedTuple):
    """An image or a video in a chat.

    Attributes:
        kind: `"image"` or `"video"`.
        message: the number of its message.
        content: the picture of an image, the whole entry of a video; None where it is given apart.
    """

    kind: str
    message: int
    content: Any


def is_chat(given: Any) -> bool:
    """Whether something is one chat: messages, however wrong each of them may be."""
    return isinstance(given, (list, tuple)) and bool(given) and all(isinstance(part, Mapping) for part in given)


def check_chat(chat: Chat) -> None:
    """Refuse messages that are not of transformers' form.

    Raises:
        SpecError: naming the message.
    """
    for number, message in enumerate(chat):
        role, content = message.get("role"), message.get("content")
        if not isinstance(role, str):
            raise SpecError(f"message {number} has no role: {_keys(message)} were given; a chat is {WRITE_CHAT}")
        is_said = content is not None or any(message.get(key) is not None for key in (*THOUGHTS, "tool_calls"))
        if not is_said or not (content is None or isinstance(content, (str, list, tuple))):
            raise SpecError(
                f"the content of message {number} is {_kind(content)}; give a text or a list of entries, {WRITE_CHAT}"
            )
        for entry in () if content is None or isinstance(content, str) else content:
            _check_entry(number, entry)


def _check_entry(number: int, entry: Any) -> None:
    """Refuse an entry of a message's content that is neither text nor image nor video."""
    if not isinstance(entry, Mapping):
        raise SpecError(
            f"the content of message {number} holds {_kind(entry)}; its entries are dicts, "
            '{"type": "image"} or {"type": "text", "text": "..."}'
        )
    kind = _type_of(entry)
    if kind in NOT_TAKEN:
        raise SpecError(f"message {number} has an entry of type {kind!r}: {NOT_TAKEN[kind]}")
    if kind not in ("text", "image", "video"):
        raise SpecError(f'message {number} has an entry of type {kind!r}; give "image", "video" or "text"')
    if kind == "text" and not isinstance(entry.get("text"), str):
        raise SpecError(f"message {number} has a text entry without a text: {_keys(entry)} were given")
    held = [key for key in dict.fromkeys((*SOURCES, *VIDEO_SOURCES)) if entry.get(key) is not None]
    fitting = {"image": SOURCES, "video": VIDEO_SOURCES}.get(kind, ())
    if len(held) > (kind != "text") or not set(held) <= set(fitting):
        raise SpecError(
            f"message {number} has an entry of type {kind!r} with {' and '.join(map(repr, held))}; an image entry "
            "has one picture or none, a video entry one video or none, and a text entry has neither"
        )


def _type_of(entry: Mapping[str, Any]) -> str:
    """The type of an entry; where it says none, it follows from the key of its content."""
    kind = entry.get("type")
    if kind is None:
        known = ("text", "video", "video_url", *SOURCES, *NOT_TAKEN)
        kind = next((key for key in known if entry.get(key) is not None), None)
    return "image" if kind in SOURCES else "video" if kind in VIDEO_SOURCES else str(kind)


def _keys(entry: Mapping[str, Any]) -> str:
    return f"the keys {', '.join(map(repr, entry)) or 'none'}"


def _kind(given: Any) -> str:
    return "None" if given is None else f"of type {type(given).__name__}"


def with_types(chat: Chat) -> list[dict[str, Any]]:
    """Checked messages whose entries all say their type, `image`, `video` or `text`: templates look at it."""
    return [{**message, **_typed(message.get("content"))} for message in chat]


def _typed(content: Any) -> dict[str, Any]:
    if content is None or isinstance(content, str):
        return {}
    return {"content": [{**entry, "type": shown_kind(entry) or "text"} for entry in content]}


# what is in them ----------------------------------------------------------------------------------


def shown_kind(entry: Mapping[str, Any]) -> str:
    """Whether an entry of a content is an `image` or a `video`; empty for a text."""
    kind = _type_of(entry)
    return kind if kind in ("image", "video") else ""


def shown_entries(chat: Chat, placeholders: Placeholders) -> Iterator[ShownEntry]:
    """The images and videos of a chat in order: their entries, and placeholders in texts."""
    for number, message in enumerate(chat):
        content = message.get("content") or ()
        for entry in [{"text": content}] if isinstance(content, str) else content:
            kind = shown_kind(entry)
            if kind == "image":
                yield ShownEntry(kind, number, _picture_of(entry))
            elif kind == "video":
                has_own = any(entry.get(key) is not None for key in VIDEO_SOURCES)
                yield ShownEntry(kind, number, entry if has_own else None)
            else:
                yield from (ShownEntry(kind, number, None) for kind in kinds_in(entry["text"], placeholders))


def kinds_in(text: str, placeholders: Placeholders) -> list[str]:
    """What the placeholders in a text stand for, `image` or `video`, in their order."""
    if not placeholders.there:
        return []
    kind_of = {placeholder: kind for kind, placeholder in placeholders._asdict().items() if placeholder}
    return [kind_of[found] for found in re.findall("|".join(map(re.escape, placeholders.there)), text)]


def _picture_of(entry: Mapping[str, Any]) -> Image.Image | None:
    return next((SOURCES[key](entry[key]) for key in SOURCES if entry.get(key) is not None), None)


def contents_of(kind: str, entries: Sequence[ShownEntry], given: Sequence[Any]) -> tuple[Any, ...]:
    """The pictures or videos of a chat in order; those that are given apart belong to the entries without one.

    Raises:
        SpecError: they are not as many.
    """
    own = [entry for entry in entries if entry.kind == kind]
    empty, thing = sum(entry.content is None for entry in own), {"image": "picture", "video": "video"}[kind]
    if empty != len(given):
        raise SpecError(
            f"the chat has {empty} {kind} entries without a {thing} of their own and {len(given)} {thing}(s) were "
            "given apart; give one for each, in order"
        )
    apart = iter(given)
    return tuple(next(apart) if entry.content is None else entry.content for entry in own)


def with_words(chat: Chat, change: Change) -> list[dict[str, Any]]:
    """A chat with every text changed that its messages say, in the order in which they say them."""
    return [_message_with(message, number, change) for number, message in enumerate(chat)]


def _message_with(message: Message, number: int, change: Change) -> dict[str, Any]:
    changed = dict(message)
    if message.get("tool_calls") is not None:
        changed["tool_calls"] = _with_texts(message["tool_calls"], lambda text: change(number, "tool_calls", text))
    for key in (*THOUGHTS, "content"):
        value = message.get(key)
        if isinstance(value, str):
            changed[key] = change(number, key, value)
        elif isinstance(value, (list, tuple)):
            changed[key] = [
                dict(entry) if shown_kind(entry) else {**entry, "text": change(number, key, entry["text"])}
                for entry in value
            ]
    return changed


def _with_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Nested data with all texts changed but those that say what an entry is."""
    if isinstance(value, Mapping):
        return {key: part if key in ("type", "id") else _with_texts(part, change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_texts(part, change) for part in value]
    return change(value) if isinstance(value, str) else value


# forms that templates take ------------------------------------------------------------------------


def forms_of(chat: Chat, placeholders: Placeholders) -> Iterator[list[dict[str, Any]]]:
    """A chat as it was given, then in the other forms that templates are written for.

    With lists as contents; with texts, in which the template writes images and videos; with texts that have a
    placeholder for each of them, each part on a line of its own.
    """
    yield [dict(message) for message in chat]
    yield [_listed(message) for message in chat]
    yield [_as_text(message, Placeholders()) for message in chat]
    yield [_as_text(message, placeholders) for message in chat]


def _listed(message: Message) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else dict(message)


def _as_text(message: Message, placeholders: Placeholders) -> dict[str, Any]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return dict(message)
    kinds = placeholders._asdict()
    parts = (kinds[kind] if (kind := shown_kind(entry)) else str(entry["text"]) for entry in content)
    return {**message, "content": "\n".join(part for part in parts if part)}
