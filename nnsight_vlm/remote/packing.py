"""What travels to a server: requests as plain tuples, and every row of every input tensor once.

Many variants of one picture have its pixels in common, and many of their tokens. Rows of all inputs of one shape and
kind lie in one *pool*; an input is `(number of its pool, rows of it)`. So a payload grows with pictures, not with what
is done to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..identity import bytes_of
from .model_call import ModelCall, in_order

SMALL = 64
"""Bytes of a tensor below which it is sent as it is."""


class RowPool:
    """Rows of input tensors, each kept once."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._rows: list[dict[bytes, tuple[int, torch.Tensor]]] = []

    def add(self, request: ModelCall) -> tuple[Any, ...]:
        """A request as `runner.carry_out` takes it: its task, its inputs, packed, and the rest."""
        return request.task, {name: self.packed(value) for name, value in request.inputs.items()}, request.rest

    def add_all(self, requests: Sequence[ModelCall]) -> list[tuple[Any, ...]]:
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


def packed(requests: Sequence[ModelCall]) -> Packed:
    """Requests, with those that they need, as `runner.carry_out` takes them, and their pools."""
    pools = RowPool()
    return pools.add_all(requests), pools.tensors()
