"""How a command works and ends: errors in words, exit codes, and a standard output that holds its result alone.

Exit codes: 0, done; 1, a failure while working (a file, the memory, a server, an intervention that did not hold, a
bug); 2, something was asked that cannot be done; 130, interrupted.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from typing import Any, NoReturn

import typer

from ..showing import visible
from ..versions import complaint

FAILED, WRONG, INTERRUPTED = 1, 2, 130
BUG = (
    "This is a bug, here or in a library below. Please run the command again with --debug, and open an issue with what "
    "it prints and with what nnsight-vlm doctor prints."
)


@contextmanager
def working(*, debug: bool = False, quiet: bool = False) -> Iterator[None]:
    """Do a command's work; what libraries print meanwhile goes to standard error.

    Errors end the command with an exit code, said in words.

    Args:
        debug: show the traceback of an error too.
        quiet: no progress bars of libraries.
    """
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            if wrong := complaint():
                _end(f"{wrong}; nnsight-vlm doctor says what is installed", FAILED)
            with _without_bars() if quiet else nullcontext():
                yield
        except (typer.Exit, typer.Abort, BrokenPipeError):  # typer ends with these itself
            raise
        except KeyboardInterrupt as interruption:  # who keeps work says what is kept, see `report.folder`
            _end("; ".join(["interrupted", *map(str, interruption.args)]), INTERRUPTED)
        except Exception as error:
            if debug:
                typer.echo(visible("".join(traceback.format_exception(error)), keep_lines=True), err=True)
            _end(*_ending(error))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Say a warning as errors are said: its words, without the file and the line that Python shows."""
    typer.echo(f"warning: {visible(str(message), keep_lines=True)}", err=True)


def _ending(error: Exception) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    if isinstance(error, ImportError):  # first, because the errors of this package need nnsight
        return f"{error}; nnsight-vlm doctor says what is installed", FAILED
    from ..errors import InterventionError, RemoteError, SpecError, reason_of

    if isinstance(error, SpecError):
        return str(error), WRONG
    if isinstance(error, (InterventionError, RemoteError)):
        return str(error), FAILED
    if isinstance(error, (OSError, MemoryError)):
        return reason_of(error), FAILED
    return f"{type(error).__name__}: {reason_of(error)}\n{BUG}", FAILED


def _end(words: str, code: int) -> NoReturn:
    """Say why a command ends, and end it.

    Raises:
        Exit: always.
    """
    typer.echo(f"error: {visible(words, keep_lines=True)}", err=True)
    raise typer.Exit(code) from None


@contextmanager
def _without_bars() -> Iterator[None]:
    """Switch off the bars that transformers shows while it loads a model."""
    try:
        from transformers.utils import logging
    except ImportError:  # said by whatever needs it
        yield
        return
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
