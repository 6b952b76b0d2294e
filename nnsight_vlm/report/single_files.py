"""Where a command writes its one file: nothing is lost that was there before.

By default the first free name is taken: `cut.png`, `cut-2.png`. A file that is named with `--out` is replaced if a
command of this package wrote it, and refused otherwise: it may be the photograph itself.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path

from ..errors import SpecError
from ..storage import WRITER
from .folder import check_writable

KINDS = {
    ".png": ("PNG", f"Software\0{WRITER}".encode()),
    ".html": ("HTML", f'name="generator" content="{WRITER}"'.encode()),
}
"""By ending, how a kind of file is called, and what it says near its beginning of who wrote it."""
BEGINNING = 4096
"""Bytes in which it says so."""


def file_to_write(given: Path | None, usual: str) -> Path:
    """The file that a command writes.

    Args:
        given: with `--out`; None for the first free name.
        usual: the name that it has then, `knockout.png`, or `knockout-2.png` where that is there.

    Raises:
        SpecError: another ending, a folder, a file of somebody else, one that cannot be written.
    """
    if given is None:
        check_writable(Path())
        return _free(Path(usual))
    check_writable(given.parent)
    ending = Path(usual).suffix
    kind, mark = KINDS[ending]
    write = f"write for example --out {usual}"
    try:
        if given.suffix.lower() != ending or given.is_dir():
            raise SpecError(f"--out {str(given)!r} is no {kind} file; {write}")
        if given.exists() and not _says(given, mark):
            raise SpecError(
                f"--out {str(given)!r} is there and was not written by nnsight-vlm, so it is not replaced; name "
                "another file, or remove it first"
            )
    except OSError as error:
        raise SpecError(f"cannot write to {str(given)!r} ({error.strerror}); choose another file with --out") from error
    return given


def _free(usual: Path) -> Path:
    """The first of `cut.png`, `cut-2.png`, `cut-3.png`, ... that is not there."""
    if not usual.exists():
        return usual
    numbered = (usual.with_stem(f"{usual.stem}-{number}") for number in count(2))
    return next(path for path in numbered if not path.exists())


def _says(path: Path, mark: bytes) -> bool:
    """Whether a file says near its beginning that a command of this package wrote it."""
    with path.open("rb") as file:
        return mark in file.read(BEGINNING)
