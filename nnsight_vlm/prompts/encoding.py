"""From a question and pictures, or a ready encoding, to a `Prompt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

from PIL import Image

from ..arguments import flag, listed
from ..errors import SpecError
from ..families import Model, view_of
from ..families.locks import lock_of
from .pictures import as_rgb, per_row
from .prompt import Prompt, PromptBatch, make_prompt
from .ready_inputs import check_entries, checked_inputs
from .stacking import stack
from .token_roles import token_maps

WRITE = 'nv.encode(model, "Describe the image.", image), or a list of texts'


@overload
def encode(model: Model, text: str, image: Any = None, *, chat: bool | None = None) -> Prompt: ...
@overload
def encode(
    model: Model, text: list[str] | tuple[str, ...], image: Any = None, *, chat: bool | None = None
) -> PromptBatch: ...
@overload
def encode(model: Model, *, inputs: Mapping[str, Any], images: Any = None) -> Prompt | PromptBatch: ...
def encode(
    model: Model,
    text: str | Sequence[str] | None = None,
    image: Any = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    images: Any = None,
    chat: bool | None = None,
) -> Prompt | PromptBatch:
    """Encode a question and its picture(s) as a `Prompt`, or several questions as a `PromptBatch`.

    Args:
        model: an nnsight model from `load`.
        text: the question, which is put into the processor's chat template; or the complete text, if it contains the
            image placeholder. A list makes one row of each text; a list of only one text gives a `Prompt`.
        image: one picture or several (several frames of a video, say), in the order in which the text refers to them;
            for a list of texts a list with such an entry for each. Any size and mode will do; pictures of numbers
            (`I`, `F`) must be fractions from 0 to 1, bytes or 16 bits, so that it is known what is white.
        inputs: a ready encoding, in place of `text` and `image`; it may have several rows and padding, and position ids
            of your own. Entries that are None are left out; labels are refused, because only a loss reads them, unless
            the model's own processor makes some every time (PaliGemma's).
        images: the pictures that `inputs` were made of, which `grid` and `region` need.
        chat: True applies the chat template, False does not, whatever the text contains.

    Pixels, and whatever else is a fraction, are converted to the dtype of the model's weights, in both forms.

    Returns:
        A `Prompt` of one row, or a `PromptBatch` of several.

    Raises:
        SpecError: neither text nor inputs, or an argument that goes with the other one of them; no processor, no chat
            template, or pictures that do not match the text's placeholders; an entry of `inputs` that is not part of
            an encoding.

    >>> import nnsight_vlm as nv
    >>> scene = nv.shapes.scene(3)
    >>> prompt = nv.encode(nv.load("shapes"), "describe the image .", scene.image)
    >>> len(prompt["image"])
    100
    """
    view_of(model)
    chat = None if chat is None else flag("chat", chat)
    if (inputs is None) == (text is None):
        raise SpecError('give either a text, nv.encode(model, "Describe the image.", image), or inputs={...}')
    if inputs is not None:
        _refuse_beside_inputs(image=image, chat=chat)
        return _from_inputs(model, inputs, images)
    if images is not None:
        raise SpecError(
            "images= are the pictures that ready inputs= were made of; the pictures of a text are the third argument, "
            'nv.encode(model, "Describe the image.", image), or [image, image]'
        )
    if model.processor is None:
        raise SpecError("encoding a text needs a processor; write nv.load(model, processor=...)")
    texts = [text] if isinstance(text, str) else listed("text", text, WRITE, kind=str)
    if not texts:
        raise SpecError(f"no text to encode; write {WRITE}")
    pictures = per_row(image, len(texts))
    prompts = [_encode_one(model, line, shown, chat) for line, shown in zip(texts, pictures, strict=True)]
    return prompts[0] if isinstance(text, str) else stack(prompts)


def _refuse_beside_inputs(**given: Any) -> None:
    """Refuse arguments that say how a text is encoded."""
    instead = {
        "image": "the pictures that the inputs were made of are images=",
        "chat": "apply the chat template before the processor makes the inputs",
    }
    for name, value in given.items():
        if value is not None:
            raise SpecError(f"{name}= says how a text is encoded, and inputs= are encoded already; {instead[name]}")


def _encode_one(model: Model, text: str, pictures: Sequence[Image.Image], chat: bool | None) -> Prompt:
    """A text as a prompt of one row."""
    full_text = _full_text(model, text, len(pictures), chat)
    options: dict[str, Any] = {"images": [as_rgb(picture) for picture in pictures]} if pictures else {}
    options |= _without_second_bos(model.processor, full_text)
    try:
        with lock_of(view_of(model).module):  # a tokenizer serves one thread at a time
            encoding = model.processor(text=[full_text], return_tensors="pt", **options)
    except (ValueError, TypeError, IndexError, ZeroDivisionError, RuntimeError) as error:
        sizes = " and ".join(f"{picture.width} x {picture.height}" for picture in pictures) or "none"
        raise SpecError(
            f"the processor of this model cannot encode this text with {len(pictures)} picture(s), {sizes} pixels: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}. Give pictures of "
            "one size and shape, which it cuts into equally many tiles, or fewer of them"
        ) from error
    return _from_inputs(model, encoding, pictures)


def _full_text(model: Model, text: str, pictures: int, chat: bool | None) -> str:
    """The text that the processor takes: as it is, or in the chat template."""
    processor, family = model.processor, view_of(model).family
    placeholder = str(getattr(processor, "image_token", None) or "")  # in some processors it is an AddedToken
    is_complete = (placeholder and placeholder in text) or (family.writes_image and not processor.chat_template)
    if chat is not None:
        is_complete = not chat
    full_text = text if is_complete else _in_chat_template(processor, text, pictures)
    placeholders = full_text.count(placeholder) if placeholder else pictures
    if placeholders != pictures and not (family.writes_image and placeholders == 0):
        raise SpecError(
            f"the text has {placeholders} image placeholder(s) {placeholder!r} and {pictures} picture(s) were given; "
            "write one placeholder per picture"
        )
    return full_text


def _without_second_bos(processor: Any, text: str) -> dict[str, bool]:
    """The option that keeps the tokenizer from adding an opening token to a text that has one."""
    bos = processor.tokenizer.bos_token
    return {"add_special_tokens": False} if bos and text.startswith(bos) else {}


def _in_chat_template(processor: Any, text: str, pictures: int) -> str:
    if not getattr(processor, "chat_template", None):
        raise SpecError(
            "the processor has no chat template; write the complete text yourself, image placeholder "
            f"{getattr(processor, 'image_token', '<image>')!r} included, with nv.encode(..., chat=False)"
        )
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


# ready encodings ----------------------------------------------------------------------------------


def _from_inputs(model: Model, inputs: Mapping[str, Any], images: Any) -> Prompt | PromptBatch:
    """A prompt from an encoding and its pictures."""
    inputs = checked_inputs(model, inputs)
    rows = token_maps(model, inputs)
    check_entries(model, inputs, rows)
    pictures = per_row(images, len(rows))
    image_counts, given_counts = [len(tokens.images) for tokens in rows], list(map(len, pictures))
    if any(pictures) and given_counts != image_counts:
        raise SpecError(
            f"{given_counts} picture(s) were given for the {len(rows)} row(s), whose input_ids have tokens of "
            f"{image_counts} image(s)"
        )
    return make_prompt(model, inputs, rows, pictures if any(pictures) else ())
