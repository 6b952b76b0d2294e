"""The files of a checkpoint, in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import SpecError

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
"""Where a checkpoint says of which class its processor is, in the order in which transformers looks."""
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
"""Files that hold weights, or that say which files do."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint by its name.

    Attributes:
        name: a local folder, or a repository on the hub: `"llava-hf/llava-1.5-7b-hf"`.
        hub: which files of a repository are read, and how: `revision`, `subfolder`, `cache_dir`, `token`.
    """

    name: str
    hub: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """The local folder; None for a repository on the hub."""
        path = local_path(self.name)
        return path if path is not None and path.is_dir() else None

    def read(self, file: str) -> dict[str, Any]:
        """A JSON file of the checkpoint; empty where there is none, or where the hub does not answer.

        Raises:
            SpecError: the file is broken.
        """
        path = self._path(file)
        if path is None:
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SpecError(f"{file} of {self.name!r} is broken: {error}; download it again") from error
        return content if isinstance(content, dict) else {}

    def _path(self, file: str) -> Path | None:
        if self.folder is not None:
            path = self.folder / file
            return path if path.is_file() else None
        from transformers.utils import cached_file

        found = cached_file(
            self.name,
            file,
            **self.hub,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        return None if found is None else Path(found)

    @property
    def files(self) -> list[str]:
        """The names of a local folder's files."""
        return [] if self.folder is None else sorted(path.name for path in self.folder.iterdir())

    def has(self, *patterns: str) -> bool:
        """Whether a local folder has a file that fits one of these."""
        return self.folder is not None and any(any(self.folder.glob(pattern)) for pattern in patterns)


def local_path(name: str) -> Path | None:
    """The path that a name is on this machine, whether something lies there or not; None where it can be no path."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError):  # too long for the file system, or the home of somebody unknown
        return None
    return path


def inside(name: str, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """A local folder's subfolder as a folder of its own, and the options without `subfolder`; a repository as it is.

    Raises:
        SpecError: the folder has no such subfolder.
    """
    folder, below = Checkpoint(name=name).folder, options.get("subfolder")
    if not below or folder is None:
        return name, dict(options)
    if not isinstance(below, (str, Path)) or not (folder / below).is_dir():
        there = ", ".join(repr(each.name) for each in sorted(folder.iterdir()) if each.is_dir()) or "none"
        raise SpecError(f"the folder {name!r} has no folder {below!r} (subfolder=), but {there}")
    return str(folder / below), {key: value for key, value in options.items() if key != "subfolder"}


def can_import(module: str) -> bool:
    """Whether a module can be imported; it is not."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a package inside another one
        return False
