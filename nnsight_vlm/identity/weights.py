"""The digest of a module's weights: every name, dtype, shape and byte, read once and kept.

A weight is read again when it was replaced, written to, or when its dtype, shape or device changed. PyTorch does not
count what is written through `weight.data`; a checksum of all bytes, which takes a fifth of the digest's time on a
CPU, shows that as well. It sums 64-bit words that lie a multiple of `8 * COLUMNS` bytes apart, so it misses only writes
through `.data` that exchange such words, or that add to one what they take from another.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import SpecError

CHUNK = 32 * 2**20
"""Bytes of a weight that are brought to the CPU and read at a time, by each thread."""
COLUMNS = 4099
"""Width of the table of 64-bit words whose column sums are a weight's checksum; a prime, so that swapped rows show."""
SAMPLED = 64
"""How many values of a weight tell it from another where all of them would take too long."""
THREADS = min(8, os.cpu_count() or 1)


class _Known(NamedTuple):
    """The digest of a weight, and the state in which it was read."""

    state: tuple[Any, ...]
    digest: str


class _Stored(NamedTuple):
    """A weight that lies in a file: the mapping that reads it, its key there, and the state of the file."""

    values: Mapping[str, torch.Tensor]
    key: str
    state: tuple[Any, ...]


_KNOWN: MutableMapping[torch.Tensor, _Known] = WeakIdKeyDictionary()
"""A `_Known` for each weight in memory; entries go with their weights."""
_KNOWN_FILES: dict[tuple[Any, ...], str] = {}
"""Digests of weights in files, by file, size, time of change and key."""
_KNOWN_CHECKPOINTS: dict[tuple[Any, ...], str] = {}
"""Digests of the files of checkpoints, by file, size and times of change."""


def weight_versions(modules: Iterable[torch.nn.Module]) -> int:
    """A number that changes when parameters or buffers of modules are replaced or written to, except through `.data`.

    It reads no values. What lies inside the modules is not counted, so give these too, `module.modules()`.
    """
    tensors = (tensor for part in modules for tensor in chain(part._parameters.values(), part._buffers.values()))
    return hash(tuple([(tensor.data_ptr(), tensor_version(tensor)) for tensor in tensors if tensor is not None]))


def weights_digest(module: torch.nn.Module) -> tuple[str, bool]:
    """A digest of all parameters and buffers with their names, and whether the values of all of them were there.

    Weights that were never loaded count by name, dtype and shape. Weights that accelerate keeps elsewhere (in memory or
    on disk) are read from there, one at a time.

    Raises:
        SpecError: a weight of a kind whose bytes cannot be read.
    """
    tensors = _tensors(module)
    places = {name: tensor if tensor.device.type != "meta" else _elsewhere(module, name) for name, tensor in tensors}
    digests = _digests([place for place in places.values() if place is not None])
    sha = hashlib.sha256()
    for name, tensor in tensors:
        place = places[name]
        value = "not loaded" if place is None else digests[id(place)]
        sha.update(f"{len(name)} {name} {tensor.dtype} {tuple(tensor.shape)} {value}\n".encode())
    return sha.hexdigest(), None not in places.values()


def weights_sample(module: torch.nn.Module) -> str:
    """A digest of `SAMPLED` values of every weight that a checkpoint holds; empty where some were never loaded.

    It takes milliseconds whatever the model's size, and tells two trainings apart, but not every edit of a weight.
    """
    sha = hashlib.sha256()
    for name, value in sorted(module.state_dict(keep_vars=True).items()):
        if not isinstance(value, torch.Tensor):
            continue
        if value.is_meta:
            return ""
        sha.update(f"{len(name)} {name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.layout == torch.strided and not value.is_quantized and value.numel():
            flat = value.detach().reshape(-1)
            places = torch.arange(SAMPLED) * (len(flat) - 1) // (SAMPLED - 1)
            sha.update(flat[places.to(flat.device)].view(torch.uint8).cpu().numpy().data)
    return sha.hexdigest()


def files_digest(paths: Sequence[Path]) -> list[tuple[str, str]]:
    """The name and a digest of the content of each file; a file is read again in this process when it has changed."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(zip([path.name for path in paths], pool.map(_file_digest, paths), strict=True))


def _file_digest(path: Path) -> str:
    status = path.stat()
    state = (str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
    if state not in _KNOWN_CHECKPOINTS:
        with path.open("rb") as file:
            _KNOWN_CHECKPOINTS[state] = hashlib.file_digest(file, "sha256").hexdigest()
    return _KNOWN_CHECKPOINTS[state]


def _tensors(module: torch.nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters, buffers and what else a checkpoint holds (scales of quantized weights), by name."""
    named = {
        name: value for name, value in module.state_dict(keep_vars=True).items() if isinstance(value, torch.Tensor)
    }
    named |= dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    return sorted(named.items())


def _digests(places: Sequence[torch.Tensor | _Stored]) -> dict[int, str]:
    """The digest of each weight by the `id` of its place; those that changed since the last time are read again."""
    distinct = {id(place): place for place in places}
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(distinct, pool.map(_digest_of, distinct.values()), strict=True))


def _digest_of(place: torch.Tensor | _Stored) -> str:
    if isinstance(place, _Stored):
        if place.state not in _KNOWN_FILES:
            _KNOWN_FILES[place.state] = _hash(place.values[place.key])
        return _KNOWN_FILES[place.state]
    state = _state(place)
    known = _KNOWN.get(place)
    if known is None or known.state != state:
        known = _KNOWN[place] = _Known(state, _hash(place))
    return known.digest


def _state(tensor: torch.Tensor) -> tuple[Any, ...]:
    if tensor.layout != torch.strided or tensor.is_quantized or hasattr(tensor, "__tensor_flatten__"):
        raise SpecError(
            f"a weight of type {type(tensor).__name__} and layout {tensor.layout} has no bytes that can be compared; "
            "leave the journal out, Work(journal=None), or load the model with plain weights"
        )
    placement = (
        tensor.data_ptr(),
        tensor_version(tensor),
        tensor.dtype,
        tuple(tensor.shape),
        tensor.stride(),
        tensor.device,
    )
    return (*placement, _checksum(tensor))


def tensor_version(tensor: torch.Tensor) -> int | None:
    """How often PyTorch saw a tensor written to; None for one made in inference mode, where nobody counts."""
    return None if tensor.is_inference() else tensor._version


def _checksum(tensor: torch.Tensor) -> str:
    """A short number that changes with any byte; see the head of this file for what it misses."""
    if not tensor.is_contiguous():
        return _hash(tensor)
    content = tensor.detach().reshape(-1).view(torch.uint8)
    start, count = -content.storage_offset() % 8, 0
    if content.numel() > 2 * 8 * COLUMNS:
        count = (content.numel() - start) // (8 * COLUMNS) * 8 * COLUMNS
    words = content[start : start + count].view(torch.int64).reshape(-1, COLUMNS).sum(0)
    sha = hashlib.sha256()
    for part in (words.view(torch.uint8), content[:start], content[start + count :]):
        sha.update(part.cpu().numpy().data)
    return sha.hexdigest()


def _hash(tensor: torch.Tensor) -> str:
    sha = hashlib.sha256()
    for chunk in _chunks(tensor.detach()):
        sha.update(chunk.cpu().numpy().data)
    return sha.hexdigest()


def _chunks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """The bytes of a tensor in row-major order, piece by piece."""
    if tensor.is_contiguous():
        content = tensor.reshape(-1).view(torch.uint8)
        for start in range(0, len(content), CHUNK):
            yield content[start : start + CHUNK]
    else:
        rows = max(1, CHUNK // max(1, tensor[0].nbytes))
        for start in range(0, len(tensor), rows):
            yield tensor[start : start + rows].contiguous().reshape(-1).view(torch.uint8)


def _elsewhere(module: torch.nn.Module, name: str) -> torch.Tensor | _Stored | None:
    """Where accelerate keeps the values of a weight that is on no device; None where they were never loaded."""
    path = name.split(".")
    for depth in range(len(path) - 1, -1, -1):
        hook = getattr(module.get_submodule(".".join(path[:depth])), "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):
            values = getattr(one, "weights_map", None)
            if values is not None and (place := _stored(values, ".".join(path[depth:]))) is not None:
                return place
    return None


def _stored(values: Any, key: str) -> torch.Tensor | _Stored | None:
    """A weight in accelerate's mapping of offloaded weights: a tensor in memory, or an entry of a file."""
    while hasattr(values, "dataset") and hasattr(values, "prefix"):
        values, key = values.dataset, values.prefix + key
    in_memory = getattr(values, "state_dict", values)
    if key in in_memory:
        tensor: torch.Tensor = in_memory[key]
        return tensor
    entry = getattr(values, "index", {}).get(key)
    if entry is None:
        return None
    file = Path(entry.get("safetensors_file") or Path(values.save_folder) / f"{key}.dat")
    status = file.stat()
    return _Stored(values, key, (str(file.resolve()), status.st_size, status.st_mtime_ns, key, str(entry)))
