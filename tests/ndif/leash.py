"""Runs a command, and kills everything that it started as soon as the command, the parent or this process ends.

Run as `python leash.py PARENT COMMAND...`, where PARENT is the process id of the caller. Orphans of the command
become children of this process, so that none gets away; nothing else is ever touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
LOOK_SECONDS = 0.3
LIBC = ctypes.CDLL(None)


def prepare_child() -> None:
    """In the child, before its command: should this process be killed, the child is too."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, WATCHED)


def reap() -> dict[int, int]:
    """The children that have ended since the last look, and by which code; takes them off the process table."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def end_all() -> None:
    """Kills the descendants until none is left, however fast they start others."""
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        reap()
        time.sleep(0.02)


def keep(parent: int, command: list[str]) -> int:
    """Runs the command until it ends, we are told to end, or the parent is gone; then clears up.

    Returns:
        The command's exit code: 0 if it was us who ended it.
    """
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    child = subprocess.Popen(command, preexec_fn=prepare_child).pid  # noqa: PLW1509, we have one thread
    ended: dict[int, int] = {}
    while os.getppid() == parent and child not in (ended := reap()):
        told = signal.sigtimedwait(WATCHED, LOOK_SECONDS)
        if told and told.si_signo != signal.SIGCHLD:
            break
    end_all()
    return ended.get(child, 0)


if __name__ == "__main__":
    sys.exit(keep(int(sys.argv[1]), sys.argv[2:]))
