"""Which image token saw which pixels."""

from .cells import Cells, GridShape
from .grid import Box, Grid, box_slices
from .kinds import GRIDS, GridKind, grid_kind, grid_of
from .tokens import marked, video_marked
from .towers import TOWER_SEQUENCES, Shown, TowerSequence
from .video_grid import VideoGrid, video_grid_of
from .videos import VIDEO_LAYOUTS, frames_per_tile, joined, video_spec, with_frames

__all__ = [
    "GRIDS",
    "TOWER_SEQUENCES",
    "VIDEO_LAYOUTS",
    "Box",
    "Cells",
    "Grid",
    "GridKind",
    "GridShape",
    "Shown",
    "TowerSequence",
    "VideoGrid",
    "box_slices",
    "frames_per_tile",
    "grid_kind",
    "grid_of",
    "joined",
    "marked",
    "video_grid_of",
    "video_marked",
    "video_spec",
    "with_frames",
]
