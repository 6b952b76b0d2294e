"""Layouts where image tokens are latents or keys of a cross-attention; and of the patches that latents read.

Functions that lay out tokens return one `Cells` per image. Functions that lay out the patches which a resampler reads
(`*_patches*`) return one per batch row of that resampler: an image, or one tile of it. Its `shapes` then list all tiles
of that image, and the tile number in `places` says which of them this is.
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
from ..families import ModelView
from .cells import Cells, GridShape, full_tile, no_places
from .tokens import Inputs, count_units, counts, marked, runs

# tokens in the sequence ---------------------------------------------------------------------------


def queries(view: ModelView, inputs: Inputs) -> list[Cells]:
    """The queries of a Q-Former, equally many per image (BLIP-2, InstructBLIP)."""
    per_image = int(view.config.num_query_tokens)
    return _without_place(counts(view, inputs), per_image)


def masked_latents(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Latents that have no token id of their own and are marked by an input (Kosmos-2)."""
    totals = [int(count) for count in inputs["image_embeds_position_mask"].sum(1)]
    return _without_place(totals, int(view.config.latent_query_num))


def _without_place(totals: Sequence[int], per_image: int) -> list[Cells]:
    """Images of equally many tokens without a place, from the number of image tokens in each row."""
    return [Cells(no_places(per_image)) for total in totals for _ in range(count_units(total, per_image))]


def crop_latents(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Latents of one tile per image, or of four quarters and the whole picture (Idefics2)."""
    per_tile = int(view.config.perceiver_config.resampler_n_latents)
    return [Cells(no_places(per_tile * tiles), patches=tiles) for tiles in tiles_by_option(view, inputs)]


def tile_latents(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Latents of each tile, the tiles of an image one after the other (Aria)."""
    per_tile = _latents_per_tile(view.config, inputs)
    return [Cells(no_places(per_tile * tiles), patches=tiles) for tiles in tiles_in_runs(view, inputs)]


def pooled_square(view: ModelView, inputs: Inputs) -> list[Cells]:
    """A token for the whole image, then a square row by row (Florence-2).

    Raises:
        SpecError: the image tokens of a row are not those of whole images.
    """
    shape = _convolved(view.config.vision_config, inputs["pixel_values"].shape[-2:])
    places = np.concatenate([no_places(1), full_tile(shape)])
    totals = counts(view, inputs)
    return [Cells(places, (shape,)) for total in totals for _ in range(count_units(total, len(places)))]


def pooled_square_tile(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The picture, moved half a cell down and right: a strided convolution is centred on its cell's first pixel."""
    pixels = torch.as_tensor(processed_inputs["pixel_values"])[0]
    height, width = pixels.shape[-2:]
    shape = _convolved(view.config.vision_config, (height, width))
    down, right = height // shape.rows // 2, width // shape.columns // 2
    return [functional.pad(pixels, (right, 0, down, 0))[:, :height, :width]]


def _convolved(vision: Any, size: Sequence[int]) -> GridShape:
    """The size of the feature map of a tower of strided convolutions, for an image of `(height, width)`."""
    rows, columns = size
    for patch, stride, padding in zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True):
        rows, columns = ((edge + 2 * padding - patch) // stride + 1 for edge in (rows, columns))
    return GridShape(rows, columns)


# tokens that are keys of a cross-attention in the decoder -----------------------------------------


def tile_keys(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Keys of the decoder's cross-attention: for each tile CLS and a square, missing tiles included (Mllama).

    The keys of a row's images follow each other; a row with fewer images than another is padded with missing ones.
    """
    vision = view.config.vision_config
    side = vision.image_size // vision.patch_size
    is_image = (inputs["aspect_ratio_ids"] > 0).flatten().tolist()
    tile_masks = inputs["aspect_ratio_mask"].flatten(0, 1)
    return [_tile_keys(mask, GridShape(side, side)) for mask, there in zip(tile_masks, is_image, strict=True) if there]


def _tile_keys(mask: torch.Tensor, shape: GridShape) -> Cells:
    """The keys of an image, from the mask of its tiles: 1 for a tile, 0 for a missing one."""
    tiles, missing = int(mask.sum()), int(len(mask) - mask.sum())
    places = [np.concatenate([no_places(1), full_tile(shape, tile)]) for tile in range(tiles)]
    padding = no_places(missing * (shape.rows * shape.columns + 1))
    return Cells(np.concatenate([*places, padding]), (shape,) * tiles)


def tile_keys_tiles(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:  # noqa: ARG001
    """The tiles of a picture, without missing ones."""
    tiles = torch.as_tensor(processed_inputs["pixel_values"])[0, 0]
    return list(tiles[: int(torch.as_tensor(processed_inputs["aspect_ratio_mask"]).sum())])


# patches that a resampler reads -------------------------------------------------------------------


def square_patches(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Keys of a Q-Former's cross-attention: CLS and the patches of an image."""
    return _read_patches(view, inputs, latents=0)


def square_patches_latents(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Keys of a resampler that reads CLS, the patches of an image and its own latents (Kosmos-2)."""
    return _read_patches(view, inputs, latents=int(view.config.latent_query_num))


def _read_patches(view: ModelView, inputs: Inputs, latents: int) -> list[Cells]:
    pixels, patch = inputs["pixel_values"], view.config.vision_config.patch_size
    height, width = pixels.shape[-2:]
    shape = GridShape(height // patch, width // patch)
    places = np.concatenate([no_places(1), full_tile(shape), no_places(latents)])
    return [Cells(places, (shape,), latents=latents) for _ in range(len(pixels))]


def crop_patches(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Keys of a resampler that reads a padded tile and its own latents (Idefics2).

    Patches that are partly padding are masked by the model, so they have no place.
    """
    patch = view.config.vision_config.patch_size
    latents = int(view.config.perceiver_config.resampler_n_latents)
    pixels = rearrange(inputs["pixel_values"], "row tile c h w -> (row tile) c h w")
    is_tile = pixels.flatten(1).any(1)  # so the model, too, tells tiles from padding
    masks = rearrange(inputs["pixel_attention_mask"], "row tile h w -> (row tile) h w")[is_tile]
    padded = GridShape(masks.shape[-2] // patch, masks.shape[-1] // patch)
    shapes = [_whole_patches(mask, patch) for mask in masks]
    cells = []
    for numbers in _consecutive(tiles_by_option(view, inputs)):
        image_shapes = tuple(shapes[number] for number in numbers)
        for tile, shape in enumerate(image_shapes):
            places = no_places(padded.rows * padded.columns + latents)
            covered = full_tile(shape, tile)
            _, row, column = covered.T
            places[row * padded.columns + column] = covered
            cells.append(Cells(places, image_shapes, latents=latents, padded=padded))
    return cells


def crop_patches_tiles(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tiles of a picture, cut to patches without padding."""
    patch = view.config.vision_config.patch_size
    pixels, masks = (torch.as_tensor(processed_inputs[name])[0] for name in ("pixel_values", "pixel_attention_mask"))
    shapes = [_whole_patches(mask, patch) for mask in masks]
    return [tile[:, : shape.rows * patch, : shape.columns * patch] for tile, shape in zip(pixels, shapes, strict=True)]


def _whole_patches(mask: torch.Tensor, patch: int) -> GridShape:
    """How many patches without padding a tile has each way, from its mask `[height, width]`."""
    return GridShape(int(mask[:, 0].sum()) // patch, int(mask[0].sum()) // patch)


# how many tiles each image has --------------------------------------------------------------------


def _consecutive(lengths: list[int]) -> list[range]:
    edges = np.cumsum([0, *lengths]).tolist()
    return [range(start, stop) for start, stop in pairwise(edges)]


def tiles_by_option(view: ModelView, inputs: Inputs) -> list[int]:
    """Tiles of each image where an option of the image processor cuts every image into five, or none (Idefics2).

    Raises:
        SpecError: there is no processor to ask, or the image tokens are not those of whole images.
    """
    per_tile = int(view.config.perceiver_config.resampler_n_latents)
    totals = [count_units(count, per_tile) for count in counts(view, inputs)]
    if view.processor is None and max(totals, default=0) > 1:
        raise SpecError(
            "without the image processor, several tiles of one image look like several images; "
            "write nv.load(model, processor=...)"
        )
    tiles = 5 if view.processor is not None and view.processor.image_processor.do_image_splitting else 1
    return [tiles for total in totals for _ in range(count_units(total, tiles))]


def _latents_per_tile(config: Any, inputs: Inputs) -> int:
    """How many latents Aria's projector makes of a tile."""
    height, width = (edge // config.vision_config.patch_size for edge in inputs["pixel_values"].shape[-2:])
    return int(config.projector_patch_to_query_dict[height * width])


def tiles_in_runs(view: ModelView, inputs: Inputs) -> list[int]:
    """Tiles of each image, where a run of image tokens is an image (Aria).

    Raises:
        SpecError: a run may be several images or several tiles of one; or `pixel_values` have another number of tiles.
    """
    per_tile = _latents_per_tile(view.config, inputs)
    images = [count_units(run.length, per_tile) for row in marked(view, inputs) for run in runs(row)]
    if sum(images) != len(inputs["pixel_values"]):
        raise SpecError(
            f"input_ids have tokens of {sum(images)} tile(s), pixel_values have {len(inputs['pixel_values'])}; this "
            "processor cannot encode images together that have different numbers of tiles: encode them one by one"
        )
    splits = view.processor is not None and view.processor.images_kwargs.get("split_image", False)
    if splits or max(images, default=1) == 1:
        return images
    raise SpecError(
        "image tokens that follow each other without text between them may be tiles of one image or several images; "
        'put text between images, or set processor.images_kwargs["split_image"] = True where images are cut into tiles'
    )
