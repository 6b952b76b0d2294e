"""Layouts of families that keep the picture's shape: the encoding says how many patches a picture has each way.

`merged` reads `image_grid_thw` (Qwen-VL, GLM-V, PaddleOCR-VL), as do `merged_kernel` (Kimi) and `merged_with_breaks`
(HunYuan-VL); `shaped` reads `spatial_shapes` (LFM2-VL: tiles and a thumbnail), `sliced` reads `target_sizes`
(MiniCPM-V: the picture and slices of it), `pooled` reads `image_position_ids` (Gemma 4). In all of them, the tokens of
a tile go row by row.

These families' processors return flat patches, from which functions named `*_tile` and `*_tiles` put the processed
pictures together again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from einops import rearrange

from ..errors import SpecError
from ..families import ModelView
from .cells import NOWHERE, Cells, GridShape, full_tile, in_order, no_places
from .tokens import Inputs, check_total, counts, marked


def merged(view: ModelView, inputs: Inputs) -> list[Cells]:
    """`image_grid_thw` counts patches; `spatial_merge_size` of them each way make one token."""
    return _checked(merged_table(view, inputs, "image_grid_thw"), view, inputs)


def merged_table(view: ModelView, inputs: Inputs, name: str) -> list[Cells]:
    """The cells of what a table `[image or video, (times, rows, columns)]` of patches counts."""
    merge = view.config.vision_config.spatial_merge_size
    return [
        in_order([GridShape(rows // merge, columns // merge)] * times, patches=times * rows * columns)
        for times, rows, columns in _table(inputs, name)
    ]


def merged_kernel(view: ModelView, inputs: Inputs) -> list[Cells]:
    """As `merged`, where `merge_kernel_size` patches down and across make one token."""
    down, across = view.config.vision_config.merge_kernel_size
    images = [
        in_order([GridShape(rows // down, columns // across)], patches=frames * rows * columns)
        for frames, rows, columns in _table(inputs, "image_grid_thw")
    ]
    return _checked(images, view, inputs)


def merged_windows(view: ModelView, inputs: Inputs) -> list[Cells]:
    """As `merged`, where the projector's output goes window by window and is put in the tokens' order afterwards."""
    images, orders = merged(view, inputs), window_orders(view, inputs, "image_grid_thw")
    return [replace(image, sources=order, features=len(order)) for image, order in zip(images, orders, strict=True)]


def window_orders(view: ModelView, inputs: Inputs, name: str) -> list[np.ndarray]:
    """For each image or video of such a table, the row of the projector's output that each token comes from."""
    from transformers.vision_utils import get_vision_window_index

    vision = view.config.vision_config
    sizes = vision.spatial_merge_size, vision.window_size, vision.patch_size
    grids = torch.as_tensor(inputs.get(name, torch.zeros(0, 3, dtype=torch.long)))
    return [get_vision_window_index(grid[None], *sizes)[0].argsort().cpu().numpy() for grid in grids]


def merged_with_breaks(view: ModelView, inputs: Inputs) -> list[Cells]:
    """As `merged`, with tokens that show no patches: one at the end of each row, one before and one behind all."""
    images = []
    for whole in (cells.shapes[0] for cells in merged_table(view, inputs, "image_grid_thw")):
        rows = full_tile(GridShape(whole.rows, whole.columns + 1))
        rows[rows[:, 2] == whole.columns] = NOWHERE
        patches = whole.rows * whole.columns * view.config.vision_config.spatial_merge_size**2
        images.append(Cells(np.concatenate([no_places(1), rows, no_places(1)]), (whole,), patches))
    return _checked(images, view, inputs)


def shaped(view: ModelView, inputs: Inputs) -> list[Cells]:
    """`spatial_shapes` has the patches of all images' tiles; `downsample_factor` of them each way make one token.

    Raises:
        SpecError: the tokens of an image are not those of whole tiles.
    """
    factor = view.config.downsample_factor
    shapes = [GridShape(rows // factor, columns // factor) for rows, columns in _table(inputs, "spatial_shapes")]
    lengths = _tokens_per_image(view, inputs, len(shapes))
    return _checked([in_order(tiles) for tiles in _tiles_per_image(shapes, lengths, "spatial_shapes")], view, inputs)


def sliced(view: ModelView, inputs: Inputs) -> list[Cells]:
    """`target_sizes` has the patches of all images' tiles, which are merged twice, each time 2 x 2 of them.

    Raises:
        SpecError: the tokens of an image are not those of whole tiles, or the pixels are of other tiles.
    """
    sizes = _table(inputs, "target_sizes")
    side = view.config.vision_config.patch_size
    expected = sum(rows * columns for rows, columns in sizes) * side
    if "pixel_values" in inputs and inputs["pixel_values"].shape[-1] != expected:
        raise SpecError(
            f"pixel_values have {inputs['pixel_values'].shape[-1]} columns, and the tiles in target_sizes {expected}; "
            "both must come from one call of the processor"
        )
    shapes = [GridShape(rows // 4, columns // 4) for rows, columns in sizes]
    lengths = _tokens_per_image(view, inputs, len(shapes))
    return _checked([in_order(tiles) for tiles in _tiles_per_image(shapes, lengths, "target_sizes")], view, inputs)


def pooled(view: ModelView, inputs: Inputs) -> list[Cells]:
    """`image_position_ids` has each patch's column and row; `pooling_kernel_size` of them each way make one token."""
    kernel = view.config.vision_config.pooling_kernel_size
    patches = _patch_grids(inputs.get("image_position_ids"))
    return _checked(
        [in_order([GridShape(rows // kernel, columns // kernel)]) for rows, columns in patches], view, inputs
    )


def merged_tile(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The picture from its patches, which go merged token by merged token. Each is there once for every frame."""
    return [merged_picture(view, processed_inputs, "pixel_values", "image_grid_thw")]


def merged_picture(view: ModelView, processed_inputs: Mapping[str, Any], pixels: str, table: str) -> torch.Tensor:
    """The picture, or the first frame, that the first patches of an input make up."""
    vision = view.config.vision_config
    merge, side = vision.spatial_merge_size, vision.patch_size
    patches = torch.as_tensor(processed_inputs[pixels])
    _, rows, columns = _table(processed_inputs, table)[0]
    by_frame: torch.Tensor = rearrange(
        patches[: rows * columns],
        "(row column down across) (c t y x) -> t c (row down y) (column across x)",
        row=rows // merge,
        down=merge,
        across=merge,
        y=side,
        x=side,
        c=3,
    )
    return by_frame[0]


def raster_tile(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The picture from its patches, which go row by row."""
    _, rows, columns = _table(processed_inputs, "image_grid_thw")[0]
    side = view.config.vision_config.patch_size
    patches = torch.as_tensor(processed_inputs["pixel_values"]).reshape(rows, columns, 3, side, side)
    return [rearrange(patches, "row column c y x -> c (row y) (column x)")]


def shaped_tiles(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tiles from their patches; the thumbnail is the last."""
    return _from_patches(
        view, processed_inputs, [GridShape(*shape) for shape in _table(processed_inputs, "spatial_shapes")]
    )


def sliced_tiles(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The picture and its slices from their patches, which all stand side by side."""
    side, start, tiles = view.config.vision_config.patch_size, 0, list[torch.Tensor]()
    pixels = torch.as_tensor(processed_inputs["pixel_values"])[0]
    for rows, columns in _table(processed_inputs, "target_sizes"):
        patches = pixels[..., start : (start := start + rows * columns * side)]
        tiles.append(rearrange(patches, "c y (row column x) -> c (row y) (column x)", row=rows, x=side))
    return tiles


def pooled_tile(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The picture from its patches."""
    shapes = _patch_grids(torch.as_tensor(processed_inputs["image_position_ids"]))
    return _from_patches(view, processed_inputs, shapes)


def _from_patches(
    view: ModelView, processed_inputs: Mapping[str, Any], shapes: Sequence[GridShape]
) -> list[torch.Tensor]:
    """`[channel, height, width]` of each tile from `[tile, patch, (y x channel)]`, padding left out."""
    side = view.config.vision_config.patch_size
    return [
        rearrange(
            tile[: shape.rows * shape.columns],
            "(row column) (y x c) -> c (row y) (column x)",
            row=shape.rows,
            y=side,
            x=side,
        )
        for tile, shape in zip(torch.as_tensor(processed_inputs["pixel_values"]), shapes, strict=True)
    ]


def _table(inputs: Mapping[str, Any], name: str) -> list[list[int]]:
    """A two-dimensional input as lists; empty if there is no image."""
    values = inputs.get(name)
    return [] if values is None else [[int(number) for number in line] for line in torch.as_tensor(values).tolist()]


def _patch_grids(positions: torch.Tensor | None) -> list[GridShape]:
    """The size of each image in patches, from `[image, patch, (x, y)]` with -1 for padding."""
    if positions is None:
        return []
    columns, rows = (positions.amax(dim=1) + 1).unbind(-1)
    return [GridShape(*size) for size in zip(rows.tolist(), columns.tolist(), strict=True)]


def _checked(images: list[Cells], view: ModelView, inputs: Inputs) -> list[Cells]:
    """The images, if they have as many tokens as the encoding."""
    check_total([len(image.places) for image in images], sum(counts(view, inputs)))
    return images


def _tokens_per_image(view: ModelView, inputs: Inputs, tiles: int) -> list[int]:
    """How many tokens each image has, images in order. A marker token opens each image, where the family has one."""
    marker = getattr(view.processor, "image_start_token", None)
    if marker is None and tiles > 1:
        raise SpecError(
            "the inputs list the tiles of all images one after the other, and only the processor knows the marker that "
            "opens an image; write nv.load(model, processor=...)"
        )
    marker_id = None if view.processor is None or marker is None else _token_id(view.processor, marker)
    lengths: list[int] = []
    for tokens, image in zip(inputs["input_ids"].tolist(), marked(view, inputs).tolist(), strict=True):
        lengths.extend(_lengths(tokens, image, marker_id))
    return lengths


def _token_id(processor: Any, token: str) -> int:
    return int(processor.tokenizer.convert_tokens_to_ids(token))


def _lengths(tokens: Sequence[int], image: Sequence[bool], marker: int | None) -> Iterator[int]:
    """How many tokens each image of a row has: images begin at markers, or in a row without markers at each run."""
    has_marker = marker in tokens
    length = 0
    for token, is_image in zip(tokens, image, strict=True):
        ends = token == marker if has_marker else not is_image
        if ends and length:
            yield length
            length = 0
        length += is_image
    if length:
        yield length


def _tiles_per_image(shapes: Sequence[GridShape], lengths: Sequence[int], name: str) -> list[list[GridShape]]:
    """The tiles of each image, of those in an input: the next tiles that have as many tokens together."""
    remaining = list(shapes)
    images: list[list[GridShape]] = []
    for length in lengths:
        ends = np.cumsum([shape.rows * shape.columns for shape in remaining])
        count = int(np.searchsorted(ends, length)) + 1
        if count > len(remaining) or ends[count - 1] != length:
            raise SpecError(
                f"images of {', '.join(map(str, lengths))} tokens are not made up of tiles of "
                f"{', '.join(f'{shape.rows} x {shape.columns}' for shape in shapes)} tokens; give the encoding as this "
                "model's processor returned it, without cutting it"
            )
        images.append(remaining[:count])
        remaining = remaining[count:]
    if remaining:
        raise SpecError(
            f"{name} has {len(shapes)} tiles, of which {len(remaining)} have no tokens: input_ids have tokens "
            f"of {len(images)} image(s); both must come from one call of the processor"
        )
    return images
