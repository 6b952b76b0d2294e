"""Tensors that a user gives, laid out as the states that are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import SpecError
from ..lowering.head_choice import numbers_of, side_by_side
from ..lowering.layers import label
from ..lowering.resolve import Resolver
from ..lowering.sites import HEAD_SITES


def laid_out(spec: Any, resolver: Resolver, given: torch.Tensor) -> torch.Tensor:
    """A tensor of a user, laid out as states `[layer, position, width]`; one position stands for every one.

    Args:
        spec: the intervention, with `where`, `layers`, `site`, `stage` and `heads`; its `GIVEN` is the tensor's name.
        resolver: the case.
        given: what the user gave.

    Raises:
        SpecError: it has another shape than `[width]`, `[position, width]` or `[layer, position, width]`; at a site of
            heads `[layer, head, position, head_dim]`, `[head, position, head_dim]`, `[position, head_dim]` or
            `[head_dim]`, of which the last two are for every head.
    """
    if spec.site not in HEAD_SITES:
        if not 1 <= given.dim() <= 3:
            raise SpecError(
                f"{spec.GIVEN}= has the shape {tuple(given.shape)}, and states are written from [width], "
                "[position, width] or [layer, position, width]"
            )
        return given[(None,) * (3 - given.dim())]
    here = resolver.at(spec.stage)
    site = here.site_of(spec.site, spec.where)
    layers = here.ordered_layers(site, spec.layers)
    if not layers:
        return given[(None,) * max(0, 3 - given.dim())]
    size, named = here.head_size(site, layers[0]), numbers_of(spec.heads)
    count = size.number if named is None else len(named)
    whole = given[(None,) * (4 - given.dim())] if given.dim() < 4 else given
    if given.dim() < 3:
        whole = whole.expand(1, count, -1, -1)
    if whole.dim() != 4 or whole.shape[1] != count or whole.shape[3] != size.width:
        raise SpecError(
            f"{spec.GIVEN}= has the shape {tuple(given.shape)}, and at site {spec.site!r} here are {count} "
            f"head(s) of width {size.width}; give [layer, head, position, head_dim] or [head, position, head_dim], "
            "or for every head [position, head_dim] or [head_dim]"
        )
    return side_by_side(whole)


def refuse_misfit(spec: Any, here: Resolver, values: torch.Tensor, positions: int, layers: Sequence[int]) -> None:
    """Refuse states for other layers or positions than are written.

    Args:
        spec: see `laid_out`.
        here: the case, in the stage that is written.
        values: the states, `[layer, position, width]`.
        positions: how many are written.
        layers: which ones are written.

    Raises:
        SpecError: naming what there is more or less of, layers or positions.
    """
    shape = tuple(values.shape)
    if len(shape) == 3 and shape[0] not in (1, len(layers)):
        own = str(list(layers)) if len(layers) > 1 else str(layers[0])
        take = f"take theirs, {spec.GIVEN}[{own}], or " if shape[0] == here.spec.layer_count else ""
        raise SpecError(
            f"{spec.GIVEN}= gives values of {shape[0]} layers, shape {shape}, and {len(layers)} layer(s) are written "
            f"({label(tuple(layers))}); {take}give as many as layers= names, or one for all of them"
        )
    if len(shape) != 3 or shape[1] != positions:
        raise SpecError(
            f"{spec.GIVEN}= gives values of shape {shape} and {positions} position(s) ({spec.where!r}) are written in "
            f"{len(layers)} layer(s); choose positions that correspond, in a Patch of another prompt with "
            "source_where=, or give one vector [width] for all of them"
        )
