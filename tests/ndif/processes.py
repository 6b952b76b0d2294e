"""Processes and their descendants: which belong to a part, which serve models, and how to kill them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psutil

RUNNER = "ndif.services.ray.sandbox.runner"
ACTOR = "ray::CPUModel"
KILL_SECONDS = 20


def lives(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return any(holds(lambda one: one.status() != psutil.STATUS_ZOMBIE, process) for process in family(pid)[:1])


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants, if it is alive."""
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    return []


def holds(condition: Callable[[psutil.Process], bool], process: psutil.Process) -> bool:
    """Whether a condition holds for a process; False if the process is gone."""
    try:
        return condition(process)
    except psutil.Error:
        return False


def serves_model(process: psutil.Process) -> bool:
    """Whether a process is a model's actor, as Ray has it call itself, or the runner of one."""
    words = process.cmdline()
    return RUNNER in words or "".join(words[:1]).startswith(ACTOR)


def runner_sockets(processes: list[psutil.Process]) -> set[Path]:
    """The socket files of runners, which outlive a runner that is killed."""
    runners = [process.cmdline() for process in processes if holds(lambda one: RUNNER in one.cmdline(), process)]
    return {Path(words[words.index(RUNNER) + 1]) for words in runners}


def kill_all(processes: list[psutil.Process]) -> list[int]:
    """Kills processes at once and waits until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=KILL_SECONDS)
    return [process.pid for process in processes]
