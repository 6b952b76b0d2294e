"""States that are written: where they go, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..prompts.ranges import Ranges


@dataclass(frozen=True, kw_only=True, eq=False)
class RemoteStates:
    """Marks states of another run that are not here: that run fills the slots on the server, in the same job.

    Attributes:
        like: a tensor of their shape `[layer, position, width]`, without values.
        slots: for each layer a list, empty here; on the server it holds that layer's states.
        call: the model call that fills them.
    """

    like: torch.Tensor
    slots: tuple[list[Any], ...]
    call: Any


StateValues = dict[int, "torch.Tensor | RemoteStates"]
"""The states `[layer, position, width]` that patches take from other runs, by `id` of the patch."""


class StatePlaces(NamedTuple):
    """Where a site holds some positions: the row of the batch, and places in it."""

    row: int
    ranges: Ranges


class ClosedPlaces(NamedTuple):
    """Like `StatePlaces`, for positions that exist already, with their count."""

    row: int
    ranges: Ranges
    size: int
