"""Images of one tile, row by row: fixed maps, rows of the image's own width, rows told apart by a break.

Three layouts, each `lay(model, inputs) -> list[Cells]`:

- `fixed`: every image has as many tokens (LLaVA, FastVLM, Janus, DeepSeek-VL, Chameleon);
- `sized`: `image_sizes` says how large each processed image is (Pixtral towers: Mistral 3, LLaVA);
- `broken`: a token of another kind ends each row (Fuyu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch

from ..errors import SpecError
from ..families import view_of
from .cells import Cells, in_order
from .tokens import counts, marked, runs


def fixed(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """Equally many tokens an image, after one that stands for no place where there is one more than patches."""
    tokens = counts(model, inputs)
    if not sum(tokens):
        return []
    shape = _given(inputs, "pixel_values").shape
    images = prod(shape[:-3])
    each = sum(tokens) // max(images, 1)
    if each * images != sum(tokens) or any(count % max(each, 1) for count in tokens):
        raise SpecError(f"rows of {tokens} image tokens do not share out among {images} image(s) of equally many")
    rows, columns = _map_shape(model, each, (shape[-2], shape[-1]))
    return [in_order([(rows, columns)], before=each - rows * columns)] * images


def sized(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """As many rows and columns as blocks fit into the size of the processed image."""
    tokens = counts(model, inputs)
    if not sum(tokens):
        return []
    config = view_of(model).config
    high, wide = (side * getattr(config, "spatial_merge_size", 1) for side in _pair(config.vision_config.patch_size))
    shapes = [(height // high, width // wide) for height, width in _given(inputs, "image_sizes").tolist()]
    _check_shares(tokens, [rows * columns for rows, columns in shapes])
    return [in_order([(rows, columns)]) for rows, columns in shapes]


def broken(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """Runs of image tokens with one other token between them are the rows of one image."""
    found = []
    for line in marked(model, inputs):
        lines = runs(line)
        starts = [0, *(at for at, (one, two) in enumerate(pairwise(lines), 1) if two[0] - one[1] > 1), len(lines)]
        found += [_from_runs(lines[start:stop]) for start, stop in pairwise(starts) if start < stop]
    return found


def patched_crops(model: Any, seen: Mapping[str, Any]) -> list[torch.Tensor]:
    """The part of a padded picture that is cut into patches (Fuyu): all patches that hold some of the picture."""
    patch = model.processor.image_processor.patch_size
    picture = torch.as_tensor(seen["images"][0][0])
    height, width = (
        int(torch.as_tensor(seen[f"image_unpadded_{side}"]).flatten()[0]) for side in ("heights", "widths")
    )
    return [picture[:, : _whole(height, int(patch["height"])), : _whole(width, int(patch["width"]))]]


def _whole(length: int, step: int) -> int:
    return -(-length // step) * step


def _given(inputs: Mapping[str, Any], name: str) -> torch.Tensor:
    if inputs.get(name) is None:
        raise SpecError(f"the tokens speak of an image and the inputs bring no {name}; the processor returns it")
    return torch.as_tensor(inputs[name])


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _map_shape(model: Any, tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns by the tower's patches; where it has none, those of square blocks."""
    vision = getattr(view_of(model).config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    if patch is None:
        rows = max(round((tokens * size[0] / size[1]) ** 0.5), 1)
        columns, spare = tokens // rows, 0
    else:
        rows, columns = (length // step for length, step in zip(size, _pair(patch), strict=True))
        spare = tokens - rows * columns
    if rows * columns + spare != tokens or spare not in (0, 1):
        raise SpecError(f"{tokens} tokens of an image of (height, width) = {tuple(size)} are no grid of {patch=}")
    return rows, columns


def _check_shares(found: Sequence[int], tokens: Sequence[int]) -> None:
    """Every row of the encoding holds whole images, in order."""
    ends = set(np.cumsum([0, *tokens]).tolist())
    if sum(found) != sum(tokens) or not ends.issuperset(np.cumsum(found).tolist()):
        raise SpecError(f"rows of {list(found)} image tokens do not hold whole images of {list(tokens)} tokens")


def _from_runs(lines: Sequence[tuple[int, int]]) -> Cells:
    widths = {stop - start for start, stop in lines}
    if len(widths) > 1:
        raise SpecError(f"rows of {sorted(widths)} image tokens are no grid; an image's rows are equally wide")
    shape = (len(lines), widths.pop())
    return in_order([shape], patches=prod(shape))
