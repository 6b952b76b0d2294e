"""Tensors that a user gives for heads, laid out as the states that are written."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import SpecError
from ..lowering.heads import numbers_of, side_by_side
from ..lowering.resolve import Resolver


def laid_out(spec: Any, resolver: Resolver, given: torch.Tensor) -> torch.Tensor:
    """A tensor of a user for a site of heads, laid out as states `[layer, position, width]`.

    Args:
        spec: the intervention, with `where`, `layers`, `site`, `stage` and `heads`.
        resolver: the case.
        given: what the user gave.

    Raises:
        SpecError: it has another shape than `[layer, head, position, head_dim]`, `[head, position, head_dim]`,
            `[position, head_dim]` or `[head_dim]`; the last two are for every head.
    """
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
            f"a tensor of the shape {tuple(given.shape)} was given, and at site {spec.site!r} here are {count} "
            f"head(s) of width {size.width}; give [layer, head, position, head_dim] or [head, position, head_dim], "
            "or for every head [position, head_dim] or [head_dim]"
        )
    if given.dim() == 1:
        whole = whole.expand(-1, -1, here.closed_places(site, spec.where).size, -1)
    return side_by_side(whole)
