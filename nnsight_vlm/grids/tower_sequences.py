"""What the layouts of vision towers are made of: the pictures of an encoding, and one sequence of a tower's batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from ..families import ModelView
from .cells import Cells, GridShape
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
        windows: where windows end, counted in places, in a tower some of whose layers see windows only.
    """

    kind: str
    number: int
    places: np.ndarray
    shapes: tuple[GridShape, ...]
    cls: tuple[int, ...] = ()
    registers: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    windows: tuple[int, ...] = ()


SequencesOf: TypeAlias = Callable[[ModelView, Inputs, Sequence[Shown]], list[TowerSequence]]
"""From an encoding and its pictures, those of all rows in order, to the sequences of the tower's batch, in order."""


def patch_side(view: ModelView) -> int:
    """The side of a tower's square patch, in pixels."""
    side = view.config_of(view.family.stages["vision"]).patch_size
    return int(side[0] if isinstance(side, (list, tuple)) else side)
