"""Jobs on disk: under which id each was sent and what came back, so that nothing is lost or sent twice.

A job is known by a digest of everything that it asks and of the server's address. Whoever asks that server the same
again, in this process or another, finds the stored answer, or the id under which the server has the job.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..storage import atomic_write


class _Open(threading.local):
    """The stores of the `storing_jobs` blocks around this point of one thread.

    Not a `ContextVar`: computations that take turns in one thread (see `batching`) have a context of their own each,
    and the jobs of all of them belong in the store of the block around them.
    """

    def __init__(self) -> None:
        self.stores: list[JobStore] = []


_OPEN = _Open()


class JobStore:
    """A folder of jobs: `<digest>.json` holds the id that the server gave, `<digest>.answer` what it sent back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def job_id(self, digest: str) -> str | None:
        """The id under which a job was sent; None if it was not, or if its file cannot be read."""
        try:
            return str(json.loads((self.folder / f"{digest}.json").read_text())["job"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def answer(self, digest: str) -> bytes | None:
        """What the server sent back; None if nothing was stored."""
        path = self.folder / f"{digest}.answer"
        return path.read_bytes() if path.exists() else None

    def record_sent(self, digest: str, job_id: str, host: str) -> None:
        """Remember that a job was sent."""
        with atomic_write(self.folder / f"{digest}.json") as fresh:
            fresh.write_text(json.dumps({"job": job_id, "host": host}) + "\n")

    def record_answer(self, digest: str, content: bytes) -> None:
        """Keep an answer, as it came."""
        with atomic_write(self.folder / f"{digest}.answer") as fresh:
            fresh.write_bytes(content)

    def forget(self, digest: str) -> None:
        """Drop a job that the server no longer knows, or whose answer cannot be read."""
        for ending in ("json", "answer"):
            (self.folder / f"{digest}.{ending}").unlink(missing_ok=True)


@contextmanager
def storing_jobs(folder: Path | None) -> Iterator[None]:
    """Store all jobs that this thread sends in the `with` block in a folder; None stores nothing.

    An outer block's folder takes precedence.
    """
    if folder is None or _OPEN.stores:
        yield
        return
    store = JobStore(folder)
    _OPEN.stores.append(store)
    try:
        yield
    finally:
        _OPEN.stores.remove(store)


def current_store() -> JobStore | None:
    """The store of the enclosing `storing_jobs` block of this thread."""
    return _OPEN.stores[-1] if _OPEN.stores else None
