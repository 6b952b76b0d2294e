"""Layouts of families that keep the picture's shape: the grid of patches is written in the encoding.

`merged` reads `image_grid_thw` (Qwen-VL, GLM-V), `shaped` reads `spatial_shapes` (LFM2-VL: tiles and a thumbnail),
`pooled` reads `image_position_ids` (Gemma4). In all of them, the tokens of a tile go row by row. The functions
`*_crops` put the processed pictures together again, which these families cut into flat patches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from transformers.vision_utils import get_vision_window_index

from ..errors import SpecError
from ..families import view_of
from .cells import Cells, Shape, in_order
from .tokens import check_total, counts, marked


def merged(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """`image_grid_thw` counts patches; `spatial_merge_size` of them each way are one token."""
    vision = view_of(model).config.vision_config
    side = vision.spatial_merge_size
    grids = _rows_of(inputs, "image_grid_thw")
    images = [
        in_order([(high // side, wide // side)] * frames, patches=frames * high * wide) for frames, high, wide in grids
    ]
    return _counted(images, model, inputs)


def merged_windows(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """The same where the merger works window by window: its output is put into the order of the tokens later."""
    vision = view_of(model).config.vision_config
    sizes = vision.spatial_merge_size, vision.window_size, vision.patch_size
    grids = torch.as_tensor(inputs.get("image_grid_thw", torch.zeros(0, 3, dtype=torch.long)))
    orders = [get_vision_window_index(grid[None], *sizes)[0].argsort().cpu().numpy() for grid in grids]
    images = merged(model, inputs)
    return [replace(image, sources=order, features=len(order)) for image, order in zip(images, orders, strict=True)]


def shaped(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """`spatial_shapes` has the patches of each tile, all images end to end; `downsample_factor` each way are one token.

    Raises:
        SpecError: tiles that the tokens do not share out among the images.
    """
    side = view_of(model).config.downsample_factor
    shapes = [(high // side, wide // side) for high, wide in _rows_of(inputs, "spatial_shapes")]
    lengths = [len(positions) for positions in _image_runs(model, inputs, len(shapes))]
    return _counted([in_order(tiles) for tiles in _shared_out(shapes, lengths)], model, inputs)


def pooled(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """`image_position_ids` are each patch's column and row, -1 for padding; `pooling_kernel_size` each way are one."""
    side = view_of(model).config.vision_config.pooling_kernel_size
    sizes = _extents(inputs.get("image_position_ids"))
    return _counted([in_order([(high // side, wide // side)]) for high, wide in sizes], model, inputs)


def merged_crops(model: Any, seen: Mapping[str, Any]) -> list[torch.Tensor]:
    """One tile from patches in the order of the merger, each repeated for the frames that a still picture is made."""
    vision = view_of(model).config.vision_config
    merge, frames, side = vision.spatial_merge_size, vision.temporal_patch_size, vision.patch_size
    patches = torch.as_tensor(seen["pixel_values"])
    _, high, wide = _rows_of(seen, "image_grid_thw")[0]
    tile: torch.Tensor = rearrange(
        patches[: high * wide],
        "(row column down across) (c t y x) -> t c (row down y) (column across x)",
        row=high // merge,
        down=merge,
        across=merge,
        t=frames,
        y=side,
        x=side,
        c=3,
    )
    return [tile[0]]


def shaped_crops(model: Any, seen: Mapping[str, Any]) -> list[torch.Tensor]:
    """Tiles from padded patches, row by row; the thumbnail is the last."""
    return _unpatched(model, seen, _rows_of(seen, "spatial_shapes"))


def pooled_crops(model: Any, seen: Mapping[str, Any]) -> list[torch.Tensor]:
    """One tile from padded patches, row by row."""
    return _unpatched(model, seen, _extents(torch.as_tensor(seen["image_position_ids"])))


def _unpatched(model: Any, seen: Mapping[str, Any], shapes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """`[c, height, width]` of each tile's patches, padding left out; a patch's numbers go row, column, colour."""
    side = view_of(model).config.vision_config.patch_size
    return [
        rearrange(tile[: high * wide], "(row column) (y x c) -> c (row y) (column x)", row=high, y=side, x=side)
        for tile, (high, wide) in zip(torch.as_tensor(seen["pixel_values"]), shapes, strict=True)
    ]


def _rows_of(inputs: Mapping[str, Any], name: str) -> list[list[int]]:
    """The rows of a small table of the encoding; none if there is no image."""
    found = inputs.get(name)
    return [] if found is None else [[int(number) for number in row] for row in torch.as_tensor(found).tolist()]


def _extents(positions: torch.Tensor | None) -> list[Shape]:
    """`(rows, columns)` of patches of each image, from `[image, patch, (x, y)]`."""
    if positions is None:
        return []
    wide, high = (positions.amax(dim=1) + 1).unbind(-1)
    return list(zip(high.tolist(), wide.tolist(), strict=True))


def _counted(images: list[Cells], model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """The same images, if their tokens are as many as there are."""
    check_total([len(image.places) for image in images], sum(counts(model, inputs)))
    return images


def _image_runs(model: Any, inputs: Mapping[str, Any], tiles: int) -> list[list[int]]:
    """Positions of each image's tokens, rows in order: a new image begins at the opening marker, if there are any."""
    opening = getattr(model.processor, "image_start_token", None)
    if opening is None and tiles > 1:
        raise SpecError(
            "the tiles of all images lie end to end, and the marker tokens around an image tell which are whose; "
            "they are known from the processor: nv.load(model, processor=...)"
        )
    start = None if opening is None else model.processor.tokenizer.convert_tokens_to_ids(opening)
    found: list[list[int]] = []
    for line, there in zip(inputs["input_ids"].tolist(), marked(model, inputs).tolist(), strict=True):
        found.extend(_split(line, there, start))
    return found


def _split(line: Sequence[int], there: Sequence[bool], start: int | None) -> Iterator[list[int]]:
    """The image tokens of one row, cut at markers; where the row has none, at everything that is no image token."""
    bounded = start in line
    current: list[int] = []
    for position, (token, image) in enumerate(zip(line, there, strict=True)):
        ends = token == start if bounded else not image
        if ends and current:
            yield current
            current = []
        if image:
            current.append(position)
    if current:
        yield current


def _shared_out(shapes: Sequence[Shape], lengths: Sequence[int]) -> list[list[Shape]]:
    """The tiles of each image: as many in a row as fill its tokens."""
    rest = list(shapes)
    images: list[list[Shape]] = []
    for length in lengths:
        ends = np.cumsum([high * wide for high, wide in rest])
        taken = int(np.searchsorted(ends, length)) + 1
        if taken > len(rest) or ends[taken - 1] != length:
            raise SpecError(f"tiles of {list(shapes)} tokens do not fill images of {list(lengths)} tokens")
        images.append(rest[:taken])
        rest = rest[taken:]
    if rest:
        raise SpecError(f"{len(rest)} of the tiles {list(shapes)} belong to no image; there are {len(images)} image(s)")
    return images
