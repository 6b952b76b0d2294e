"""A model call: one run of a model as plain data, built on this machine and carried out by `device.runner`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..arguments import refuse

Remote = bool | str
"""Where a call runs, as in nnsight: False is here, True the configured server, `"local"` nnsight's simulation of a
server, and any other string a server's address."""


def check_remote(given: Any, name: str = "remote") -> None:
    """Refuse a place where no call can run.

    Raises:
        SpecError: neither True, False, `"local"` nor an address.
    """
    is_place = isinstance(given, str) and (given == "local" or given.startswith(("http://", "https://")))
    if not isinstance(given, bool) and not is_place:
        refuse(name, given, "place to run", f'{name}=True, or the address of a server, {name}="http://127.0.0.1:8001"')


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelCall:
    """One run of a model.

    Attributes:
        task: a task of `device.runner`.
        inputs: keyword arguments of the model.
        rest: further arguments of the task.
        needs: calls that run before this one in the same job, because they fill slots (empty lists) in `rest`.
        numbers: upper bound on how many numbers the answer holds.
    """

    task: Callable[..., Any]
    inputs: Mapping[str, Any]
    rest: tuple[Any, ...]
    needs: tuple[ModelCall, ...] = ()
    numbers: int = 0


class PendingCall(NamedTuple):
    """A call that a computation waits for.

    Attributes:
        model: the nnsight model.
        call: what is asked of it.
        remote: where it runs.
        lane: calls of different lanes are never put in one job.
    """

    model: Any
    call: ModelCall
    remote: Remote
    lane: int = 0


def in_order(calls: Iterable[ModelCall]) -> list[ModelCall]:
    """The calls and all that they need, each once, with every call after those that it needs."""
    ordered: dict[int, ModelCall] = {}
    for call in calls:
        ordered |= {id(needed): needed for needed in in_order(call.needs)}
        ordered[id(call)] = call
    return list(ordered.values())
