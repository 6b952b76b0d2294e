"""Grids of videos: the tokens of one video, the frames that each of them shows, and the pixels that it saw there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image

from ..arguments import whole_number
from ..families import ModelView
from ..notebook import Html, element, panel
from .calibration import Window, boxes, processed_video
from .cells import Cells, GridShape, full_tile
from .display import TILES, tile_html
from .grid import Grid
from .videos import VIDEO_LAYOUTS, VideoKind, one_patch_each, video_spec


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class VideoGrid(Grid):
    """The tokens of one video: a grid with time. What is said of pixels holds in each frame that a token shows.

    Its tiles are frames, or several neighbouring frames together, where a family merges them (`temporal_patch_size` of
    the Qwen-VLs): such frames share their tokens. `grid.frame(3)` is the grid of one frame.

    Attributes:
        frames: for each token the frames that it shows, counted from 0; none for a token without a box.
        pictures: the frames as the model was shown them, where they are known.
    """

    frames: tuple[tuple[int, ...], ...] = ()
    pictures: tuple[Image.Image, ...] = ()

    def __repr__(self) -> str:
        return f"VideoGrid({self._said})"

    def _repr_html_(self) -> Html:
        """What a notebook shows: the first frame of each tile."""
        firsts = sorted({of_token[0] for of_token in self.frames if of_token})
        drawn = [tile_html(self.frame(number), 0, f"frame {number}: ") for number in firsts[:TILES]]
        if len(firsts) > TILES:
            drawn.append(element("span", f"… and {len(firsts) - TILES} more"))
        return panel("VideoGrid", self._said, element("div", *drawn))

    @property
    def _said(self) -> str:
        shape, (width, height) = self.shapes[0], self.size
        ends = f" at {self.positions[0]}..{self.positions[-1]}" if self.positions else ""
        return (
            f"{len(self.positions):,} video tokens{ends}: {self.frame_count} frames in {len(self.shapes)} times "
            f"{shape.rows} x {shape.columns} cells, {width} x {height} pixels"
        )

    @property
    def frame_count(self) -> int:
        """How many frames the model was shown."""
        return 1 + max((number for of_token in self.frames for number in of_token), default=-1)

    @property
    def placed(self) -> VideoGrid:
        """The grid of the tokens that have a box."""
        return self._of([number for number, tile in enumerate(self.tiles) if tile >= 0])

    def frame(self, number: int) -> Grid:
        """The grid of one frame: the tokens that show it, and the pixels that each of them saw. It has one tile.

        Raises:
            SpecError: the video has no such frame.
        """
        most = self.frame_count - 1
        number = whole_number("number", number, least=0, most=most, kind="number of a frame")
        own = self._of([token for token, of_token in enumerate(self.frames) if number in of_token])
        return Grid(
            positions=own.positions,
            tiles=(0,) * len(own.positions),
            cells=own.cells,
            boxes=own.boxes,
            size=self.size,
            shapes=self.shapes[:1],
            picture=self.pictures[number] if self.pictures else None,
        )

    def _of(self, tokens: Sequence[int]) -> VideoGrid:
        return replace(
            self,
            positions=tuple(self.positions[token] for token in tokens),
            tiles=tuple(self.tiles[token] for token in tokens),
            cells=tuple(self.cells[token] for token in tokens),
            boxes=self.boxes[list(tokens)],
            frames=tuple(self.frames[token] for token in tokens),
        )


def video_grid_of(
    view: ModelView,
    cells: Cells,
    positions: tuple[int, ...],
    pictures: tuple[Image.Image, ...],
    *,
    of_patches: bool = False,
) -> VideoGrid:
    """The grid of one video.

    Args:
        view: the model.
        cells: where the video's tokens lie on its tiles.
        positions: the tokens' positions in the prompt, `[token]`.
        pictures: its frames, all of one size.
        of_patches: whether tokens are the vision tower's patches, of which none is pooled yet.

    Raises:
        SpecError: there is no video processor, or it makes frames of another size than the encoding has.
    """
    size, shape = pictures[0].size, cells.shapes[0]
    by_cell = _cell_boxes(view, shape, size, len(pictures), of_patches)
    edges = np.full((len(cells.places), 4), np.nan)
    has_place = cells.tiles >= 0
    edges[has_place] = by_cell[cells.rows[has_place], cells.columns[has_place]]
    return VideoGrid(
        positions=positions,
        tiles=tuple(cells.tiles.tolist()),
        cells=tuple(zip(cells.rows.tolist(), cells.columns.tolist(), strict=True)),
        boxes=edges,
        size=size,
        shapes=cells.shapes,
        frames=tuple(cells.frames[tile] if tile >= 0 else () for tile in cells.tiles.tolist()),
        pictures=pictures,
    )


def _cell_boxes(view: ModelView, shape: GridShape, size: tuple[int, int], frames: int, of_patches: bool) -> np.ndarray:
    """`[row, column, 4]`: the pixels that each cell of a frame saw. They are measured, see `calibration`."""
    kind = VIDEO_LAYOUTS[video_spec(view).layout]
    own = ((one_patch_each(count), count) if of_patches else kind.reach(view, count) for count in shape)
    (down, rows), (across, columns) = own
    patches = GridShape(rows, columns)
    tiles_of = partial(_first_tile, view, kind, size, frames)
    measured = boxes(Cells(full_tile(patches), (patches,)), size, tiles_of).reshape(rows, columns, 4)
    first, last = (measured[np.ix_(down[:, end], across[:, end])] for end in (0, 1))
    return np.concatenate([first[..., :2], last[..., 2:]], axis=-1)


def _first_tile(
    view: ModelView, kind: VideoKind, size: tuple[int, int], frames: int, window: Window
) -> list[torch.Tensor]:
    """The first tile of a video of coordinate pictures."""
    return [kind.picture(view, processed_video(view, size, window, frames))]
