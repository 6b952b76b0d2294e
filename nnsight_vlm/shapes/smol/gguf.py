"""Reading a GGUF file: its settings and its tensors, as numpy arrays.

GGUF is the container in which llama.cpp keeps models: a list of named settings, a list of tensors (name, shape, type,
place), and their bytes. Three types of tensors are read: plain float32, and two that keep 32 numbers in a block with a
scale of their own. The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""The `struct` letter of each type of number that a setting can have."""
_STRING, _ARRAY = 8, 9
_BLOCK = 32
"""Numbers in a block of a quantised tensor."""


@dataclass(frozen=True, kw_only=True)
class GGUF:
    """What a file holds.

    Attributes:
        settings: by name; lists as lists, text as str.
        tensors: float32 arrays by name, with the slowest dimension first (as in PyTorch).
    """

    settings: dict[str, Any]
    tensors: dict[str, np.ndarray]


def read(path: Path) -> GGUF:
    """Read a file whole.

    Raises:
        ValueError: it is no GGUF file, or holds a tensor of a type that is not read here.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
        return _Reader(memory).read()


class _Reader:
    """A position in a file, and what is read from there."""

    def __init__(self, memory: mmap.mmap) -> None:
        self.memory, self.place = memory, 0

    def read(self) -> GGUF:
        if self.memory[:4] != b"GGUF":
            raise ValueError("the file does not begin with GGUF")
        self.place = 4
        version, tensor_count, setting_count = self.number("I"), self.number("Q"), self.number("Q")
        if version not in (2, 3):
            raise ValueError(f"version {version} of GGUF is not read here; versions 2 and 3 are")
        settings = {self.text(): self.value(self.number("I")) for _ in range(setting_count)}
        infos = [self.tensor_info() for _ in range(tensor_count)]
        alignment = settings.get("general.alignment", 32)
        start = -(-self.place // alignment) * alignment
        tensors = {name: self.tensor(shape, kind, start + offset) for name, shape, kind, offset in infos}
        return GGUF(settings=settings, tensors=tensors)

    def number(self, letter: str) -> Any:
        (value,) = struct.unpack_from("<" + letter, self.memory, self.place)
        self.place += struct.calcsize("<" + letter)
        return value

    def text(self) -> str:
        length = self.number("Q")
        self.place += length
        return self.memory[self.place - length : self.place].decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(_NUMBERS[kind])

    def tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, dimensions = self.text(), self.number("I")
        shape = tuple(self.number("Q") for _ in range(dimensions))[::-1]
        return name, shape, self.number("I"), self.number("Q")

    def tensor(self, shape: tuple[int, ...], kind: int, place: int) -> np.ndarray:
        if kind not in _TYPES:
            raise ValueError(f"tensors of type {kind} are not read here; types {sorted(_TYPES)} are")
        dtype, numbers, values = _TYPES[kind]
        stored = np.frombuffer(self.memory, dtype, prod(shape) // numbers, place)
        read: np.ndarray = values(stored).reshape(shape)
        del stored  # the mapping closes when nothing looks into it
        return read


def _plain(stored: np.ndarray) -> np.ndarray:
    numbers: np.ndarray = stored.astype(np.float32)
    return numbers


def _eight_bits(blocks: np.ndarray) -> np.ndarray:
    """A whole number of 8 bits, times the block's scale."""
    numbers: np.ndarray = blocks["scale"].astype(np.float32)[:, None] * blocks["values"]
    return numbers


def _four_bits(blocks: np.ndarray) -> np.ndarray:
    """A number of 4 bits, times the block's scale, plus its least value; low halves of the bytes come first."""
    numbers = np.concatenate([blocks["values"] & 15, blocks["values"] >> 4], 1).astype(np.float32)
    return blocks["scale"].astype(np.float32)[:, None] * numbers + blocks["least"].astype(np.float32)[:, None]


_TYPES: dict[int, tuple[np.dtype[Any], int, Any]] = {
    0: (np.dtype("<f4"), 1, _plain),
    3: (np.dtype([("scale", "<f2"), ("least", "<f2"), ("values", "u1", _BLOCK // 2)]), _BLOCK, _four_bits),
    8: (np.dtype([("scale", "<f2"), ("values", "i1", _BLOCK)]), _BLOCK, _eight_bits),
}
"""Of each type (F32, Q4_1, Q8_0 in ggml's names): how a block is stored, how many numbers it has, and their values."""
