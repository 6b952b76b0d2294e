"""Files that are there as a whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A file to write that takes the place of `path` when it is finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    yield fresh
    fresh.replace(path)


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write Parquet or CSV (by the ending), as a whole or not at all."""
    with atomic_write(path) as fresh:
        if path.suffix == ".csv":
            frame.to_csv(fresh, index=False)
        else:
            frame.to_parquet(fresh, index=False)
