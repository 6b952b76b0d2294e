"""One object that is really in a picture: its name, and its pixels where they are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..arguments import refuse
from ..arguments import text as text_given


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object that is really in a picture.

    Attributes:
        name: how a text names it, such as `"red circle"` or `"dog"`.
        mask: the object's pixels, bool `[height, width]`; None where only the name is known.
    """

    name: str
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not text_given("name", self.name, 'Thing(name="dog")').strip():
            refuse("name", self.name, "name of an object", 'Thing(name="dog")')
        if self.mask is not None:
            object.__setattr__(self, "mask", _mask_given(self.mask))


def _mask_given(given: Any) -> np.ndarray:
    """A mask as a user gives it, of numpy or torch."""
    write = "mask=values > 0, an array [height, width] that is True at the object's pixels"
    if isinstance(given, (list, tuple)) or np.ndim(given) != 2:
        refuse("mask", given, "mask", write)
    mask = np.asarray(given)
    if mask.dtype.kind not in "biuf" or not np.isin(mask, (0, 1)).all():
        refuse("mask", given, "mask of 0 and 1", write)
    return mask
