"""Arrays as text inside a page: a byte a value, many zeros left out, compressed.

Every row of a map has a scale of its own, so that a row of small values is as exact as one of large ones: a value is at
most half a step from what was measured, the step being the row's largest value / 255, or / 127 where values have signs.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

STEPS, SIGNED_STEPS, ZERO = 255, 127, 128
"""The byte of a row's largest value; how far signed bytes reach on both sides, and the byte of 0 among them."""
MOST_TOKENS = 2**16 - 1
"""Tokens that an index of two bytes can tell apart."""


class Bytes(NamedTuple):
    """Values as bytes.

    Attributes:
        bytes: uint8, in the shape of the values.
        scale: float32, for each row the value of its largest byte.
    """

    bytes: np.ndarray
    scale: np.ndarray


def as_bytes(values: np.ndarray, *, signed: bool) -> Bytes:
    """Values `[..., token]` as bytes, each row by its own scale."""
    largest = np.abs(values).max(-1, initial=0).astype(np.float32)
    shares = values / np.where(largest > 0, largest, 1)[..., None]
    steps = np.rint(shares * (SIGNED_STEPS if signed else STEPS)).astype(np.int16)
    return Bytes((steps + ZERO if signed else steps).clip(0, 255).astype(np.uint8), largest)


def dense(values: np.ndarray, *, signed: bool) -> dict[str, Any]:
    """Values `[layer, head, row, token]` as a block of a page, all of them."""
    quantised = as_bytes(values, signed=signed)
    return {
        "encoding": "dense",
        "shape": list(values.shape),
        "dtype": "u8",
        "scale": packed(quantised.scale),
        "bytes": packed(quantised.bytes),
    }


def sparse(values: np.ndarray, *, signed: bool, floor: float) -> dict[str, Any]:
    """The same without what is less than a share of its row's largest value.

    `dropped` says how much of a row that is, in the row where it is most.
    """
    quantised, sizes = as_bytes(values, signed=signed), np.abs(values)
    kept = (sizes >= floor * quantised.scale[..., None]) & (quantised.bytes != (ZERO if signed else 0))
    rows = kept.reshape(-1, kept.shape[-1])
    totals = sizes.sum(-1)
    lost = np.divide(np.where(kept, 0, sizes).sum(-1), totals, out=np.zeros_like(totals), where=totals > 0)
    return {
        "encoding": "sparse",
        "shape": list(values.shape),
        "dtype": "u8",
        "scale": packed(quantised.scale),
        "bytes": packed(quantised.bytes[kept]),
        "counts": packed(rows.sum(1).astype("<u2")),
        "index": packed(_deltas(rows)),
        "floor": floor,
        "dropped": float(lost.max(initial=0)),
    }


def _deltas(kept: np.ndarray) -> np.ndarray:
    """Which tokens each row `[row, token]` keeps: the first by its number, others by how much further they are."""
    row, token = np.nonzero(kept)
    steps = np.diff(token, prepend=0)
    is_first = np.diff(row, prepend=-1) != 0
    return np.where(is_first, token, steps).astype("<u2")


def plain(values: np.ndarray) -> dict[str, Any]:
    """Bytes, or numbers of two bytes, as they are."""
    kind = {1: "u8", 2: "u16"}[values.dtype.itemsize]
    return {"encoding": "dense", "shape": list(values.shape), "dtype": kind, "bytes": packed(values)}


def packed(values: np.ndarray) -> str:
    """Numbers, little-endian, compressed, as letters."""
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return base64.b64encode(zlib.compress(np.ascontiguousarray(little).tobytes(), 6)).decode("ascii")


def unpacked(text: str, dtype: str) -> np.ndarray:
    """What `packed` was given, in one line: `u1`, `u2` or `f4`."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=f"<{dtype}")


def values_of(block: Mapping[str, Any], *, signed: bool) -> np.ndarray:
    """The values of a block of `dense` or `sparse`, `[layer, head, row, token]`, to within half a step."""
    shape = tuple(block["shape"])
    given = unpacked(block["bytes"], "u1")
    if block["encoding"] == "sparse":
        counts = unpacked(block["counts"], "u2").astype(int)
        steps, starts = unpacked(block["index"], "u2").astype(int), np.repeat(np.cumsum(counts) - counts, counts)
        sums = np.cumsum(steps)
        tokens = sums - np.where(starts > 0, sums[starts - 1], 0)
        whole = np.full((len(counts), shape[-1]), ZERO if signed else 0, dtype=np.uint8)
        whole[np.repeat(np.arange(len(counts)), counts), tokens] = given
    else:
        whole = given
    shares = whole.reshape(shape).astype(float)
    shares = (shares - ZERO) / SIGNED_STEPS if signed else shares / STEPS
    return np.asarray(shares * unpacked(block["scale"], "f4").astype(float).reshape(*shape[:-1], 1))
