"""Attention maps over the patches of a picture: how well they fit an object, how compact they are, and smooth ones.

The criteria are those of Kang et al. 2025 (arXiv 2503.06287): a map's spatial entropy, a threshold where a curve bends
most, maps smoothed by a Gaussian and cut at their mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..grids import Grid
from .map_scores import expected_overlap, overlap

FITS = ("hit", "mass", "iou", "mask_iou")
"""How well a map fits an object, see `fit_of`."""
ROUNDING = 1e-6
"""How far above the mean a patch must be, as a share of it, so that no patch of a uniform map is."""
NEIGHBOURS = np.ones((3, 3))
"""Patches are neighbours across edges and corners."""


def above_mean(values: np.ndarray) -> np.ndarray:
    """Which patches have more than the mean of a map, bool `[patch]`.

    >>> above_mean(np.array([0.1, 0.1, 0.4])).tolist(), above_mean(np.full(3, 0.1)).any()
    ([False, False, True], np.False_)
    """
    return np.asarray(values > values.mean() * (1 + ROUNDING))


def fit_of(values: np.ndarray, members: np.ndarray) -> dict[str, float]:
    """How well a map fits an object; NaN where nothing of the picture is looked at.

    Args:
        values: attention to each patch, `[patch]`.
        members: which patches show the object, at least one, bool `[patch]`.

    Returns:
        `hit`, 1 where the largest value lies on the object; `mass`, the object's share of all; `iou` of the object with
        as many of the largest values, and `mask_iou` with the patches above the mean.
    """
    if not values.sum() > 0:
        return dict.fromkeys(FITS, math.nan)
    order, marked = np.argsort(-values, kind="stable"), above_mean(values)
    return {
        "hit": float(members[order[0]]),
        "mass": float(values[members].sum() / values.sum()),
        "iou": overlap(order, members),
        "mask_iou": float((marked & members).sum() / (marked | members).sum()),
    }


def chance_fit(members: np.ndarray, marked: int = 0) -> dict[str, float]:
    """What a map fits an object by chance alone, exactly: the same map with its patches in random order.

    Args:
        members: which patches show the object, bool `[patch]`.
        marked: how many patches of the map lie above its mean; 0 for no `mask_iou`.
    """
    size, patches = int(members.sum()), len(members)
    share = size / patches
    fit = {"hit": share, "mass": share, "iou": expected_overlap(size, patches)}
    return fit | ({"mask_iou": expected_overlap(size, patches, marked)} if marked else {})


def spatial_entropy(values: np.ndarray, grid: Grid) -> float:
    """The entropy in nats of how the patches above the mean are divided among connected groups; NaN without any.

    It is 0 where all of them are one group, and large where they are scattered. Groups do not reach across tiles.

    Args:
        values: attention to each patch, `[patch]`.
        grid: the patches.
    """
    from scipy.ndimage import label

    sizes = list[int]()
    for _, cells in _tiles(grid, above_mean(values).astype(float)):
        groups, _ = label(cells > 0, NEIGHBOURS)
        sizes += np.bincount(groups.ravel())[1:].tolist()
    if not sizes:
        return math.nan
    shares = np.asarray(sizes) / sum(sizes)
    return abs(float((shares * np.log(shares)).sum()))


def smoothed(values: np.ndarray, grid: Grid, sigma: float) -> np.ndarray:
    """A map smoothed by a Gaussian within each tile, `[patch]`; patches that are not there count as little as the rest.

    Args:
        values: attention to each patch, `[patch]`.
        grid: the patches.
        sigma: the Gaussian's standard deviation, in patches.
    """
    from scipy.ndimage import gaussian_filter

    found = np.zeros(len(values))
    for (members, cells), (_, present) in zip(_tiles(grid, values), _tiles(grid, np.ones(len(values))), strict=True):
        rows, columns = np.asarray(grid.cells)[members].T
        spread, weight = gaussian_filter(cells, sigma), gaussian_filter(present, sigma)
        found[members] = spread[rows, columns] / weight[rows, columns]
    return found


def turning_point(values: np.ndarray) -> float:
    """The value at which the sorted values bend most: that farthest from the line between the smallest and the largest.

    >>> turning_point(np.array([0.0, 0.9, 0.1, 0.05, 0.7]))
    0.1
    """
    curve = np.sort(values)
    chord = np.linspace(curve[0], curve[-1], len(curve))
    return float(curve[np.argmax(np.abs(curve - chord))])


def _tiles(grid: Grid, values: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each tile the numbers of its patches, and their values `[row, column]`, 0 where there is no patch."""
    cells, tiles = np.asarray(grid.cells), np.asarray(grid.tiles)
    for tile in np.unique(tiles):
        members = np.flatnonzero(tiles == tile)
        drawn = np.zeros(cells[members].max(0) + 1)
        drawn[tuple(cells[members].T)] = values[members]
        yield members, drawn
