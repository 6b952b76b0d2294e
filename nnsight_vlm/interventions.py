"""What to change, as values: knock out attention, patch or ablate the residual stream.

An intervention is a frozen value that knows nothing of models. `a | b` does both; where they meet
at one site, the left one acts first. Each class says in `lower` what it writes where, at a `Scope`
that has resolved names to places.

References: attention knockout, Geva et al. 2023 (arXiv 2304.14767); on image tokens, Kaduri et al.
2024 (arXiv 2411.17491). Interchange patching: Geiger et al. 2021 (arXiv 2106.02997).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from .errors import SpecError
from .layers import Layers, label
from .plan import Heads, Scope, Write, listed_heads, settle_state
from .prompts import Prompt
from .rows import Where, ascending, frozen, to_positions

Written = tuple[str, int, Write]


class Intervention(ABC):
    """Something to change in a run. Compose with `|`."""

    @property
    def parts(self) -> tuple[Intervention, ...]:
        """The single interventions, left to right."""
        return (self,)

    @abstractmethod
    def lower(self, scope: Scope) -> Iterator[Written]:
        """The writes `(site, layer, write)` of one case.

        Raises:
            SpecError: the prompt or model has not got what the intervention names.
        """

    @abstractmethod
    def first_position(self, scope: Scope) -> int:
        """The first position of the prompt that changes; positions before it are as in a clean run."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """What a table says of it."""

    def capture(self) -> Capture | None:
        """The hidden states of another run that it needs, if any."""
        return None

    def __or__(self, other: Intervention) -> Intervention:
        """Both; at one site the left acts first."""
        if not isinstance(other, Intervention):
            raise SpecError(f"{other!r} is no intervention; compose with | only Knockout, Allow, Patch, Ablate")
        return Composed(parts=self.parts + other.parts)


@dataclass(frozen=True, kw_only=True)
class Composed(Intervention):
    """Several interventions in one run, made by `|`; with no parts, the clean run."""

    parts: tuple[Intervention, ...] = ()

    def lower(self, scope: Scope) -> Iterator[Written]:
        for part in self.parts:
            yield from part.lower(scope)

    def first_position(self, scope: Scope) -> int:
        return min((part.first_position(scope) for part in self.parts), default=scope.seat.tokens.answer - 1)

    def fields(self) -> dict[str, Any]:
        told = [part.fields() for part in self.parts]
        keys = dict.fromkeys(key for fields in told for key in fields)
        joined = {key: " | ".join(str(label(fields[key])) for fields in told if key in fields) for key in keys}
        return joined or {"kind": "clean"}


CLEAN = Composed()


@dataclass(frozen=True)
class Knockout(Intervention):
    """Close the attention edges along which `target` reads from `source`.

    Information flows source -> target: `Knockout("image", "query")` keeps the query from seeing the
    image. A closed edge has attention probability exactly 0; the rest of the row renormalises.

    Args:
        source: group name(s) or positions of the keys.
        target: group name(s) or positions of the queries.
        layers: which layers; see `window` and `depth`.
        heads: which heads, as numbers (in each of the layers) or `(layer, head)` pairs; default all.

    >>> Knockout("image", "query", layers=3) | Knockout("image", "last")  # doctest: +ELLIPSIS
    Composed(parts=(Knockout(source='image', target='query', layers=3, heads=None), ...
    """

    source: Where
    target: Where
    layers: Layers = field(default="all", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("source", "target", "layers"):
            object.__setattr__(self, name, frozen(getattr(self, name)))
        object.__setattr__(self, "heads", listed_heads(self.heads))

    def cut_layers(self, scope: Scope) -> tuple[int, ...]:
        """The layers that are cut."""
        return scope.layers(self.layers)

    def lower(self, scope: Scope) -> Iterator[Written]:
        sources, targets = scope.places(self.source), scope.places(self.target)
        layers = self.cut_layers(scope)
        for layer, _ in (head for head in listed_heads(self.heads) or () if isinstance(head, tuple)):
            if layer not in layers:
                raise SpecError(f"heads names layer {layer}, which is not among layers={self.layers!r}")
        for layer in layers:
            heads = scope.heads(self.heads, layer)
            if heads is None or heads[1]:
                yield "mask", layer, (scope.seat.row, targets, sources, heads)

    def first_position(self, scope: Scope) -> int:
        """The first target that could read a source at all: rows before it lose nothing."""
        last = scope.seat.tokens.stop - 1
        first = min((start for start, _ in scope.ranges(self.source)), default=last)
        reached = (max(start, first) for start, stop in scope.ranges(self.target) if stop is None or stop > first)
        return min(reached, default=last)

    def fields(self) -> dict[str, Any]:
        named = {"kind": type(self).__name__.lower(), "source": self.source, "target": self.target}
        return {**named, "layers": self.layers} | ({} if self.heads is None else {"heads": self.heads})


@dataclass(frozen=True)
class Allow(Knockout):
    """Let `target` read from `source` in these layers only: a knockout of all the others.

    With `heads`, only these heads are cut there.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(isinstance(head, tuple) for head in listed_heads(self.heads) or ()):
            raise SpecError(
                f"Allow cuts the layers that it does not name; give head numbers, not pairs: {self.heads!r}"
            )

    def cut_layers(self, scope: Scope) -> tuple[int, ...]:
        allowed = set(scope.layers(self.layers))
        return tuple(layer for layer in range(scope.layer_count) if layer not in allowed)


@dataclass(frozen=True)
class StateWrite(Intervention):
    """Writes hidden states at positions `where` of a site: what `Patch` and `Ablate` share.

    Sites: `residual` (a layer's output), `attention` and `mlp` (what they add to it), `embedding`
    (what enters the decoder), `features` (the image features that leave the projector).
    """

    where: Where
    layers: Layers = field(default="all", kw_only=True)
    site: str = field(default="residual", kw_only=True)

    def __post_init__(self) -> None:
        settle_state(self)

    def set_values(self, scope: Scope, values: torch.Tensor) -> Iterator[Written]:
        """Writes of `values` `[layer, position, width]`.

        Raises:
            SpecError: source and target differ in their number of positions or layers.
        """
        values = values[None] if values.dim() == 2 else values
        layers = scope.state_layers(self.site, self.layers)
        positions = to_positions(scope.ranges(self.where), scope.seat.tokens.stop)
        if values.dim() != 3 or values.shape[1] != len(positions) or values.shape[0] not in (1, len(layers)):
            raise SpecError(
                f"the source gives values of shape {tuple(values.shape)} and {len(positions)} position(s) "
                f"({self.where!r}) are written in {len(layers)} layer(s); choose positions that correspond, "
                "in a Patch with source_where="
            )
        if values.shape[-1] != scope.width:
            raise SpecError(f"the source's values are {values.shape[-1]} wide and the model's states {scope.width}")
        if not positions:
            return
        places = scope.state_places(self.site, positions)
        for layer, rows in zip(layers, values.expand(len(layers), -1, -1), strict=True):
            yield self.site, layer, (*places, "set", rows)

    def first_position(self, scope: Scope) -> int:
        return min((start for start, _ in scope.ranges(self.where)), default=scope.seat.tokens.stop - 1)

    def fields(self) -> dict[str, Any]:
        return {"kind": type(self).__name__.lower(), "where": self.where, "layers": self.layers, "site": self.site}


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Hidden states to take from another run: `where` of `prompt`, run `under` an intervention."""

    prompt: Prompt
    under: Intervention | None
    where: Where
    layers: Layers
    site: str


@dataclass(frozen=True, eq=False)
class Patch(StateWrite):
    """Write another run's hidden states over this run's (activation or interchange patching).

    Args:
        where: positions to write, in the run that is patched.
        source: the `Prompt` whose run gives the values (one row), or a tensor
            `[layer, position, width]` or `[position, width]`.
        layers, site: see `StateWrite`.
        under: intervention on the source run; with the same prompt as source this is path patching.
        source_where: positions in the source; default the same names as `where`.
    """

    source: Prompt | torch.Tensor = field(kw_only=True)
    under: Intervention | None = field(default=None, kw_only=True)
    source_where: Where | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "source_where", frozen(self.source_where))
        ascending(self.source_where)
        if not isinstance(self.source, (Prompt, torch.Tensor)):
            raise SpecError(
                f"a patch takes its values from a Prompt or a tensor; {type(self.source).__name__} was given"
            )

    def capture(self) -> Capture | None:
        if not isinstance(self.source, Prompt):
            return None
        where = self.where if self.source_where is None else self.source_where
        return Capture(prompt=self.source, under=self.under, where=where, layers=self.layers, site=self.site)

    def lower(self, scope: Scope) -> Iterator[Written]:
        values = scope.captured[id(self)] if isinstance(self.source, Prompt) else self.source
        yield from self.set_values(scope, values)


@dataclass(frozen=True, eq=False)
class Ablate(StateWrite):
    """Take away what positions hold.

    Args:
        where, layers, site: see `StateWrite`.
        how: `zero`; `mean`, the mean over these positions of the prompt in this run (decoded tokens
            are left alone); or `resample`, the values that the same positions have in the run of
            `source`.
        source: the other prompt, for `resample`.

    To write a mean over a data set, use `Patch` with a tensor.
    """

    how: str = field(default="zero", kw_only=True)
    source: Prompt | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in ("zero", "mean", "resample"):
            raise SpecError(f"no ablation how={self.how!r}; there are zero, mean and resample")
        if (self.how == "resample") != isinstance(self.source, Prompt):
            raise SpecError(
                'resampling needs the prompt to sample from: nv.Ablate("image", how="resample", source=other)'
            )

    def capture(self) -> Capture | None:
        if self.source is None:
            return None
        return Capture(prompt=self.source, under=None, where=self.where, layers=self.layers, site=self.site)

    def lower(self, scope: Scope) -> Iterator[Written]:
        if self.source is not None:
            yield from self.set_values(scope, scope.captured[id(self)])
            return
        where = self.where
        if self.how == "mean":  # a mean over what is there: tokens to come would each be a mean of their own
            where = to_positions(scope.ranges(self.where), scope.seat.tokens.answer)
            if not where:
                raise SpecError("tokens that are not written yet have no mean; give positions of a grown prompt")
        places = scope.state_places(self.site, where)
        for layer in scope.state_layers(self.site, self.layers):
            yield self.site, layer, (*places, self.how, None)

    def fields(self) -> dict[str, Any]:
        return super().fields() | {"how": self.how}
