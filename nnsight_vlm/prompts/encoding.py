"""From a question and pictures, or a ready encoding, to a `Prompt`; and several prompts to one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

import torch
from PIL import Image
from torch.nn import functional

from ..errors import SpecError
from ..families import Model, view_of
from ..identity import same_model
from .pictures import as_rgb, per_row
from .prompt import Prompt, PromptBatch, counts_tokens, make_prompt
from .stage_maps import with_query_stages
from .token_roles import token_maps


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
            for a list of texts a list with such an entry for each. Any size and mode will do.
        inputs: a ready encoding, in place of `text` and `image`; it may have several rows and padding.
        images: the pictures that `inputs` were made of, which `grid` and `region` need.
        chat: True applies the chat template, False does not, whatever the text contains.

    Returns:
        A `Prompt` of one row, or a `PromptBatch` of several.

    Raises:
        SpecError: neither text nor inputs, no processor, no chat template, or pictures that do not match the text's
            placeholders.

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
        return _from_inputs(model, inputs, images)
    if model.processor is None:
        raise SpecError("encoding a text needs a processor; write nv.load(model, processor=...)")
    texts = [text] if isinstance(text, str) else list(text or ())
    if not texts:
        raise SpecError('no text to encode; write nv.encode(model, "Describe the image.", image), or a list of texts')
    pictures = per_row(image, len(texts))
    prompts = [_encode_one(model, line, shown, chat) for line, shown in zip(texts, pictures, strict=True)]
    return prompts[0] if isinstance(text, str) else stack(prompts)


def _encode_one(model: Model, text: str, pictures: Sequence[Image.Image], chat: bool | None) -> Prompt:
    """A text as a prompt of one row."""
    full_text = _full_text(model, text, len(pictures), chat)
    options: dict[str, Any] = {"images": [as_rgb(picture) for picture in pictures]} if pictures else {}
    options |= _without_second_bos(model.processor, full_text)
    encoding = model.processor(text=[full_text], return_tensors="pt", **options)
    return _from_inputs(model, _in_model_dtype(model, dict(encoding)), pictures)


def _in_model_dtype(model: Model, inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs with pixels in the model's dtype; some processors return another."""
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
        SpecError: an input is missing or has the wrong shape.
    """
    family, text_config = view_of(model).family, view_of(model).text_config
    given = {name: value for name, value in inputs.items() if value is not None and name != "labels"}
    ids = given.get("input_ids")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
        raise SpecError(
            "inputs need input_ids as a tensor [row, token]; a processor gives one with return_tensors='pt'"
        )
    if family.tokens not in given:
        given[family.tokens] = torch.full((len(ids), 1), int(text_config.decoder_start_token_id))
    mask = given.setdefault("attention_mask", torch.ones_like(ids))
    if mask.shape != ids.shape:
        raise SpecError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}; they must be equal"
        )
    missing = [name for name in family.needs if name not in given]
    if missing and any(name in given for name in family.inputs):
        raise SpecError(
            f"the inputs have no {missing[0]}, without which models of type {family.name!r} silently compute something "
            "else; the processor returns it"
        )
    return given


# batches ------------------------------------------------------------------------------------------


def stack(prompts: Sequence[Prompt]) -> Prompt | PromptBatch:
    """Prompts of one row each as the rows of one encoding, padded on the left.

    Inputs without an entry per token (pixels) are concatenated, as processors do.

    Raises:
        SpecError: a prompt of several rows, prompts of two models, or prompts whose results would change in one batch.
    """
    _check_stackable(prompts)
    model = prompts[0].model
    width = max(prompt.width for prompt in prompts)
    input_width = max(prompt.inputs["input_ids"].shape[1] for prompt in prompts)
    names = dict.fromkeys(name for prompt in prompts for name in prompt.inputs)
    inputs = {name: _concatenated(list(_one_per_row(prompts, name, input_width))) for name in names}
    images = tuple(prompt.images[0] if prompt.images else () for prompt in prompts)
    paddings = [width - prompt.width for prompt in prompts]
    if any(prompt.rows[0].outside for prompt in prompts):
        # how many keys lie outside the sequence depends on the other rows, so the token maps are made again
        answers = [prompt.rows[0].answer + padding for prompt, padding in zip(prompts, paddings, strict=True)]
        rows = tuple(
            replace(tokens, answer=answer) for tokens, answer in zip(token_maps(model, inputs), answers, strict=True)
        )
    else:
        rows = tuple(
            prompt.rows[0].shifted(padding, filler=_padding_token(prompt))
            for prompt, padding in zip(prompts, paddings, strict=True)
        )
        rows = with_query_stages(view_of(model), inputs, rows)
    return make_prompt(model, inputs, rows, images)


def _check_stackable(prompts: Sequence[Prompt]) -> None:
    """Refuse prompts that cannot be the rows of one encoding."""
    if not prompts:
        raise SpecError("no prompts to stack; give one at least")
    if any(len(prompt) > 1 for prompt in prompts):
        raise SpecError("only prompts of one row can be stacked; take a row of a batch with prompt.row(0)")
    strangers = [number for number, prompt in enumerate(prompts) if not same_model(prompt.model, prompts[0].model)]
    if strangers:
        raise SpecError(
            f"prompt {strangers[0]} was encoded for another model than prompt 0, and one batch runs on one model; "
            "encode all of them with the model that runs them, nv.encode(model, ...)"
        )
    family = view_of(prompts[0].model).family
    if family.tokens != "input_ids" and len({prompt.width for prompt in prompts}) > 1:
        raise SpecError(
            f"the answers of these prompts have different lengths, and models of type {family.name!r}, which have an "
            "encoder, cannot pad them; run them one at a time"
        )
    if family.image_at == "cross" and len({len(prompt.rows[0].images) for prompt in prompts}) > 1:
        raise SpecError(
            f"prompts of models of type {family.name!r} share a batch only if they have equally many images, because "
            "text before an image reads the padding of missing images; run them one at a time"
        )


def _one_per_row(prompts: Sequence[Prompt], name: str, width: int) -> Iterator[torch.Tensor]:
    """An input of each prompt, padded to a width; zeros for a prompt without it, if the input has an entry per row."""
    first = next(prompt for prompt in prompts if name in prompt.inputs)
    in_every_row = view_of(first.model).family.inputs.get(name) == "row" or counts_tokens(first, name)
    for prompt in prompts:
        if name in prompt.inputs:
            yield _padded(prompt, name, width)
        elif in_every_row:
            yield torch.zeros_like(_padded(first, name, width))


def _padded(prompt: Prompt, name: str, width: int) -> torch.Tensor:
    """An input; if it has an entry per token, padded on the left, or on the right for an encoder."""
    value: torch.Tensor = prompt.inputs[name]
    if not counts_tokens(prompt, name):
        return value
    entry = _padding_token(prompt) if name == "input_ids" else 0
    padding = value.new_full((1, width - value.shape[1], *value.shape[2:]), entry)
    has_encoder = view_of(prompt.model).family.tokens != "input_ids"
    return torch.cat([value, padding] if has_encoder else [padding, value], dim=1)


def _padding_token(prompt: Prompt) -> int:
    """The pad token (some models derive positions from it); if there is none, any token that is not an image's."""
    config, tokens = view_of(prompt.model).config, prompt.rows[0]
    pad = config.get_text_config().pad_token_id
    return tokens.filler if pad is None or pad == getattr(config, "image_token_id", None) else int(pad)


def _concatenated(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors along their first dimension, the others padded with zeros at the end to the size of the largest."""
    sizes = [max(lengths) for lengths in zip(*(value.shape[1:] for value in values), strict=True)]
    return torch.cat([_padded_to(value, sizes) for value in values])


def _padded_to(value: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    missing = [size - length for size, length in zip(sizes, value.shape[1:], strict=True)]
    return functional.pad(value, [padding for length in reversed(missing) for padding in (0, length)])
