"""Layouts of images that are cut into square tiles, each a square of tokens row by row, with markers between tiles.

How many tokens a tile has follows from the config; which tiles belong to one image, from the markers between them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import rearrange

from ..errors import SpecError
from ..families import ModelView
from .cells import Cells, GridShape, full_tile, in_order
from .tokens import Inputs, count_units, marked

Tile = np.ndarray
"""Positions of the tokens of one tile, in a row of the batch."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a family cuts its images into square tiles of equally many tokens.

    Without `first`, `last` or `crops`, every tile is an image.

    Attributes:
        tokens: from the config to the number of tokens of a tile.
        first: names of the marker before an image's first tile, tried in order: an attribute of the config, an
            attribute of the tokenizer, or the token itself.
        last: the same for the marker before an image's last tile.
        crops: the words between an image's first tile and its second.
        row_end: names of the marker at the end of each row of tiles, where padding may fill up a tile. These tiles are
            put together again as the canvas that they were cut from, which is then the first tile of the image's cells;
            the second is the whole picture.
    """

    tokens: Callable[[Any], int]
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    crops: str = ""
    row_end: tuple[str, ...] = ()

    def cells(self, view: ModelView, inputs: Inputs) -> list[Cells]:
        """The cells of each image, rows of the batch in order, images in order."""
        per_tile = self.tokens(view.config)
        rows = zip(inputs["input_ids"].tolist(), marked(view, inputs), strict=True)
        return [
            self._cells_of(view, tokens, tiles)
            for tokens, image in rows
            for tiles in self._images(view, tokens, _tiles(image, per_tile))
        ]

    def _cells_of(self, view: ModelView, tokens: Sequence[int], tiles: Sequence[Tile]) -> Cells:
        """The cells of an image with these tiles."""
        if not self.row_end or len(tiles) == 1:
            return in_order([GridShape(_side(tiles), _side(tiles))] * len(tiles))
        marker = _marker_id(view, self.row_end)
        columns = 1 + [marker in gap for gap in _gaps(tokens, tiles)].index(True)
        return _canvas(tiles, columns)

    def _images(self, view: ModelView, tokens: Sequence[int], tiles: Sequence[Tile]) -> Iterator[list[Tile]]:
        """The tiles of each image of a row."""
        starts = [True, *self._starts(view, tokens, tiles)] if tiles else []
        edges = [number for number, start in enumerate(starts) if start]
        for start, end in pairwise([*edges, len(tiles)]):
            yield list(tiles[start:end])

    def _starts(self, view: ModelView, tokens: Sequence[int], tiles: Sequence[Tile]) -> list[bool]:
        """For each tile of a row but the first: whether it is the first of an image."""
        gaps = _gaps(tokens, tiles)
        if not gaps or not (self.first or self.last or self.crops):
            return [True] * len(gaps)
        if self.crops:
            return _starts_after_crops(_tokenizer(view), gaps, self.crops)
        marker = _marker_id(view, self.first or self.last)
        if self.first:
            return [marker in gap for gap in gaps]
        before_tiles = [list(tokens[: tiles[0][0]]), *gaps[:-1]]  # a tile after an image's last tile starts an image
        return [marker in gap for gap in before_tiles]


def _tiles(image: np.ndarray, per_tile: int) -> list[Tile]:
    """The positions of a row's image tokens, tile by tile."""
    positions = np.flatnonzero(image)
    count_units(len(positions), per_tile)
    return list(positions.reshape(-1, per_tile))


def _gaps(tokens: Sequence[int], tiles: Sequence[Tile]) -> list[list[int]]:
    """The tokens between each tile and the next."""
    return [list(tokens[tile[-1] + 1 : after[0]]) for tile, after in pairwise(tiles)]


def _side(tiles: Sequence[Tile]) -> int:
    """Rows of tokens in a tile."""
    return math.isqrt(len(tiles[0]))


def _canvas(tiles: Sequence[Tile], columns: int) -> Cells:
    """The cells of a canvas that was cut into all tiles but the last, in rows of `columns`; and of the last tile."""
    side, rows = _side(tiles), (len(tiles) - 1) // columns
    tile_row, tile_column, row, column = np.indices((rows, columns, side, side)).reshape(4, -1)
    canvas = np.stack([np.zeros_like(row), tile_row * side + row, tile_column * side + column], axis=1)
    shapes = (GridShape(rows * side, columns * side), GridShape(side, side))
    return Cells(places=np.concatenate([canvas, full_tile(shapes[1], tile=1)]), shapes=shapes, patches=len(tiles))


def canvas_tiles(_: ModelView, processed_inputs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The canvas that a picture's tiles were cut from, and the whole picture; or its only tile."""
    tiles = torch.as_tensor(processed_inputs["pixel_values"])
    if len(tiles) == 1:
        return list(tiles)
    rows = int(torch.as_tensor(processed_inputs["aspect_ratios"]).reshape(-1, 2)[0, 0])
    return [rearrange(tiles[:-1], "(r c) channel h w -> channel (r h) (c w)", r=rows), tiles[-1]]


# markers ------------------------------------------------------------------------------------------


def _marker_id(view: ModelView, names: Sequence[str]) -> int:
    """The token id of a marker, see `Split.first`."""
    in_config = getattr(view.config, names[0], None)
    if in_config is not None:
        return int(in_config)
    tokenizer = _tokenizer(view)
    vocabulary = tokenizer.get_vocab()
    for name in names:
        token = getattr(tokenizer, name, name)
        if token in vocabulary:
            return int(vocabulary[token])
    raise SpecError(
        f"the tokenizer has no token {names[-1]!r}, which marks the tiles of an image in models of type "
        f"{view.family.name!r}; load the model with its own processor"
    )


def _tokenizer(view: ModelView) -> Any:
    tokenizer = getattr(view.processor, "tokenizer", None)
    if tokenizer is None:
        raise SpecError(
            "the prompt has several tiles, and only the processor knows the markers that say which of them belong to "
            "one image; write nv.load(model, processor=...)"
        )
    return tokenizer


def _starts_after_crops(tokenizer: Any, gaps: Sequence[list[int]], words: str) -> list[bool]:
    """For each gap between tiles: whether an image starts after it (Gemma 3).

    An image is a tile, and possibly crops of it: the words before the first crop, line breaks between the others.
    """
    before_crops, between_crops = (
        list(tokenizer(f"{tokenizer.eoi_token}{text}{tokenizer.boi_token}", add_special_tokens=False)["input_ids"])
        for text in (words, "\n\n \n\n")
    )
    starts, is_crop = [], False
    for gap in gaps:
        is_crop = gap == before_crops or (is_crop and gap == between_crops)
        starts.append(not is_crop)
    return starts


# families -----------------------------------------------------------------------------------------


def _patches(config: Any) -> int:
    """Rows of patches in a tile."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


SOFT_TOKENS = Split(tokens=lambda config: int(config.vision_soft_tokens_per_image))
"""Gemma 3n: one square per image."""

PAN_AND_SCAN = Split(
    tokens=lambda config: int(config.mm_tokens_per_image),
    crops="\n\n and here are some crops to help you see better \n\n",
)
"""Gemma 3: the whole picture, then crops of it if the processor makes any."""

ROWS_THEN_WHOLE_PICTURE = Split(
    tokens=lambda config: (_patches(config) // int(config.scale_factor)) ** 2, last=("<global-img>",)
)
"""Idefics3, SmolVLM: tiles row by row, then the whole picture."""

ROWS_THEN_THUMBNAIL = Split(
    tokens=lambda config: (_patches(config) // int(config.downsample_factor)) ** 2,
    first=("boi_token", "<|START_OF_IMG|>"),
)
"""Aya Vision, Cohere 2 Vision: tiles row by row, then a thumbnail."""

SHUFFLED_TILES = Split(
    tokens=lambda config: round(_patches(config) ** 2 * config.vision_config.pixel_shuffle_ratio**2),
    first=("boi_token_id", "<|image_start|>"),
    row_end=("<|tile_y_separator|>",),
)
"""Llama 4: tiles row by row, padded on the right and at the bottom, then the whole picture."""
