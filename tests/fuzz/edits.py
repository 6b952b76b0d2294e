"""What is changed and read, as plain data: for the package as its own values, for the reference as cuts and writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

import nnsight_vlm as nv

from .places import Places
from .reference import FEATURES, Cut, Outcome, Spot, Write
from .worlds import Question, World

Where = Any
"""A group's name, a position, or a tuple of several of either."""


def resolved(where: Where, places: Places) -> tuple[int, ...]:
    """Positions, in the order of the sequence; none where a group is empty."""
    if isinstance(where, str):
        return places.groups.get(where, ())
    if isinstance(where, int):
        return (where,)
    return tuple(sorted({place for part in where for place in resolved(part, places)}))


class Shift(NamedTuple):
    """By how much padding moves the positions of a row: on its left, and of the encoder's on its right."""

    inside: int = 0
    outside: int = 0


ALONE = Shift()


def moved(where: Where, by: Shift) -> Where:
    """Positions of a row in a batch; those outside the sequence count from its end, padding included."""
    if isinstance(where, tuple):
        return tuple(moved(part, by) for part in where)
    return where if isinstance(where, str) else where + by.inside if where >= 0 else where - by.outside


def chosen_layers(layers: Any, having: Sequence[int], count: int) -> list[int]:
    """What a choice of layers means, among the layers that have the site."""
    if layers in ("all", "attention"):
        return list(having)
    if isinstance(layers, tuple) and layers[0] == "window":
        named = range(layers[1], layers[2])
    elif isinstance(layers, tuple) and layers[0] == "depth":
        named = range(round(layers[1] * count), round(layers[2] * count))
    else:
        named = [layers] if isinstance(layers, int) else list(layers)
    return [layer for layer in having if layer in named]


def for_package(layers: Any) -> Any:
    if isinstance(layers, tuple) and layers[0] == "window":
        return nv.window(*layers[1:])
    return nv.depth(*layers[1:]) if isinstance(layers, tuple) and layers[0] == "depth" else layers


def split(places: Places, positions: Sequence[int]) -> dict[str, tuple[int, ...]]:
    """Keys by the attention that reads them, as columns of its scores."""
    inside = tuple(place for place in positions if place >= 0)
    outside = tuple(places.column(place) for place in positions if place < 0)
    return {kind: keys for kind, keys in (("attention", inside), ("cross", outside)) if keys}


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A knockout, or with `allow` the knockout of the other layers."""

    source: Where
    target: Where
    layers: Any
    heads: Any = None
    stage: str = "decoder"
    allow: bool = False

    def build(self, _: World, by: Shift = ALONE) -> Any:
        kind = nv.Allow if self.allow else nv.Knockout
        by = by if self.stage == "decoder" else ALONE  # another stage has a sequence and padding of its own
        source, target = moved(self.source, by), moved(self.target, by)
        return kind(source, target, layers=for_package(self.layers), heads=self.heads, stage=self.stage)

    def plan(self, world: World, question: Question, _: Question) -> tuple[list[Cut], list[Write]]:
        places, cuts = world.places(question)[self.stage], list[Cut]()
        targets = resolved(self.target, places)
        for kind, keys in split(places, resolved(self.source, places)).items():
            having = world.having(self.stage, kind)
            layers = chosen_layers(self.layers, having, world.count(self.stage))
            for layer in having:
                if (layer in layers) == self.allow or not targets:
                    continue
                heads = self._heads(layer)
                if heads is None or heads:
                    cuts.append(Cut(spot=Spot(self.stage, kind, layer), heads=heads, queries=targets, keys=keys))
        return cuts, []

    def _heads(self, layer: int) -> tuple[int, ...] | None:
        if self.heads is None:
            return None
        pairs = [head if isinstance(head, tuple) else (layer, head) for head in self.heads]
        return tuple(sorted({head for at, head in pairs if at == layer}))


@dataclass(frozen=True, kw_only=True)
class State:
    """A state that is written: `how` is `zero`, `mean`, `resample`, `patch` (from a prompt) or `tensor`."""

    where: Where
    site: str
    how: str
    layers: Any = "all"
    stage: str = "decoder"
    source: Question | None = None
    under: tuple[Any, ...] = ()
    values: tuple[int, ...] = ()

    def build(self, world: World, by: Shift = ALONE) -> Any:
        layers = {} if self.site in ("embedding", "features") else {"layers": for_package(self.layers)}
        named = {"site": self.site, "stage": self.stage, **layers}
        by = by if self.stage == "decoder" else ALONE
        where, source = moved(self.where, by), self.source and world.prompt(self.source)
        if self.how in ("zero", "mean", "resample"):
            return nv.Ablate(where, how=self.how, source=source, **named)
        if self.how == "tensor":
            return nv.Patch(where, source=self._tensor(), **named)
        under = composed(world, self.under)
        return nv.Patch(where, source=source, source_where=None if by == ALONE else self.where, under=under, **named)

    def _tensor(self) -> torch.Tensor:
        seed, *shape = self.values
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def spots(self, world: World) -> list[Spot]:
        if self.site == "features":
            return [FEATURES]
        if self.site == "embedding":
            return [Spot(self.stage, "embedding", -1)]
        having = world.having(self.stage, "attention" if self.layers == "attention" else self.site)
        return [
            Spot(self.stage, self.site, layer) for layer in chosen_layers(self.layers, having, world.count(self.stage))
        ]

    def places(self, world: World, question: Question, where: Where) -> tuple[int, ...]:
        """Where the site holds positions."""
        positions = resolved(where, world.places(question)[self.stage])
        if self.site != "features":
            return positions
        rows = world.feature_rows(question)
        before = world.places(question)["decoder"].outside if self.stage == "encoder" else 0
        return tuple(rows[place - before] for place in positions if place - before in rows)

    def plan(self, world: World, question: Question, base: Question) -> tuple[list[Cut], list[Write]]:
        where, writes = self.where, list[Write]()
        if self.how != "zero":  # values go with the tokens that the prompt has
            where = resolved(where, world.places(base)[self.stage])
        if self.how == "mean":  # what the model said itself is left alone
            written = len(base.answer) if self.stage == "decoder" else 0
            where = tuple(place for place in where if place < world.places(base)[self.stage].length - written)
        places, values = self.places(world, question, where), self._values(world)
        for number, spot in enumerate(self.spots(world)):
            if self.how == "zero":
                change = torch.zeros_like
            elif self.how == "mean":
                change = mean
            else:
                change = setter(values[number if len(values) > 1 else 0])
            if places:
                writes.append(Write(spot=spot, places=places, change=change))
        return [], writes

    def _values(self, world: World) -> Any:
        """`[layer, position, width]` that are written."""
        if self.how in ("zero", "mean"):
            return None
        if self.how == "tensor":
            values = self._tensor()
            return values[None] if values.dim() == 2 else values
        assert self.source is not None
        source, under = self.source, self.under
        taken = world.kept(("taken", source, under), lambda: answered(world, source, under))
        places = list(self.places(world, self.source, self.where))
        return [taken.states[spot][places] for spot in self.spots(world)]


def mean(state: torch.Tensor) -> torch.Tensor:
    return state.mean(0, keepdim=True).expand_as(state)


def setter(values: torch.Tensor) -> Any:
    return lambda state: values.reshape(state.shape)


def composed(world: World, edits: Sequence[Any], by: Shift = ALONE) -> Any:
    """For the package: edits joined by `|`; None for none."""
    found = None
    for edit in edits:
        built = edit.build(world, by)
        found = built if found is None else found | built
    return found


def planned(
    world: World, question: Question, edits: Sequence[Any], base: Question | None = None
) -> tuple[list[Cut], list[Write]]:
    """For the reference: what all edits change, in their order; `base` is the prompt without what is generated."""
    cuts, writes = list[Cut](), list[Write]()
    for edit in edits:
        more_cuts, more_writes = edit.plan(world, question, base or question)
        cuts, writes = cuts + more_cuts, writes + more_writes
    return cuts, writes


def answered(world: World, question: Question, edits: Sequence[Any]) -> Outcome:
    """What the reference computes under edits."""
    return world.outcome(question, *planned(world, question, edits))


# reads ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Look:
    """Attention that is read."""

    queries: Where
    keys: Where
    layers: Any
    heads: Any = None
    reduce: str = "rows"
    top: int = 10
    stage: str = "decoder"

    def build(self, _: World, by: Shift = ALONE) -> Any:
        top = {"top": self.top} if self.reduce == "top" else {}
        return nv.Attention(
            moved(self.queries, by), moved(self.keys, by), layers=for_package(self.layers), heads=self.heads,
            stage=self.stage, reduce=self.reduce, **top,
        )  # fmt: skip

    def spots(self, world: World, question: Question) -> list[Spot]:
        places = world.places(question)[self.stage]
        (kind,) = split(places, resolved(self.keys, places))
        layers = chosen_layers(self.layers, world.having(self.stage, kind), world.count(self.stage))
        return [Spot(self.stage, kind, layer) for layer in layers]

    def expected(self, world: World, question: Question, outcome: Outcome) -> torch.Tensor:
        places = world.places(question)[self.stage]
        ((_, keys),) = split(places, resolved(self.keys, places)).items()
        queries = list(resolved(self.queries, places))
        found = []
        for spot in self.spots(world, question):
            weights = outcome.weights[spot][:, queries][..., list(keys)]
            found.append(weights if self.heads is None else weights[list(self.heads)])
        rows = torch.stack(found)
        if self.reduce == "mean":
            return rows.mean(1)
        if self.reduce == "mass":
            return rows.sum(-1)
        if self.reduce == "entropy":
            share = rows / rows.sum(-1, keepdim=True)
            return -(share * share.log()).where(share != 0, 0.0).sum(-1)
        return rows.sort(-1, descending=True).values[..., : self.top] if self.reduce == "top" else rows

    def found(self, read: torch.Tensor) -> torch.Tensor:
        """What can be compared: of the greatest keys their weights, as equal weights have no order."""
        return read[..., 1] if self.reduce == "top" else read


@dataclass(frozen=True, kw_only=True)
class Peek:
    """States that are read."""

    where: Where
    site: str
    layers: Any = "all"
    stage: str = "decoder"

    def build(self, _: World, by: Shift = ALONE) -> Any:
        layers = {} if self.site in ("embedding", "features") else {"layers": for_package(self.layers)}
        return nv.Residual(moved(self.where, by), site=self.site, stage=self.stage, **layers)

    def expected(self, world: World, question: Question, outcome: Outcome) -> torch.Tensor:
        state = State(where=self.where, site=self.site, how="zero", layers=self.layers, stage=self.stage)
        places = list(state.places(world, question, self.where))
        found = [outcome.states[spot][places] for spot in state.spots(world)]
        return found[0] if self.site in ("embedding", "features") else torch.stack(found)

    def found(self, read: torch.Tensor) -> torch.Tensor:
        return read
