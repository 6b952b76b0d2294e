"""From a question and pictures, or a ready encoding, to a `Prompt`; and several prompts to one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch.nn import functional

from ..errors import SpecError
from ..families import view_of
from ..identity import same_model
from .pictures import as_rgb, per_row
from .prompt import Prompt, counts_tokens, make_prompt
from .token_roles import rows_of


def encode(
    model: Any,
    text: str | Sequence[str] | None = None,
    image: Any = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    images: Any = None,
    chat: bool | None = None,
) -> Prompt:
    """Turn a question and its picture(s) into a `Prompt`; or several questions, into one of several rows.

    Args:
        model: an nnsight model from `load`.
        text: the question, which the processor's chat template is put around; or, where it has the
            image placeholder in it, the whole text as it is. A list makes one row of each.
        image: one picture or several (frames of a video are several), in the order in which the text
            speaks of them; for a list of texts one such entry each. Any size and mode will do.
        inputs: an encoding that was built already, instead of `text` and `image`; several rows
            and padding are fine.
        images: the pictures behind `inputs`, for `grid` and `region`.
        chat: True or False to apply the chat template, or not, whatever the text looks like.

    Raises:
        SpecError: neither text nor inputs, no processor, no chat template, pictures that do not
            match the text's placeholders.

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
        return _from_inputs(model, inputs, None if images is None else images)
    if model.processor is None:
        raise SpecError("encoding a text needs a processor; write nv.load(model, processor=...)")
    texts = [text] if isinstance(text, str) else list(text or ())
    if not texts:
        raise SpecError('no text to encode; write nv.encode(model, "Describe the image.", image), or a list of texts')
    prompts = [_alone(model, line, some, chat) for line, some in zip(texts, per_row(image, len(texts)), strict=True)]
    return prompts[0] if isinstance(text, str) else stack(prompts)


def _alone(model: Any, text: str, pictures: Sequence[Image.Image], chat: bool | None) -> Prompt:
    """One text as a prompt of one row."""
    spelled = _spelled(model, text, len(pictures), chat)
    options: dict[str, Any] = {"images": [as_rgb(picture) for picture in pictures]} if pictures else {}
    encoding = model.processor(text=[spelled], return_tensors="pt", **options, **_opening(model.processor, spelled))
    return _from_inputs(model, _in_precision(model, dict(encoding)), pictures)


def _in_precision(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Pixels in the precision of the model; some processors have one of their own."""
    dtype = view_of(model).dtype
    return {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


def _spelled(model: Any, text: str, pictures: int, chat: bool | None) -> str:
    """The whole text: as it is, or with the chat template around it."""
    processor, row = model.processor, view_of(model).family
    marker = str(getattr(processor, "image_token", None) or "")  # some are objects of the tokenizer's
    whole = (marker and marker in text) or (row.writes_image and not processor.chat_template)
    spelled = text if (whole if chat is None else not chat) else _templated(processor, text, pictures)
    written = spelled.count(marker) if marker else pictures
    if written != pictures and not (row.writes_image and written == 0):
        raise SpecError(f"the text has {written} image placeholder(s) {marker!r} and {pictures} picture(s) were given")
    return spelled


def _opening(processor: Any, text: str) -> dict[str, bool]:
    """A text that spells its opening token is not given a second one."""
    opening = processor.tokenizer.bos_token
    return {"add_special_tokens": False} if opening and text.startswith(opening) else {}


def _templated(processor: Any, text: str, pictures: int) -> str:
    if not getattr(processor, "chat_template", None):
        raise SpecError(
            "the processor has no chat template; write the whole text yourself, image placeholder "
            f"{getattr(processor, 'image_token', '<image>')!r} included, with nv.encode(..., chat=False)"
        )
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": text}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


def _from_inputs(model: Any, inputs: Mapping[str, Any], images: Any) -> Prompt:
    tensors = {name: value for name, value in inputs.items() if value is not None and name != "labels"}
    if not isinstance(tensors.get("input_ids"), torch.Tensor) or tensors["input_ids"].dim() != 2:
        raise SpecError(
            "inputs need input_ids as a tensor [row, token]; a processor gives one with return_tensors='pt'"
        )
    if view_of(model).family.tokens not in tensors:
        tensors[view_of(model).family.tokens] = _opened(model, len(tensors["input_ids"]))
    ids = tensors["input_ids"]
    mask = tensors.setdefault("attention_mask", torch.ones_like(ids))
    if mask.shape != ids.shape:
        raise SpecError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}; they must agree"
        )
    _check_needs(model, tensors)
    rows = rows_of(model, tensors)
    pictures = per_row(images, len(rows))
    spoken = [len(row.images) for row in rows]
    if any(pictures) and [len(some) for some in pictures] != spoken:
        raise SpecError(
            f"{[len(some) for some in pictures]} picture(s) were given for {len(rows)} row(s), whose tokens speak of "
            f"{spoken} image(s)"
        )
    return make_prompt(model, tensors, rows, pictures if any(pictures) else ())


def _opened(model: Any, rows: int) -> torch.Tensor:
    """What a decoder that has an encoder of its own begins with, `[row, 1]`."""
    start = view_of(model).text_config.decoder_start_token_id
    return torch.full((rows, 1), int(start))


def _check_needs(model: Any, inputs: Mapping[str, Any]) -> None:
    row = view_of(model).family
    missing = [name for name in row.needs if name not in inputs]
    if missing and any(name in inputs for name in row.inputs):
        raise SpecError(
            f"without {missing[0]} models of type {row.name!r} compute something else, and say nothing; "
            "the processor returns it"
        )


def stack(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one row each as the rows of one encoding, padded on the left.

    Inputs that do not count tokens (pixels) are laid end to end, as processors do.

    Raises:
        SpecError: a prompt of several rows, prompts of two models, or prompts that would not compute the same together.
    """
    if any(len(prompt) > 1 for prompt in prompts):
        raise SpecError("prompts of one row are stacked; take a row of a longer one with prompt.row(0)")
    row, model = view_of(prompts[0].model).family, prompts[0].model
    strangers = [number for number, prompt in enumerate(prompts) if not same_model(prompt.model, model)]
    if strangers:
        raise SpecError(
            f"prompt {strangers[0]} was encoded for another model than prompt 0, and one batch runs on one model; "
            "encode all of them with the model that runs them, nv.encode(model, ...)"
        )
    width = max(prompt.width for prompt in prompts)
    long = max(prompt.inputs["input_ids"].shape[1] for prompt in prompts)
    if row.tokens != "input_ids" and any(prompt.width < width for prompt in prompts):
        raise SpecError("prompts whose answers have grown to different lengths cannot share an encoder's batch")
    if row.image_at == "cross" and len({len(prompt.rows[0].images) for prompt in prompts}) > 1:
        raise SpecError(
            f"prompts of models of type {row.name!r} share a batch only if they have equally many images: text in "
            "front of an image reads what fills up the batch; run the others by themselves"
        )
    names = dict.fromkeys(name for prompt in prompts for name in prompt.inputs)
    inputs = {name: _end_to_end(list(_row_by_row(prompts, name, long))) for name in names}
    images = tuple(prompt.images[0] if prompt.images else () for prompt in prompts)
    if any(prompt.rows[0].outside for prompt in prompts):  # how many keys lie outside depends on the other rows
        fresh = rows_of(model, inputs)
        answers = (prompt.rows[0].answer + width - prompt.width for prompt in prompts)
        rows = tuple(replace(one, answer=answer) for one, answer in zip(fresh, answers, strict=True))
    else:
        rows = tuple(prompt.rows[0].shifted(width - prompt.width, filler=_filler(prompt)) for prompt in prompts)
    return make_prompt(model, inputs, rows, images)


def _row_by_row(prompts: Sequence[Prompt], name: str, width: int) -> Iterator[torch.Tensor]:
    """An input of each prompt; noughts for one that has none, where the model takes one a row."""
    having = next(prompt for prompt in prompts if name in prompt.inputs)
    each = view_of(having.model).family.inputs.get(name) == "row" or counts_tokens(having, name)
    for prompt in prompts:
        if name in prompt.inputs:
            yield _padded(prompt, name, width)
        elif each:
            yield torch.zeros_like(_padded(having, name, width))


def _padded(prompt: Prompt, name: str, width: int) -> torch.Tensor:
    """An input that counts tokens, filled up on the left; an encoder's on the right, where it counts positions."""
    value: torch.Tensor = prompt.inputs[name]
    if not counts_tokens(prompt, name):
        return value
    fill = value.new_full((1, width - value.shape[1], *value.shape[2:]), _filler(prompt) if name == "input_ids" else 0)
    encoder = view_of(prompt.model).family.tokens != "input_ids"
    return torch.cat([value, fill] if encoder else [fill, value], dim=1)


def _filler(prompt: Prompt) -> int:
    """The model's own padding, by which some count positions; any token but an image's, whose number is counted."""
    config, row = view_of(prompt.model).config, prompt.rows[0]
    own = config.get_text_config().pad_token_id
    return row.filler if own is None or own == getattr(config, "image_token_id", None) else int(own)


def _end_to_end(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """One behind the other, each filled up with zeros to the size of the greatest."""
    greatest = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    short = [[size - have for size, have in zip(greatest, value.shape[1:], strict=True)] for value in values]
    edges = [[pad for missing in reversed(some) for pad in (0, missing)] for some in short]
    return torch.cat([functional.pad(value, edge) for value, edge in zip(values, edges, strict=True)])
