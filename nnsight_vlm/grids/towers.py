"""The sequences of vision towers: which patch of which picture lies at which place of a tower's batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch

from ..families import ModelView
from ..families.options import TowerLayout
from . import flexible, packed_towers, resampled, tower_rows
from .tower_sequences import SequencesOf, Shown, TowerSequence, patch_side

__all__ = ["TOWER_SEQUENCES", "TOWER_TILES", "Shown", "TowerSequence", "patch_side"]

TOWER_SEQUENCES: dict[TowerLayout, SequencesOf] = {
    "rows": tower_rows.rows,
    "rows of crops": tower_rows.rows_of_crops,
    "rows with padding": tower_rows.rows_with_padding,
    "rows of whole patches": tower_rows.rows_of_whole_patches,
    "shaped rows": tower_rows.shaped_rows,
    "located rows": tower_rows.located_rows,
    "tiles in one row": tower_rows.tiles_in_one_row,
    "line, merged": packed_towers.merged_line,
    "line, merged windows": packed_towers.merged_windows_line,
    "line, row by row": packed_towers.raster_line,
    "line, sized": packed_towers.sized_line,
}
"""For each layout of a tower's tokens, the sequences of an encoding."""

TilesOf: TypeAlias = Callable[[ModelView, Mapping[str, Any]], list[torch.Tensor]]
"""From what the image processor returned for one picture to its tiles, as `GridKind.tiles`."""

TOWER_TILES: dict[TowerLayout, TilesOf] = {
    "rows": tower_rows.row_pictures,
    "rows of crops": tower_rows.crop_pictures,
    "rows with padding": tower_rows.padded_pictures,
    "rows of whole patches": tower_rows.whole_patch_pictures,
    "shaped rows": flexible.shaped_tiles,
    "located rows": flexible.pooled_tile,
    "tiles in one row": resampled.tile_keys_tiles,
    "line, merged": flexible.merged_tile,
    "line, merged windows": flexible.merged_tile,
    "line, row by row": flexible.raster_tile,
    "line, sized": tower_rows.row_pictures,
}
"""For each layout of a tower's tokens, the tiles of a processed picture, cut to the patches that the tower makes."""
