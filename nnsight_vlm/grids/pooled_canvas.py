"""The layout of Molmo2: the whole picture, then a canvas that overlapping crops cover, both of pooled patches.

The encoding says which patches are pooled into which token (`image_token_pooling`), so that nothing has to be known of
how crops overlap: of two crops that show the same patch, the one is pooled whose index is listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange

from ..errors import SpecError
from ..families import ModelView
from .cells import Cells, GridShape, in_order
from .tokens import Inputs, check_total, counts

SIZES, CROPS, POOLING = "image_grids", "image_num_crops", "image_token_pooling"


def whole_then_canvas(view: ModelView, inputs: Inputs) -> list[Cells]:
    """`image_grids` has rows and columns of the whole picture's tokens, then of the canvas's.

    Raises:
        SpecError: an input that says how images are laid out is missing.
    """
    missing = [name for name in (SIZES, CROPS, POOLING) if inputs.get(name) is None]
    if missing:
        raise SpecError(
            f"input_ids have image tokens, but the inputs have no {missing[0]}, on which their layout depends; the "
            "processor returns it"
        )
    images = [
        in_order(_shapes(sizes), patches=int(crops)) for sizes, crops in zip(inputs[SIZES], inputs[CROPS], strict=True)
    ]
    check_total([len(image.places) for image in images], sum(counts(view, inputs)))
    return images


def whole_then_canvas_tiles(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The whole picture and the canvas, put together of the patches that their tokens pool; padding is black."""
    pixels, pooling = (torch.as_tensor(processed_inputs[name]) for name in ("pixel_values", POOLING))
    patches = rearrange(pixels.float(), "crop patch values -> (crop patch) values")
    windows = patches[pooling.clamp(min=0)] * (pooling >= 0)[..., None]
    down, across = _window(view)
    side = view.config.vision_config.patch_size
    shapes = _shapes(torch.as_tensor(processed_inputs[SIZES])[0])
    return [
        rearrange(
            tile,
            "(row column) (down across) (y x c) -> c (row down y) (column across x)",
            row=shape.rows,
            down=down,
            across=across,
            y=side,
            x=side,
        )
        for tile, shape in zip(windows.split([shape.rows * shape.columns for shape in shapes]), shapes, strict=True)
    ]


def _shapes(sizes: torch.Tensor) -> tuple[GridShape, GridShape]:
    """Rows and columns of the whole picture, and of the canvas."""
    rows, columns, canvas_rows, canvas_columns = map(int, sizes)
    return GridShape(rows, columns), GridShape(canvas_rows, canvas_columns)


def _window(view: ModelView) -> tuple[int, int]:
    """How many patches are pooled into a token, down and across."""
    own = getattr(view.processor, "images_kwargs", None) or {}
    down, across = own.get("pooling_size") or view.processor.image_processor.pooling_size  # type: ignore[union-attr]
    return int(down), int(across)
