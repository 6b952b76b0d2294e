"""Towers whose batch has a row for every picture, or tile of one: all rows are equally long.

Functions named `*_pictures` put together the tiles of one processed picture, each cut to the patches that the tower
makes of it, in the order of the sequences: calibration looks at these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from einops import rearrange

from ..errors import SpecError
from ..families import ModelView
from .cells import NOWHERE, Cells, GridShape, full_tile, no_places
from .tokens import Inputs
from .tower_sequences import Shown, TowerSequence, patch_side

Owner = tuple[str, int]
"""The kind and the number of the picture that a row shows, see `Shown`."""


def rows(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:
    """A row for every tile, in order: class tokens, registers, then the patches row by row.

    Raises:
        SpecError: fewer tiles in the pixels than the pictures have.
    """
    *tiles, _, height, width = _pixels(view, inputs, shown).shape
    side = patch_side(view)
    return _plain(view, shown, GridShape(height // side, width // side), prod(tiles))


def rows_of_crops(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:
    """The same of pixels that are handed over as patches already, `[crop, patch, value]`: as many in every crop."""
    return _plain(view, shown, _crop(view), len(_pixels(view, inputs, shown)))


def tiles_in(cells: Cells) -> int:
    """How many tiles a picture has of which the tower makes a row each."""
    if cells.features:  # of a canvas, which counts as one tile
        return cells.features // prod(cells.shapes[0])
    return cells.pieces or 1


def _plain(view: ModelView, shown: Sequence[Shown], shape: GridShape, count: int) -> list[TowerSequence]:
    """Rows of equally many patches, and of the tower's own tokens."""
    spec, patches = view.stage("vision"), full_tile(shape)
    assert spec.stage.tower is not None
    cls, behind = spec.stage.tower.cls, spec.stage.tower.cls_behind
    parts = [no_places(cls), no_places(spec.registers), patches]
    places = np.concatenate([patches, no_places(cls)] if behind else parts)
    first = len(patches) if behind else 0
    own = tuple(range(first, first + cls)), tuple(range(cls, cls + spec.registers))
    owners = _owners(shown)
    _check(len(owners), count)
    return [TowerSequence(*owner, places, (shape,), *own) for owner in owners]


def _owners(shown: Sequence[Shown]) -> list[Owner]:
    """The picture that each tile shows, tiles of all pictures in order."""
    return [(each.kind, each.number) for each in shown for _ in range(tiles_in(each.cells))]


def _check(expected: int, count: int, exactly: bool = False) -> None:
    """Refuse pixels that are not those of the pictures; tiles that only pad pixels may be there too."""
    if count < expected or (exactly and count != expected):
        raise SpecError(
            f"the pixels are of {count} tile(s), and the pictures of this encoding have {expected}; both must come "
            "from one call of the processor"
        )


def _pixels(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> torch.Tensor:
    """The input that the tower is handed: that of videos where the encoding shows nothing else."""
    family = view.family
    videos = family.video is not None and family.video.is_apart and all(each.kind == "video" for each in shown)
    name = family.video.pixels if family.video is not None and videos and shown else family.pixels
    return torch.as_tensor(inputs[name])


# rows that are padded -------------------------------------------------------------------------------


def rows_with_padding(
    view: ModelView, inputs: Inputs, shown: Sequence[Shown], whole: bool = False
) -> list[TowerSequence]:
    """A row for every tile that is not empty, row by row of patches; those that show only padding are never read.

    Args:
        view, inputs, shown: see `SequencesOf`.
        whole: whether patches that are padding in part are never read either.
    """
    masks = _patch_masks(view, inputs, whole)
    owners = _owners(shown)
    _check(len(owners), len(masks), exactly=True)
    return [_masked(owner, mask) for owner, mask in zip(owners, masks, strict=True)]


rows_of_whole_patches = partial(rows_with_padding, whole=True)


def _masked(owner: Owner, mask: np.ndarray) -> TowerSequence:
    """A row of patches, from its mask `[row, column]` of those that are read."""
    there = mask.reshape(-1)
    places = np.where(there[:, None], full_tile(GridShape(*mask.shape)), NOWHERE)
    padding = tuple(np.flatnonzero(~there).tolist())
    return TowerSequence(*owner, places, (_extent(mask),), padding=padding)


def _extent(mask: np.ndarray) -> GridShape:
    """Rows and columns of the patches that are read."""
    return GridShape(int(mask.any(1).sum()), int(mask.any(0).sum()))


def _patch_masks(view: ModelView, inputs: Mapping[str, Any], whole: bool) -> list[np.ndarray]:
    """For each tile that is not empty, `[row, column]`: whether a patch is read."""
    side = patch_side(view)
    pixels, mask = (torch.as_tensor(inputs[name]) for name in list(view.family.inputs)[:2])
    if pixels.dim() == 5:
        pixels, mask = pixels.flatten(0, 1), mask.flatten(0, 1)
        there = pixels.bool().flatten(1).any(1)  # so the models, too, tell tiles from padding
        mask = mask[there] if bool(there.any()) else mask[:1]
    counted = mask.bool().unfold(1, side, side).unfold(2, side, side).sum((-1, -2))
    read = counted == side * side if whole else counted > 0
    return list(read.cpu().numpy())


def shaped_rows(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:  # noqa: ARG001
    """A row for every tile, whose patches each way are in `spatial_shapes`; padding follows them."""
    length = torch.as_tensor(inputs["pixel_values"]).shape[1]
    shapes = [GridShape(*map(int, shape)) for shape in inputs["spatial_shapes"].tolist()]
    owners = _owners(shown)
    _check(len(owners), len(shapes), exactly=True)
    return [
        TowerSequence(
            *owner,
            np.concatenate([full_tile(shape), no_places(length - prod(shape))]),
            (shape,),
            padding=tuple(range(prod(shape), length)),
        )
        for owner, shape in zip(owners, shapes, strict=True)
    ]


def located_rows(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:  # noqa: ARG001
    """A row for every picture, the column and the row of whose patches are in `image_position_ids`, -1 for padding."""
    located = torch.as_tensor(inputs["image_position_ids"]).cpu().numpy()
    owners = _owners(shown)
    _check(len(owners), len(located), exactly=True)
    return [_located(owner, at) for owner, at in zip(owners, located, strict=True)]


def _located(owner: Owner, at: np.ndarray) -> TowerSequence:
    columns, lines = at.T
    tile = np.where(columns < 0, NOWHERE, 0)
    padding = tuple(np.flatnonzero(columns < 0).tolist())
    shape = GridShape(int(lines.max()) + 1, int(columns.max()) + 1)
    return TowerSequence(*owner, np.stack([tile, lines, columns], axis=1), (shape,), padding=padding)


# several tiles in a row -------------------------------------------------------------------------------

MULTIPLE = 8
"""Mllama fills up a tile with tokens of nought until their number is a multiple of this."""


def tiles_in_one_row(view: ModelView, inputs: Inputs, shown: Sequence[Shown]) -> list[TowerSequence]:
    """A row for every picture: for each of its tiles CLS, a square and filling; then as much of missing tiles (Mllama).

    Patches read the filling and the missing tiles: only among these are edges closed. So they are no padding.
    """
    side = int(inputs["pixel_values"].shape[-1]) // patch_side(view)
    shape, filled = GridShape(side, side), -(-(side * side + 1) // MULTIPLE) * MULTIPLE
    pictures = iter(shown)
    ratios, masks = inputs["aspect_ratio_ids"].flatten().tolist(), inputs["aspect_ratio_mask"].flatten(0, 1).tolist()
    _check(len(shown), sum(ratio > 0 for ratio in ratios), exactly=True)
    sequences = []
    for ratio, mask in zip(ratios, masks, strict=True):
        picture, tiles = next(pictures) if ratio > 0 else None, sum(mask) if ratio > 0 else 0
        places = no_places(len(mask) * filled).reshape(len(mask), filled, 3)
        for tile in range(tiles):
            places[tile, 1 : 1 + side * side] = full_tile(shape, tile)
        owner = ("image", -1) if picture is None else (picture.kind, picture.number)
        cls = tuple(tile * filled for tile in range(tiles))
        sequences.append(TowerSequence(*owner, places.reshape(-1, 3), (shape,) * tiles, cls))
    return sequences


# the tiles that calibration looks at ------------------------------------------------------------------


def row_pictures(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """All tiles of the first picture, without the pixels at their right and at the bottom that no patch sees."""
    side = patch_side(view)
    return [
        _cut(tile, GridShape(tile.shape[-2] // side, tile.shape[-1] // side), side)
        for tile in _first(view, processed_inputs)
    ]


def crop_pictures(view: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The crops, put together from their patches."""
    shape, side = _crop(view), patch_side(view)
    crops = torch.as_tensor(processed_inputs[view.family.pixels])
    return [
        rearrange(crop, "(row column) (y x c) -> c (row y) (column x)", row=shape.rows, y=side, x=side)
        for crop in crops
    ]


def padded_pictures(view: ModelView, processed_inputs: Mapping[str, Any], whole: bool = False) -> list[torch.Tensor]:
    """The tiles, cut to the patches that are read."""
    masks = _patch_masks(view, processed_inputs, whole)
    tiles = (tile for tile in _first(view, processed_inputs) if bool(tile.any()))
    return [_cut(tile, _extent(mask), patch_side(view)) for tile, mask in zip(tiles, masks, strict=True)]


whole_patch_pictures = partial(padded_pictures, whole=True)


def _first(view: ModelView, processed_inputs: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """The tiles of the first picture, `[channel, height, width]` each."""
    family = view.family
    names = (family.pixels, *(given for given, name in family.renamed.items() if name == family.pixels))
    pixels = torch.as_tensor(next(processed_inputs[name] for name in names if name in processed_inputs))
    yield from pixels[0] if pixels.dim() == 5 else pixels


def _cut(tile: torch.Tensor, shape: GridShape, side: int) -> torch.Tensor:
    return tile[:, : shape.rows * side, : shape.columns * side]


def _crop(view: ModelView) -> GridShape:
    """Rows and columns of patches in a crop."""
    side = patch_side(view)
    height, width = view.config_of(view.family.stages["vision"]).image_size
    return GridShape(height // side, width // side)
