"""What to look at in a run, as values: attention rows and hidden states.

A readout never changes a run. It sees what the model really used, after every intervention.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch

from ..arguments import one_of, text, whole_number
from ..device import readouts
from ..errors import SpecError
from ..lowering.heads import Heads, listed_heads, require_ascending_heads, require_named_layers
from ..lowering.layers import Layers, layer_numbers, require_ascending_layers
from ..lowering.read_requests import AttentionRequest, StateRequest
from ..lowering.resolve import Resolver
from ..lowering.sites import AT_PROJECTOR, SITES, StateSite, check_state_spec
from ..prompts.where import Where, as_tuples, require_ascending


class ReadRequest(NamedTuple):
    """What is read of one case in one layer.

    Attributes:
        stage, layer, site: where.
        readout: a function of `device.readouts`.
        request: what this function is asked.
    """

    stage: str
    layer: int
    site: str
    readout: Callable[..., Any]
    request: AttentionRequest | StateRequest


Reduction = Literal["rows", "mean", "mass", "entropy", "top"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
TOP = 10
"""How many keys `reduce="top"` gives unless told otherwise."""


class Readout(ABC):
    """Something to look at in a run."""

    stage: str

    @abstractmethod
    def named(self) -> dict[str, Where]:
        """The positions that it names, by argument."""

    @abstractmethod
    def lower(self, resolver: Resolver) -> Iterator[ReadRequest]:
        """One request for each layer, for one case."""

    @abstractmethod
    def numbers(self, resolver: Resolver) -> int:
        """How many numbers it gives of one case, at most."""

    @abstractmethod
    def assemble(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        """Combine the results of the layers into one tensor."""


def _some(layers: tuple[int, ...]) -> tuple[int, ...]:
    """The layers that are read.

    Raises:
        SpecError: there are none.
    """
    if not layers:
        raise SpecError('layers=() names no layer to read; write "all", a number or a list of numbers')
    return layers


@dataclass(frozen=True)
class Attention(Readout):
    """Attention probabilities from `queries` to `keys`: `[layer, head, query, key]`, float32, or float64 as the model.

    Only these rows are computed, from the live query, key and mask, under sdpa as under eager.
    Rows are normalised over *all* keys, so they sum to 1 only where `keys="all"`.

    Args:
        queries, keys: group name(s) or positions.
        layers: which layers.
        heads: head numbers; default all.
        stage: the transformer that is looked at, see `Knockout`; keys outside its sequence (an image
            in Mllama) are read from cross-attention, in the layers that have it.
        reduce: `rows`; `mean`, the mean of the rows over the heads `[layer, query, key]`; `mass`, the sum over the
            keys `[layer, head, query]`; `entropy` of the distribution over the keys, in nats, `[layer, head, query]`,
            NaN where no key is left; or `top`, the keys that are looked at most `[layer, head, query, top, 2]`: their
            positions, and probabilities.
        top: how many keys `reduce="top"` gives, most first; 10 unless told otherwise.
    """

    queries: Where
    keys: Where
    layers: Layers = field(default="all", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)
    stage: str = field(default="decoder", kw_only=True)
    reduce: Reduction = field(default="rows", kw_only=True)
    top: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("queries", "keys", "layers"):
            object.__setattr__(self, name, as_tuples(getattr(self, name)))
        object.__setattr__(self, "heads", listed_heads(self.heads))
        require_ascending(self.queries)
        require_ascending(self.keys)
        require_ascending_layers(self.layers)
        require_ascending(self.heads, "heads", "of the model")
        if self.heads == ():
            raise SpecError("heads=() names no head to read; leave heads out for all of them")
        if any(isinstance(head, tuple) for head in listed_heads(self.heads) or ()):
            raise SpecError(
                f"attention is read of the same heads in every layer; give head numbers, not {self.heads!r}"
            )
        one_of("reduce", self.reduce, REDUCTIONS, "reduction")
        text("stage", self.stage, 'stage="decoder"')
        if self.top is None:
            return
        object.__setattr__(self, "top", whole_number("top", self.top, kind="number of keys"))
        if self.reduce != "top":
            raise SpecError(f'top={self.top} is for reduce="top", and reduce={self.reduce!r} was asked for; choose one')

    def named(self) -> dict[str, Where]:
        return {"queries": self.queries, "keys": self.keys}

    def lower(self, resolver: Resolver) -> Iterator[ReadRequest]:
        here = resolver.at(self.stage)
        queries, (inside, outside) = here.places(self.queries), here.keys(self.keys)
        if inside and outside:
            raise SpecError(
                f"keys={self.keys!r} lie in the sequence and outside it, in attentions of their own; "
                "write one nv.Attention for each"
            )
        site, needs = ("cross mask", "cross") if outside else ("mask", "attention")
        if outside:
            here.check_readers(self.queries, queries)
        keys = outside or inside
        there = len(here.positions(self.keys))
        top = TOP if self.top is None else self.top
        if self.reduce == "top" and not 0 < top <= there:
            raise SpecError(f"no top={top} of the {there} keys {self.keys!r}; give a number from 1 to {there}")
        layers = _some(here.layers(self.layers, needs))
        require_ascending_layers(self.layers, here.spec.layer_count)
        for layer in layers:
            heads = here.heads(self.heads, layer)
            numbers = None if heads is None else heads.numbers
            request = AttentionRequest(here.placement.row, queries, keys, numbers, self.reduce, top)
            yield ReadRequest(self.stage, layer, site, readouts.attention_rows, request)

    def numbers(self, resolver: Resolver) -> int:
        here = resolver.at(self.stage)
        queries, keys = len(here.positions(self.queries)), len(here.positions(self.keys))
        each = {"rows": keys, "mean": keys, "top": 2 * (self.top or TOP)}.get(self.reduce, 1)
        heads = 1 if self.reduce == "mean" else here.spec.head_count
        return len(layer_numbers(self.layers, here.spec.layer_count)) * heads * queries * each

    def assemble(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        stacked = torch.stack(list(layers))
        return stacked[:, 0] if self.reduce == "mean" else stacked


@dataclass(frozen=True)
class Residual(Readout):
    """Hidden states at positions: `[layer, position, width]`, in the model's own dtype.

    `site` is one of those of `StateIntervention`; `embedding` and `features` have no layers and give
    `[position, width]`. Sites of heads give `[layer, head, position, head_dim]`, of the chosen `heads` in the order of
    the model: numbers, or `(layer, head)` pairs that name equally many in every layer.
    """

    where: Where
    layers: Layers = field(default="all", kw_only=True)
    site: StateSite = field(default="residual", kw_only=True)
    stage: str = field(default="decoder", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_state_spec(self)
        require_ascending_heads(self.heads)
        if self.heads == ():
            raise SpecError("heads=() names no head to read; leave heads out for all of them")

    def named(self) -> dict[str, Where]:
        return {"where": self.where}

    def lower(self, resolver: Resolver) -> Iterator[ReadRequest]:
        here = resolver.at(self.stage)
        site = here.site_of(self.site, self.where)
        layers = _some(here.ordered_layers(site, self.layers))
        row, places = here.state_places(site, self.where)
        stage = "features" if site in AT_PROJECTOR else self.stage
        here.width(site, layers)  # refuses layers whose heads differ in size
        heads = [here.read_heads(self.heads, layer, site) if SITES[site].part else None for layer in layers]
        if len({None if chosen is None else len(chosen.numbers) for chosen in heads}) > 1:
            raise SpecError(
                f"heads={self.heads!r} names more heads in one of the layers {layers} than in another, and what "
                "is read of them is one tensor [layer, head, position, head_dim]; write one nv.Residual for each"
            )
        require_named_layers(self.heads, layers, here.spec.layer_count, self.layers)
        for layer, chosen in zip(layers, heads, strict=True):
            yield ReadRequest(stage, layer, site, SITES[site].read, StateRequest(row, places, chosen))

    def numbers(self, resolver: Resolver) -> int:
        here = resolver.at(self.stage)
        layers = here.state_layers(here.site_of(self.site, self.where), self.layers)
        return len(layers) * len(here.positions(self.where)) * here.width(self.site, layers, self.heads)

    def assemble(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.stack(list(layers)) if SITES[self.site].layered else layers[0]
