"""The folder of a report: checked before any model runs, written piece by piece, each piece whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..storage import atomic_write, write_frame

SETTINGS = "report-settings.json"
OURS = ("parts", "frames", "figures", SETTINGS, "claims.csv", "claims.parquet", "report.md")


def prepare(folder: Path, settings: Mapping[str, Any], *, fresh: bool = False) -> None:
    """Make sure that a folder can be written to and holds nothing of another report.

    Args:
        folder: made where it does not exist.
        settings: what the report will measure; kept in `report-settings.json`.
        fresh: throw away what an earlier report left (and nothing else that lies there).

    Raises:
        SpecError: the folder cannot be written to, or holds a report with other settings.
    """
    check_writable(folder)
    if fresh and (folder / SETTINGS).exists():
        for name in OURS:
            target = folder / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    known = read_settings(folder)
    told = json.loads(json.dumps(dict(settings)))
    differing = [name for name in {**(known or {}), **told} if known is not None and known.get(name) != told.get(name)]
    if known is not None and differing:
        name = min(differing)
        raise SpecError(
            f"{folder} holds a report with other settings ({name}: {known.get(name)!r} there, {told.get(name)!r} now); "
            "write --fresh (fresh=True) to replace it, or choose another folder with --out"
        )
    write_text(folder / SETTINGS, json.dumps(told, indent=1) + "\n")


def check_writable(folder: Path) -> None:
    """Make a folder and write to it.

    Raises:
        SpecError: that cannot be done.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise SpecError(f"cannot write to the folder {str(folder)!r} ({reason}); choose another with --out") from error


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the report that lies in a folder, if there is one.

    Raises:
        SpecError: the file is no settings of ours.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise SpecError(f"{path} is not readable as settings of a report; write --fresh to replace it") from error
    if not isinstance(found, dict):
        raise SpecError(f"{path} is not readable as settings of a report; write --fresh to replace it")
    return found


def write_text(path: Path, text: str) -> None:
    """Write a text file, as a whole or not at all."""
    with atomic_write(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


def write_both(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as CSV and as Parquet."""
    for ending in (".csv", ".parquet"):
        write_frame(frame, path.with_name(path.name + ending))


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, as a whole or not at all."""
    with atomic_write(path) as fresh:
        figure.savefig(fresh, dpi=160, format="png", bbox_inches="tight")
