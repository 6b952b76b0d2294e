"""Chat messages in transformers' form: what they may hold, and the pictures in them."""

from __future__ import annotations

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
NOT_TAKEN = {"video": "videos are not taken in messages", "audio": "no model of the table hears"}
"""Types of entries that transformers knows and this package refuses."""
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message whose texts are words of its role, as those of its content are."""


class ImageEntry(NamedTuple):
    """A picture in a chat: the number of its message, and its picture, None where it is given apart."""

    message: int
    picture: Image.Image | None


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
    """Refuse an entry of a message's content that is neither text nor image."""
    if not isinstance(entry, Mapping):
        raise SpecError(
            f"the content of message {number} holds {_kind(entry)}; its entries are dicts, "
            '{"type": "image"} or {"type": "text", "text": "..."}'
        )
    kind = _type_of(entry)
    if kind in NOT_TAKEN:
        raise SpecError(f"message {number} has an entry of type {kind!r}: {NOT_TAKEN[kind]}")
    if kind not in ("text", "image"):
        raise SpecError(f'message {number} has an entry of type {kind!r}; give "image" or "text"')
    if kind == "text" and not isinstance(entry.get("text"), str):
        raise SpecError(f"message {number} has a text entry without a text: {_keys(entry)} were given")
    pictures = [key for key in SOURCES if entry.get(key) is not None]
    if len(pictures) > (kind == "image"):
        raise SpecError(
            f"message {number} has an entry of type {kind!r} with {' and '.join(map(repr, pictures))}; an image entry "
            "has one picture or none, and a text entry has none"
        )


def _type_of(entry: Mapping[str, Any]) -> str:
    """The type of an entry; where it says none, it follows from the key of its content."""
    kind = entry.get("type")
    if kind is None:
        kind = next((key for key in ("text", *SOURCES, *NOT_TAKEN) if entry.get(key) is not None), None)
    return "image" if kind in SOURCES else str(kind)


def _keys(entry: Mapping[str, Any]) -> str:
    return f"the keys {', '.join(map(repr, entry)) or 'none'}"


def _kind(given: Any) -> str:
    return "None" if given is None else f"of type {type(given).__name__}"


def with_types(chat: Chat) -> list[dict[str, Any]]:
    """Checked messages whose entries all say their type, an image's `image`: templates look at it."""
    return [{**message, **_typed(message.get("content"))} for message in chat]


def _typed(content: Any) -> dict[str, Any]:
    if content is None or isinstance(content, str):
        return {}
    return {"content": [{**entry, "type": "image" if is_image(entry) else "text"} for entry in content]}


# what is in them ----------------------------------------------------------------------------------


def is_image(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a content is an image."""
    return _type_of(entry) == "image"


def image_entries(chat: Chat, placeholder: str) -> Iterator[ImageEntry]:
    """The images of a chat in order: image entries, and placeholders in texts."""
    for number, message in enumerate(chat):
        content = message.get("content") or ()
        for entry in [content] if isinstance(content, str) else content:
            if isinstance(entry, Mapping) and is_image(entry):
                yield ImageEntry(number, _picture_of(entry))
            else:
                text = entry if isinstance(entry, str) else entry["text"]
                yield from [ImageEntry(number, None)] * (text.count(placeholder) if placeholder else 0)


def _picture_of(entry: Mapping[str, Any]) -> Image.Image | None:
    return next((SOURCES[key](entry[key]) for key in SOURCES if entry.get(key) is not None), None)


def pictures_of(entries: Sequence[ImageEntry], given: Sequence[Image.Image]) -> tuple[Image.Image, ...]:
    """The pictures of a chat in order; those that are given apart belong to the entries without one.

    Raises:
        SpecError: they are not as many.
    """
    empty = sum(entry.picture is None for entry in entries)
    if empty != len(given):
        raise SpecError(
            f"the chat has {empty} image entries without a picture of their own and {len(given)} picture(s) were given "
            "apart; give one for each, in order"
        )
    apart = iter(given)
    return tuple(next(apart) if entry.picture is None else entry.picture for entry in entries)


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
                dict(entry) if is_image(entry) else {**entry, "text": change(number, key, entry["text"])}
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


def forms_of(chat: Chat, placeholder: str) -> Iterator[list[dict[str, Any]]]:
    """A chat as it was given, then in the other forms that templates are written for.

    With lists as contents; with texts, in which the template writes the images; with texts that have a placeholder for
    each image, each part on a line of its own.
    """
    yield [dict(message) for message in chat]
    yield [_listed(message) for message in chat]
    yield [_as_text(message, "") for message in chat]
    yield [_as_text(message, placeholder) for message in chat]


def _listed(message: Message) -> dict[str, Any]:
    content = message.get("content")
    return {**message, "content": [{"type": "text", "text": content}]} if isinstance(content, str) else dict(message)


def _as_text(message: Message, placeholder: str) -> dict[str, Any]:
    content = message.get("content")
    if content is None or isinstance(content, str):
        return dict(message)
    parts = (placeholder if is_image(entry) else str(entry["text"]) for entry in content)
    return {**message, "content": "\n".join(part for part in parts if part)}
