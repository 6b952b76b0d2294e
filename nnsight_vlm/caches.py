"""Caches for rows that begin with what has been run, with room for what comes.

transformers' own cache copies all of its keys and values for every decoded token. Of a batch of rows that
is most of the time that decoding takes on a CPU, so here a token is written into memory that is kept free for it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 64
"""Tokens that are made room for at once."""


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
            self.room = max(self.room, held.shape[2])
            held = _with_room(held, self.room + new.shape[2])
        longer = held.as_strided((*held.shape[:2], length, held.shape[3]), held.stride(), held.storage_offset())
        longer[:, :, held.shape[2] :] = new
        return longer


def _with_room(states: torch.Tensor, room: int) -> torch.Tensor:
    """A copy of `[row, head, position, width]` that can be made longer."""
    rows, heads, length, width = states.shape
    held = states.new_empty(rows, heads, length + room, width)[:, :, :length]
    return held.copy_(states)


def growing_cache(config: Any, room: int) -> Cache:
    """An empty cache for a decoder of this config, as `generate` makes it, with room in all layers that grow."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def begun(caches: Sequence[Cache], origins: Sequence[Sequence[int]], room: int) -> Cache:
    """A cache for a batch of rows: `origins[layer][row]` says which of `caches`, each of one row, a row begins with."""
    fresh = copy.copy(caches[0])
    fresh.layers = [
        _begun([cache.layers[number] for cache in caches], chosen, room) for number, chosen in enumerate(origins)
    ]
    return fresh


def _begun(layers: Sequence[Any], origins: Sequence[int], room: int) -> Any:
    if type(layers[0]) is DynamicLayer and layers[0].is_initialized:
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


def keeps_all(config: Any) -> bool:
    """Whether every layer of a decoder of this config keeps the keys of all tokens, so that its cache can be cut."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


def shortened(cache: Cache, length: int, layers: Sequence[int]) -> Cache:
    """The first positions of a cache that keeps all, in these layers; others hold what is no part of the sequence."""
    shorter = copy.copy(cache)
    shorter.layers = list(cache.layers)
    for number in layers:
        layer = shorter.layers[number] = copy.copy(cache.layers[number])
        layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
    return shorter
