"""Layouts of square tiles: tiles one after the other, and canvases put together from tiles.

Tiles one after the other: an image has one or several tiles, each a square of tokens row by row, all equally large.
They follow the order of the processed pixels. Which part of the picture a tile shows does not matter here: it is
measured (`calibration`).

Canvases ("anyres"): an image has a tile that shows all of it, and a canvas of tiles side by side, in whose middle the
picture was placed in its own proportions. Rows or columns of the canvas that hold padding only are dropped, the rest
may be shrunk to fewer cells, and a newline token ends each row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange

from ..errors import SpecError
from ..families import ModelView
from .cells import NOWHERE, Cells, GridShape, full_tile, in_order, no_places
from .tokens import Inputs, check_total, count_units, counts, marked, runs


def equal_tiles(view: ModelView, inputs: Inputs) -> list[Cells]:
    """All images have as many tiles as `pixel_values`, `[image, tile, channel, height, width]`, says."""
    side = _tile_side(view, inputs)
    if not side:
        return []
    images, tiles = inputs["pixel_values"].shape[:2]
    return [in_order([GridShape(side, side)] * tiles)] * images


def tiles_by_run(view: ModelView, inputs: Inputs) -> list[Cells]:
    """A run of image tokens is an image: other tokens stand only between images."""
    side = _tile_side(view, inputs)
    return [_tiles_of(run.length, side) for row in marked(view, inputs) for run in runs(row)]


def tiles_by_mark(view: ModelView, inputs: Inputs) -> list[Cells]:
    """A special token opens every image, and other tokens may stand between its tiles (Ovis2's indicators)."""
    side = _tile_side(view, inputs)
    mark = int(view.config.visual_indicator_token_ids[0])
    opens = np.asarray((inputs["input_ids"] == mark).cpu())
    rows = zip(marked(view, inputs), opens, strict=True)
    return [_tiles_of(length, side) for row, row_opens in rows for length in _lengths(row, row_opens)]


def _tile_side(view: ModelView, inputs: Inputs) -> int:
    """Rows of tokens in a tile, the same for all tiles of the encoding; 0 without image tokens."""
    tokens = sum(counts(view, inputs))
    if not tokens:
        return 0
    if "pixel_values" not in inputs:
        raise SpecError(
            f"input_ids have {tokens} image tokens, but there are no pixel_values, which say how many tiles there are; "
            "the processor returns them"
        )
    tiles = math.prod(inputs["pixel_values"].shape[:-3])
    side = math.isqrt(tokens // max(tiles, 1))
    if side * side * tiles != tokens:
        raise SpecError(
            f"{tokens} image tokens do not make {tiles} equal square tile(s), the number in pixel_values; give the "
            "encoding as this model's processor returned it, without cutting it"
        )
    return side


def _lengths(image: np.ndarray, opens: np.ndarray) -> Iterator[int]:
    """The number of image tokens of a row between each opening mark and the next."""
    image_number = opens.cumsum()[image]
    if (image_number == 0).any():
        raise SpecError(
            "an image token has no opening mark before it; give the encoding as this model's processor returned it, "
            "without cutting it"
        )
    yield from (int((image_number == number).sum()) for number in np.unique(image_number))


def _tiles_of(tokens: int, side: int) -> Cells:
    """The cells of an image with so many tokens."""
    return in_order([GridShape(side, side)] * count_units(tokens, side * side))


# canvases -----------------------------------------------------------------------------------------


class Margins(NamedTuple):
    """What is dropped of a canvas, in patches: rows at the top and as many at the bottom, columns left and right."""

    rows: int
    columns: int


def anyres(view: ModelView, inputs: Inputs) -> list[Cells]:
    """A tile that shows the whole picture, then a canvas whose rows each end in a newline token.

    The canvas counts as one tile, cut to what the model keeps of it (see `anyres_tiles`). Images that share a prompt
    with others have no canvas; `batch_num_images` says how many a prompt has.
    """
    config = view.config
    tokens = sum(counts(view, inputs))
    if not tokens:
        return []
    if "image_sizes" not in inputs:
        raise SpecError(
            f"input_ids have {tokens} image tokens, but there are no image_sizes, on which their layout depends; the "
            "processor returns them"
        )
    per_prompt = [int(count) for count in inputs.get("batch_num_images", [1] * len(inputs["image_sizes"]))]
    has_canvas = [count == 1 for count in per_prompt for _ in range(count)]
    sizes = [(int(height), int(width)) for height, width in inputs["image_sizes"]]
    images = [
        _with_canvas(config, size) if canvas else _without_canvas(config)
        for size, canvas in zip(sizes, has_canvas, strict=True)
    ]
    check_total([len(cells.places) for cells in images], tokens)
    return images


def anyres_tiles(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tile that shows the whole picture, and the canvas cut to what the model keeps of it.

    A picture that was processed together with another (LLaVA-OneVision) has no canvas.
    """
    config = view.config
    patch = _cell(config)
    patched = _side(config) * patch  # SigLIP's 384 pixels are 27 patches of 14, and 6 pixels that no patch sees
    pixels = torch.as_tensor(processed_inputs["pixel_values"])[0, ..., :patched, :patched]
    if len(pixels) == 1:
        return [pixels[0]]
    height, width = (int(length) for length in processed_inputs["image_sizes"][0])
    tiles = _canvas_tiles(config, (height, width))
    margins = _margins(config, (height, width))
    canvas = rearrange(
        pixels[1 : 1 + tiles.rows * tiles.columns], "(down across) c h w -> c (down h) (across w)", down=tiles.rows
    )
    top, left = margins.rows * patch, margins.columns * patch
    return [pixels[0], canvas[:, top : canvas.shape[-2] - top, left : canvas.shape[-1] - left]]


def _side(config: Any) -> int:
    """Rows of tokens in a tile."""
    return int(config.vision_config.image_size // _cell(config))


def _cell(config: Any) -> int:
    """Pixels along a side of what a token stands for: a patch, or as many as are merged into one (Granite 4 Vision)."""
    patch, rate = config.vision_config.patch_size, getattr(config, "downsample_rate", None)
    return int(patch if rate is None else patch / Fraction(rate))


def _canvas_tiles(config: Any, size: tuple[int, int]) -> GridShape:
    """How many tiles the canvas has each way, for a picture of `(height, width)`."""
    from transformers.image_processing_utils import select_best_resolution

    height, width = select_best_resolution(size, config.image_grid_pinpoints)
    return GridShape(height // config.vision_config.image_size, width // config.vision_config.image_size)


def _margins(config: Any, size: tuple[int, int]) -> Margins:
    """What is dropped of the canvas of a picture of `(height, width)`, because it holds padding only."""
    height, width = size
    rows, columns = (_side(config) * tiles for tiles in _canvas_tiles(config, size))
    if width / height > columns / rows:
        return Margins((rows - int(round(height * (columns / width), 7))) // 2, 0)
    return Margins(0, (columns - int(round(width * (rows / height), 7))) // 2)


def _kept(config: Any, size: tuple[int, int]) -> GridShape:
    """The canvas as the language model sees it: without margins, and shrunk if it has too many cells."""
    side, tiles, margins = _side(config), _canvas_tiles(config, size), _margins(config, size)
    rows, columns = side * tiles.rows - 2 * margins.rows, side * tiles.columns - 2 * margins.columns
    limit = getattr(config, "vision_aspect_ratio", None)
    if limit is None:
        return GridShape(rows, columns)
    excess = math.sqrt(rows * columns / (int(limit.removeprefix("anyres_max_")) * side**2))
    return GridShape(int(rows // excess), int(columns // excess)) if excess > 1.1 else GridShape(rows, columns)


def _with_canvas(config: Any, size: tuple[int, int]) -> Cells:
    side, kept = _side(config), _kept(config, size)
    canvas = full_tile(GridShape(kept.rows, kept.columns + 1), tile=1)
    canvas[canvas[:, 2] == kept.columns] = NOWHERE  # newline tokens
    places = np.concatenate([full_tile(GridShape(side, side)), canvas])
    tiles = _canvas_tiles(config, size)
    return Cells(
        places,
        (GridShape(side, side), kept),
        sources=_sources(places, side, tiles.columns, _margins(config, size)),
        features=(1 + tiles.rows * tiles.columns) * side * side,
    )


def _without_canvas(config: Any) -> Cells:
    side = _side(config)
    places = np.concatenate([full_tile(GridShape(side, side)), no_places(1)])
    sources = _sources(places, side, 1, Margins(0, 0))
    return Cells(places, (GridShape(side, side),), sources=sources, features=side * side)


def _sources(places: np.ndarray, side: int, across: int, margins: Margins) -> np.ndarray:
    """Each token's row in the projector's output, which goes tile by tile, where the canvas goes row by row.

    It is right only where the canvas was not shrunk.
    """
    tile, row, column = places.T
    down, right = row + margins.rows, column + margins.columns
    on_canvas = (1 + down // side * across + right // side) * side * side + down % side * side + right % side
    sources = np.where(tile == 0, row * side + column, on_canvas)
    return np.asarray(np.where(tile == NOWHERE, NOWHERE, sources))
