"""Events of remote jobs that code can follow: status messages of the server, and counts of jobs and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LISTENERS: list[Callable[[str], None]] = []
_COUNTERS: list[Traffic] = []


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
    """Count the jobs that are sent inside the `with` block.

    >>> with counting() as traffic:
    ...     pass
    >>> traffic
    Traffic(jobs=0, payload=0, answers=0)
    """
    counter = Traffic()
    _COUNTERS.append(counter)
    try:
        yield counter
    finally:
        _COUNTERS.remove(counter)


@contextmanager
def listening(listener: Callable[[str], None]) -> Iterator[None]:
    """Call `listener` with every new status of a job inside the `with` block; nested blocks call the innermost only."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def has_listener() -> bool:
    """Whether a listener is registered."""
    return bool(_LISTENERS)


def emit(status: str) -> None:
    """Hand a job's new status to the listener, if there is one."""
    if _LISTENERS:
        _LISTENERS[-1](status)


def count(*, jobs: int = 0, payload: int = 0, answers: int = 0) -> None:
    """Add to every open counter."""
    for counter in _COUNTERS:
        counter.jobs += jobs
        counter.payload += payload
        counter.answers += answers
