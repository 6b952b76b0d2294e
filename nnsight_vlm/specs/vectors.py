"""Hidden states that are moved by a vector or stretched by a factor: steering.

References: activation addition, Turner et al. 2023 (arXiv 2308.10248); contrastive directions, Rimsky et al. 2023
(arXiv 2312.06681).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from ..arguments import number, spelled
from ..errors import SpecError
from ..lowering.head_choice import require_ascending_heads, require_named_layers
from ..lowering.resolve import Resolver
from ..lowering.writes import PlannedWrite, StateWrite
from .states import StateIntervention


@dataclass(frozen=True, eq=False)
class Add(StateIntervention):
    """Add a vector to hidden states: `state + scale * vector`.

    Args:
        where: positions; with one vector for all of them also `"generated"` tokens, each as it is decoded.
        vector: a tensor as `Patch` takes it as its source: `[width]`, one vector for every position,
            `[position, width]` or `[layer, position, width]`; `nv.direction` gives `[layer, 1, width]`.
        scale: what the vector is multiplied by. The product is computed in float32 (of a vector in float64 in float64)
            and added in the dtype of the states.
        layers, site, stage, heads: see `StateIntervention`.

    >>> import torch
    >>> Add("query", torch.ones(64), layers=4, scale=2.0).scale
    2.0
    """

    vector: torch.Tensor
    scale: float = field(default=1.0, kw_only=True)

    GIVEN = "vector"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.vector, torch.Tensor) or self.vector.is_complex() or self.vector.dtype == torch.bool:
            raise SpecError(
                f"vector={spelled(self.vector)} is no tensor of real numbers; write nv.Add(where, torch.tensor(...)), "
                "or take one from nv.direction(...)"
            )
        object.__setattr__(self, "vector", self.vector.detach().clone())  # the caller may write into it later
        object.__setattr__(self, "scale", number("scale", self.scale))
        require_ascending_heads(self.heads)

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        if self.layers == ():
            return
        precise = self.vector if self.vector.dtype == torch.float64 else self.vector.float()
        yield from self.tensor_writes(resolver, precise * self.scale, "add")

    def fields(self) -> dict[str, Any]:
        return super().fields() | {"scale": self.scale}


@dataclass(frozen=True)
class Scale(StateIntervention):
    """Multiply hidden states by a factor, at `"generated"` tokens too: 0 is `Ablate`, 1 changes no number.

    Args:
        where: positions.
        factor: a number.
        layers, site, stage, heads: see `StateIntervention`.

    >>> Scale("last", 0.5, layers=4).factor
    0.5
    """

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factor", number("factor", self.factor))

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        if self.layers == ():
            return
        here = resolver.at(self.stage)
        site = here.site_of(self.site, self.where)
        layers = here.state_layers(site, self.layers)
        row, places = here.state_places(site, self.where)
        for layer in layers:
            yield from self.write_in(here, layer, StateWrite(row, places, "scale", self.factor))
        require_named_layers(self.heads, layers, here.spec.layer_count, self.layers)

    def fields(self) -> dict[str, Any]:
        return super().fields() | {"factor": self.factor}
