"""Images that are square tiles: one, or several and the whole, each a square of tokens row by row.

The tokens of an image are those of its tiles, end to end; between tiles stand marker tokens. How many tokens a tile
has follows from the config; which tiles are of one image, from the markers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from einops import rearrange

from ..errors import SpecError
from ..families import view_of
from .cells import Cells, full_tile, in_order
from .tokens import marked, shares

Tile = np.ndarray
"""Positions of the tokens of one tile in a row of the batch."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a family cuts its images into square tiles of as many tokens each; `lay` places them.

    Attributes:
        tokens: config to the number of tokens of a tile.
        first: names of the marker in front of an image's first tile: of the config, the tokenizer, or the token.
        last: the same for the marker in front of an image's last tile.
        crops: the words between an image's first tile and its second. Without any of these, every tile is an image.
        row_end: names of the marker behind each row of tiles, where padding may fill a tile: the tiles are then taken
            together, as the canvas that they were cut from, and the whole is the second tile.
    """

    tokens: Callable[[Any], int]
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    crops: str = ""
    row_end: tuple[str, ...] = ()

    def lay(self, model: Any, inputs: Mapping[str, Any]) -> list[Cells]:
        """Where the tokens of each image lie, rows in order, images in order."""
        config = view_of(model).config
        rows = inputs["input_ids"].tolist()
        tiles = [_tiles(line, self.tokens(config)) for line in marked(model, inputs)]
        return [
            self._cells(model, row, image)
            for row, found in zip(rows, tiles, strict=True)
            for image in self._images(model, row, found)
        ]

    def _cells(self, model: Any, row: Sequence[int], image: Sequence[Tile]) -> Cells:
        if not self.row_end or len(image) == 1:
            return _apart(image)
        marker = _marker(model, self.row_end)
        columns = 1 + [marker in gap for gap in _gaps(row, image)].index(True)
        return _joined(image, columns)

    def _images(self, model: Any, row: Sequence[int], tiles: Sequence[Tile]) -> Iterator[list[Tile]]:
        """The tiles of each image of a row."""
        starts = [True, *self._starts(model, row, tiles)] if tiles else []
        edges = [number for number, start in enumerate(starts) if start]
        for start, end in pairwise([*edges, len(tiles)]):
            yield list(tiles[start:end])

    def _starts(self, model: Any, row: Sequence[int], tiles: Sequence[Tile]) -> list[bool]:
        """Whether each tile but the first begins an image."""
        gaps = _gaps(row, tiles)
        if not gaps or not (self.first or self.last or self.crops):
            return [True] * len(gaps)
        if self.crops:
            return _after_crops(_tokenizer(model), gaps, self.crops)
        marker = _marker(model, self.first or self.last)
        before = gaps if self.first else [list(row[: tiles[0][0]]), *gaps[:-1]]  # an image ends with its last tile
        return [marker in gap for gap in before]


def _tiles(image: np.ndarray, tokens: int) -> list[Tile]:
    """The positions of image tokens, cut into tiles."""
    places = np.flatnonzero(image)
    shares(len(places), tokens)
    return list(places.reshape(-1, tokens))


def _gaps(row: Sequence[int], tiles: Sequence[Tile]) -> list[list[int]]:
    """The tokens between one tile and the next."""
    return [list(row[before[-1] + 1 : after[0]]) for before, after in pairwise(tiles)]


def _apart(tiles: Sequence[Tile]) -> Cells:
    """Tiles whose tokens run row by row through a square."""
    side = round(len(tiles[0]) ** 0.5)
    return in_order([(side, side)] * len(tiles))


def _joined(tiles: Sequence[Tile], columns: int) -> Cells:
    """The canvas that all tiles but the last are cut from, row by row, then the last tile."""
    side, rows = round(len(tiles[0]) ** 0.5), (len(tiles) - 1) // columns
    tile_row, tile_column, row, column = np.indices((rows, columns, side, side)).reshape(4, -1)
    canvas = np.stack([np.zeros_like(row), tile_row * side + row, tile_column * side + column], axis=1)
    shapes = ((rows * side, columns * side), (side, side))
    return Cells(places=np.concatenate([canvas, full_tile(side, side, tile=1)]), shapes=shapes, patches=len(tiles))


def canvas_crops(_: Any, seen: Mapping[str, Any]) -> list[torch.Tensor]:
    """The canvas that one picture's tiles were cut from, and the whole picture where it has several tiles."""
    tiles = torch.as_tensor(seen["pixel_values"])
    if len(tiles) == 1:
        return list(tiles)
    rows = int(torch.as_tensor(seen["aspect_ratios"]).reshape(-1, 2)[0, 0])
    return [rearrange(tiles[:-1], "(r c) channel h w -> channel (r h) (c w)", r=rows), tiles[-1]]


def _marker(model: Any, names: Sequence[str]) -> int:
    """The id of a marker token."""
    known = getattr(view_of(model).config, names[0], None)
    if known is not None:
        return int(known)
    tokenizer = _tokenizer(model)
    vocabulary = tokenizer.get_vocab()
    for name in names:
        token = getattr(tokenizer, name, name)
        if token in vocabulary:
            return int(vocabulary[token])
    raise SpecError(
        f"the tokenizer has no {names[-1]!r}, by which this family tells the tiles of an image; use its own"
    )


def _tokenizer(model: Any) -> Any:
    found = getattr(model.processor, "tokenizer", None)
    if found is None:
        raise SpecError(
            "this prompt has several tiles; only its marker tokens tell which are of one image, and those the "
            "processor knows: write nv.load(model, processor=...)"
        )
    return found


def _after_crops(tokenizer: Any, gaps: Sequence[list[int]], words: str) -> list[bool]:
    """Gemma 3: the whole, the words that crops follow, and crops with nothing but line breaks between."""
    announce, between = (
        list(tokenizer(f"{tokenizer.eoi_token}{text}{tokenizer.boi_token}", add_special_tokens=False)["input_ids"])
        for text in (words, "\n\n \n\n")
    )
    starts, cropped = [], False
    for gap in gaps:
        cropped = gap == announce or (cropped and gap == between)
        starts.append(not cropped)
    return starts


def _patches(config: Any) -> int:
    """Patches a side of a tile."""
    return int(config.vision_config.image_size // config.vision_config.patch_size)


SOFT = Split(tokens=lambda config: int(config.vision_soft_tokens_per_image))
"""Gemma 3n: a square of as many tokens as the config says."""

PAN_AND_SCAN = Split(
    tokens=lambda config: int(config.mm_tokens_per_image),
    crops="\n\n and here are some crops to help you see better \n\n",
)
"""Gemma 3: the whole, then crops of it where the processor makes any."""

ROWS_THEN_WHOLE = Split(
    tokens=lambda config: (_patches(config) // int(config.scale_factor)) ** 2, last=("<global-img>",)
)
"""Idefics 3, SmolVLM: tiles row by row, then the whole."""

ROWS_THEN_THUMBNAIL = Split(
    tokens=lambda config: (_patches(config) // int(config.downsample_factor)) ** 2,
    first=("boi_token", "<|START_OF_IMG|>"),
)
"""Aya Vision and Cohere 2 Vision: tiles row by row, then a thumbnail."""

SHUFFLED_TILES = Split(
    tokens=lambda config: round(_patches(config) ** 2 * config.vision_config.pixel_shuffle_ratio**2),
    first=("boi_token_id", "<|image_start|>"),
    row_end=("<|tile_y_separator|>",),
)
"""Llama 4: tiles row by row, padded at the right and the bottom, then the whole; crops by `canvas_crops`."""
