"""Whether a prompt's pixels are those that its processor makes, as it is now, of the prompt's pictures.

A grid is measured with the processor. It would lie if the processor's options were others when the prompt was encoded,
or if a ready encoding was made of other pictures than those that were given beside it: turned, cropped, in another
order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..errors import SpecError
from ..families import ModelView, view_of
from ..families.locks import lock_of
from ..grids import GRIDS
from .listening import ListeningProcessor
from .pictures import as_rgb
from .visuals import IMAGE

if TYPE_CHECKING:
    from .prompt import Prompt

LEVELS = 4
"""How many of 256 grey levels a pixel may differ: Pillow and torchvision round what they resample differently."""
REFUSED = (ValueError, TypeError, IndexError, KeyError, ZeroDivisionError, RuntimeError, AttributeError)
"""What processors raise where they do not take pictures in such a form."""


def check_pictures(prompt: Prompt) -> None:
    """Refuse a prompt of one row whose pixels are not made of its pictures by the processor as it is now.

    A processor that cannot be asked, or whose answer has no input of the prompt's, says nothing either way.

    Raises:
        SpecError: saying how far apart they are, and what to write.
    """
    view, pictures = view_of(prompt.model), [as_rgb(picture) for picture in prompt.images[0]]
    names = [name for name in view.family.inputs if _is_pixels(prompt.inputs.get(name))]
    allowed, apart = _one_level(view) * LEVELS, ""
    for made in _made(view, pictures):
        there = [name for name in names if _is_pixels(made.get(name))]
        found = next(filter(None, (_apart(_of_images(prompt, name), made[name], allowed) for name in there)), "")
        if there and not found:
            return
        apart = apart or found
    if apart:
        raise SpecError(
            f"the processor makes other pixels of this prompt's picture(s) than the prompt has ({apart}), so it cannot "
            "say where its tokens looked. Give the pictures as the processor was given them, upright and in that "
            "order; put back the processor's options that were changed since; and put options of the processor's call "
            "into processor.images_kwargs too"
        )


def _made(view: ModelView, pictures: list[Image.Image]) -> Iterator[Mapping[str, Any]]:
    """What the processor makes of pictures, in the ways in which encodings are made: at first as `encode` does."""
    processor: Any = view.processor
    listener = ListeningProcessor(processor, flat=view.family.flat_pictures)
    written = view.family.writes_image and not view.family.wants_placeholders
    stand_in = "" if written else str(getattr(processor, "image_token", None) or "")
    try:
        with lock_of(view.module):
            yield listener(f"{stand_in * len(pictures)} a", pictures)
    except REFUSED:
        pass
    own = getattr(processor, "images_kwargs", None) or {}
    layouts = {view.family.grid, *(stage.keys for stage in view.family.stages.values() if stage.keys)}
    ways = [way.options for layout in layouts for way in GRIDS[layout].processings]
    for options in {repr(way): way for way in ways}.values():
        for form in (pictures, [pictures]):
            try:
                yield processor.image_processor(form, **{**own, **options, "return_tensors": "pt"})
            except REFUSED:
                continue


def _of_images(prompt: Prompt, name: str) -> Any:
    """An input without the frames of videos that it also holds."""
    value = prompt.inputs[name]
    if view_of(prompt.model).family.inputs[name] != "shown piece":
        return value
    kinds = [visual.kind for visual in prompt.rows[0].visuals for _ in range(visual.cells.pieces)]
    return value[[kind == IMAGE for kind in kinds]]


def _is_pixels(value: Any) -> bool:
    """Whether an input is made of fractions."""
    parts = value if isinstance(value, (list, tuple)) and len(value) else [value]
    return all(isinstance(part, torch.Tensor) and part.is_floating_point() for part in parts)


def _apart(held: Any, made: Any, allowed: float) -> str:
    """How far apart two inputs are, in words; empty where they are equal up to rounding."""
    if isinstance(held, (list, tuple)) or isinstance(made, (list, tuple)):
        if len(held) != len(made):
            return f"{len(held)} parts, and it makes {len(made)}"
        return next(filter(None, (_apart(*pair, allowed) for pair in zip(held, made, strict=True))), "")
    made = made.to(held)
    if held.dim() != made.dim() or len(held) != len(made):
        return f"shape {tuple(held.shape)}, and it makes {tuple(made.shape)}"
    common = tuple(slice(min(pair)) for pair in zip(held.shape, made.shape, strict=True))
    for padded in (held, made):  # beside larger pictures of other rows, which leaves nothing but zeros
        rest = padded.clone()
        rest[common] = 0
        if bool(rest.any()):
            return f"shape {tuple(held.shape)}, and it makes {tuple(made.shape)}"
    far = float((held[common].float() - made[common].float()).abs().max()) if made[common].numel() else 0.0
    rounding = 2 * torch.finfo(held.dtype).eps * max(1.0, float(held.abs().max()))
    return "" if far <= allowed + rounding else f"{LEVELS * far / allowed:.0f} grey levels of 256 apart"


def _one_level(view: ModelView) -> float:
    """How far apart the numbers of two neighbouring grey levels are at most."""
    images = getattr(view.processor, "image_processor", None)
    deviations = getattr(images, "image_std", None) if getattr(images, "do_normalize", False) else None
    smallest = min(deviations) if isinstance(deviations, (list, tuple)) else deviations or 1.0
    return (1 / 255 if getattr(images, "do_rescale", True) else 1.0) / smallest
