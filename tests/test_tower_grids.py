"""The grid of every family's vision tower: pixels planted in a patch's box move what enters the tower at its position.

Patches do not overlap and are embedded one by one, so nothing has to be done to the model. What enters is seen by a
plain hook.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zoo
from zoo import planted, towers

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

CLEAR = 1.5
"""A patch has moved most when it moved so much more than any other of its tile: resizing leaks into its neighbours."""
SEEDS = range(1, 6)
MEMBERS = [name for name in zoo.ZOO if zoo.row(name).tower is not None]


def sampled(grid: nv.Grid) -> Iterator[tuple[int, np.ndarray]]:
    """The first patch of the first tile, one in the middle, and the last one, and whole pixels inside each of them."""
    tiles = np.asarray(grid.tiles)
    there = [(at, mask) for at, box in enumerate(grid.boxes) if (mask := inside(box, grid.size)).any()]
    assert {tiles[at] for at, _ in there} == set(tiles[grid.areas > 0].tolist()), "no box of some tile has whole pixels"
    yield from (there[at] for at in sorted({0, len(there) // 2, len(there) - 1}))


def inside(box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`[height, width]`: the whole pixels strictly inside a box, of a large one those in its middle."""
    span = box[2:] - box[:2]
    margin = np.where(span >= 6, span / 6, -0.05)  # a fit of colours is no finer than that
    left, top = np.ceil(box[:2] + margin).astype(int)
    right, bottom = np.floor(box[2:] - margin).astype(int)
    mask = np.zeros(size[::-1], dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def moved(model: Any, text: str, seed: int, size: tuple[int, int], where: np.ndarray) -> np.ndarray:
    """How much what enters the tower moves at each position when some pixels are inverted."""
    view, picture = view_of(model), zoo.picture(seed, size)
    before, after = (
        towers.entering(view.module, view.family, nv.encode(model, text, shown).inputs)
        for shown in (picture, planted.inverted(picture, where))
    )
    return (after - before).abs().amax(-1).double().numpy()


@pytest.mark.parametrize("name", MEMBERS)
def test_pixels_planted_in_a_patchs_box_move_that_patch_most(name):
    member = zoo.ZOO[name]
    size, model = member.sizes[-1], zoo.load(name, member.implementations[0])
    prompt = nv.encode(model, member.text, zoo.picture(1, size))
    grid, every = prompt.grid(stage="vision"), set(prompt.positions("all", stage="vision"))
    assert grid.positions == prompt.positions("image", stage="vision")
    assert np.isfinite(grid.boxes).all()
    own = {*prompt.positions("cls", stage="vision"), *prompt.positions("registers", stage="vision")}
    assert every >= {*grid.positions, *own}
    for at, where in sampled(grid):
        rivals = [
            position
            for position, tile in zip(grid.positions, grid.tiles, strict=True)
            if tile == grid.tiles[at] and position != grid.positions[at]
        ]
        total = 0
        for seed in SEEDS:
            total = total + moved(model, member.text, seed, size, where)
            if total[grid.positions[at]] > CLEAR * max(total[rivals]):
                break
        assert total[grid.positions[at]] > max(total[rivals]), f"{grid.cells[at]} of tile {grid.tiles[at]}"
        assert not total[sorted(own)].any()
        x0, y0, x1, y1 = grid.boxes[at]
        wide, high = (x1 - x0) / 4, (y1 - y0) / 4
        found = prompt.region((x0 + wide, y0 + high, x1 - wide, y1 - high), stage="vision")
        assert grid.positions[at] in found and not set(found) & set(rivals)
