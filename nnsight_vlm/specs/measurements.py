"""What to look at in a run, as values: attention rows and hidden states.

A readout never changes a run. It sees what the model really used, after every intervention.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch

from ..arguments import listed, one_of, spelled, text, whole_number
from ..device import contributions, readouts
from ..errors import SpecError
from ..lowering.head_choice import Heads, listed_heads, require_ascending_heads, require_named_layers
from ..lowering.layers import Layers, layer_numbers, require_ascending_layers
from ..lowering.read_requests import AttentionRequest, ContributionRequest, ReadOfRow, StateRequest
from ..lowering.resolve import Resolver
from ..lowering.sites import AT_PROJECTOR, SITES, StateSite, check_state_spec
from ..prompts.where import Where, as_tuples, require_ascending
from .named import Named


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
    request: ReadOfRow


Reduction = Literal["rows", "mean", "mass", "entropy", "top", "contribution"]
REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)
TOP = 10
"""How many keys `reduce="top"` gives unless told otherwise."""
MASKS = {"attention": "mask", "cross": "cross mask"}
WEIGHTS = {"attention": "weights", "cross": "cross weights"}
"""The sites where weights are read, and those behind what else an attention is handed."""
SUMMED = ("heads", "keys")
"""Over what vectors can be summed before their norm is taken."""


class Readout(Named, ABC):
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


def some_layers(layers: tuple[int, ...]) -> tuple[int, ...]:
    """The layers that are read.

    Raises:
        SpecError: there are none.
    """
    if not layers:
        raise SpecError('layers=() names no layer to read; write "all", a number or a list of numbers')
    return layers


def _summed(over: Any) -> tuple[str, ...] | None:
    """Over what vectors are summed, in one order.

    Raises:
        SpecError: anything else than some of `SUMMED`.
    """
    if over is None:
        return None
    named = (over,) if isinstance(over, str) else listed("over", over, '["heads", "keys"]', kind=str)
    if not named or len(set(named)) < len(named) or not set(named) <= set(SUMMED):
        raise SpecError(f'no over={spelled(over)}; write "heads", "keys" or ["heads", "keys"], or leave it out')
    return tuple(name for name in SUMMED if name in named)


def _check_sum(here: Resolver, kind: str) -> None:
    """Refuse contributions of keys where what an attention gives is no sum of them.

    Raises:
        SpecError: a norm lies between its heads and the output projection, or that clips.
    """
    is_normed, is_clipped = getattr(here.spec.stage, kind).inner_norm, kind in here.spec.clipped
    if is_normed or is_clipped:
        why = "a norm lies between the heads and the output projection" if is_normed else "the output projection clips"
        raise SpecError(
            f"in the {here.stage} of {here.family.name!r} models {why}, so what a key adds depends on all others; "
            'read the weights, reduce="rows", or the values, nv.Residual(..., site="value")'
        )


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
            NaN where no key is left; `top`, the keys that are looked at most `[layer, head, query, top, 2]`: their
            positions, and probabilities; or `contribution`, how long the vectors are that the keys add to the query's
            row, `[layer, head, query, key]`.
        top: how many keys `reduce="top"` gives, most first; 10 unless told otherwise.
        over: for `reduce="contribution"`, over what the vectors are summed before their norm is taken: `"keys"`, which
            gives what all of them add `[layer, head, query]`; `"heads"`, `[layer, query, key]`; or both,
            `["heads", "keys"]`, `[layer, query]`. None takes the norm of each.

    A key's contribution in one head is the Euclidean norm of its value, times its weight, through the head's part of
    the output projection (Kobayashi et al. 2020, arXiv 2004.10102): the vectors of all heads and keys, and the bias,
    add up to what the projection gives. What lies behind it is left out: a norm (Gemma, GLM), a gate (Mllama), a factor
    (Granite). Gates before it count (Qwen3.5, LFM3). Weights, values and gates are those of the run, under whatever is
    done to them; what is written at the sites `head`, `attention` and `cross` is written behind. Where a norm lies
    before the projection (Kosmos-2's decoder), no key has a part of its own, and `run` raises `SpecError`.
    """

    queries: Where
    keys: Where
    layers: Layers = field(default="all", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)
    stage: str = field(default="decoder", kw_only=True)
    reduce: Reduction = field(default="rows", kw_only=True)
    top: int | None = field(default=None, kw_only=True)
    over: str | Sequence[str] | None = field(default=None, kw_only=True)

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
        object.__setattr__(self, "over", _summed(self.over))
        if self.over and self.reduce != "contribution":
            raise SpecError(
                f'over={self.over!r} is for reduce="contribution", and reduce={self.reduce!r} was asked for; choose one'
            )
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
        needs = "cross" if outside else "attention"
        if outside:
            here.check_readers(self.queries, queries)
        keys = outside or inside
        there = len(here.positions(self.keys))
        top = TOP if self.top is None else self.top
        if self.reduce == "top" and not 0 < top <= there:
            raise SpecError(f"no top={top} of the {there} keys {self.keys!r}; give a number from 1 to {there}")
        layers = some_layers(here.layers(self.layers, needs))
        require_ascending_layers(self.layers, here.spec.layer_count)
        for layer in layers:
            heads = here.heads(self.heads, layer)
            numbers = None if heads is None else heads.numbers
            asked = here.placement.row, queries, keys, numbers
            if self.reduce == "contribution":
                _check_sum(here, needs)
                request = ContributionRequest(*asked, tuple(self.over or ()), here.spec.head_gates[needs])
                yield ReadRequest(self.stage, layer, WEIGHTS[needs], contributions.contributions, request)
            else:
                rows = AttentionRequest(*asked, self.reduce, top)
                yield ReadRequest(self.stage, layer, MASKS[needs], readouts.attention_rows, rows)

    def numbers(self, resolver: Resolver) -> int:
        here = resolver.at(self.stage)
        queries, keys = len(here.positions(self.queries)), len(here.positions(self.keys))
        over = self.over or ()
        of_keys = keys if "keys" not in over else 1
        each = {"rows": keys, "mean": keys, "top": 2 * (self.top or TOP), "contribution": of_keys}.get(self.reduce, 1)
        heads = 1 if self._one_head else here.spec.head_count
        return len(layer_numbers(self.layers, here.spec.layer_count)) * heads * queries * each

    def assemble(self, layers: Sequence[torch.Tensor]) -> torch.Tensor:
        stacked = torch.stack(list(layers))
        return stacked[:, 0] if self._one_head else stacked

    @property
    def _one_head(self) -> bool:
        """Whether all heads become one."""
        return self.reduce == "mean" or "heads" in (self.over or ())


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
        layers = some_layers(here.ordered_layers(site, self.layers))
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
