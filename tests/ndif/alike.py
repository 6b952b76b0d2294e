"""How far the result of one place is from that of another: numbers are compared by difference, all else exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch

import nnsight_vlm as nv

EXACT = 1e-5
"""The largest difference that rounding in float32 may make, relative to a value's magnitude, or to 1 if that is larger.

A tensor's magnitude is that of its largest number: a hidden state of magnitude 40 is a sum of numbers of that
magnitude, so each of its coordinates is rounded to some millionths of 40. In a table each number has its own magnitude.
"""

PER_CENT = "probability_change"
"""The measure that is in per cent."""


def distance(found: Any, expected: Any, at: str = "it") -> float:
    """The largest difference of any two numbers, relative as in `EXACT`.

    Raises:
        AssertionError: something other than a number differs: a shape, a type, a token, a label. Says where and how.
    """
    found, expected = plain(found), plain(expected)
    assert type(found) is type(expected), f"{at}: {type(found).__name__} is not {type(expected).__name__}"
    if isinstance(expected, torch.Tensor):
        return _between_tensors(found, expected, at)
    if isinstance(expected, pd.DataFrame):
        return _between_frames(found, expected, at)
    if isinstance(expected, float):
        return _between_numbers(np.array([found]), np.array([expected]), 1.0, at)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), f"{at}: {list(found)} is not {list(expected)}"
        return max((distance(found[key], value, f"{at}: {key}") for key, value in expected.items()), default=0.0)
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), f"{at}: {len(found)} are not {len(expected)}"
        pairs = enumerate(zip(found, expected, strict=True))
        return max((distance(one, other, f"{at}: {number}") for number, (one, other) in pairs), default=0.0)
    assert found == expected, f"{at}: {found!r} is not {expected!r}"
    return 0.0


def plain(value: Any) -> Any:
    """The contents of a value as lists, dictionaries, tensors and tables."""
    if isinstance(value, nv.Prompt):
        return {"rows": [row.tokens for row in value.rows], "inputs": dict(value.inputs)}
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return dict(value) if isinstance(value, Mapping) else value


def _between_tensors(found: torch.Tensor, expected: torch.Tensor, at: str) -> float:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), (
        f"{at}: {found.dtype} {tuple(found.shape)} is not {expected.dtype} {tuple(expected.shape)}"
    )
    if not expected.is_floating_point():
        assert torch.equal(found, expected), f"{at}: the whole numbers differ"
        return 0.0
    one, other = found.double().cpu().numpy(), expected.double().cpu().numpy()
    finite = np.abs(other[np.isfinite(other)])
    return _between_numbers(one, other, max(1.0, float(finite.max())) if finite.size else 1.0, at)


def _between_frames(found: pd.DataFrame, expected: pd.DataFrame, at: str) -> float:
    assert list(found.columns) == list(expected.columns), f"{at}: {list(found)} is not {list(expected)}"
    assert list(found.dtypes) == list(expected.dtypes), f"{at}: {found.dtypes} is not {expected.dtypes}"
    assert found.index.equals(expected.index), f"{at}: {len(found)} rows are not {len(expected)}"
    assert found.attrs.get("answer") == expected.attrs.get("answer"), f"{at}: the scored answers differ"
    assert found.attrs.keys() == expected.attrs.keys(), f"{at}: {list(found.attrs)} is not {list(expected.attrs)}"
    far = 0.0
    for name in expected:
        one, other = found[name], expected[name]
        if pd.api.types.is_float_dtype(other):
            size = np.maximum(_unit(expected, name), np.abs(other.to_numpy()))
            far = max(far, _between_numbers(one.to_numpy(), other.to_numpy(), size, f"{at}: {name}"))
        else:
            differ = [place for place, same in enumerate(_equal(one, other)) if not same]
            assert not differ, f"{at}: {name} of row {differ[:3]}: {one[differ[:3]].tolist()}"
    return far


def _unit(frame: pd.DataFrame, name: str) -> Any:
    """What counts as 1 in a column: a hundred where it is in per cent, and twenty at the ends of intervals.

    An end over three pictures lies up to 13 standard errors from the mean, and so does its rounding.
    """
    in_per_cent = frame["measure"] == PER_CENT if "measure" in frame else np.full(len(frame), name == PER_CENT)
    return np.where(in_per_cent, 100.0, 1.0) * (20.0 if name in ("low", "high") else 1.0)


def _equal(one: pd.Series, other: pd.Series) -> list[bool]:
    """Cell by cell; an empty cell is equal to an empty one."""
    return [_empty(b) if _empty(a) else not _empty(b) and bool(a == b) for a, b in zip(one, other, strict=True)]


def _empty(cell: Any) -> bool:
    return cell is None or cell is pd.NA or (isinstance(cell, float) and math.isnan(cell))


def _between_numbers(found: np.ndarray, expected: np.ndarray, size: Any, at: str) -> float:
    finite = np.isfinite(expected)
    assert np.array_equal(found[~finite], expected[~finite], equal_nan=True), f"{at}: other numbers are missing"
    assert np.isfinite(found[finite]).all(), f"{at}: numbers are missing"
    if not finite.any():
        return 0.0
    away = np.abs(found[finite] - expected[finite])
    return float((away / (size[finite] if isinstance(size, np.ndarray) else size)).max())


def compared(found: Mapping[str, Any], expected: Mapping[str, Any]) -> tuple[float, str]:
    """The largest difference of several results, and a line for each that differs by more than rounding."""
    assert found.keys() == expected.keys()
    worst, differences = 0.0, []
    for name, value in expected.items():
        try:
            far = distance(found[name], value)
        except AssertionError as error:
            far = math.inf
            differences.append(f"{name}: {str(error).splitlines()[0]}")
        else:
            differences += [] if far <= EXACT else [f"{name}: {far:.3g} apart"]
        worst = max(worst, far)
    return worst, "\n".join(differences)


def far_apart(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    """A line for each result that differs by more than rounding; empty where none does."""
    return compared(found, expected)[1]
