"""The whole of `shapes-smol` as a folder that transformers opens: made once on a machine, and checked ever after.

It lies in the user's cache (`XDG_CACHE_HOME`, else `~/.cache`), in a folder named after everything that it was made of.
Beside the weights lies the digest of every file; a folder with other content is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NoReturn

from . import language_model

NAME = "shapes-smol"
PARTS = Path(__file__).parent.parent / "checkpoints" / NAME / "parts.safetensors"
"""What this package ships of the model."""
LAYOUT = 1
"""Counts up when the folder is made in another way from the same files."""
DIGESTS = "digests.json"


def root() -> Path:
    """The folder of all that this package keeps for a user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nnsight_vlm"


def place() -> Path:
    """The folder that the model has in the cache, made or not."""
    made_of = f"{LAYOUT} {language_model.DIGEST} {_digest(PARTS)}"
    return root() / f"{NAME}-{hashlib.sha256(made_of.encode()).hexdigest()[:16]}"


def folder() -> Path:
    """The folder of the model, made now if it is not there whole.

    Raises:
        SpecError: the language model is not installed, or is another one; the cache cannot be written.
    """
    made = place()
    if is_whole(made):
        return made
    file = language_model.find()
    if file is None:
        _refuse(
            f"the model {NAME!r} needs the language model SmolLM2-135M-Instruct (98 MB), which is not installed here; "
            f"write {language_model.INSTALL}"
        )
    if language_model.digest(file) != language_model.DIGEST:
        _refuse(
            f"{str(file)!r} is not the language model that {NAME!r} was trained with; write {language_model.INSTALL}"
        )
    try:
        _make(file, made)
    except OSError as error:
        _refuse(
            f"the model {NAME!r} is put together once and kept in {str(made.parent)!r} (275 MB), which cannot be "
            f"written ({error.strerror}); set the environment variable XDG_CACHE_HOME to another folder"
        )
    return made


def is_whole(made: Path) -> bool:
    """Whether a folder holds all of its files as they were written."""
    try:
        digests = json.loads((made / DIGESTS).read_text())
        return bool(digests) and all(_digest(made / name) == digest for name, digest in digests.items())
    except (OSError, ValueError):
        return False


def _make(file: Path, made: Path) -> None:
    """Put the model together in a folder of its own, which then takes its place."""
    from . import assembly
    from .gguf import read

    opened = read(file)
    model = assembly.assemble(opened, assembly.load_parts(PARTS))
    model.model.language_model.bfloat16()  # its weights hold such values already
    fresh = made.with_name(f".{made.name}.{secrets.token_hex(8)}")
    try:
        fresh.mkdir(parents=True)
        model.save_pretrained(fresh)
        assembly.processor(opened).save_pretrained(fresh)
        digests = {path.name: _digest(path) for path in sorted(fresh.iterdir())}
        (fresh / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n")
        for path in fresh.iterdir():
            path.chmod(0o644)
        _put(fresh, made)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _put(fresh: Path, made: Path) -> None:
    """Give a folder its name; another process may have been faster, and what lies there may be damaged."""
    if is_whole(made):
        return
    with suppress(FileNotFoundError):
        shutil.rmtree(made)
    with suppress(FileExistsError):
        fresh.rename(made)


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=64)
def _digest_of(path: str, _size: int, _changed: int, _inode: int) -> str:
    """The SHA-256 of a file; one that has not changed is read once in a process."""
    return language_model.digest(Path(path))


def _refuse(sentence: str) -> NoReturn:
    from ...errors import SpecError  # imports nnsight, which the synthetic world does without

    raise SpecError(sentence)
