"""What is sent to a server: calls as plain tuples, and every distinct row of their input tensors once.

Many variants of one picture have all pixels and most tokens in common. Rows of the same shape and dtype are therefore
collected in one *pool*, and an input becomes `(number of its pool, rows in that pool)`. The payload then grows with the
number of pictures and hardly with the number of variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from nnsight import save
from nnsight.ndif import pull_env
from nnsight.schema.request import RequestModel
from nnsight.tracing.backend import Backend

from ..device.runner import carry_out
from ..families import view_of
from ..families.locks import lock_of
from ..identity import bytes_of
from .model_call import ModelCall, in_order

SMALL_TENSOR_BYTES = 64
"""Tensors of fewer bytes are sent as they are."""


class PackedCalls(NamedTuple):
    """Calls as `device.runner.carry_out` takes them.

    Attributes:
        calls: `(task, packed inputs, rest)` of each call, in the order in which they run.
        pools: the row pools, `[row, ...]` each.
    """

    calls: list[tuple[Any, ...]]
    pools: list[torch.Tensor]


class _PooledRow(NamedTuple):
    """A row of a pool: its place in the pool, and its values."""

    place: int
    values: torch.Tensor


class RowPool:
    """Distinct rows of input tensors, in one pool for each dtype and shape of row.

    Attributes:
        nbytes: bytes of all rows together.
    """

    def __init__(self) -> None:
        self.nbytes = 0
        self._numbers: dict[tuple[Any, ...], int] = {}
        self._pools: list[dict[bytes, _PooledRow]] = []

    def add(self, call: ModelCall) -> tuple[Any, ...]:
        """A call as `device.runner.carry_out` takes it: task, packed inputs and further arguments."""
        return call.task, {name: self.pack(value) for name, value in call.inputs.items()}, call.rest

    def add_all(self, calls: Sequence[ModelCall]) -> list[tuple[Any, ...]]:
        """Calls, each after those that it needs; see `in_order`."""
        return [self.add(call) for call in in_order(calls)]

    def pack(self, value: Any) -> Any:
        """`(number of the pool, rows in it)` for a tensor of rows; anything else is returned as it is."""
        if not isinstance(value, torch.Tensor) or value.dim() < 2 or value.nbytes < SMALL_TENSOR_BYTES:
            return value
        value = value.detach().cpu()
        number = self._numbers.setdefault((value.dtype, *value.shape[1:]), len(self._numbers))
        if number == len(self._pools):
            self._pools.append({})
        return number, torch.tensor([self._place(self._pools[number], row) for row in value], dtype=torch.int32)

    def _place(self, pool: dict[bytes, _PooledRow], row: torch.Tensor) -> int:
        content = bytes_of(row)
        if content not in pool:
            pool[content] = _PooledRow(len(pool), row.clone())  # a view would keep its whole tensor in memory
            self.nbytes += row.nbytes
        return pool[content].place

    def tensors(self) -> list[torch.Tensor]:
        """The pools, `[row, ...]` each."""
        return [torch.stack([row.values for row in pool.values()]) for pool in self._pools]


def pack(calls: Sequence[ModelCall]) -> PackedCalls:
    """Pack calls together with those that they need."""
    pool = RowPool()
    return PackedCalls(pool.add_all(calls), pool.tensors())


def run_session(model: Any, digest: str, packed: PackedCalls, backend: Backend) -> list[Any]:
    """One nnsight session that carries out packed calls, handed to a backend: `[digest, answers]`.

    The variable that the session saves is called `answer`, and so is the entry in what a server sends back.
    """
    calls, pools = packed
    answer: list[Any] = []
    with model.session(backend=backend):
        answer = save(carry_out(model, digest, calls, pools))
    return answer


class _Serializer(Backend):  # type: ignore[misc]
    """An nnsight backend that serializes a session instead of running it."""

    def __init__(self, compress: bool) -> None:
        self.compress, self.payload = compress, b""

    def __call__(self, tracer: Any) -> None:
        pull_env()
        self.payload = RequestModel.serialize(tracer, self.compress)


class Payload:
    """The bytes of a job, serialized when they are first needed."""

    def __init__(self, model: Any, digest: str, packed: PackedCalls) -> None:
        self._model, self._digest, self._packed = model, digest, packed
        self._bytes = b""

    def serialized(self, compress: bool) -> bytes:
        """The job as a server takes it."""
        if not self._bytes:
            serializer = _Serializer(compress)
            with lock_of(view_of(self._model).module):
                run_session(self._model, self._digest, self._packed, serializer)
            self._bytes = serializer.payload
        return self._bytes
