"""One row per family of vision-language models: where each part lives, and what follows from it."""

from .lookup import check_attention, family, row_of
from .row import Attends, Family, Stage
from .sizes import Reach, Shape, part_of, reach, shape
from .table import FAMILIES
from .works import lacking

__all__ = [
    "FAMILIES",
    "Attends",
    "Family",
    "Reach",
    "Shape",
    "Stage",
    "check_attention",
    "family",
    "lacking",
    "part_of",
    "reach",
    "row_of",
    "shape",
]
