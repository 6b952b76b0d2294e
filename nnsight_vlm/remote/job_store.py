"""Jobs on disk: what was sent under which id, and what came back, so that nothing is lost or done twice.

A job is known by a digest of all that it asks. Whoever asks the same again, in this process or in another one, finds
the answer, or the id under which the server has it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..storage import atomic_write

_OPEN: list[JobStore] = []


class JobStore:
    """A folder of jobs: `<digest>.json` says under which id one was sent, `<digest>.answer` is what came back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def job(self, mark: str) -> str | None:
        """The id under which a job was sent."""
        path = self.folder / f"{mark}.json"
        return str(json.loads(path.read_text())["job"]) if path.exists() else None

    def answer(self, mark: str) -> bytes | None:
        """What came back, as the server gave it."""
        path = self.folder / f"{mark}.answer"
        return path.read_bytes() if path.exists() else None

    def sent(self, mark: str, job: str, host: str) -> None:
        """Note that a job was sent."""
        with atomic_write(self.folder / f"{mark}.json") as fresh:
            fresh.write_text(json.dumps({"job": job, "host": host}) + "\n")

    def answered(self, mark: str, content: bytes) -> None:
        """Keep what came back."""
        with atomic_write(self.folder / f"{mark}.answer") as fresh:
            fresh.write_bytes(content)

    def forget(self, mark: str) -> None:
        """Drop a job that the server does not know any more, or whose answer is no answer."""
        for ending in ("json", "answer"):
            (self.folder / f"{mark}.{ending}").unlink(missing_ok=True)


@contextmanager
def storing_jobs(folder: Path | None) -> Iterator[None]:
    """Keep all jobs in a folder from here on, unless they are kept already; None keeps nothing."""
    if folder is None or _OPEN:
        yield
        return
    record = JobStore(folder)
    _OPEN.append(record)
    try:
        yield
    finally:
        _OPEN.remove(record)


def current_store() -> JobStore | None:
    """Where jobs are kept just now."""
    return _OPEN[-1] if _OPEN else None
