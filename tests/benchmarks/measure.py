"""Interleaved timing, and peak memory in processes of their own; nothing here knows of models."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to time.

    Attributes:
        do: what is timed; it is handed what `ready` gave.
        ready: what is made before the clock starts, from the number of the turn.
        tells: `do` returns the seconds itself, as a peer's process took them.
        warm: it has run before, so that turns that warm up leave it out.
        times: the work is this many times as much as what is done (a sample of variants stands for all).
    """

    do: Callable[[Any], Any]
    ready: Callable[[int], Any] = lambda turn: turn
    tells: bool = False
    warm: bool = False
    times: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, least and greatest of several turns."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, found: Sequence[float]) -> Spread:
        return cls(median=statistics.median(found), least=min(found), most=max(found))


def timed(work: Work, turn: int) -> float:
    """Seconds that one turn takes."""
    given = work.ready(turn)
    start = time.perf_counter()
    result = work.do(given)
    taken = time.perf_counter() - start
    return (result if work.tells else taken) * work.times


def interleaved(works: Mapping[str, Work], repeats: int, warm: int = 1) -> dict[str, list[float]]:
    """Seconds of every turn of every work, one of each in turn; the first turns warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(-warm, repeats):
        for name, work in works.items():
            if turn >= 0:
                seconds[name].append(timed(work, turn))
            elif not work.warm:
                timed(work, turn)
    return seconds


def ratios(seconds: Sequence[float], base: Sequence[float]) -> Spread:
    """Each turn as a ratio to the base of the same turn."""
    return Spread.of([taken / one for taken, one in zip(seconds, base, strict=True)])


# memory -------------------------------------------------------------------------------------------------------------


def peak_extra(do: Callable[[], Any]) -> int:
    """Bytes by which a process grows while it does something, over what it held before.

    The kernel's high-water mark is set back first (Linux); elsewhere the mark since the process began is taken, so
    whatever is done must then be the greatest thing that the process did.
    """
    before = _status("VmRSS")
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")
    do()
    return max(0, _status("VmHWM") - before)


def _status(name: str) -> int:
    """A line of `/proc/self/status`, in bytes; of other systems the peak of the process."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def in_child(script: Path, arguments: Sequence[str]) -> Any:
    """What a fresh process of this python prints as its last line, which is JSON.

    Tensors of more than 64 KiB get pages of their own there and give them back, so that the peak is what was live.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
