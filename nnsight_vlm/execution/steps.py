"""How far a long measurement is, for a page that shows it while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

StepListener = Callable[[str, int, int], None]
"""Is handed what is measured, how many parts of it are done, and how many there are."""


class _Counted:
    """A measurement that is counted now."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, total, 0


class _Heard(NamedTuple):
    listener: StepListener
    counted: _Counted | None = None


_HEARD: ContextVar[_Heard | None] = ContextVar("heard", default=None)


@contextmanager
def steps_heard_by(listener: StepListener) -> Iterator[None]:
    """Let a listener hear how far this thread's counted measurements are, inside the block."""
    before = _HEARD.set(_Heard(listener))
    try:
        yield
    finally:
        _HEARD.reset(before)


@contextmanager
def counted_steps(what: str, total: int) -> Iterator[None]:
    """Count what is done inside the block as parts of this measurement; where nobody listens, nothing is counted."""
    heard = _HEARD.get()
    if heard is None:
        yield
        return
    before = _HEARD.set(heard._replace(counted=_Counted(what, total)))
    try:
        heard.listener(what, 0, total)
        yield
    finally:
        _HEARD.reset(before)


def step(count: int = 1) -> None:
    """So many parts are done."""
    heard = _HEARD.get()
    if heard is not None and heard.counted is not None:
        counted = heard.counted
        counted.done = min(counted.done + count, counted.total)
        heard.listener(counted.what, counted.done, counted.total)
