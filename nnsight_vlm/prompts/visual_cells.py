"""The images and videos of an encoding, before it is known in which row each of them is."""

from __future__ import annotations

import torch

from ..errors import SpecError
from ..families import ModelView
from ..grids import GRIDS, VIDEO_LAYOUTS, Cells, marked
from ..grids.tokens import Inputs


def image_mask(view: ModelView, inputs: Inputs) -> torch.Tensor:
    """`[row, token]`: whether a token is an image token."""
    if view.family.image_mask:  # a processor leaves it out where there is no picture
        return torch.as_tensor(inputs.get(view.family.image_mask, torch.zeros_like(inputs["input_ids"]))).bool()
    return torch.as_tensor(marked(view, inputs))


def image_cells(view: ModelView, inputs: Inputs, image_tokens: int) -> list[Cells]:
    """The cells of each image, in order.

    Raises:
        SpecError: image tokens without pixels, or pixels without image tokens.
    """
    of_videos = view.family.inputs_of_videos
    pixels = [name for name in view.family.inputs if name in inputs and name not in of_videos]
    if image_tokens and not pixels:
        raise SpecError(
            f"input_ids have image tokens, but the inputs have no {view.family.pixels}; the processor returns it"
        )
    if not image_tokens and pixels:
        raise SpecError(f"the inputs have {pixels[0]}, but input_ids have no image tokens; leave out one or the other")
    return GRIDS[view.family.grid].cells(view, inputs) if image_tokens else []


def video_cells(view: ModelView, inputs: Inputs, is_video: torch.Tensor) -> list[Cells]:
    """The cells of each video, in order; none where frames have the token of images.

    Raises:
        SpecError: video tokens without pixels, or pixels without video tokens.
    """
    video, tokens = view.family.video, int(is_video.sum())
    pixels = [name for name in view.family.inputs_of_videos if name in inputs]
    if video is None or not (tokens or pixels):
        return []
    if video.pixels not in pixels:
        raise SpecError(f"input_ids have video tokens, but the inputs have no {video.pixels}; the processor returns it")
    if not tokens:
        raise SpecError(f"the inputs have {pixels[0]}, but input_ids have no video tokens; leave out one or the other")
    cells = VIDEO_LAYOUTS[video.layout].cells
    return [] if cells is None else cells(view, inputs)
