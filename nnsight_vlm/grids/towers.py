"""The sequences of vision towers: which patch of which picture lies at which place of a tower's batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from ..errors import SpecError
from ..families import ModelView
from ..families.options import TowerLayout
from .cells import Cells, GridShape, full_tile, no_places
from .tokens import Inputs


class Shown(NamedTuple):
    """A picture or a video of an encoding.

    Attributes:
        kind: `"image"` or `"video"`.
        number: which one, counted over all rows of the encoding, images and videos each for themselves.
        cells: where its tokens lie in the decoder, or whichever stage reads it.
    """

    kind: str
    number: int
    cells: Cells


class TowerSequence(NamedTuple):
    """One sequence of a tower's batch: tokens that see each other, in the order in which the tower's layers hold them.

    A tower whose tokens lie in one line has a sequence for each stretch of it whose tokens see each other.

    Attributes:
        kind, number: which picture or video it shows, see `Shown`; a number of -1 for none.
        places: `[place, 3]` `(tile, row, column)`, tiles counted from the first of this sequence; all -1 at a class
            token, a register and padding.
        shapes: the size of each of its tiles, in patches.
        cls: the places of class tokens.
        registers: the places of registers.
        padding: the places that no query reads.
    """

    kind: str
    number: int
    places: np.ndarray
    shapes: tuple[GridShape, ...]
    cls: tuple[int, ...] = ()
    registers: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()


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


TOWER_SEQUENCES: dict[TowerLayout, Callable[[ModelView, Inputs, Sequence[Shown]], list[TowerSequence]]] = {"rows": rows}
"""For each layout of a tower's tokens, the sequences of an encoding."""
