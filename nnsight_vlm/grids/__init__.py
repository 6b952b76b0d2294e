"""Which image token saw which pixels."""

from .cells import Cells, GridShape
from .grid import Box, Grid, box_slices
from .kinds import GRIDS, GridKind, grid_of
from .tokens import marked

__all__ = ["GRIDS", "Box", "Cells", "Grid", "GridKind", "GridShape", "box_slices", "grid_of", "marked"]
