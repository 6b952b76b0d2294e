"""Work that is given up between two model calls, because nobody waits for what it would give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar

_IS_OVER: ContextVar[Callable[[], bool] | None] = ContextVar("is_over", default=None)


@contextmanager
def given_up_when(is_over: Callable[[], bool]) -> Iterator[None]:
    """Let this thread's work inside the block end at its next model call, once nobody waits for it."""
    before = _IS_OVER.set(is_over)
    try:
        yield
    finally:
        _IS_OVER.reset(before)


def give_up_if_over() -> None:
    """End the work here, if nobody waits for it.

    Raises:
        CancelledError: nobody does.
    """
    is_over = _IS_OVER.get()
    if is_over is not None and is_over():
        raise CancelledError("nobody waits for this any more")
