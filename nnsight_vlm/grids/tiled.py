"""How tokens lie that look at square tiles: tiles end to end, and canvases stitched out of tiles.

Tiles end to end: an image has one tile or several, each a square of tokens row by row, all equally
large. The tiles follow one another in the order of the processed pixels, whatever part of the
picture each shows (the whole of it first or last); that order is all there is to know here, since
the pixels of each tile are known.

Canvases ("anyres"): an image has one tile that shows the whole of it, and a canvas of tiles side by
side, in whose middle it was put without being squeezed. Rows or columns of cells with nothing but
padding are dropped, the rest may be shrunk to fewer cells, and a newline token ends each row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from transformers.image_processing_utils import select_best_resolution

from ..errors import SpecError
from ..families import view_of
from .cells import Cells, full_tile, in_order, nowhere
from .tokens import check_total, counts, marked, runs, shares

NOWHERE = -1


def equal_tiles(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """All images have as many tiles as `pixel_values`, `[image, tile, channel, height, width]`, says."""
    side = _tile_side(model, inputs)
    images, tiles = inputs["pixel_values"].shape[:2] if side else (0, 0)
    return [in_order([(side, side)] * tiles)] * images


def tiles_by_run(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """The image tokens of one image follow one another; other tokens lie between those of two images."""
    side = _tile_side(model, inputs)
    lengths = (stop - start for line in marked(model, inputs) for start, stop in runs(line))
    return [_whole_tiles(length, side) for length in lengths]


def tiles_by_mark(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """A token of its own opens every image, and other tokens may lie between its tiles: Ovis2's indicators."""
    side = _tile_side(model, inputs)
    opening = int(view_of(model).config.visual_indicator_token_ids[0])
    openings = np.asarray((inputs["input_ids"] == opening).cpu())
    lines = zip(marked(model, inputs), openings, strict=True)
    return [_whole_tiles(length, side) for image, opens in lines for length in _opened(image, opens)]


def _tile_count(inputs: Mapping[str, Any]) -> int:
    return int(np.prod(inputs["pixel_values"].shape[:-3]))


def _tile_side(model: Any, inputs: Mapping[str, Any]) -> int:
    """Rows of tokens in a tile, of which all tiles of the encoding have the same; 0 without image tokens."""
    tokens = sum(counts(model, inputs))
    if not tokens:
        return 0
    if "pixel_values" not in inputs:
        raise SpecError(f"{tokens} image tokens but no pixel_values: how many tiles they belong to is not known")
    tiles = _tile_count(inputs)
    side = math.isqrt(tokens // max(tiles, 1))
    if side * side * tiles != tokens:
        raise SpecError(f"{tokens} image tokens do not make {tiles} equal squares; was the prompt cut?")
    return side


def _opened(image: np.ndarray, opens: np.ndarray) -> Iterator[int]:
    """Numbers of image tokens of a row after each opening mark and before the next."""
    owner = opens.cumsum()[image]
    if (owner == 0).any():
        raise SpecError("an image token has no opening mark before it; was the prompt cut?")
    yield from (int((owner == number).sum()) for number in np.unique(owner))


def _whole_tiles(tokens: int, side: int) -> Cells:
    return in_order([(side, side)] * shares(tokens, side * side))


def anyres(model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
    """A tile that shows the whole picture, then a canvas, of which each row ends in a newline token.

    The canvas counts as one tile, cut to what the model kept of it (see `anyres_crops`). Where the
    encoding says that its row has several images (`batch_num_images`), they have no canvas.
    """
    config = view_of(model).config
    tokens = sum(counts(model, inputs))
    if not tokens:
        return []
    if "image_sizes" not in inputs:
        raise SpecError(f"{tokens} image tokens but no image_sizes: where they lie depends on the pictures' sizes")
    alone = [n == 1 for n in inputs.get("batch_num_images", [1] * len(inputs["image_sizes"])) for _ in range(int(n))]
    sizes = [(int(height), int(width)) for height, width in inputs["image_sizes"]]
    found = [
        _stitched(config, size) if single else _unstitched(config) for size, single in zip(sizes, alone, strict=True)
    ]
    check_total([len(cells.places) for cells in found], tokens)
    return found


def anyres_crops(model: Any, seen: Any) -> list[torch.Tensor]:
    """The tile that shows the whole of one picture, and the canvas cut to what the model kept of it.

    `seen` is of one picture; for an image beside others in its prompt (LLaVA-OneVision), which has
    no canvas, give the image processor `[[picture, picture]]`.
    """
    config = view_of(model).config
    patch = config.vision_config.patch_size
    patched = _side(config) * patch  # SigLIP's 384 pixels are 27 patches of 14, and 6 pixels that no patch sees
    pixels = torch.as_tensor(seen["pixel_values"])[0, ..., :patched, :patched]
    if len(pixels) == 1:
        return [pixels[0]]
    size = tuple(int(length) for length in seen["image_sizes"][0])
    down, across = _canvas(config, size)
    high, wide = _margins(config, size)
    canvas = rearrange(pixels[1 : 1 + down * across], "(down across) c h w -> c (down h) (across w)", down=down)
    rows, columns = canvas.shape[-2] - high * patch, canvas.shape[-1] - wide * patch
    return [pixels[0], canvas[:, high * patch : rows, wide * patch : columns]]


def _side(config: Any) -> int:
    """Rows of patches in a tile."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


def _canvas(config: Any, size: tuple[int, ...]) -> tuple[int, int]:
    """`(down, across)` tiles of the canvas for a picture of `(height, width)`."""
    height, width = select_best_resolution(size, config.image_grid_pinpoints)
    return height // config.vision_config.image_size, width // config.vision_config.image_size


def _margins(config: Any, size: tuple[int, ...]) -> tuple[int, int]:
    """Rows dropped above and below, and columns dropped left and right: nothing but padding."""
    (height, width), side = size, _side(config)
    rows, columns = (side * tiles for tiles in _canvas(config, size))
    if width / height > columns / rows:
        return (rows - int(round(height * (columns / width), 7))) // 2, 0
    return 0, (columns - int(round(width * (rows / height), 7))) // 2


def _kept(config: Any, size: tuple[int, ...]) -> tuple[int, int]:
    """`(rows, columns)` of the canvas as the language model sees it: margins dropped, and shrunk if too many."""
    side, tiles, margins = _side(config), _canvas(config, size), _margins(config, size)
    rows, columns = side * tiles[0] - 2 * margins[0], side * tiles[1] - 2 * margins[1]
    most = getattr(config, "vision_aspect_ratio", None)
    if most is None:
        return rows, columns
    excess = math.sqrt(rows * columns / (int(most.removeprefix("anyres_max_")) * side**2))
    return (int(rows // excess), int(columns // excess)) if excess > 1.1 else (rows, columns)


def _stitched(config: Any, size: tuple[int, int]) -> Cells:
    side, (rows, columns) = _side(config), _kept(config, size)
    canvas = full_tile(rows, columns + 1, tile=1)
    canvas[canvas[:, 2] == columns] = NOWHERE
    places = np.concatenate([full_tile(side, side), canvas])
    down, across = _canvas(config, size)
    return Cells(
        places,
        ((side, side), (rows, columns)),
        sources=_sources(places, side, across, _margins(config, size)),
        features=(1 + down * across) * side * side,
    )


def _sources(places: np.ndarray, side: int, across: int, margins: tuple[int, int]) -> np.ndarray:
    """The features of tiles lie tile by tile; a canvas of them is read row by row. Of use where it was not shrunk."""
    tile, row, column = places.T
    down, right = row + margins[0], column + margins[1]
    on_canvas = (1 + down // side * across + right // side) * side * side + down % side * side + right % side
    found = np.where(tile == 0, row * side + column, on_canvas)
    return np.asarray(np.where(tile == NOWHERE, NOWHERE, found))


def _unstitched(config: Any) -> Cells:
    side = _side(config)
    places = np.concatenate([full_tile(side, side), nowhere(1)])
    return Cells(places, ((side, side),), sources=_sources(places, side, 1, (0, 0)), features=side * side)
