"""From a question and pictures, or a ready encoding, to a `Prompt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from ..device.positions import CACHE_NAMES
from ..errors import SpecError
from ..families import Model, view_of
from ..families.locks import lock_of
from .known_inputs import refuse_unknown
from .pictures import as_rgb, per_row
from .prompt import Prompt, PromptBatch, make_prompt
from .stacking import stack
from .token_roles import token_maps

NOT_OF_AN_ENCODING = (
    *(*CACHE_NAMES, "use_cache", "cache_position", "logits_to_keep", "inputs_embeds", "decoder_inputs_embeds"),
    *("encoder_outputs", "return_dict", "output_attentions", "output_hidden_states"),
    *("remote", "backend", "blocking", "job_id"),
)
"""Arguments of a model's forward, or of an nnsight trace, that are no part of a prompt."""


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
            of your own. Entries that are None, and labels, which only a loss reads, are left out.
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
    texts = [text] if isinstance(text, str) else list(text or ())
    if not texts:
        raise SpecError('no text to encode; write nv.encode(model, "Describe the image.", image), or a list of texts')
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
    with lock_of(view_of(model).module):  # a tokenizer serves one thread at a time
        encoding = model.processor(text=[full_text], return_tensors="pt", **options)
    return _from_inputs(model, encoding, pictures)


def _in_model_dtype(model: Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with pixels in the model's dtype; processors return another."""
    dtype = view_of(model).dtype
    return {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


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
    inputs = _checked_inputs(model, inputs)
    rows = token_maps(model, inputs)
    pictures = per_row(images, len(rows))
    image_counts, given_counts = [len(tokens.images) for tokens in rows], list(map(len, pictures))
    if any(pictures) and given_counts != image_counts:
        raise SpecError(
            f"{given_counts} picture(s) were given for the {len(rows)} row(s), whose input_ids have tokens of "
            f"{image_counts} image(s)"
        )
    return make_prompt(model, inputs, rows, pictures if any(pictures) else ())


def _checked_inputs(model: Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs with an attention mask, and with the first token of a decoder that reads an encoder.

    Raises:
        SpecError: an input is missing, has the wrong shape, or is not part of an encoding.
    """
    family, text_config = view_of(model).family, view_of(model).text_config
    left_out = ("labels",)
    given = {name: value for name, value in inputs.items() if value is not None and name not in left_out}
    _refuse_options(given)
    refuse_unknown(model, given)
    given = _in_model_dtype(model, given)
    ids = given.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
        raise SpecError(
            "inputs need input_ids as a tensor [row, token]; a processor gives one with return_tensors='pt'"
        )
    if family.tokens not in given:
        given[family.tokens] = torch.full((len(ids), 1), int(text_config.decoder_start_token_id))
    mask = given.setdefault("attention_mask", torch.ones_like(ids))
    if not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        raise SpecError(
            f"attention_mask has shape {tuple(np.shape(mask))} and input_ids {tuple(ids.shape)}; they must be equal"
        )
    _check_position_ids(model, given)
    missing = [name for name in family.needs if name not in given]
    decides_attention = family.blocks == "prompt"  # which tokens see each other, with pixels or without
    if missing and (decides_attention or any(name in given for name in family.inputs)):
        raise SpecError(
            f"the inputs have no {missing[0]}, without which models of type {family.name!r} silently compute something "
            "else; the processor returns it"
        )
    return given


def _refuse_options(given: Mapping[str, Any]) -> None:
    """Refuse entries that say how a model is run, which this package decides, or that stand in for what it checks."""
    options = [name for name in given if name in NOT_OF_AN_ENCODING]
    if options:
        raise SpecError(
            f"the inputs have {options[0]}, which is not part of an encoding: a prompt is its token ids, masks and "
            "pixels, as a processor returns them. Leave it out; how a model generates is said to nv.generate"
        )


def _check_position_ids(model: Model, given: Mapping[str, Any]) -> None:
    """Refuse position ids that the model does not read, or that are not one for each row and token."""
    family, value, ids = view_of(model).family, given.get("position_ids"), given["input_ids"]
    if value is None:
        return
    if family.positions == "own":
        raise SpecError(
            f"models of type {family.name!r} compute position ids themselves and do not read the inputs' position_ids; "
            "leave them out"
        )
    if not isinstance(value, torch.Tensor) or value.dim() not in (2, 3) or value.shape[-2:] != ids.shape:
        raise SpecError(
            f"position_ids have shape {tuple(np.shape(value))} and input_ids {tuple(ids.shape)}; give one for each row "
            "and token, [row, token], or [3, row, token] where the model has three numbers for each"
        )
