"""From a question or a chat, its pictures and its videos, or a ready encoding, to a `Prompt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from ..arguments import flag
from ..errors import SpecError
from ..families import Model, view_of
from .from_inputs import from_ready
from .messages import WRITE_CHAT, Chat, is_chat
from .one_row import RowEncoder
from .pictures import per_row
from .prompt import Prompt, PromptBatch
from .stacking import stack
from .unknown_words import warn_of_unknown_words
from .video_sources import videos_per_row


@overload
def encode(
    model: Model,
    text: str | Sequence[Mapping[str, Any]],
    image: Any = None,
    *,
    images: Any = None,
    videos: Any = None,
    chat: bool | None = None,
    tools: Sequence[Any] | None = None,
    continue_final_message: bool = False,
) -> Prompt: ...
@overload
def encode(
    model: Model,
    text: Sequence[str | Sequence[Mapping[str, Any]]],
    image: Any = None,
    *,
    images: Any = None,
    videos: Any = None,
    chat: bool | None = None,
    tools: Sequence[Any] | None = None,
    continue_final_message: bool = False,
) -> PromptBatch: ...
@overload
def encode(
    model: Model, *, inputs: Mapping[str, Any], images: Any = None, videos: Any = None
) -> Prompt | PromptBatch: ...
def encode(
    model: Model,
    text: Any = None,
    image: Any = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    images: Any = None,
    videos: Any = None,
    chat: bool | None = None,
    tools: Sequence[Any] | None = None,
    continue_final_message: bool = False,
) -> Prompt | PromptBatch:
    """Encode a question or a chat, its pictures and videos as a `Prompt`, or several of them as a `PromptBatch`.

    Args:
        model: an nnsight model from `load`.
        text: the question, which is put into the processor's chat template; or the complete text, if it contains the
            image placeholder; or a chat: a list of messages in transformers' form, of any number of turns, whose
            images are entries `{"type": "image"}`, or hold their picture, `{"type": "image", "image": picture}` (also
            under `url`, `path` and `base64`), and whose videos are entries `{"type": "video"}`, with or without theirs.
            A list of texts or of chats makes one row of each; a list of only one gives a `Prompt`.
        image: one picture or several, in the order in which the text or the messages
            refer to them; for several rows a list with such an entry for each. A picture is a PIL image, a path, a URL
            (`https:`, `file:`, `data:`), the bytes of a file, or an array or tensor `[row, column]`, `[row, column,
            channel]` or `[channel, row, column]`. Any size and mode will do; pictures of numbers (`I`, `F`, arrays of
            fractions) must be fractions from 0 to 1, bytes or 16 bits, so that it is known what is white.
        inputs: a ready encoding, in place of `text` and `image`; it may have several rows and padding, and position ids
            of your own. Entries that are None are left out; labels are refused, because only a loss reads them, unless
            the model's own processor makes some every time (PaliGemma's).
        images: the same as `image`; beside `inputs` the pictures that these were made of, for `grid` and `region`.
        videos: one video or several, in their order; for several rows a list with such an entry for each. A video is a
            list of pictures, all of which are shown; an array or tensor `[frame, height, width, channel]`; the path or
            URL of a file, of which the model's video processor chooses frames; or one of the first two as
            `{"video": frames, "fps": 2.0}`, for families that are told times. They need torchvision.
        chat: True applies the chat template, False does not, whatever the text contains.
        tools: descriptions of tools, or functions, for a chat template that takes them.
        continue_final_message: the last message of a chat is left open, and the model goes on with it.

    Pixels, and whatever else is a fraction, are converted to the dtype of the model's weights, in both forms.

    Returns:
        A `Prompt` of one row, or a `PromptBatch` of several.

    Raises:
        SpecError: neither text nor inputs, or an argument that goes with the other one of them; no processor, no chat
            template, or one that leaves out what the messages say; pictures that do not match the image entries or
            placeholders; a text that may be in the template already; an entry of `inputs` that is not part of an
            encoding; videos for a model of which they are not taken, or without torchvision.

    Warns:
        UnknownWordsWarning: the tokenizer does not know some words of a text.

    >>> import nnsight_vlm as nv
    >>> scene = nv.shapes.scene(3)
    >>> prompt = nv.encode(nv.load("shapes"), "describe the image .", scene.image)
    >>> len(prompt["image"]), prompt["user"] == prompt["image"] + prompt["question"]
    (100, True)
    """
    view_of(model)
    chat = None if chat is None else flag("chat", chat)
    if (inputs is None) == (text is None):
        raise SpecError('give either a text, nv.encode(model, "Describe the image.", image), or inputs={...}')
    if inputs is not None:
        _refuse_beside_inputs(
            image=image, chat=chat, tools=tools, continue_final_message=continue_final_message or None
        )
        return from_ready(model, inputs, images, videos)
    continues = flag("continue_final_message", continue_final_message)
    _check_tools(tools)
    if image is not None and images is not None:
        raise SpecError("the pictures were given twice, as the third argument and as images=; leave out one of them")
    if model.processor is None:
        raise SpecError("encoding a text needs a processor; write nv.load(model, processor=...)")
    is_single = isinstance(text, str) or is_chat(text)
    rows = [text] if is_single else _rows(text)
    pictures = per_row(image if images is None else images, len(rows))
    shown = videos_per_row(videos, len(rows))
    encoder = RowEncoder(model=model, chat=chat, tools=tools, continues=continues)
    prompts = [encoder.encode(*row) for row in zip(rows, pictures, shown, strict=True)]
    warn_of_unknown_words(encoder.unknown, model.processor.tokenizer)
    return prompts[0] if is_single else stack(prompts)


def _refuse_beside_inputs(**given: Any) -> None:
    """Refuse arguments that say how a text is encoded."""
    instead = {
        "image": "the pictures that the inputs were made of are images=",
        "chat": "apply the chat template before the processor makes the inputs",
    }
    for name, value in given.items():
        if value is not None:
            what = instead.get(name, instead["chat"])
            raise SpecError(f"{name}= says how a text is encoded, and inputs= are encoded already; {what}")


def _check_tools(tools: Any) -> None:
    """Refuse what are no tools."""
    if not (tools is None or (isinstance(tools, (list, tuple)) and tools)):
        given = "none of them" if tools in ([], ()) else f"a {type(tools).__name__}"
        raise SpecError(
            f"tools= are a list of descriptions or functions, and {given} was given; leave tools= out for none"
        )


def _rows(given: Any) -> list[str | Chat]:
    """Several texts or chats.

    Raises:
        SpecError: something else, naming its type.
    """
    write = f'write nv.encode(model, "Describe the image.", image), or a chat, {WRITE_CHAT}'
    if isinstance(given, Mapping):
        raise SpecError(f"a {type(given).__name__} is one message, and a chat is a list of them; {write}")
    if not isinstance(given, (list, tuple)):
        raise SpecError(f"a {type(given).__name__} is no text and no chat; {write}, or a list of texts or chats")
    if not given:
        raise SpecError(f"no text to encode; {write}, or a list of texts or chats")
    for number, row in enumerate(given):
        if not (isinstance(row, str) or is_chat(row)):
            raise SpecError(f"entry {number} is of type {type(row).__name__}, which is no text and no chat; {write}")
    return list(given)
