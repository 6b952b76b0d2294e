"""The one writer of files: a file is there with all of its content, or as it was before."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

WRITER = "nnsight-vlm"
"""What figures and pages of a command say of who wrote them: as `Software` in PNG, as generator in HTML."""
LONGEST = 200
"""Characters of a file's name that its temporary name repeats; file systems allow 255 in all."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file under a temporary name, and give it its own name when it is complete and on the disk.

    Several processes and threads may write one file at a time: each writes a temporary file of its own in the same
    folder, and the last one to finish stays. Where the block raises, also by Ctrl-C, its temporary file is removed and
    `path` is left as it was. Permissions are those that `open(path, "w")` would have given.

    Args:
        path: the file; its folder is made if there is none.

    Yields:
        The temporary file, which exists and is empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:LONGEST]}.{secrets.token_hex(8)}.new")
    # only the system can apply the umask without a moment in which other threads are without one
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with suppress(FileNotFoundError):
            shutil.copymode(path, temporary)
        _flush(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some systems cannot flush folders
        _flush(path.parent)


def _flush(path: Path) -> None:
    """Wait until a file, or the list of files in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a frame as Parquet or CSV (by the file's ending), completely or not at all."""
    with atomic_write(path) as temporary:
        if path.suffix == ".csv":
            frame.to_csv(temporary, index=False)
        else:
            temporary.write_bytes(frame.to_parquet(index=False))  # pyarrow cannot open every name of a folder
