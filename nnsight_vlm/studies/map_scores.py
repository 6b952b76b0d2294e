"""How well an attention map over the patches of a picture fits an object, and what chance alone would give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..grids import Grid
from .labels import NONE, OTHER_OBJECT, RANDOM_PATCHES
from .object_words import ObjectWord


def map_rows(
    weights: np.ndarray, word: ObjectWord, grid: Grid, top: int, labels: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Rows of one word's map: the object itself, random patches, and the picture's other objects.

    A map without any attention has no peak: what depends on one is NaN.

    Args:
        weights: attention to each patch, `[patch]`.
        word: the word and the patches of its object.
        grid: the patches.
        top: how many of the best patches are listed, and their share of the attention measured.
        labels: what the rows have in common.
    """
    order = np.argsort(-weights, kind="stable")
    best = " ".join(spell_patch(grid, int(patch)) for patch in order[:top])
    looks = weights.sum() > 0
    share = float(weights[order[:top]].sum() / weights.sum()) if looks else math.nan
    row: dict[str, Any] = {**labels, "control": NONE, "top": best, "top_mass": share}
    least = min(top / len(weights), 1.0)
    chance: dict[str, Any] = {**labels, "control": RANDOM_PATCHES, "top": "", "top_mass": least}
    if word.patches is not None and word.hits is not None:
        found = {"hit": float(word.hits[order[0]]), "iou": overlap(order, word.patches)}
        row |= found if looks else dict.fromkeys(found, math.nan)
        size = int(word.patches.sum())
        chance |= {"hit": float(word.hits.mean()), "iou": expected_overlap(size, len(weights))}
    yield row
    yield chance
    if word.patches is not None and word.other_hits:
        hits = [float(mask[order[0]]) for mask in word.other_hits]
        peak = float(np.mean(hits)) if looks else math.nan
        yield {**labels, "control": OTHER_OBJECT, "top": "", "hit": peak}


def spell_patch(grid: Grid, patch: int) -> str:
    """A patch as a table shows it: `row,column`, with the tile before it where there are several tiles."""
    row, column = grid.cells[patch]
    return f"{row},{column}" if len(grid.shapes) == 1 else f"{grid.tiles[patch]}:{row},{column}"


def grid_of(grid: Grid, kept: np.ndarray) -> Grid:
    """The grid of some of its patches, bool `[patch]`."""
    numbers = np.flatnonzero(kept).tolist()
    return replace(
        grid,
        positions=tuple(grid.positions[number] for number in numbers),
        tiles=tuple(grid.tiles[number] for number in numbers),
        cells=tuple(grid.cells[number] for number in numbers),
        boxes=grid.boxes[numbers],
    )


def overlap(order: np.ndarray, mask: np.ndarray) -> float:
    """IoU of an object's patches with as many of the best patches of a map; NaN for an object without patches.

    Args:
        order: the patches, that with the most attention first.
        mask: which patches are the object's, bool `[patch]`.

    >>> overlap(np.array([2, 0, 1]), np.array([True, False, True]))
    1.0
    """
    size = int(mask.sum())
    shared = int(mask[order[:size]].sum())
    return shared / (2 * size - shared) if size else math.nan


@lru_cache(maxsize=4096)
def expected_overlap(size: int, patches: int, marked: int | None = None) -> float:
    """The expected IoU of random patches with an object of `size` patches, out of `patches` in all.

    Args:
        size: how many patches show the object.
        patches: how many there are.
        marked: how many are drawn at random; default as many as show the object.

    >>> expected_overlap(2, 2), expected_overlap(1, 4, 2)
    (1.0, 0.25)
    """
    if size == 0:
        return math.nan
    drawn = size if marked is None else marked
    draws = math.comb(patches, drawn)
    possible = range(max(0, drawn + size - patches), min(drawn, size) + 1)  # how many a draw may share with the object
    return sum(
        math.comb(size, n) * math.comb(patches - size, drawn - n) / draws * n / (drawn + size - n) for n in possible
    )
