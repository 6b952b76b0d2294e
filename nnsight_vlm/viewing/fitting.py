"""Pages of limited size: all values, or without the small ones, or with fewer layers, which the page then says."""

from __future__ import annotations

from typing import Any

from ..errors import SpecError
from .packing import STEPS
from .pages import size_of
from .payload import Content, Level, payload_of

FLOORS = (0.0, 1 / STEPS, 1 / 100, 1 / 50)
"""What is left out, as a share of a row's largest value; the second is what would be a byte of 0 or 1 anyway."""


def fitted(content: Content) -> dict[str, Any]:
    """The fullest payload whose page has no more bytes than the limit.

    Raises:
        SpecError: even with one layer it has more.
    """
    layers = max(len(content.asked.layers), 1)
    strides = [2**power for power in range(1, layers.bit_length() + 1)]
    size = 0
    for level in [*(Level(floor) for floor in FLOORS), *(Level(FLOORS[-1], stride) for stride in strides)]:
        payload = payload_of(content, level)
        size = size_of(payload)
        if size <= content.asked.limit:
            return payload
    raise SpecError(
        f"the page has {size / 1e6:.1f} MB even with one layer, and limit={content.asked.limit}; write a larger "
        'limit=, fewer quantities=, or heads="mean"'
    )
