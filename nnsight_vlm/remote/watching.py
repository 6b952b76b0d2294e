"""Who watches a thread's work: a page that shows words and steps while they come, and that may leave before the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple


def _stays() -> bool:
    return False


class Watcher(NamedTuple):
    """What somebody wants of the work that is done for them.

    Attributes:
        has_left: whether nobody waits for the work any more. An answer whose words are heard ends at its next token,
            all else at its next model call.
        words: is handed the tokens of an answer so far, one more each time; None to hear no words.
        steps: is handed what is measured, how many parts of it are done, and how many there are; None to hear nothing.
    """

    has_left: Callable[[], bool] = _stays
    words: Callable[[tuple[int, ...]], None] | None = None
    steps: Callable[[str, int, int], None] | None = None


class _Counted:
    """A measurement that is counted now, and who hears of it."""

    def __init__(self, what: str, total: int, steps: Callable[[str, int, int], None]) -> None:
        self.what, self.total, self.done, self.steps = what, total, 0, steps

    def add(self, count: int) -> None:
        self.done = min(self.done + count, self.total)
        self.steps(self.what, self.done, self.total)


class _Watched(NamedTuple):
    watcher: Watcher = Watcher()
    counted: _Counted | None = None


_NOBODY = _Watched()
_WATCHED: ContextVar[_Watched] = ContextVar("watched", default=_NOBODY)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let somebody watch this thread's work inside the block, in place of whoever did before."""
    with _watched(_Watched(watcher)):
        yield


@contextmanager
def counted_steps(what: str, total: int) -> Iterator[None]:
    """Count what is done inside the block as parts of this measurement; where nobody listens, nothing is counted."""
    watcher = present_watcher()
    counted = None if watcher.steps is None else _Counted(what, total, watcher.steps)
    with _watched(_Watched(watcher, counted)):
        if counted is not None:
            counted.add(0)
        yield


@contextmanager
def _watched(watched: _Watched) -> Iterator[None]:
    before = _WATCHED.set(watched)
    try:
        yield
    finally:
        _WATCHED.reset(before)


def step(count: int = 1) -> None:
    """So many parts of what is counted are done."""
    counted = _WATCHED.get().counted
    if counted is not None:
        counted.add(count)


def present_watcher() -> Watcher:
    """Who watches now; one who wants nothing, where nobody does."""
    return _WATCHED.get().watcher


def give_up_if_left() -> None:
    """End the work here, if nobody waits for it.

    Raises:
        CancelledError: nobody does.
    """
    if present_watcher().has_left():
        raise CancelledError("nobody waits for this any more")
