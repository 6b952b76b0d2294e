"""Heads: which ones, by number or by `(layer, head)` pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from ..errors import SpecError
from ..prompts.where import as_tuples, require_ascending, shown
from .writes import HeadChoice

Heads = int | Sequence[int | tuple[int, int]] | None


def listed_heads(heads: Any) -> tuple[int | tuple[int, int], ...] | None:
    """A head choice as a tuple of head numbers and `(layer, head)` pairs; None for every head.

    Raises:
        SpecError: anything else.
    """
    if heads is None:
        return None
    listed = as_tuples(heads)
    listed = listed if isinstance(listed, tuple) else (listed,)
    pairs = [head if isinstance(head, tuple) else (0, head) for head in listed]
    if not all(len(pair) == 2 and all(type(number) is int for number in pair) for pair in pairs):
        given = listed[0] if len(listed) == 1 else listed
        raise SpecError(
            f"no heads {shown(given)}; write head numbers [0, 3], or (layer, head) pairs [(9, 3)]; of a mask "
            "[head for head, on in enumerate(mask) if on]"
        )
    return listed


class HeadSize(NamedTuple):
    """How many heads there are, and how wide each is."""

    number: int
    width: int


def chosen_heads(heads: Heads, layer: int, layer_count: int, head_count: int, kind: str = "") -> HeadChoice | None:
    """The chosen heads of one layer; None for every head.

    Raises:
        SpecError: a head that the model has not got.
    """
    listed = listed_heads(heads)
    if listed is None:
        return None
    pairs = [head if isinstance(head, tuple) else (layer, head) for head in listed]
    same = layer, layer - layer_count  # the second counted from the end
    beyond = [head for _, head in pairs if not 0 <= head < head_count]
    if beyond:
        raise SpecError(f"head {beyond[0]} is out of range: the model has {kind}heads 0..{head_count - 1}")
    return HeadChoice(head_count, tuple(sorted({head for at, head in pairs if at in same})))


def numbers_of(heads: Heads) -> tuple[int, ...] | None:
    """The head numbers that are named in any layer, in order; None for every head."""
    listed = listed_heads(heads)
    if listed is None:
        return None
    return tuple(sorted({head[1] if isinstance(head, tuple) else head for head in listed}))


def require_named_layers(heads: Heads, layers: Sequence[int], layer_count: int, given: Any) -> None:
    """Refuse `(layer, head)` pairs of layers that are not among those of an intervention.

    Raises:
        SpecError: naming the layer.
    """
    for layer, _ in (head for head in listed_heads(heads) or () if isinstance(head, tuple)):
        if layers and layer not in layers and layer + layer_count not in layers:
            raise SpecError(f"heads names layer {layer}, which is not among layers={given!r}")


def side_by_side(states: torch.Tensor) -> torch.Tensor:
    """States of heads `[..., head, position, head_dim]` as one state a position, `[..., position, head * head_dim]`."""
    return states.transpose(-3, -2).flatten(-2)


def require_ascending_heads(heads: Heads) -> None:
    """Refuse head numbers in an order of their own where values go with them.

    Raises:
        SpecError: they do not ascend.
    """
    numbers = tuple(head for head in listed_heads(heads) or () if isinstance(head, int))
    require_ascending(numbers, "heads", "of the model")
