"""The sequences of vision towers: which patch of which picture lies at which place of a tower's batch."""

from __future__ import annotations

from ..families.options import TowerLayout
from . import packed_towers, tower_rows
from .tower_sequences import SequencesOf, Shown, TowerSequence, patch_side

__all__ = ["TOWER_SEQUENCES", "Shown", "TowerSequence", "patch_side"]

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
