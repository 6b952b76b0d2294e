"""Interleaved timing, and peak memory in fresh processes; nothing here depends on models."""

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
class Task:
    """Something to time.

    Attributes:
        run: the function that is timed; its argument is what `prepare` returned.
        prepare: called before the clock starts, with the number of the turn.
        reports_seconds: `run` returns the seconds itself, because they were taken in another process.
        is_warm: it has run before, so warm-up turns skip it.
        scale: what its seconds are multiplied by; above 1 where a sample of variants stands for all.
    """

    run: Callable[[Any], Any]
    prepare: Callable[[int], Any] = lambda turn: turn
    reports_seconds: bool = False
    is_warm: bool = False
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, least and greatest value of several turns."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=statistics.median(values), least=min(values), most=max(values))


def timed(task: Task, turn: int) -> float:
    """Seconds that one turn takes."""
    argument = task.prepare(turn)
    start = time.perf_counter()
    result = task.run(argument)
    elapsed = time.perf_counter() - start
    return (result if task.reports_seconds else elapsed) * task.scale


def interleaved(tasks: Mapping[str, Task], repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """Seconds of every turn of every task; in each turn all tasks run once, one after the other.

    Args:
        tasks: what is timed, by name.
        repeats: how many turns count.
        warmups: how many turns run before them and do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(-warmups, repeats):
        for name, task in tasks.items():
            if turn >= 0:
                seconds[name].append(timed(task, turn))
            elif not task.is_warm:
                timed(task, turn)
    return seconds


def ratios(seconds: Sequence[float], base: Sequence[float]) -> Spread:
    """Each turn's seconds as a ratio to the base's in the same turn."""
    return Spread.of([mine / other for mine, other in zip(seconds, base, strict=True)])


# memory -------------------------------------------------------------------------------------------------------------


def peak_extra(run: Callable[[], Any]) -> int:
    """Bytes by which the peak memory of this process exceeds what it held before the call.

    On Linux the kernel's high-water mark is reset first. Other systems only give the peak since the process began, so
    there the call must be what needs most memory in this process.
    """
    before = _memory_bytes("VmRSS")
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    run()
    return max(0, _memory_bytes("VmHWM") - before)


def _memory_bytes(name: str) -> int:
    """A field of `/proc/self/status`, in bytes; on systems without it, the peak of the process."""
    status = Path("/proc/self/status")
    if not status.exists():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def in_child(script: Path, arguments: Sequence[str]) -> Any:
    """Run a script in a fresh process of this Python, and return the JSON that its last line of output holds.

    There the allocator maps every tensor above 64 KiB by itself and returns it to the system when it is freed, so the
    peak is what was in use at one time.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, str(script), *arguments]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])
