"""What happens on the line, for whoever wants to know: what a server says of a job, and what goes to and fro."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LISTENERS: list[Callable[[str], None]] = []
_COUNTERS: list[Traffic] = []


@dataclass(kw_only=True)
class Traffic:
    """What went to servers and came back.

    Attributes:
        jobs: how many jobs were sent, those sent again among them.
        payload: bytes of what was sent.
        answers: bytes of what came home.
    """

    jobs: int = 0
    payload: int = 0
    answers: int = 0


@contextmanager
def counting() -> Iterator[Traffic]:
    """Count the jobs that are sent from here on.

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
    """Hand every change of a job's status to a listener; the innermost hears it."""
    _LISTENERS.append(listener)
    try:
        yield
    finally:
        _LISTENERS.remove(listener)


def has_listener() -> bool:
    """Whether anybody wants to hear."""
    return bool(_LISTENERS)


def tell(status: str) -> None:
    """Say what a server says of a job."""
    if _LISTENERS:
        _LISTENERS[-1](status)


def count(*, jobs: int = 0, payload: int = 0, answers: int = 0) -> None:
    """Count what was sent or came back."""
    for counter in _COUNTERS:
        counter.jobs += jobs
        counter.payload += payload
        counter.answers += answers
