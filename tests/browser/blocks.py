"""Blocks of numbers as a page holds them, written from the format's description and not with the package's code."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

Block = dict[str, Any]


def packed(values: np.ndarray, kind: str) -> str:
    """Numbers in order, little endian, deflated, as letters."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, dtype=kind).tobytes())).decode()


def unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=kind)


def dense(values: np.ndarray, *, signed: bool = False) -> Block:
    """`[layer, head, row, token]` in bytes, each row with a scale of its own."""
    scale = np.abs(values).max(-1)
    shares = values / np.where(scale > 0, scale, 1)[..., None]
    codes = np.rint(shares * 127) + 128 if signed else np.rint(shares * 255)
    return {
        "encoding": "dense",
        "shape": list(values.shape),
        "dtype": "u8",
        "scale": packed(scale, "<f4"),
        "bytes": packed(codes, "u1"),
    }


def sparse(values: np.ndarray, floor: float) -> Block:
    """The same, without what is below a share of a row's largest value."""
    scale = values.max(-1)
    kept = (values >= floor * scale[..., None]) & (values > 0)
    flat = kept.reshape(-1, values.shape[-1])
    steps = [np.diff(np.flatnonzero(row), prepend=0) for row in flat]
    codes = np.rint(values / np.where(scale > 0, scale, 1)[..., None] * 255)[kept]
    sums = values.sum(-1)
    left_out = np.where(kept, 0, values).sum(-1) / np.where(sums > 0, sums, 1)
    return {
        "encoding": "sparse",
        "shape": list(values.shape),
        "dtype": "u8",
        "scale": packed(scale, "<f4"),
        "bytes": packed(codes, "u1"),
        "counts": packed(flat.sum(-1), "<u2"),
        "index": packed(np.concatenate(steps), "<u2"),
        "floor": floor,
        "dropped": float(left_out.max()),
    }


def lens_block(numbers: np.ndarray, kind: str) -> Block:
    """`[layer, token]`: numbers of words, or probabilities in bytes."""
    names = {"<u2": "u16", "u1": "u8"}
    return {"encoding": "dense", "shape": list(numbers.shape), "dtype": names[kind], "bytes": packed(numbers, kind)}
