"""One server at a time: the lock, how to wait for it, and the error when it is not released in time."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


class ServerError(RuntimeError):
    """The server did not do what it was asked for."""


class ServerBusy(ServerError):
    """Another process has its server running."""


def wait_until(condition: Callable[[], bool], seconds: float, pause: float = 0.1) -> None:
    """Checks a condition repeatedly; raises `TimeoutError` if it does not become true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            raise TimeoutError(f"not ready after {seconds:g} s")
        time.sleep(pause)


class Lock:
    """A file lock that the process with the running server holds; the system releases it when that process ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file: TextIO | None = None

    def take(self, patience: float) -> None:
        """Waits at most `patience` seconds for the lock; raises `ServerBusy`, which names the holder."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.file = self.path.open("a+")
        try:
            wait_until(self.is_ours, patience, pause=0.2)
        except TimeoutError:
            self.file.close()
            self.file = None
            raise ServerBusy(f"a server runs already, {self.holder()}; waited {patience:g} s for it to end") from None

    def is_ours(self) -> bool:
        """Takes the lock if it is free."""
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def holder(self) -> str:
        """The process that holds the lock, as text for messages."""
        record = self.read()
        return (
            f"held by process {record['pid']} ({record['command']})"
            if record
            else "held by a process that has not written its name yet"
        )

    def is_held(self) -> bool:
        """Whether some process holds it."""
        probe = Lock(self.path)
        try:
            probe.take(patience=0)
        except ServerBusy:
            return True
        probe.file.close()
        return False

    def read(self) -> dict[str, Any]:
        """What the present holder wrote, or the last one."""
        text = self.path.read_text() if self.path.exists() else ""
        return json.loads(text) if text else {}

    def write(self, **record: Any) -> None:
        """Writes down this process and where its server is, for others to read."""
        words = Path(f"/proc/{os.getpid()}/cmdline").read_bytes().decode(errors="replace").split("\0")
        text = json.dumps({"pid": os.getpid(), "command": " ".join(words).strip()[:200], **record})
        self.file.seek(0)
        self.file.truncate()
        self.file.write(text)
        self.file.flush()

    def release(self) -> None:
        """Releases the lock."""
        if self.file:
            self.file.truncate(0)
            self.file.close()
            self.file = None
