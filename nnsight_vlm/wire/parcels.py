"""What travels to a server: requests as plain tuples, and every row of every input tensor once.

Many variants of one picture have its pixels in common, and many of their tokens. Rows of all inputs of one shape and
kind lie in one *pool*; an input is `(number of its pool, rows of it)`. So a payload grows with pictures, not with what
is done to them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from .requests import Request, in_order

SMALL = 64
"""Bytes of a tensor below which it is sent as it is."""


class Pools:
    """Rows of input tensors, each kept once."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._rows: list[dict[bytes, tuple[int, torch.Tensor]]] = []

    def add(self, request: Request) -> tuple[Any, ...]:
        """A request as `runner.carry_out` takes it: its task, its inputs, packed, and the rest."""
        return request.task, {name: self.packed(value) for name, value in request.inputs.items()}, request.rest

    def add_all(self, requests: Sequence[Request]) -> list[tuple[Any, ...]]:
        """Requests, and before each what it needs; see `requests.in_order`."""
        return [self.add(each) for each in in_order(requests)]

    def packed(self, value: Any) -> Any:
        """`(number of its pool, rows of it)` for a tensor of rows, else the value."""
        if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.nbytes < SMALL:
            return value
        value = value.detach().cpu()
        number = self._numbers.setdefault((value.dtype, *value.shape[1:]), len(self._numbers))
        if number == len(self._rows):
            self._rows.append({})
        return number, torch.tensor([self._place(self._rows[number], row) for row in value], dtype=torch.int32)

    def _place(self, pool: dict[bytes, tuple[int, torch.Tensor]], row: torch.Tensor) -> int:
        known = bytes_of(row)
        if known not in pool:
            pool[known] = len(pool), row.clone()  # of a tensor that may be let go
            self.nbytes += row.nbytes
        return pool[known][0]

    def tensors(self) -> list[torch.Tensor]:
        """The pools, `[row, ...]` each."""
        return [torch.stack([row for _, row in pool.values()]) for pool in self._rows]


Packed = tuple[list[tuple[Any, ...]], list[torch.Tensor]]


def packed(requests: Sequence[Request]) -> Packed:
    """Requests, with those that they need, as `runner.carry_out` takes them, and their pools."""
    pools = Pools()
    return pools.add_all(requests), pools.tensors()


def bytes_of(tensor: torch.Tensor) -> bytes:
    """A tensor's values."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def mark_of(*parts: Any) -> str:
    """A short name for what is asked: equal where everything in it is equal, in any process."""
    found = hashlib.sha256()
    boxes: dict[int, int] = {}
    for piece in _told(parts, boxes):
        found.update(len(piece).to_bytes(8, "little") + piece)
    return found.hexdigest()[:24]


def _told(value: Any, boxes: dict[int, int]) -> Iterator[bytes]:
    """What a value is, piece by piece; boxes, which are empty lists, by their order."""
    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield bytes_of(value)
    elif isinstance(value, list) and not value:
        yield f"box {boxes.setdefault(id(value), len(boxes))}".encode()
    elif isinstance(value, Mapping):
        yield from _told([(name, value[name]) for name in sorted(value, key=str)], boxes)
    elif isinstance(value, Iterable) and not isinstance(value, str):
        listed = list(value)
        yield f"{len(listed)} of them".encode()
        for part in listed:
            yield from _told(part, boxes)
    else:
        yield repr(getattr(value, "__qualname__", value)).encode()
