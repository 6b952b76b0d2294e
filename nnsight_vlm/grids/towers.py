"""The sequences of vision towers: which patch of which picture lies at which place of a tower's batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np

from ..errors import SpecError
from ..families import ModelView
from ..families.options import TowerLayout
from .cells import Cells, GridShape, full_tile, no_places
from .packed_towers import merged_line, merged_windows_line, raster_line, sized_line
from .tokens import Inputs
from .tower_sequences import Shown, TowerSequence


def rows(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:
    """A sequence for every tile, in order: class tokens, registers, then the patches row by row.

    Raises:
        SpecError: another number of tiles in the pixels than the pictures have.
    """
    spec = view.stage("vision")
    assert spec.stage.tower is not None
    cls, registers = spec.stage.tower.cls, spec.registers
    *tiles, _, height, width = inputs[view.family.pixels].shape
    side = patch_side(view)
    shape, before = GridShape(height // side, width // side), cls + registers
    places = np.concatenate([no_places(before), full_tile(shape)])
    of_tiles = [(each.kind, each.number) for each in shown for _ in each.cells.shapes]
    if len(of_tiles) != prod(tiles):
        raise SpecError(
            f"the pixels are of {prod(tiles)} tiles, and the pictures of this encoding have {len(of_tiles)}"
        )
    return [
        TowerSequence(kind, number, places, (shape,), tuple(range(cls)), tuple(range(cls, before)))
        for kind, number in of_tiles
    ]


def patch_side(view: ModelView) -> int:
    """The side of a tower's square patch, in pixels."""
    side = view.config_of(view.family.stages["vision"]).patch_size
    return int(side[0] if isinstance(side, (list, tuple)) else side)


TOWER_SEQUENCES: dict[TowerLayout, Callable[[ModelView, Inputs, Sequence[Shown]], list[TowerSequence]]] = {
    "rows": rows,
    "line, merged": merged_line,
    "line, merged windows": merged_windows_line,
    "line, row by row": raster_line,
    "line, sized": sized_line,
}
"""For each layout of a tower's tokens, the sequences of an encoding."""
