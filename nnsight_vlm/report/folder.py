"""The folder of a report: checked before a model is loaded, and filled one complete file at a time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..errors import SpecError
from ..storage import WRITER, atomic_write, write_frame


class Contents(NamedTuple):
    """What one kind of work writes into its folder.

    Attributes:
        called: what it is.
        settings: the file of its settings.
        parts: the folder of what is finished, from which it goes on.
        ours: all that it writes; nothing else in the folder is ever removed.
    """

    called: str
    settings: str
    parts: str
    ours: tuple[str, ...]


REPORT = Contents(
    called="a report",
    settings="report-settings.json",
    parts="parts",
    ours=(
        *("parts", "frames", "figures", "report-settings.json", "report.md", "index.html"),
        *("claims.csv", "claims.parquet", "left-out.csv", "left-out.parquet"),
    ),
)


def prepare(folder: Path, settings: Mapping[str, Any], *, fresh: bool = False, contents: Contents = REPORT) -> None:
    """Make a folder ready for a report: it can be written to, and holds no report with other settings.

    Args:
        folder: made if it does not exist.
        settings: what the report will measure; written to the file of settings.
        fresh: remove the files of an earlier report first, and no others.
        contents: what is written there, if it is no report.

    Raises:
        SpecError: the folder cannot be written to, or holds a report with other settings.
    """
    check_writable(folder)
    if fresh and (folder / contents.settings).exists():
        for name in contents.ours:
            target = folder / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    known = read_settings(folder, contents)
    wanted = json.loads(json.dumps(dict(settings)))  # as they are read back: lists for tuples
    differing = [] if known is None else [name for name in wanted | known if known.get(name) != wanted.get(name)]
    if known is not None and differing:
        name = differing[0]
        raise SpecError(
            f"{folder} holds {contents.called} with other settings ({name}: {known.get(name)!r} there, "
            f"{wanted.get(name)!r} now); write --fresh (fresh=True) to replace it, or choose another folder with --out"
        )
    write_text(folder / contents.settings, json.dumps(wanted, indent=1) + "\n")


@contextmanager
def interruptible(folder: Path, *, begun: bool, fresh: bool, contents: Contents = REPORT) -> Iterator[None]:
    """Do a folder's work; an interruption says whether the same command goes on from what is finished.

    Where nothing is, settings that were not there before are removed, so that it can be asked for in another way.

    Args:
        folder: made ready by `prepare`.
        begun: whether it held the same work before.
        fresh: whether earlier work is removed first, and would be again.
        contents: what is written there, if it is no report.

    Raises:
        KeyboardInterrupt: with the words.
    """
    of_others = set() if begun else _parts(folder / contents.parts)
    try:
        yield
    except KeyboardInterrupt:
        if _parts(folder / contents.parts) - of_others:
            without = " without --fresh (fresh=True)" if fresh else ""
            raise KeyboardInterrupt(f"the same command{without} goes on from here") from None
        if not begun:
            (folder / contents.settings).unlink(missing_ok=True)
        raise KeyboardInterrupt("nothing was finished yet, so the same command begins anew") from None


def _parts(folder: Path) -> set[Path]:
    """The files that hold the rows of some images, or the number of a job that a server has."""
    return {path for ending in ("*.parquet", "*.jobs/*.json") for path in folder.rglob(ending)}


def check_writable(folder: Path) -> None:
    """Make a folder if there is none, and see that files can be written to it.

    Raises:
        SpecError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(f"cannot write to the folder {str(folder)!r} ({reason}); choose another with --out") from error


def read_settings(folder: Path, contents: Contents = REPORT) -> dict[str, Any] | None:
    """The settings of the report in a folder; None where there is no report.

    Raises:
        SpecError: the file of settings cannot be read.
    """
    path = folder / contents.settings
    if not path.exists():
        return None
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _unreadable(path, contents) from error
    if not isinstance(settings, dict):
        raise _unreadable(path, contents)
    return settings


def _unreadable(path: Path, contents: Contents) -> SpecError:
    return SpecError(
        f"{path} does not hold the settings of {contents.called}; write --fresh (fresh=True) to replace it"
    )


def write_text(path: Path, text: str) -> None:
    """Write a text file, completely or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_both(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame twice, as `<path>.csv` and as `<path>.parquet`."""
    for ending in (".csv", ".parquet"):
        write_frame(frame, path.with_name(path.name + ending))


def write_figure(figure: Any, path: Path) -> None:
    """Write a matplotlib figure as PNG, completely or not at all."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=220, format="png", bbox_inches="tight", metadata={"Software": WRITER})
