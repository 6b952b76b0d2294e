"""From a question and pictures, or a ready encoding, to a `Prompt`; and several prompts to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from .errors import SpecError
from .families import family
from .grids import GRIDS
from .prompts import Prompt
from .rows import Row


def encode(
    model: Any,
    text: str | None = None,
    image: Image.Image | Sequence[Image.Image] | None = None,
    *,
    inputs: Mapping[str, Any] | None = None,
    images: Sequence[Image.Image] | None = None,
    chat: bool | None = None,
) -> Prompt:
    """Turn a question and its picture(s) into a `Prompt`.

    Args:
        model: an nnsight model from `load`.
        text: the question, which the processor's chat template is put around; or, where it has the
            image placeholder in it, the whole text as it is.
        image: one picture or several, in the order in which the text speaks of them.
        inputs: an encoding that was built already, instead of `text` and `image`; several rows
            and padding are fine.
        images: the pictures behind `inputs` (one row), for `grid` and `region`.
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
    family(model)
    if (inputs is None) == (text is None):
        raise SpecError('give either a text, nv.encode(model, "Describe the image.", image), or inputs={...}')
    if inputs is not None:
        return _from_inputs(model, inputs, tuple(images or ()))
    pictures = () if image is None else (image,) if isinstance(image, Image.Image) else tuple(image)
    processor = model.processor
    if processor is None:
        raise SpecError("encoding a text needs a processor; write nv.load(model, processor=...)")
    marker = getattr(processor, "image_token", None)
    raw = marker is not None and marker in str(text) if chat is None else not chat
    spelled = str(text) if raw else _templated(processor, str(text), len(pictures))
    if marker is not None and spelled.count(marker) != len(pictures):
        raise SpecError(
            f"the text has {spelled.count(marker)} image placeholder(s) {marker!r} "
            f"and {len(pictures)} picture(s) were given"
        )
    encoding = processor(
        text=[spelled], images=list(pictures) or None, return_tensors="pt", **_opening(processor, spelled)
    )
    return _from_inputs(model, dict(encoding), pictures)


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


def _from_inputs(model: Any, inputs: Mapping[str, Any], pictures: tuple[Image.Image, ...]) -> Prompt:
    tensors = {name: value for name, value in inputs.items() if value is not None and name != "labels"}
    if not isinstance(tensors.get("input_ids"), torch.Tensor) or tensors["input_ids"].dim() != 2:
        raise SpecError(
            "inputs need input_ids as a tensor [row, token]; a processor gives one with return_tensors='pt'"
        )
    ids = tensors["input_ids"]
    mask = tensors.setdefault("attention_mask", torch.ones_like(ids))
    if mask.shape != ids.shape:
        raise SpecError(
            f"attention_mask has shape {tuple(mask.shape)} and input_ids {tuple(ids.shape)}; they must agree"
        )
    rows = tuple(_row(model, line, real, tensors) for line, real in zip(ids, mask, strict=True))
    brought = len(tensors["pixel_values"]) if "pixel_values" in tensors else 0
    if brought != sum(len(row.images) for row in rows):
        raise SpecError(
            f"the tokens speak of {sum(len(row.images) for row in rows)} image(s) and pixel_values hold {brought}"
        )
    if pictures and (len(rows) > 1 or len(rows[0].images) != len(pictures)):
        raise SpecError(
            f"{len(pictures)} picture(s) were given for {len(rows)} row(s), whose tokens speak of "
            f"{[len(row.images) for row in rows]} image(s); pictures go with an encoding of one row"
        )
    return Prompt(inputs=tensors, rows=rows, images=(pictures,) if pictures else (), model=model)


def _row(model: Any, line: torch.Tensor, real: torch.Tensor, inputs: Mapping[str, Any]) -> Row:
    config = model._module.config
    there = real.nonzero().flatten().tolist()
    if not there or there != list(range(there[0], there[-1] + 1)):
        raise SpecError("a row of attention_mask must be ones in one piece, with padding on its left or right")
    pixels = (line == config.image_token_id).nonzero().flatten().tolist()
    bos = config.get_text_config().bos_token_id
    opens = bos is not None and int(line[there[0]]) == bos
    return Row(
        tokens=tuple(line.tolist()),
        start=there[0],
        stop=there[-1] + 1,
        answer=there[-1] + 1,
        images=_split_images(model, pixels, inputs),
        bos=there[0] if opens else None,
    )


def _split_images(model: Any, pixels: Sequence[int], inputs: Mapping[str, Any]) -> tuple[tuple[int, ...], ...]:
    """Positions of each image; in the families there are, every image has as many tokens."""
    if not pixels:
        return ()
    if "pixel_values" not in inputs:
        raise SpecError("the tokens speak of an image and the inputs bring no pixel_values")
    each = GRIDS[family(model).grid].count(model)
    if len(pixels) % each:
        raise SpecError(f"{len(pixels)} image tokens are no multiple of the {each} that one image has")
    return tuple(tuple(pixels[at : at + each]) for at in range(0, len(pixels), each))


def stack(prompts: Sequence[Prompt]) -> Prompt:
    """Prompts of one row each as the rows of one encoding, padded on the left.

    Inputs that do not count tokens (pixels) are laid end to end, as processors do.

    Raises:
        SpecError: a prompt of several rows.
    """
    if any(len(prompt) > 1 for prompt in prompts):
        raise SpecError("prompts of one row are stacked; take a row of a longer one with prompt.row(0)")
    width = max(prompt.width for prompt in prompts)
    names = dict.fromkeys(name for prompt in prompts for name in prompt.inputs)
    inputs = {
        name: torch.cat([_padded(prompt, name, width) for prompt in prompts if name in prompt.inputs]) for name in names
    }
    rows = tuple(prompt.rows[0].shifted(width - prompt.width) for prompt in prompts)
    images = tuple(prompt.images[0] if prompt.images else () for prompt in prompts)
    return Prompt(inputs=inputs, rows=rows, images=images, model=prompts[0].model)


def _padded(prompt: Prompt, name: str, width: int) -> torch.Tensor:
    value: torch.Tensor = prompt.inputs[name]
    ids = prompt.inputs["input_ids"]
    if value.shape != ids.shape:
        return value
    fill = prompt.rows[0].filler if name == "input_ids" else 0
    return torch.cat([value.new_full((1, width - prompt.width), fill), value], dim=1)
