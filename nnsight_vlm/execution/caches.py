"""Caches for rows that begin with what has been run, with room for what comes.

transformers' own cache copies all of its keys and values for every decoded token. Of a batch of rows that
is most of the time that decoding takes on a CPU, so here a token is written into memory that is kept free for it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 512
"""Tokens that there is room for behind the prompt, unless told otherwise; then as many again."""


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values `[row, head, position, width]`, views of memory that has room behind them."""

    def __init__(self, room: int = ROOM) -> None:
        super().__init__()
        self.room = room

    def begin(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Hold a copy of these."""
        self.lazy_initialization(keys, values)
        self.keys, self.values = _with_room(keys, self.room), _with_room(values, self.room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the states of new tokens; returns those of all tokens."""
        if not self.is_initialized:
            self.begin(key_states, value_states)
        else:
            self.keys, self.values = self._grown(self.keys, key_states), self._grown(self.values, value_states)
        return self.keys, self.values

    def _grown(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        length = held.shape[2] + new.shape[2]
        if length * held.stride(2) > held.stride(1):  # of one head, what lies behind belongs to the next
            held = _with_room(held, self.room + new.shape[2])
        longer = held.as_strided((*held.shape[:2], length, held.shape[3]), held.stride(), held.storage_offset())
        longer[:, :, held.shape[2] :] = new
        return longer


def _with_room(states: torch.Tensor, room: int) -> torch.Tensor:
    """A copy of `[row, head, position, width]` that can be made longer."""
    rows, heads, length, width = states.shape
    held = states.new_empty(rows, heads, length + room, width)[:, :, :length]
    return held.copy_(states)


def growing_cache(config: Any, room: int = ROOM) -> Cache:
    """An empty cache for a decoder of this config, as `generate` makes it, with room in all layers that grow."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def cache_continuing(caches: Sequence[Cache], origins: Sequence[Sequence[int]], room: int) -> Cache:
    """A cache for a batch of rows: `origins[layer][row]` says which of `caches`, each of one row, a row begins with."""
    fresh = copy.copy(caches[0])
    fresh.layers = [
        _begun([cache.layers[number] for cache in caches], chosen, room) for number, chosen in enumerate(origins)
    ]
    return fresh


def _begun(layers: Sequence[Any], origins: Sequence[int], room: int) -> Any:
    if type(layers[0]) is GrowingLayer and list(origins) == [0]:
        return copy.copy(layers[0])  # it goes on in the room behind, see `CroppableCache`
    if type(layers[0]) in (DynamicLayer, GrowingLayer) and layers[0].is_initialized:
        fresh = GrowingLayer(room)
        fresh.begin(*(_chosen([getattr(layer, name) for layer in layers], origins) for name in ("keys", "values")))
        return fresh
    fresh = copy.copy(layers[0])
    for name in vars(fresh):
        setattr(fresh, name, _own([getattr(layer, name) for layer in layers], origins))
    return fresh


def _own(held: Sequence[Any], origins: Sequence[int]) -> Any:
    """What a layer of another kind holds (windows, states of recurrences), for a batch."""
    if isinstance(held[0], dict):
        return {key: _own([each[key] for each in held], origins) for key in held[0]}
    batched = isinstance(held[0], torch.Tensor) and held[0].dim() > 1
    return _chosen(held, origins).clone() if batched else held[0]


def _chosen(states: Sequence[torch.Tensor], origins: Sequence[int]) -> torch.Tensor:
    """`[row, ...]`, each the one row of some states; a view where all are the same."""
    if len(set(origins)) == 1:
        return states[origins[0]].expand(len(origins), *states[0].shape[1:])
    return torch.cat([states[origin] for origin in origins])


def keeps_every_key(config: Any) -> bool:
    """Whether every layer of a decoder of this config keeps the keys of all tokens, so that its cache can be cut."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


@dataclass(frozen=True, kw_only=True, eq=False)
class CroppableCache:
    """The cache of a whole prompt, of which every beginning can be had, to be run on from there.

    A pass of one row writes its tokens behind that beginning, into the very memory: nothing is copied. So one pass
    is run at a time, and what lies behind `first` is kept a second time.

    Attributes:
        cache: of growing layers, where they are `layers`; others hold what is no part of the sequence.
        layers: the layers that hold keys of the sequence.
        first: no beginning is shorter than this.
        tail: keys and values behind it, a pair a layer.
    """

    cache: Cache
    layers: Sequence[int]
    first: int
    tail: Sequence[tuple[torch.Tensor, torch.Tensor]]

    @classmethod
    def of(cls, cache: Cache, layers: Sequence[int], first: int) -> CroppableCache:
        """A cache that a run has filled, see `growing_cache`."""
        held = [cache.layers[number] for number in layers]
        tail = [(layer.keys[:, :, first:].clone(), layer.values[:, :, first:].clone()) for layer in held]
        return cls(cache=cache, layers=layers, first=first, tail=tail)

    def beginning(self, length: int) -> Cache:
        """The first `length` positions."""
        fresh = copy.copy(self.cache)
        fresh.layers = list(self.cache.layers)
        for number, tail in zip(self.layers, self.tail, strict=True):
            layer = fresh.layers[number] = copy.copy(self.cache.layers[number])
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
            for held, rest in zip((layer.keys, layer.values), tail, strict=True):
                held[:, :, self.first :] = rest[:, :, : length - self.first]
        return fresh
