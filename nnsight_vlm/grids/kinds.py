"""Grid layouts: how families lay out image tokens, by name, and the grid of one picture in such a layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from einops import rearrange
from PIL import Image

from ..errors import SpecError
from ..families import ModelView
from ..families.options import GridLayout
from . import flexible, pooled_canvas, resampled, rows, split, tiled
from .calibration import ALONE, Processing, Window, boxes, full_picture, processed
from .cells import Cells
from .grid import Grid
from .tokens import Inputs
from .towers import TOWER_TILES


def every_tile(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """All tiles, `[channel, height, width]` each."""
    family = view.family
    names = (family.pixels, *(given for given, name in family.renamed.items() if name == family.pixels))
    pixels = next(processed_inputs[name] for name in names if name in processed_inputs)
    return list(rearrange(torch.as_tensor(pixels), "... c h w -> (...) c h w"))


@dataclass(frozen=True, kw_only=True)
class GridKind:
    """The functions of a grid layout.

    Attributes:
        cells: from an encoding to the cells of each of its images, in order.
        tiles: from what the image processor returned for one picture to that picture's tiles, in the order of the
            cells' tiles: `[channel, height, width]` each.
        processings: ways in which a picture may have been processed; the number of its tiles tells which it was.
    """

    cells: Callable[[ModelView, Inputs], list[Cells]]
    tiles: Callable[[ModelView, Mapping[str, Any]], list[torch.Tensor]] = every_tile
    processings: tuple[Processing, ...] = (ALONE,)


WITH_ANOTHER = Processing(with_another=True)
PAN_AND_SCAN = tuple(Processing(options={"do_pan_and_scan": scan}) for scan in (False, True))


GRIDS: dict[GridLayout, GridKind] = {
    "square": GridKind(cells=rows.fixed),
    "sized": GridKind(cells=rows.sized),
    "rows with breaks": GridKind(cells=rows.with_breaks, tiles=rows.patched_tile),
    "equal tiles": GridKind(cells=tiled.equal_tiles),
    "tiles by run": GridKind(cells=tiled.tiles_by_run),
    "tiles by mark": GridKind(cells=tiled.tiles_by_mark),
    "anyres": GridKind(cells=tiled.anyres, tiles=tiled.anyres_tiles, processings=(ALONE, WITH_ANOTHER)),
    "pan and scan": GridKind(cells=split.PAN_AND_SCAN.cells, processings=PAN_AND_SCAN),
    "soft tokens": GridKind(cells=split.SOFT_TOKENS.cells),
    "tile rows then whole picture": GridKind(cells=split.ROWS_THEN_WHOLE_PICTURE.cells),
    "tile rows then thumbnail": GridKind(cells=split.ROWS_THEN_THUMBNAIL.cells),
    "shuffled tiles": GridKind(cells=split.SHUFFLED_TILES.cells, tiles=split.canvas_tiles),
    "merged": GridKind(cells=flexible.merged, tiles=flexible.merged_tile),
    "merged kernel": GridKind(cells=flexible.merged_kernel, tiles=flexible.raster_tile),
    "merged windows": GridKind(cells=flexible.merged_windows, tiles=flexible.merged_tile),
    "merged raster": GridKind(cells=flexible.merged, tiles=flexible.raster_tile),
    "merged raster with breaks": GridKind(cells=flexible.merged_with_breaks, tiles=flexible.raster_tile),
    "shaped": GridKind(cells=flexible.shaped, tiles=flexible.shaped_tiles),
    "sliced": GridKind(cells=flexible.sliced, tiles=flexible.sliced_tiles),
    "pooled": GridKind(cells=flexible.pooled, tiles=flexible.pooled_tile),
    "whole picture then canvas": GridKind(
        cells=pooled_canvas.whole_then_canvas, tiles=pooled_canvas.whole_then_canvas_tiles
    ),
    "queries": GridKind(cells=resampled.queries),
    "masked latents": GridKind(cells=resampled.masked_latents),
    "crop latents": GridKind(cells=resampled.crop_latents),
    "tile latents": GridKind(cells=resampled.tile_latents),
    "pooled square": GridKind(cells=resampled.pooled_square, tiles=resampled.pooled_square_tile),
    "cross-attention tiles": GridKind(cells=resampled.tile_keys, tiles=resampled.tile_keys_tiles),
    "patches": GridKind(cells=resampled.square_patches),
    "patches and latents": GridKind(cells=resampled.square_patches_latents),
    "crop patches": GridKind(cells=resampled.crop_patches, tiles=resampled.crop_patches_tiles),
}


def _coordinate_tiles(
    view: ModelView, kind: GridKind, size: tuple[int, int], processing: Processing, window: Window
) -> list[torch.Tensor]:
    """The tiles of a coordinate picture that was processed in one of the ways."""
    return kind.tiles(view, processed(view, size, window, processing))


def grid_kind(view: ModelView, stage: str) -> GridKind:
    """How the patches or image tokens of a stage are laid out."""
    part = view.family.stages[stage]
    if part.tower is None:
        return GRIDS[part.keys or view.family.grid]
    return replace(GRIDS[view.family.grid], tiles=TOWER_TILES[part.tower.sequences])


def grid_of(view: ModelView, kind: GridKind, cells: Cells, positions: tuple[int, ...], picture: Image.Image) -> Grid:
    """The grid of one picture.

    Args:
        view: the model.
        kind: how its tokens are laid out, see `grid_kind`.
        cells: where the image's tokens lie on its tiles.
        positions: the tokens' positions in the prompt, `[token]`.
        picture: the picture.

    Raises:
        SpecError: the image processor makes another number of tiles of such a picture than the encoding has.
    """
    size = picture.size
    ways = (partial(_coordinate_tiles, view, kind, size, processing) for processing in kind.processings)
    tiles_of = next((way for way in ways if len(way(full_picture(size))) == len(cells.shapes)), None)
    if tiles_of is None:
        raise SpecError(
            f"the encoding has {len(cells.shapes)} tile(s) of this picture of {size} pixels, but the processor makes "
            "another number; an option that was given to the processor's call must be in processor.images_kwargs too"
        )
    return Grid(
        positions=positions,
        tiles=tuple(cells.tiles.tolist()),
        cells=tuple(zip(cells.rows.tolist(), cells.columns.tolist(), strict=True)),
        boxes=boxes(cells, size, tiles_of),
        size=size,
        shapes=cells.shapes,
        picture=picture,
    )
