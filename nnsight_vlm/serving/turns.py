"""One request at a time has the model, in the order in which they came."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import CancelledError
from typing import Any

from ..errors import Worded
from ..remote.watching import Watcher, watched_by
from ..showing import visible
from .fields import field_of

News = dict[str, Any]
"""One line of what a page is told."""
MOST_WAITING = 16
"""How many requests wait at most."""
TROUBLE = "something went wrong here ({}: {}); the window in which the server runs shows where"


class Turn:
    """One request for the model, and the news of it.

    Attributes:
        is_over: whether the page that asked has left; whoever works on the request looks at it now and then.
    """

    def __init__(self, work: Callable[[Turn], News], loop: asyncio.AbstractEventLoop) -> None:
        self.work, self._loop = work, loop
        self.is_over = False
        self.news: asyncio.Queue[News | None] = asyncio.Queue()

    def tell(self, news: News | None) -> None:
        """Hand one line to the page; None is the end. Called from any thread."""
        if not self.is_over and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.news.put_nowait, news)

    def run(self, report: Callable[[BaseException], None]) -> None:
        """Do the work, and tell its result, or what was wrong in words."""
        try:
            self.tell({"waiting": 0})
            with watched_by(Watcher(has_left=lambda: self.is_over)):
                self.tell(self.work(self))
        except Worded as error:
            self.tell({"error": str(error), **field_of(error)})
        except CancelledError:
            pass  # nobody reads the news any more
        except Exception as error:  # whatever a model raises must reach the page, and end this request alone
            report(error)
            self.tell({"error": TROUBLE.format(type(error).__name__, visible(str(error)[:300]))})
        finally:
            self.tell(None)


class Turns:
    """A thread that does what requests ask, one after the other.

    Args:
        report: is handed errors that are no answer in words.
    """

    def __init__(self, report: Callable[[BaseException], None]) -> None:
        self._waiting: queue.Queue[Turn | None] = queue.Queue()
        self._report = report
        self._at_work: Turn | None = None
        self._thread = threading.Thread(target=self._work, name="nnsight-vlm model", daemon=True)
        self._thread.start()

    async def take(self, work: Callable[[Turn], News]) -> AsyncIterator[News]:
        """The news of a request, as they come; when nobody reads them any more, the request is given up.

        Args:
            work: what is done on the model's thread; returns the last line.
        """
        if self._waiting.qsize() >= MOST_WAITING:
            yield {"error": "too many requests are waiting for the model; try again in a moment"}
            return
        turn, before = Turn(work, asyncio.get_running_loop()), self._waiting.qsize()
        if before or self._at_work is not None:
            yield {"waiting": before + 1}
        self._waiting.put(turn)
        try:
            while (news := await turn.news.get()) is not None:
                yield news
        finally:
            self._leave(turn)

    def _leave(self, turn: Turn) -> None:
        """Nobody reads the news of a turn any more; one that still waits is not waited for."""
        turn.is_over = True
        with self._waiting.mutex, contextlib.suppress(ValueError):
            self._waiting.queue.remove(turn)

    def stop(self, seconds: float = 2.0) -> None:
        """Give up what is being done and what waits, and wait so many seconds at most for the thread to end."""
        self.give_up()
        self._waiting.put(None)
        self._thread.join(seconds)

    def give_up(self) -> None:
        """End what is being done and what waits; whoever reads its news reads their end."""
        while not self._waiting.empty():
            if (turn := self._waiting.get_nowait()) is not None:
                turn.tell(None)
        if (turn := self._at_work) is not None:
            turn.tell(None)
            turn.is_over = True

    def _work(self) -> None:
        while (turn := self._waiting.get()) is not None:
            if not turn.is_over:
                self._at_work = turn
                turn.run(self._report)
                self._at_work = None
