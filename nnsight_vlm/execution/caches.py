"""Key-value caches that have room for what comes, and can begin with what another run left.

transformers' own cache copies all of its keys and values for every decoded token. For a batch of rows that is most of
the time that decoding takes on a CPU, so here a new token is written into memory that is kept free for it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM = 512
"""Spare capacity in tokens behind the prompt, unless told otherwise; when it is used up, as many again."""


class KeysAndValues(NamedTuple):
    """The keys and values of one layer, `[row, head, position, head_dim]` each."""

    keys: torch.Tensor
    values: torch.Tensor


class GrowingLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values `[row, head, position, head_dim]`, views of memory that has room behind them."""

    def __init__(self, room: int = ROOM) -> None:
        super().__init__()
        self.room = room

    def begin(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Begin with a copy of these."""
        self.lazy_initialization(keys, values)
        self.keys, self.values = _copied_with_room(keys, self.room), _copied_with_room(values, self.room)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the keys and values of new tokens; returns those of all tokens."""
        if not self.is_initialized:
            self.begin(key_states, value_states)
        else:
            self.keys, self.values = self._extended(self.keys, key_states), self._extended(self.values, value_states)
        return self.keys, self.values

    def _extended(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        length = held.shape[2] + new.shape[2]
        if length * held.stride(2) > held.stride(1):  # the memory behind this head's room is the next head's
            held = _copied_with_room(held, self.room + new.shape[2])
        longer = held.as_strided((*held.shape[:2], length, held.shape[3]), held.stride(), held.storage_offset())
        longer[:, :, held.shape[2] :] = new
        return longer


def _copied_with_room(states: torch.Tensor, room: int) -> torch.Tensor:
    """A copy of `[row, head, position, head_dim]` in memory that has room for more positions."""
    rows, heads, length, width = states.shape
    copied = states.new_empty(rows, heads, length + room, width)[:, :, :length]
    return copied.copy_(states)


def growing_cache(config: Any, room: int = ROOM) -> Cache:
    """An empty cache for a decoder of this config, as `generate` makes it, with room in all layers that grow."""
    cache = DynamicCache(config=config)
    cache.layers = [GrowingLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keeps_every_key(config: Any) -> bool:
    """Whether every layer of a decoder of this config keeps all tokens' keys, so that its cache can be cropped."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)


# a batch that begins with what was run -----------------------------------------------------------


def cache_continuing(caches: Sequence[Cache], origins: Sequence[Sequence[int]], room: int) -> Cache:
    """A cache for a batch whose rows begin with what other runs left.

    Args:
        caches: caches of one row each.
        origins: `origins[layer][row]` is the number of the cache that a row of the batch begins with in a layer.
        room: how many more tokens there is room for.
    """
    batch = copy.copy(caches[0])
    batch.layers = [
        _layer_continuing([cache.layers[layer] for cache in caches], chosen, room)
        for layer, chosen in enumerate(origins)
    ]
    return batch


def _layer_continuing(layers: Sequence[Any], origins: Sequence[int], room: int) -> Any:
    if type(layers[0]) is GrowingLayer and list(origins) == [0]:
        return copy.copy(layers[0])  # one row goes on in the room behind it, see `CroppableCache`
    if type(layers[0]) in (DynamicLayer, GrowingLayer) and layers[0].is_initialized:
        growing = GrowingLayer(room)
        growing.begin(*(_chosen([getattr(layer, name) for layer in layers], origins) for name in ("keys", "values")))
        return growing
    batch = copy.copy(layers[0])
    for name in vars(batch):
        setattr(batch, name, _batched([getattr(layer, name) for layer in layers], origins))
    return batch


def _batched(contents: Sequence[Any], origins: Sequence[int]) -> Any:
    """What layers of another kind hold (windows, states of recurrences), chosen for every row of a batch."""
    if isinstance(contents[0], dict):
        return {key: _batched([each[key] for each in contents], origins) for key in contents[0]}
    by_row = isinstance(contents[0], torch.Tensor) and contents[0].dim() > 1
    return _chosen(contents, origins).clone() if by_row else contents[0]


def _chosen(states: Sequence[torch.Tensor], origins: Sequence[int]) -> torch.Tensor:
    """`[row, ...]`, each the only row of one of the states; a view where all rows are the same."""
    if len(set(origins)) == 1:
        return states[origins[0]].expand(len(origins), *states[0].shape[1:])
    return torch.cat([states[origin] for origin in origins])


# the cache of a whole prompt ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class CroppableCache:
    """The cache of a full prompt; `beginning(n)` gives the cache of its first n tokens.

    A forward of one row that goes on from a beginning writes its tokens behind it, over the rest of the prompt: nothing
    is copied. So one such forward runs at a time, and what it overwrites is kept a second time.

    Attributes:
        cache: the filled cache. Layers in `layers` are `GrowingLayer`s; the rest hold keys that are not part of the
            sequence.
        layers: the layers that hold keys of the sequence.
        first: no beginning is shorter than this.
        tail: the second copy of what lies behind `first`, for each of `layers`.
    """

    cache: Cache
    layers: Sequence[int]
    first: int
    tail: Sequence[KeysAndValues]

    @classmethod
    def of(cls, cache: Cache, layers: Sequence[int], first: int) -> CroppableCache:
        """From a cache that a run has filled, see `growing_cache`."""
        filled = [cache.layers[number] for number in layers]
        tail = [KeysAndValues(layer.keys[:, :, first:].clone(), layer.values[:, :, first:].clone()) for layer in filled]
        return cls(cache=cache, layers=layers, first=first, tail=tail)

    def beginning(self, length: int) -> Cache:
        """The cache of the first `length` positions, what was overwritten of them restored."""
        cropped = copy.copy(self.cache)
        cropped.layers = list(self.cache.layers)
        for number, tail in zip(self.layers, self.tail, strict=True):
            layer = cropped.layers[number] = copy.copy(self.cache.layers[number])
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
            for held, kept in zip((layer.keys, layer.values), tail, strict=True):
                held[:, :, self.first :] = kept[:, :, : length - self.first]
        return cropped
