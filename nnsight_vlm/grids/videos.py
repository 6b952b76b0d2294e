"""Layouts of videos: how families lay out the tokens of their frames, by name.

A video's tiles are its frames, or in some families several neighbouring frames together (a *temporal patch*). All tiles
of a video are equally large, and their tokens go row by row, tile after tile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..errors import SpecError
from ..families import ModelView, VideoSpec, unsupported
from ..families.options import VideoLayout
from .cells import Cells, GridShape, in_order, no_places
from .flexible import merged_picture, merged_table, window_orders
from .tokens import Inputs, check_total, video_marked


@dataclass(frozen=True, kw_only=True)
class VideoKind:
    """The functions of a layout of videos.

    Attributes:
        cells: from an encoding to the cells of each of its videos, in order; None where frames are images of the
            encoding, see `joined`.
        picture: from what the video processor returned for one video to its first tile, `[channel, height, width]`.
        reach: from the number of a tile's cells along one axis to the patches that each of them sees, `[cell, (first,
            last)]`, and how many patches there are.
    """

    cells: Callable[[ModelView, Inputs], list[Cells]] | None
    picture: Callable[[ModelView, Mapping[str, Any]], torch.Tensor]
    reach: Callable[[ModelView, int], tuple[np.ndarray, int]] = lambda _, cells: (one_patch_each(cells), cells)


def merged_frames(view: ModelView, inputs: Inputs) -> list[Cells]:
    """`video_grid_thw` counts patches; a token shows `temporal_patch_size` frames."""
    return _checked(view, inputs, merged_table(view, inputs, "video_grid_thw"))


def merged_frame_windows(view: ModelView, inputs: Inputs) -> list[Cells]:
    """As `merged_frames`, where the projector's output goes window by window (see `flexible.merged_windows`)."""
    videos = merged_table(view, inputs, "video_grid_thw")
    orders = window_orders(view, inputs, "video_grid_thw")
    found = [replace(cells, sources=order, features=len(order)) for cells, order in zip(videos, orders, strict=True)]
    return _checked(view, inputs, found)


def pooled_frames(view: ModelView, inputs: Inputs) -> list[Cells]:
    """Every frame's patches are pooled, two each way to a token; a token without a place ends the video."""
    vision = view.config.vision_config
    side = math.ceil(vision.image_size // vision.patch_size / 2)
    pixels = inputs.get("pixel_values_videos")
    videos, frames = (0, 0) if pixels is None else pixels.shape[:2]
    tiles = in_order([GridShape(side, side)] * frames)
    one = replace(tiles, places=np.concatenate([tiles.places, no_places(1)]))
    return _checked(view, inputs, [one] * videos)


def _checked(view: ModelView, inputs: Inputs, videos: Sequence[Cells]) -> list[Cells]:
    """The videos with the frames of each tile, if they have as many tokens as the encoding."""
    check_total([len(cells.places) for cells in videos], int(video_marked(view, inputs).sum()), "video")
    return [with_frames(cells, frames_per_tile(view)) for cells in videos]


def video_spec(view: ModelView) -> VideoSpec:
    """How the model's family takes videos.

    Raises:
        SpecError: it does not.
    """
    family = view.family
    if family.video is None:
        reason = unsupported(family)["video"]
        raise SpecError(f"a video was given, and {view.family.name!r} models are run without: {reason}")
    return family.video


def frames_per_tile(view: ModelView) -> int:
    """How many frames of a video a token shows."""
    name = video_spec(view).frames_per_token
    return int(getattr(view.config.vision_config, name)) if name else 1


def with_frames(cells: Cells, per_tile: int, count: int | None = None) -> Cells:
    """The cells of a video whose tiles show so many frames each.

    Args:
        cells: the cells.
        per_tile: how many frames a tile shows.
        count: how many frames the video has, where that is known: the last tile then shows fewer different ones.

    Raises:
        SpecError: a video of so many frames has another number of tiles.
    """
    tiles = len(cells.shapes)
    if count is not None and -(-count // per_tile) != tiles:
        raise SpecError(
            f"a video of {count} frame(s) was given, and the encoding has one of {tiles * per_tile}; give the frames "
            "that the processor was given, or those that it chose from a file"
        )
    last = tiles * per_tile if count is None else count
    frames = tuple(tuple(range(tile * per_tile, min((tile + 1) * per_tile, last))) for tile in range(tiles))
    return replace(cells, frames=frames)


def joined(frames: Sequence[Cells]) -> Cells:
    """The cells of a video, from those of its frames, which are images of one tile each.

    Raises:
        SpecError: a frame was cut into several tiles.
    """
    if any(len(cells.shapes) != 1 for cells in frames):
        raise SpecError(
            f"frames of a video have {', '.join(str(len(cells.shapes)) for cells in frames)} tiles, and a frame is one "
            "tile; give the encoding as this model's processor returned it"
        )
    tiles = [cells.places + np.array([number, 0, 0]) for number, cells in enumerate(frames)]
    return Cells(
        np.concatenate(tiles),
        tuple(cells.shapes[0] for cells in frames),
        frames=tuple((n,) for n in range(len(frames))),
    )


# the first tile of a processed video --------------------------------------------------------------


def first_merged_frame(view: ModelView, processed_inputs: Mapping[str, Any]) -> torch.Tensor:
    """The first frame from its patches, which go merged token by merged token and hold one frame after the other."""
    return merged_picture(view, processed_inputs, "pixel_values_videos", "video_grid_thw")


def first_pooled_frame(view: ModelView, processed_inputs: Mapping[str, Any]) -> torch.Tensor:
    """The first frame without the pixels that no patch sees."""
    vision = view.config.vision_config
    seen = vision.image_size // vision.patch_size * vision.patch_size
    return _first_frame("pixel_values_videos", processed_inputs)[..., :seen, :seen]


def first_frame(view: ModelView, processed_inputs: Mapping[str, Any]) -> torch.Tensor:  # noqa: ARG001
    """The first frame of `[video, frame, channel, height, width]`, under whichever name it is."""
    name = next(name for name in ("pixel_values_videos", "pixel_values") if name in processed_inputs)
    return _first_frame(name, processed_inputs)


def _first_frame(name: str, processed_inputs: Mapping[str, Any]) -> torch.Tensor:
    return torch.as_tensor(processed_inputs[name][0][0])


def one_patch_each(cells: int) -> np.ndarray:
    """Cells that each see the pixels of one share of the tile."""
    return np.arange(cells)[:, None].repeat(2, axis=1)


def pooled_patches(view: ModelView, cells: int) -> tuple[np.ndarray, int]:
    """The patches that bilinear pooling takes each cell from: the two nearest its centre."""
    vision = view.config.vision_config
    patches = vision.image_size // vision.patch_size
    centres = ((np.arange(cells) + 0.5) * patches / cells - 0.5).clip(0)
    first = np.floor(centres).astype(int)
    last = np.where(centres > first, first + 1, first).clip(max=patches - 1)
    return np.stack([first, last], axis=1), int(patches)


VIDEO_LAYOUTS: dict[VideoLayout, VideoKind] = {
    "merged frames": VideoKind(cells=merged_frames, picture=first_merged_frame),
    "merged frame windows": VideoKind(cells=merged_frame_windows, picture=first_merged_frame),
    "pooled frames": VideoKind(cells=pooled_frames, picture=first_pooled_frame, reach=pooled_patches),
    "frames as images": VideoKind(cells=None, picture=first_frame),
}
