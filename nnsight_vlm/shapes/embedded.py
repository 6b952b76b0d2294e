"""The trained models of this package: their names and their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from ..arguments import one_of

Checkpoint = Literal["shapes", "shapes-gist"]
CHECKPOINTS: tuple[Checkpoint, ...] = get_args(Checkpoint)
"""The models that lie in this package as a whole."""
EMBEDDED: tuple[str, ...] = (*CHECKPOINTS, "shapes-smol")
"""All models of this package; the language model of the last one is installed apart."""
_FOLDER = Path(__file__).parent / "checkpoints"


def checkpoint(name: str = "shapes") -> Path:
    """The folder of an embedded model, to be opened with `from_pretrained`; no network is used.

    `shapes` is the model as trained. `shapes-gist` is a positive control: it was fine-tuned so that its query tokens
    must carry the image. `shapes-smol` sees the same world and speaks with a pretrained language model; its folder is
    put together at the first call, in the user's cache.

    Raises:
        SpecError: no model has this name; the language model of `shapes-smol` is not installed.

    >>> checkpoint("shapes").name
    'shapes'
    """
    one_of("name", name, EMBEDDED, "checkpoint")
    if name not in CHECKPOINTS:
        from .smol.cache import folder

        return folder()
    return _FOLDER / name


def is_embedded(folder: Path) -> bool:
    """Whether a folder is that of an embedded model."""
    from .smol.cache import NAME, root

    return folder.parent == _FOLDER or (folder.parent == root() and folder.name.startswith(f"{NAME}-"))
