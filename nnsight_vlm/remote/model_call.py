"""What is asked of a model: plain data, made at home, carried out by `runner`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Remote = bool | str
"""nnsight's own meaning: here, on the configured server, `"local"` for its simulation, or a server's address."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelCall:
    """One run of a model.

    Attributes:
        task: a task of `runner`.
        inputs: keyword arguments of the model.
        rest: what else the task is given.
        needs: requests that fill the boxes in `rest`: they run before it, in the same job.
        numbers: how many numbers its answer holds, at most.
    """

    task: Callable[..., Any]
    inputs: Mapping[str, Any]
    rest: tuple[Any, ...]
    needs: tuple[ModelCall, ...] = ()
    numbers: int = 0


Asked = tuple[Any, ModelCall, Remote, int]
"""`(model, request, where, lane)`: requests of different lanes are never in one job."""


def in_order(requests: Iterable[ModelCall]) -> list[ModelCall]:
    """Requests, each once, behind those that it needs."""
    found: dict[int, ModelCall] = {}
    for request in requests:
        found |= {id(each): each for each in in_order(request.needs)}
        found[id(request)] = request
    return list(found.values())
