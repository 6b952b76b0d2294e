"""Image tokens that are latents or keys of a cross-attention, and the patches that latents read.

Functions that lay out tokens give one `Cells` an image. Those that lay out the patches which a resampler reads
(`*_patches`) give one for each batch row of that resampler: an image, or one crop of it. `shapes` then lists all
crops of that image, and the tile number in `places` says which of them this is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch.nn import functional

from ..errors import SpecError
from ..families import view_of
from .cells import Cells, full_tile, nowhere
from .tokens import counts, marked, runs, shares

Inputs = Mapping[str, torch.Tensor]


# Tokens in the sequence


def queries(model: Any, inputs: Inputs) -> list[Cells]:
    """The query tokens of a Q-Former: equally many an image (BLIP-2, InstructBLIP)."""
    each = int(view_of(model).config.num_query_tokens)
    return [Cells(nowhere(each)) for total in counts(model, inputs) for _ in range(shares(total, each))]


def masked_latents(model: Any, inputs: Inputs) -> list[Cells]:
    """Latents that a mask of their own marks: they have no one token id (Kosmos-2)."""
    each = int(view_of(model).config.latent_query_num)
    totals = inputs["image_embeds_position_mask"].sum(1).tolist()
    return [Cells(nowhere(each)) for total in totals for _ in range(shares(int(total), each))]


def crop_latents(model: Any, inputs: Inputs) -> list[Cells]:
    """Latents of one crop, or of four quarters and the whole (Idefics2)."""
    each = int(view_of(model).config.perceiver_config.resampler_n_latents)
    return [Cells(nowhere(each * crops)) for crops in split_crops(model, inputs)]


def tile_latents(model: Any, inputs: Inputs) -> list[Cells]:
    """Latents of each tile, tiles of an image end to end (Aria)."""
    each = _aria_queries(model, inputs)
    return [Cells(nowhere(each * crops), patches=crops) for crops in run_crops(model, inputs)]


def pooled_square(model: Any, inputs: Inputs) -> list[Cells]:
    """One token that saw the whole image, then a square row by row (Florence-2).

    Raises:
        SpecError: the image tokens of a row are no such images.
    """
    rows, columns = _convolved(view_of(model).config.vision_config, inputs["pixel_values"].shape[-2:])
    places = np.concatenate([nowhere(1), full_tile(rows, columns)])
    totals = counts(model, inputs)
    return [Cells(places, ((rows, columns),)) for total in totals for _ in range(shares(total, len(places)))]


def pooled_square_crops(model: Any, seen: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The picture half a cell further down and right: a strided convolution looks around its cell's first pixel."""
    pixels = torch.as_tensor(seen["pixel_values"])[0]
    height, width = pixels.shape[-2:]
    rows, columns = _convolved(view_of(model).config.vision_config, (height, width))
    down, right = height // rows // 2, width // columns // 2
    return [functional.pad(pixels, (right, 0, down, 0))[:, :height, :width]]


def _convolved(vision: Any, size: Sequence[int]) -> tuple[int, int]:
    """Rows and columns that a tower of strided convolutions leaves of an image."""
    rows, columns = size
    for patch, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
        rows, columns = ((edge + 2 * padding - patch) // stride + 1 for edge in (rows, columns))
    return rows, columns


# Tokens that are keys of a cross-attention in the decoder


def tile_keys(model: Any, inputs: Inputs) -> list[Cells]:
    """The cross-attention's columns of an image: tiles of 1 CLS and a square, missing tiles too (Mllama).

    The columns of a row's images follow each other; a row of fewer images than another is filled up.
    """
    vision = view_of(model).config.vision_config
    side = vision.image_size // vision.patch_size
    real = (inputs["aspect_ratio_ids"] > 0).flatten().tolist()
    tiles = inputs["aspect_ratio_mask"].flatten(0, 1)
    return [_tile_keys(int(mask.sum()), len(mask), side) for mask, known in zip(tiles, real, strict=True) if known]


def _tile_keys(real: int, tiles: int, side: int) -> Cells:
    places = [np.concatenate([nowhere(1), full_tile(side, side, tile)]) for tile in range(real)]
    missing = nowhere((tiles - real) * (side * side + 1))
    return Cells(np.concatenate([*places, missing]), ((side, side),) * real)


def tile_keys_crops(model: Any, seen: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:  # noqa: ARG001
    """The tiles of a picture without those that fill it up."""
    tiles = torch.as_tensor(seen["pixel_values"])[0, 0]
    return list(tiles[: int(torch.as_tensor(seen["aspect_ratio_mask"]).sum())])


# Patches that a resampler reads


def square_patches(model: Any, inputs: Inputs) -> list[Cells]:
    """Keys of a Q-Former's cross-attention: 1 CLS and the patches of an image."""
    return _read_patches(model, inputs, latents=0)


def square_patches_latents(model: Any, inputs: Inputs) -> list[Cells]:
    """Keys of a resampler that reads 1 CLS, the patches of an image and its own latents (Kosmos-2)."""
    return _read_patches(model, inputs, latents=int(view_of(model).config.latent_query_num))


def _read_patches(model: Any, inputs: Inputs, latents: int) -> list[Cells]:
    pixels, patch = inputs["pixel_values"], view_of(model).config.vision_config.patch_size
    rows, columns = (edge // patch for edge in pixels.shape[-2:])
    places = np.concatenate([nowhere(1), full_tile(rows, columns), nowhere(latents)])
    return [Cells(places, ((rows, columns),)) for _ in range(len(pixels))]


def crop_patches(model: Any, inputs: Inputs) -> list[Cells]:
    """Keys of a resampler that reads a padded crop and its own latents; half patches are closed (Idefics2)."""
    config = view_of(model).config
    patch, latents = config.vision_config.patch_size, int(config.perceiver_config.resampler_n_latents)
    pixels = rearrange(inputs["pixel_values"], "row crop c h w -> (row crop) c h w")
    real = pixels.flatten(1).any(1)  # as the model tells crops from what fills a row up
    masks = rearrange(inputs["pixel_attention_mask"], "row crop h w -> (row crop) h w")[real]
    wide = masks.shape[-1] // patch
    shapes = [(int(mask[:, 0].sum()) // patch, int(mask[0].sum()) // patch) for mask in masks]
    height = masks.shape[-2] // patch
    found = []
    for image in _consecutive(split_crops(model, inputs)):
        whole_image = tuple(shapes[crop] for crop in image)
        for tile, (rows, columns) in enumerate(whole_image):
            places = nowhere(height * wide + latents)
            covered = full_tile(rows, columns, tile)
            places[covered[:, 1] * wide + covered[:, 2]] = covered
            found.append(Cells(places, whole_image))
    return found


def crop_patches_crops(model: Any, seen: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """The crops of a picture, cut to whole patches: what is left over has no key."""
    patch = view_of(model).config.vision_config.patch_size
    pixels, masks = (torch.as_tensor(seen[name])[0] for name in ("pixel_values", "pixel_attention_mask"))
    sizes = [(int(mask[:, 0].sum()) // patch * patch, int(mask[0].sum()) // patch * patch) for mask in masks]
    return [crop[:, :height, :width] for crop, (height, width) in zip(pixels, sizes, strict=True)]


# How many crops each image has


def _consecutive(counts: list[int]) -> list[range]:
    ends = np.cumsum([0, *counts]).tolist()
    return [range(start, stop) for start, stop in pairwise(ends)]


def split_crops(model: Any, inputs: Inputs) -> list[int]:
    """Crops of each image: the image processor cuts all images into five, or none.

    Raises:
        SpecError: it cannot be known without the processor, or does not fit the tokens.
    """
    each = int(view_of(model).config.perceiver_config.resampler_n_latents)
    totals = [shares(count, each) for count in counts(model, inputs)]
    if model.processor is None and max(totals, default=0) > 1:
        raise SpecError(
            "the crops of one image cannot be told from several images without the image processor; "
            "write nv.load(model, processor=...)"
        )
    crops = 5 if model.processor is not None and model.processor.image_processor.do_image_splitting else 1
    return [crops for total in totals for _ in range(shares(total, crops))]


def _aria_queries(model: Any, inputs: Inputs) -> int:
    config = view_of(model).config
    height, width = (edge // config.vision_config.patch_size for edge in inputs["pixel_values"].shape[-2:])
    return int(config.projector_patch_to_query_dict[height * width])


def run_crops(model: Any, inputs: Inputs) -> list[int]:
    """Tiles of each image, an unbroken run of tokens being one image unless no image is ever cut.

    Raises:
        SpecError: images that touch cannot be told from tiles of one, or tokens and tiles differ in number.
    """
    each = _aria_queries(model, inputs)
    images = [shares(stop - start, each) for line in marked(model, inputs) for start, stop in runs(line)]
    if sum(images) != len(inputs["pixel_values"]):
        raise SpecError(
            f"there are tokens for {sum(images)} tiles but {len(inputs['pixel_values'])} tiles; the processor of this "
            "family cannot encode together images that it cuts into different numbers of tiles"
        )
    splits = model.processor is not None and model.processor.images_kwargs.get("split_image", False)
    if splits or max(images, default=1) == 1:
        return images
    raise SpecError(
        "image tokens that follow each other without text between them may be tiles of one image or several images; "
        'put text between images, or set processor.images_kwargs["split_image"] = True where images are cut into tiles'
    )
