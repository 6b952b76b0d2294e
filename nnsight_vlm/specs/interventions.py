"""What to change, as values: knock out attention, patch or ablate the residual stream.

An intervention is a frozen value that knows nothing of models. `a | b` does both; where they meet at one site, the left
one acts first. Each class says in `lower` what it writes where; it is handed a `Resolver`, which knows what names mean
in the model and for the prompt at hand.

References: attention knockout, Geva et al. 2023 (arXiv 2304.14767); on image tokens, Kaduri et al.
2024 (arXiv 2411.17491). Interchange patching: Geiger et al. 2021 (arXiv 2106.02997).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import SpecError
from ..lowering.layers import Layers, label
from ..lowering.resolve import Heads, RemoteStates, Resolver, listed_heads
from ..lowering.sites import check_state_spec
from ..lowering.writes import EdgeCut, PlannedWrite, StateWrite
from ..prompts.prompt import Prompt
from ..prompts.token_map import TokenMap, Where, as_tuples, require_ascending


class Intervention(ABC):
    """Something to change in a run. Compose with `|`."""

    stage: str

    @property
    def acts_in(self) -> str:
        """The stage that a single intervention changes."""
        return self.stage

    @property
    def parts(self) -> tuple[Intervention, ...]:
        """The single interventions, left to right."""
        return (self,)

    @abstractmethod
    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        """The writes `(stage, site, layer, write)` of one case.

        Raises:
            SpecError: the prompt or model has not got what the intervention names.
        """

    @abstractmethod
    def first_position(self, resolver: Resolver) -> int:
        """The first position of the prompt that changes; positions before it are as in a clean run."""

    @abstractmethod
    def first_layer(self, resolver: Resolver) -> int:
        """The first decoder layer in which anything changes; what enters it is as in a clean run."""

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

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        for part in self.parts:
            yield from part.lower(resolver)

    def first_position(self, resolver: Resolver) -> int:
        return min((part.first_position(resolver) for part in self.parts), default=resolver.placement.tokens.answer - 1)

    def first_layer(self, resolver: Resolver) -> int:
        return min((part.first_layer(resolver) for part in self.parts), default=resolver.spec.layer_count)

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
        stage: the transformer whose tokens and layers are meant, where a model has several: `"qformer"`,
            `"encoder"`.

    Where the image is read through cross-attention, its tokens have negative positions and a cut of
    them closes edges there; a query that is left without any of them reads nothing.

    >>> Knockout("image", "query", layers=3) | Knockout("image", "last")  # doctest: +ELLIPSIS
    Composed(parts=(Knockout(source='image', target='query', layers=3, heads=None, stage='decoder'), ...
    """

    source: Where
    target: Where
    layers: Layers = field(default="all", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)
    stage: str = field(default="decoder", kw_only=True)

    def __post_init__(self) -> None:
        for name in ("source", "target", "layers"):
            object.__setattr__(self, name, as_tuples(getattr(self, name)))
        object.__setattr__(self, "heads", listed_heads(self.heads))

    def cut_layers(self, resolver: Resolver, needs: str) -> tuple[int, ...]:
        """The layers that are cut, of those with `"attention"` or `"cross"`."""
        return resolver.layers(self.layers, needs)

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        here = resolver.at(self.stage)
        targets, (inside, outside) = here.places(self.target), here.keys(self.source)
        if outside:
            here.check_readers(self.target, targets)
        for site, needs, sources in (("mask", "attention", inside), ("cross mask", "cross", outside)):
            layers = self.cut_layers(here, needs) if sources else ()
            for layer in layers:
                heads = here.heads(self.heads, layer)
                if heads is None or heads.numbers:
                    yield PlannedWrite(self.stage, site, layer, EdgeCut(here.placement.row, targets, sources, heads))
            self._check_heads(layers or None)

    def _check_heads(self, layers: tuple[int, ...] | None) -> None:
        for layer, _ in (head for head in listed_heads(self.heads) or () if isinstance(head, tuple)):
            if layers is not None and layer not in layers:
                raise SpecError(f"heads names layer {layer}, which is not among layers={self.layers!r}")

    def first_position(self, resolver: Resolver) -> int:
        """The first target that could read a source at all: rows before it lose nothing."""
        tokens = resolver.placement.tokens
        if self.stage != "decoder":
            return tokens.start
        last, source = tokens.stop - 1, resolver.ranges(self.source).first
        first = last if source is None else source
        targets = resolver.positions(self.target)
        return _start_of_block(tokens, next((place for place in targets if tokens.last_seen(place) >= first), last))

    def first_layer(self, resolver: Resolver) -> int:
        cut = [write.layer for write in self.lower(resolver)]
        return min(cut, default=resolver.spec.layer_count) if self.stage == "decoder" else 0

    def fields(self) -> dict[str, Any]:
        named = {"kind": type(self).__name__.lower(), "source": self.source, "target": self.target}
        stage = {} if self.stage == "decoder" else {"stage": self.stage}
        return {**named, "layers": self.layers, **stage} | ({} if self.heads is None else {"heads": self.heads})


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

    def cut_layers(self, resolver: Resolver, needs: str) -> tuple[int, ...]:
        allowed = set(resolver.layers(self.layers, needs))
        there = resolver.spec.attention if needs == "attention" else resolver.spec.cross
        return tuple(layer for layer in there if layer not in allowed)


@dataclass(frozen=True)
class StateIntervention(Intervention):
    """Writes hidden states at positions `where` of a site: what `Patch` and `Ablate` share.

    Sites: `residual` (a layer's output), `attention`, `cross` (cross-attention) and `mlp` (what they add
    to it), `embedding` (what enters the first layer), `features` (the image features that leave the
    projector). `stage` is as in `Knockout`.
    """

    where: Where
    layers: Layers = field(default="all", kw_only=True)
    site: str = field(default="residual", kw_only=True)
    stage: str = field(default="decoder", kw_only=True)

    def __post_init__(self) -> None:
        check_state_spec(self)

    def set_values(self, resolver: Resolver, given: torch.Tensor | RemoteStates) -> Iterator[PlannedWrite]:
        """Writes of values `[layer, position, width]`, here or on the server.

        Raises:
            SpecError: source and target differ in their number of positions or layers.
        """
        here = resolver.at(self.stage)
        values = given.like if isinstance(given, RemoteStates) else given
        values = values[None] if values.dim() == 2 else values
        layers = here.state_layers(self.site, self.layers)
        row, places, count = here.closed_places(self.site, self.where)
        self._check_values(here, values, count, len(layers))
        if not count:
            return
        by_layer: Any = values.expand(len(layers), -1, -1)
        if isinstance(given, RemoteStates):
            by_layer = given.slots * (len(layers) // len(given.slots))
        for layer, states in zip(layers, by_layer, strict=True):
            yield PlannedWrite(*self.at, layer, StateWrite(row, places, "set", states))

    def _check_values(self, here: Resolver, values: torch.Tensor, positions: int, layers: int) -> None:
        if values.dim() != 3 or values.shape[1] != positions or values.shape[0] not in (1, layers):
            raise SpecError(
                f"the source gives values of shape {tuple(values.shape)} and {positions} position(s) "
                f"({self.where!r}) are written in {layers} layer(s); choose positions that correspond, "
                "in a Patch with source_where="
            )
        if values.shape[-1] != here.width(self.site):
            raise SpecError(
                f"the source's values are {values.shape[-1]} wide and the model's states {here.width(self.site)}"
            )

    def captured_from(self, source: Prompt, under: Intervention | None, where: Where) -> Capture:
        """The same site of another run."""
        return Capture(prompt=source, under=under, where=where, layers=self.layers, site=self.site, stage=self.stage)

    @property
    def acts_in(self) -> str:
        return self.at[0]

    @property
    def at(self) -> tuple[str, str]:
        """`(stage, site)`; image features lie between the stages."""
        return ("features", "features") if self.site == "features" else (self.stage, self.site)

    def first_position(self, resolver: Resolver) -> int:
        tokens = resolver.placement.tokens
        if self.stage != "decoder":
            return tokens.start
        first = resolver.ranges(self.where).first
        return _start_of_block(tokens, tokens.stop - 1 if first is None else max(first, tokens.start))

    def first_layer(self, resolver: Resolver) -> int:
        return max(0, min(resolver.state_layers(self.site, self.layers))) if self.stage == "decoder" else 0

    def fields(self) -> dict[str, Any]:
        return {"kind": type(self).__name__.lower(), "where": self.where, "layers": self.layers, "site": self.site} | (
            {} if self.stage == "decoder" else {"stage": self.stage}
        )


@dataclass(frozen=True, kw_only=True)
class Capture:
    """Hidden states to take from another run: `where` of `prompt`, run `under` an intervention."""

    prompt: Prompt
    under: Intervention | None
    where: Where
    layers: Layers
    site: str
    stage: str


def _start_of_block(tokens: TokenMap, position: int) -> int:
    """Earliest affected position: in a block that sees itself both ways all tokens change when one does."""
    return min([position, *(start for start, stop in tokens.blocks if start <= position < (stop or tokens.stop))])


@dataclass(frozen=True, eq=False)
class Patch(StateIntervention):
    """Write another run's hidden states over this run's (activation or interchange patching).

    Args:
        where: positions to write, in the run that is patched.
        source: the `Prompt` whose run gives the values (one row), or a tensor
            `[layer, position, width]` or `[position, width]`.
        layers, site, stage: see `StateIntervention`.
        under: intervention on the source run; with the same prompt as source this is path patching.
        source_where: positions in the source; default the same names as `where`.
    """

    source: Prompt | torch.Tensor = field(kw_only=True)
    under: Intervention | None = field(default=None, kw_only=True)
    source_where: Where | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "source_where", as_tuples(self.source_where))
        require_ascending(self.source_where)
        if not isinstance(self.source, (Prompt, torch.Tensor)):
            raise SpecError(
                f"a patch takes its values from a Prompt or a tensor; {type(self.source).__name__} was given"
            )

    def capture(self) -> Capture | None:
        if not isinstance(self.source, Prompt):
            return None
        where = self.where if self.source_where is None else self.source_where
        return self.captured_from(self.source, self.under, where)

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        values = resolver.captured[id(self)] if isinstance(self.source, Prompt) else self.source
        yield from self.set_values(resolver, values)


@dataclass(frozen=True, eq=False)
class Ablate(StateIntervention):
    """Take away what positions hold.

    Args:
        where, layers, site, stage: see `StateIntervention`.
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
        return None if self.source is None else self.captured_from(self.source, None, self.where)

    def lower(self, resolver: Resolver) -> Iterator[PlannedWrite]:
        if self.source is not None:
            yield from self.set_values(resolver, resolver.captured[id(self)])
            return
        here, where = resolver.at(self.stage), self.where
        if self.how == "mean":  # a mean over what is there: tokens to come would each be a mean of their own
            where = here.ranges(self.where).positions(here.placement.tokens.answer)
            if not where:
                raise SpecError("tokens that are not written yet have no mean; give positions of a grown prompt")
        layers = here.state_layers(self.site, self.layers)
        row, places = here.state_places(self.site, where)
        for layer in layers:
            yield PlannedWrite(*self.at, layer, StateWrite(row, places, self.how, None))

    def fields(self) -> dict[str, Any]:
        return super().fields() | {"how": self.how}
