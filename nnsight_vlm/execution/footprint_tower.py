"""What a vision tower takes for the pictures of an encoding: an estimate in bytes, part of `footprint`.

A picture has as many patches as its pixels say, tiles included, and each of them is a token of the tower.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import torch

from ..device.kernels import MASKS_IN_MEMORY
from ..families import ModelView

STATES = 8
"""Copies of a patch's hidden state that a layer holds at once; there is no cache."""
INNER = 3
"""Copies of its widest state, inside the feed-forward part."""
PIXELS = 1
"""Copies of the pixels beside those that the prompt holds: stacked, or on the device."""
PLAIN_PIXEL = 64
"""Numbers that a tower without patches (convolutions) holds at once for a pixel."""
ONE_SEQUENCE = ("sized",)
"""Layouts of families whose tower runs all pictures as one sequence, under a mask."""

OF_IMAGES, OF_VIDEOS = "image_grid_thw", "video_grid_thw"
"""The inputs that count flat patches, `[image or video, (times, rows, columns)]`."""


def item_bytes(view: ModelView) -> int:
    """Bytes of a number in the model's dtype."""
    return torch.finfo(view.dtype).bits // 8


def score_bytes(item: int) -> int:
    """Bytes of a score of eager attention: the product and the scaled one, or the scaled one and its softmax."""
    return 2 * item if item >= 4 else 2 * 4 + item  # softmax computes in float32


class _Tower(NamedTuple):
    """Sizes of a tower of attention layers.

    Attributes:
        width, inner: of a patch's hidden state, and of its widest one.
        heads, layers: how many.
        patch: pixels along a side of a patch.
        eager: whether it holds scores.
    """

    width: int
    inner: int
    heads: int
    layers: int
    patch: int
    eager: bool


def pictures_bytes(view: ModelView, inputs: Mapping[str, Any], copies: int = 1) -> int:
    """What the tower takes for all pictures of an encoding, which is so often in the batch; their pixels included."""
    named = [(name, each) for name in view.family.all_pixels for each in _tensors(inputs.get(name))] * copies
    pixels = [each for _, each in named]
    item, tower = item_bytes(view), _tower_of(view)
    values = sum(each.numel() for each in pixels) * PIXELS * item
    if tower is None:
        return values + sum(each.numel() // 3 for each in pixels if each.dim() > 3) * PLAIN_PIXEL * item
    tables = {name: OF_VIDEOS if name in view.family.inputs_of_videos else OF_IMAGES for name, _ in named}
    lengths = [length for name, each in named for length in _lengths(each, inputs, tower, tables[name])]
    kept = tower.layers if getattr(view.config, "vision_feature_layer", None) is not None else 0
    states = sum(lengths) * ((STATES + kept) * tower.width + INNER * tower.inner) * item
    one = view.family.grid in ONE_SEQUENCE
    flat = any(each.dim() == 2 for each in pixels)  # one sequence after the other
    edges = sum(lengths) ** 2 if one else max(map(_square, lengths), default=0) if flat else sum(map(_square, lengths))
    return values + states + edges * (score_bytes(item) * tower.heads * tower.eager + MASKS_IN_MEMORY * item * one)


def _square(length: int) -> int:
    return length * length


def _tensors(pixels: Any) -> Iterator[torch.Tensor]:
    if isinstance(pixels, torch.Tensor):
        yield pixels
    elif isinstance(pixels, (list, tuple)):
        for each in pixels:
            yield from _tensors(each)


def _tower_of(view: ModelView) -> _Tower | None:
    """The sizes of the tower; None where it is none of attention layers over square patches of one size."""
    config = getattr(view.config, "vision_config", None)
    width = _number(config, "embed_dim") or _number(config, "hidden_size")
    heads = _number(config, "num_attention_heads") or _number(config, "num_heads") or _number(config, "attention_heads")
    patch = getattr(config, "patch_size", None)
    patch = max(patch) if isinstance(patch, (list, tuple)) and len(set(patch)) == 1 else patch
    if not width or not heads or not isinstance(patch, int):
        return None
    ratio = getattr(config, "mlp_ratio", None)
    inner = _number(config, "intermediate_size") or int((ratio if isinstance(ratio, (int, float)) else 4) * width)
    layers = _number(config, "num_hidden_layers") or _number(config, "depth")
    return _Tower(width, inner, heads, layers, patch, getattr(config, "_attn_implementation", "sdpa") == "eager")


def _number(config: Any, name: str) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else 0


def _lengths(pixels: torch.Tensor, inputs: Mapping[str, Any], tower: _Tower, table: str = OF_IMAGES) -> list[int]:
    """How many patches each sequence of the tower has; `table` is the input that counts those of flat pixels."""
    if pixels.dim() > 3:
        slices = inputs.get("target_sizes")
        if slices is not None:
            return [rows * columns for rows, columns in slices.tolist()]
        return [(pixels.shape[-2] // tower.patch) * (pixels.shape[-1] // tower.patch)] * prod(pixels.shape[:-3])
    if pixels.dim() == 3:
        return [pixels.shape[1]] * pixels.shape[0]
    grid = inputs.get(table)
    if grid is None:
        return [len(pixels)]
    return [rows * columns for times, rows, columns in grid.tolist() for _ in range(times)]
