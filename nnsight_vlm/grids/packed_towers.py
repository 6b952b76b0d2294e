"""The sequences of vision towers whose tokens lie in one line: those of all pictures, frame after frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..families import ModelView
from .cells import GridShape, full_tile
from .tokens import Inputs
from .tower_sequences import Shown, TowerSequence

TABLES = {"image": "image_grid_thw", "video": "video_grid_thw"}
"""For each kind, the input with the patches of each of its pictures, `(frames, rows, columns)`."""


def merged_line(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:
    """Patches go merged token by merged token, `spatial_merge_size` of them each way."""
    merge = int(view.config.vision_config.spatial_merge_size)
    return [_sequence(each, shape, merged_order(shape, merge)) for each, shape in _frames(inputs, shown)]


def merged_windows_line(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:
    """The same, where merged tokens go window by window."""
    from transformers.vision_utils import get_vision_window_index

    vision = view.config.vision_config
    merge, found = int(vision.spatial_merge_size), []
    for each, shape in _frames(inputs, shown):
        grid = torch.tensor([[1, *shape]])
        order, stops = get_vision_window_index(grid, merge, vision.window_size, vision.patch_size)
        patches = merged_order(shape, merge).reshape(-1, merge * merge)[order.cpu().numpy()].reshape(-1)
        found.append(_sequence(each, shape, patches)._replace(windows=tuple(stops[1:].tolist())))
    return found


def raster_line(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:  # noqa: ARG001
    """Patches go row by row."""
    return [_sequence(each, shape, np.arange(shape.rows * shape.columns)) for each, shape in _frames(inputs, shown)]


def sized_line(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:
    """Patches go row by row; `image_sizes` has the sizes of pictures in pixels."""
    side = int(view.config.vision_config.patch_size)
    shapes = [GridShape(height // side, width // side) for height, width in _table(inputs, "image_sizes")]
    every = (np.arange(shape.rows * shape.columns) for shape in shapes)
    return [_sequence(*each) for each in zip(shown, shapes, every, strict=True)]


def merged_order(shape: GridShape, merge: int) -> np.ndarray:
    """For each patch in the order of merged tokens, its number row by row."""
    rows, columns = shape
    patches = np.arange(rows * columns).reshape(rows // merge, merge, columns // merge, merge)
    return patches.transpose(0, 2, 1, 3).reshape(-1)


def _frames(inputs: Inputs, shown: Sequence[Shown]) -> Iterator[tuple[Shown, GridShape]]:
    """Every frame of every picture, and its patches; none where a tower runs once for images and once for videos."""
    kinds = {each.kind for each in shown}
    for kind in kinds if len(kinds) == 1 else ():
        for each, (frames, rows, columns) in zip(shown, _table(inputs, TABLES[kind]), strict=True):
            for _ in range(frames):
                yield each, GridShape(rows, columns)


def _sequence(each: Shown, shape: GridShape, order: np.ndarray) -> TowerSequence:
    return TowerSequence(each.kind, each.number, full_tile(shape)[order], (shape,))


def _table(inputs: Inputs, name: str) -> list[list[int]]:
    values: Any = inputs[name]
    return [[int(number) for number in line] for line in torch.as_tensor(values).tolist()]
