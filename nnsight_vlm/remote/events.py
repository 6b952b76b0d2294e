"""Events of remote jobs that code can follow: status messages of the server, and counts of jobs and bytes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..arguments import number


class _Blocks(threading.local):
    """The `with` blocks of this module around a point of one thread; other threads' jobs are none of their business.

    Not a `ContextVar`, see `job_store`.
    """

    def __init__(self) -> None:
        self.listeners: list[Callable[[str], None]] = []
        self.counters: list[Traffic] = []
        self.patience: list[float] = []


_BLOCKS = _Blocks()


@dataclass(kw_only=True)
class Traffic:
    """What was sent to servers and what came back.

    Attributes:
        jobs: number of jobs sent; a job that is sent again counts again.
        payload: bytes sent.
        answers: bytes received.
    """

    jobs: int = 0
    payload: int = 0
    answers: int = 0


@contextmanager
def counting() -> Iterator[Traffic]:
    """Count the jobs that this thread sends inside the `with` block.

    >>> with counting() as traffic:
    ...     pass
    >>> traffic
    Traffic(jobs=0, payload=0, answers=0)
    """
    counter = Traffic()
    counters = _BLOCKS.counters
    counters.append(counter)
    try:
        yield counter
    finally:
        counters[:] = [each for each in counters if each is not counter]  # equal counts are not one counter


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call `listener` with every new status of a job of this thread inside the `with` block.

    Nested blocks call the innermost only.
    """
    _BLOCKS.listeners.append(listener)
    try:
        yield
    finally:
        _BLOCKS.listeners.remove(listener)


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """How long a job may be without news inside the `with` block, before it counts as lost.

    News is a new status, such as a place further ahead in the queue. A job without news is sent again once, and then an
    error says so. By default that is after ten minutes for a job that the server has handed to the model and that does
    not run yet, and after two hours for one that waits in the queue or runs. Lengthen it for a server on which one job
    runs longer.

    Args:
        seconds: greater than 0; `float("inf")` waits for as long as it takes.

    Raises:
        SpecError: no such number.

    >>> with patience(6 * 3600):
    ...     pass  # nv.sweep(model, prompt, variants, answer="a", remote=True)
    """
    write = "seconds, such as nv.remote.patience(3600)"
    wait = number("seconds", seconds, above=0, kind="time to wait", finite=False, write=write)
    _BLOCKS.patience.append(wait)
    try:
        yield
    finally:
        _BLOCKS.patience.pop()


def current_patience() -> float | None:
    """The seconds of the innermost `patience` block; None outside of any."""
    return _BLOCKS.patience[-1] if _BLOCKS.patience else None


def has_listener() -> bool:
    """Whether a listener is registered."""
    return bool(_BLOCKS.listeners)


def emit(status: str) -> None:
    """Hand a job's new status to the listener, if there is one."""
    if _BLOCKS.listeners:
        _BLOCKS.listeners[-1](status)


def count(*, jobs: int = 0, payload: int = 0, answers: int = 0) -> None:
    """Add to every open counter."""
    for counter in _BLOCKS.counters:
        counter.jobs += jobs
        counter.payload += payload
        counter.answers += answers
