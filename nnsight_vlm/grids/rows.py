"""Layouts of images that are one tile each, its tokens row by row.

- `fixed`: every image has equally many tokens (LLaVA, FastVLM, Janus, DeepSeek-VL, Chameleon);
- `sized`: `image_sizes` says how large each processed image is (Pixtral towers: Mistral 3, LLaVA);
- `with_breaks`: a token of another kind ends each row (Fuyu).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import torch

from ..errors import SpecError
from ..families import ModelView
from .cells import Cells, GridShape, in_order
from .tokens import Inputs, TokenRun, counts, marked, runs


def fixed(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Equally many tokens for every image; where there is one more than patches, the first has no place (CLS)."""
    tokens = counts(view, inputs)
    if not sum(tokens):
        return []
    *leading, _, height, width = _required(inputs, view.family.pixels).shape
    images = prod(leading)
    per_image = sum(tokens) // max(images, 1)
    if per_image * images != sum(tokens) or any(count % max(per_image, 1) for count in tokens):
        raise SpecError(
            f"the rows have {_listed(tokens)} image tokens, and {view.family.pixels} hold {images} image(s); the "
            "tokens of a row must be those of whole images, equally many for each"
        )
    shape = _tile_shape(view.config, per_image, (height, width))
    return [in_order([shape], before=per_image - shape.rows * shape.columns)] * images


def sized(view: ModelView, inputs: Inputs) -> list[Cells]:
    """As many rows and columns as merged patches fit into the size of the processed image."""
    tokens = counts(view, inputs)
    if not sum(tokens):
        return []
    merge = getattr(view.config, "spatial_merge_size", 1)
    height, width = (merge * side for side in _pair(view.config.vision_config.patch_size))
    sizes = _required(inputs, "image_sizes").tolist()
    shapes = [GridShape(image_height // height, image_width // width) for image_height, image_width in sizes]
    _check_rows(tokens, [shape.rows * shape.columns for shape in shapes])
    return [in_order([shape]) for shape in shapes]


def with_breaks(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Runs of image tokens with a single other token between them are the rows of one image."""
    images = []
    for row in marked(view, inputs):
        token_runs = runs(row)
        new_image = [
            number for number, (run, after) in enumerate(pairwise(token_runs), 1) if after.start - run.stop > 1
        ]
        edges = [0, *new_image, len(token_runs)]
        images += [_from_runs(token_runs[start:stop]) for start, stop in pairwise(edges) if start < stop]
    return images


def patched_tile(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The part of a padded picture that is cut into patches (Fuyu): all patches that show some of the picture."""
    patch = view.processor.image_processor.patch_size  # type: ignore[union-attr]
    picture = torch.as_tensor(processed_inputs["images"][0][0])
    height, width = (
        int(torch.as_tensor(processed_inputs[f"image_unpadded_{side}"]).flatten()[0]) for side in ("heights", "widths")
    )
    return [picture[:, : _rounded_up(height, int(patch["height"])), : _rounded_up(width, int(patch["width"]))]]


def _rounded_up(length: int, step: int) -> int:
    return -(-length // step) * step


def _required(inputs: Inputs, name: str) -> torch.Tensor:
    if inputs.get(name) is None:
        raise SpecError(f"input_ids have image tokens, but the inputs have no {name}; the processor returns it")
    return torch.as_tensor(inputs[name])


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _tile_shape(config: Any, tokens: int, size: tuple[int, int]) -> GridShape:
    """Rows and columns of an image of `(height, width)`: its patches, or square blocks where the tower has none."""
    patch = getattr(getattr(config, "vision_config", None), "patch_size", None)
    height, width = size
    if patch is None:
        rows = max(round((tokens * height / width) ** 0.5), 1)
        shape = GridShape(rows, tokens // rows)
        extra = 0
    else:
        patch_height, patch_width = _pair(patch)
        shape = GridShape(height // patch_height, width // patch_width)
        extra = tokens - shape.rows * shape.columns
    if shape.rows * shape.columns + extra != tokens or extra not in (0, 1):
        raise SpecError(
            f"an image of (height, width) = {size} has {tokens} tokens, which do not form a grid of patches of {patch} "
            "pixels; give the encoding as this model's processor returned it, without cutting it"
        )
    return shape


def _check_rows(tokens: Sequence[int], per_image: Sequence[int]) -> None:
    """Refuse rows whose tokens are not those of whole images, in order."""
    edges = set(np.cumsum([0, *per_image]).tolist())
    if sum(tokens) != sum(per_image) or not edges.issuperset(np.cumsum(tokens).tolist()):
        raise SpecError(
            f"the rows have {_listed(tokens)} image tokens, and the images {_listed(per_image)}; the tokens of a row "
            "must be those of whole images, in order"
        )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "no"


def _from_runs(token_runs: Sequence[TokenRun]) -> Cells:
    """The cells of an image whose rows are these runs."""
    widths = {run.length for run in token_runs}
    if len(widths) > 1:
        raise SpecError(
            f"an image has rows of {_listed(sorted(widths))} tokens; all rows of an image must be equally long"
        )
    shape = GridShape(len(token_runs), widths.pop())
    return in_order([shape], patches=shape.rows * shape.columns)
