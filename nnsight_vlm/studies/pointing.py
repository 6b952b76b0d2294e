"""Which patches count as on an object: those that touch its mask, and with a tolerance those close to it.

The pointing game (Zhang et al. 2016, arXiv 1608.00507) counts a peak as a hit within 15 pixels of the object.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ..arguments import number, one_of, whole_number
from ..grids import Grid

Unit = Literal["pixels", "patches"]
UNITS: tuple[Unit, ...] = get_args(Unit)


class Tolerance(NamedTuple):
    """How far from its object a patch may lie to count as on it.

    Attributes:
        amount: 0 for patches that touch the object.
        unit: `pixels` of the picture as the user gave it, or `patches` in each direction, diagonals too.
    """

    amount: float
    unit: Unit


TOUCHING = Tolerance(0, "pixels")


def tolerance_given(amount: Any, unit: Any) -> Tolerance:
    """A tolerance as a user gives it.

    Raises:
        SpecError: a negative or infinite number, a fraction of a patch, or an unknown unit.
    """
    unit = one_of("tolerance_in", unit, UNITS, "tolerance_in")
    if unit == "patches":
        return Tolerance(whole_number("tolerance", amount, least=0, kind="number of patches"), unit)
    return Tolerance(number("tolerance", amount, least=0, kind="number of pixels", write="tolerance=15"), unit)


def patches_near(grid: Grid, mask: np.ndarray, tolerance: Tolerance = TOUCHING) -> np.ndarray:
    """Which patches touch a mask `[height, width]` or lie within a tolerance of it, bool `[patch]`.

    Pixels lie as far from each other as their centres, in a straight line. Patches are counted within a tile.

    Raises:
        SpecError: see `Grid.coverage`.
    """
    touched = grid.coverage(mask) > 0
    if not tolerance.amount or not touched.any():
        return touched
    if tolerance.unit == "pixels":
        from scipy.ndimage import distance_transform_edt

        return np.asarray(grid.coverage(distance_transform_edt(np.asarray(mask) == 0) <= tolerance.amount) > 0)
    cells, tiles = np.asarray(grid.cells), np.asarray(grid.tiles)
    apart = np.abs(cells[:, None] - cells[None, touched]).max(-1)
    near = (apart <= tolerance.amount) & (tiles[:, None] == tiles[None, touched])
    return np.asarray(near.any(1))
