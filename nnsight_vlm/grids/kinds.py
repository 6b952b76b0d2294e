"""The layouts by name: the `grid` column of the family table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange

from ..errors import SpecError
from . import flexible, resampled, rows, split, tiled
from .calibration import ALONE, Rehearsal, Span, boxes, full_picture, processed
from .cells import Cells
from .grid import Grid


def every_tile(model: Any, seen: Mapping[str, Any]) -> list[torch.Tensor]:  # noqa: ARG001
    """All processed tiles of a picture, `[channel, height, width]` each."""
    return list(rearrange(torch.as_tensor(seen["pixel_values"]), "... c h w -> (...) c h w"))


@dataclass(frozen=True, kw_only=True)
class GridKind:
    """How a family lays image tokens out.

    Attributes:
        lay: from an encoding to the cells of each of its images.
        crops: the processed tiles of one picture, in the order of the cells' tiles.
        rehearsals: how a picture may have been processed; the number of its tiles tells which it was.
    """

    lay: Callable[[Any, Mapping[str, Any]], list[Cells]]
    crops: Callable[[Any, Mapping[str, Any]], list[torch.Tensor]] = every_tile
    rehearsals: tuple[Rehearsal, ...] = (ALONE,)


BESIDE = Rehearsal(beside=True)
PAN_AND_SCAN = tuple(Rehearsal(options={"do_pan_and_scan": scan}) for scan in (False, True))


GRIDS: dict[str, GridKind] = {
    "square": GridKind(lay=rows.fixed),
    "sized": GridKind(lay=rows.sized),
    "broken rows": GridKind(lay=rows.broken, crops=rows.patched_crops),
    "equal tiles": GridKind(lay=tiled.equal_tiles),
    "tiles by run": GridKind(lay=tiled.tiles_by_run),
    "tiles by mark": GridKind(lay=tiled.tiles_by_mark),
    "anyres": GridKind(lay=tiled.anyres, crops=tiled.anyres_crops, rehearsals=(ALONE, BESIDE)),
    "merged": GridKind(lay=flexible.merged, crops=flexible.merged_crops),
    "merged windows": GridKind(lay=flexible.merged_windows, crops=flexible.merged_crops),
    "shaped": GridKind(lay=flexible.shaped, crops=flexible.shaped_crops),
    "pooled": GridKind(lay=flexible.pooled, crops=flexible.pooled_crops),
    "pan and scan": GridKind(lay=split.PAN_AND_SCAN.lay, rehearsals=PAN_AND_SCAN),
    "soft tokens": GridKind(lay=split.SOFT.lay),
    "rows then whole": GridKind(lay=split.ROWS_THEN_WHOLE.lay),
    "rows then thumbnail": GridKind(lay=split.ROWS_THEN_THUMBNAIL.lay),
    "shuffled tiles": GridKind(lay=split.SHUFFLED_TILES.lay, crops=split.canvas_crops),
    "queries": GridKind(lay=resampled.queries),
    "masked latents": GridKind(lay=resampled.masked_latents),
    "crop latents": GridKind(lay=resampled.crop_latents),
    "tile latents": GridKind(lay=resampled.tile_latents),
    "pooled square": GridKind(lay=resampled.pooled_square, crops=resampled.pooled_square_crops),
    "tile keys": GridKind(lay=resampled.tile_keys, crops=resampled.tile_keys_crops),
    "patches": GridKind(lay=resampled.square_patches),
    "patches and latents": GridKind(lay=resampled.square_patches_latents),
    "crop patches": GridKind(lay=resampled.crop_patches, crops=resampled.crop_patches_crops),
}


def _rehearsed(
    model: Any, layout: GridKind, size: tuple[int, int], rehearsal: Rehearsal, spans: tuple[Span, Span]
) -> list[torch.Tensor]:
    """The tiles of a coordinate picture, as it may have been processed."""
    return layout.crops(model, processed(model, size, spans, rehearsal))


def grid_of(model: Any, kind: str, cells: Cells, positions: tuple[int, ...], size: tuple[int, int]) -> Grid:
    """The grid of one picture of `(width, height)`.

    Raises:
        SpecError: the image processor makes other tiles of such a picture than the encoding has.
    """
    layout = GRIDS[kind]
    ways = (partial(_rehearsed, model, layout, size, rehearsal) for rehearsal in layout.rehearsals)
    rehearsed = next((way for way in ways if len(way(full_picture(size))) == len(cells.shapes)), None)
    if rehearsed is None:
        raise SpecError(
            f"the encoding has {len(cells.shapes)} tile(s) of this picture of {size} pixels, and the processor makes "
            "another number; an option that was given when the encoding was made belongs into processor.images_kwargs"
        )
    return Grid(
        positions=positions,
        tiles=tuple(int(tile) for tile, _, _ in cells.places),
        cells=tuple((int(row), int(column)) for _, row, column in cells.places),
        boxes=boxes(cells, size, rehearsed),
        size=size,
        shapes=cells.shapes,
    )
