"""From the arguments of a call to JSON and bytes, for a job on disk.

None, booleans, strings, whole numbers and finite fractions are written as JSON has them. Everything else becomes an
*entry* of a list and is referred to by `{"at": number}`. An object that occurs twice has one entry, so it is one object
again when it is read, and an object that holds itself is no problem. The contents of tensors, arrays, pictures and
bytes are *blobs*, kept beside the JSON.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import torch
from nnsight import TransformersModel
from PIL import Image

from ..errors import SpecError
from ..identity import bytes_of
from ..prompts.inputs import Inputs
from .value_table import (
    ARGUMENT_FUNCTIONS,
    ARRAY_KINDS,
    PATH_NAMES,
    argument_function,
    fields_of,
    is_value,
    refuse_code,
)

EXACT_INT = 2**53
"""Whole numbers below are written as JSON numbers, which every reader takes exactly."""


class ValueWriter:
    """Collects entries and blobs.

    Attributes:
        entries: one JSON object for each value that is not written in place.
        blobs: the bytes that entries refer to by number.
    """

    def __init__(self, describe_model: Callable[[Any], dict[str, Any]]) -> None:
        self.entries: list[dict[str, Any]] = []
        self.blobs: list[bytes] = []
        self._describe_model = describe_model
        self._numbers: dict[int, int] = {}
        self._values: list[Any] = []  # also keeps them alive, so that no two have the same id

    def write(self, value: Any) -> Any:
        """The JSON of a value.

        Raises:
            SpecError: the value, or something in it, cannot be kept on disk.
        """
        json_value = self._reference(value)
        while len(self.entries) < len(self._values):  # writing an entry can add further values
            self.entries.append(self._entry(self._values[len(self.entries)]))
        return json_value

    def _reference(self, value: Any) -> Any:
        """A value as JSON has it, or a reference to its entry, which `write` will add."""
        if value is None or type(value) in (bool, str):
            return value
        if type(value) is int and abs(value) < EXACT_INT:
            return value
        if type(value) is float and math.isfinite(value):
            return value
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._values)
            self._values.append(value)
        return {"at": self._numbers[id(value)]}

    def _references(self, values: Any) -> list[Any]:
        return [self._reference(value) for value in values]

    def _blob(self, content: bytes) -> int:
        self.blobs.append(content)
        return len(self.blobs) - 1

    def _entry(self, value: Any) -> dict[str, Any]:
        for entry_of in (
            self._number_entry,
            self._container_entry,
            self._package_entry,
            self._named_entry,
            self._content_entry,
            self._frame_entry,
        ):
            entry = entry_of(value)
            if entry is not None:
                return entry
        refuse(value)

    def _number_entry(self, value: Any) -> dict[str, Any] | None:
        kind = type(value)
        if kind is int:
            return {"type": "int", "hex": hex(value)}
        if kind is float:
            return {"type": "float", "text": repr(value)}
        if kind is complex:
            return {"type": "complex", "items": self._references((value.real, value.imag))}
        if isinstance(value, np.generic) and value.dtype.kind in ARRAY_KINDS:
            array = np.asarray(value)  # the dtype of an empty string has no size, but that of its array has
            return {"type": "scalar", "dtype": array.dtype.str, "blob": self._blob(array.tobytes())}
        return None

    def _container_entry(self, value: Any) -> dict[str, Any] | None:
        kind = dict if type(value) is Inputs else type(value)
        if kind in (dict, OrderedDict):
            refuse_code(value)
            return {"type": kind.__name__, "items": [self._references(pair) for pair in value.items()]}
        if kind in (list, tuple, set, frozenset, torch.Size):
            return {"type": kind.__name__, "items": self._references(value)}
        if kind in (range, slice):
            return {"type": kind.__name__, "items": self._references((value.start, value.stop, value.step))}
        return None

    def _package_entry(self, value: Any) -> dict[str, Any] | None:
        """Models, values and functions of this package."""
        if isinstance(value, TransformersModel):
            return {"type": "model", **self._describe_model(value)}
        if is_value(value):
            fields = {name: self._reference(part) for name, part in fields_of(value).items()}
            return {"type": "value", "class": type(value).__name__, "fields": fields}
        name = getattr(value, "__name__", None)
        if isinstance(name, str) and name in ARGUMENT_FUNCTIONS and value is argument_function(name):
            return {"type": "function", "name": name}
        return None

    def _named_entry(self, value: Any) -> dict[str, Any] | None:
        """Dtypes, devices and paths."""
        if isinstance(value, torch.dtype):
            return {"type": "torch.dtype", "name": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"type": "device", "name": str(value)}
        if isinstance(value, np.dtype) and value.kind in ARRAY_KINDS:
            return {"type": "dtype", "name": value.str}
        if isinstance(value, PurePath) and type(value) in PATH_NAMES:
            return {"type": "path", "class": PATH_NAMES[type(value)], "path": str(value)}
        return None

    def _content_entry(self, value: Any) -> dict[str, Any] | None:
        """What has a blob: bytes, tensors, arrays and pictures."""
        kind = type(value)
        if kind in (bytes, bytearray):
            return {"type": kind.__name__, "blob": self._blob(bytes(value))}
        if kind in (torch.Tensor, torch.nn.Parameter):
            if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
                refuse(value, "a tensor that is sparse, quantized or without values")
            blob = self._blob(bytes_of(value.detach().resolve_conj().resolve_neg()))
            dtype = str(value.dtype).removeprefix("torch.")
            return {"type": "tensor", "dtype": dtype, "shape": list(value.shape), "blob": blob}
        if kind is np.ndarray:
            if value.dtype.kind not in ARRAY_KINDS:
                refuse(value, f"an array of dtype {value.dtype}")
            blob = self._blob(np.ascontiguousarray(value).tobytes())
            return {"type": "array", "dtype": value.dtype.str, "shape": list(value.shape), "blob": blob}
        if isinstance(value, Image.Image):
            return self._picture_entry(value)
        return None

    def _frame_entry(self, value: Any) -> dict[str, Any] | None:
        """A DataFrame by its cells: columns have no dtype afterwards, and rows are counted from 0."""
        if hasattr(value, "column_names"):
            raise SpecError(
                "a job on disk cannot hold a data set, which may be larger than the memory; write it to a file, "
                "data.to_parquet('questions.parquet'), and give items='questions.parquet', or wait for the result "
                "(blocking=True)"
            )
        if type(value) is not pd.DataFrame:
            return None
        names = value.columns.tolist()
        columns = [tuple(value.iloc[:, number].tolist()) for number in range(len(names))]
        return {"type": "frame", "names": self._references(names), "columns": self._references(columns)}

    def _picture_entry(self, picture: Image.Image) -> dict[str, Any]:
        """A picture by its pixels; of `info`, what its file said beside them, only plain entries are kept."""
        blob = self._blob(picture.tobytes())
        palette = picture.palette if picture.mode in ("P", "PA") else None
        colours = None if palette is None else bytes(picture.getpalette(palette.mode) or ())
        info = {name: value for name, value in picture.info.items() if type(name) is str and _is_plain(value)}
        return {
            "type": "picture",
            "mode": picture.mode,
            "size": list(picture.size),
            "blob": blob,
            "palette": None if palette is None else [palette.mode, self._blob(colours or b"")],
            "info": self._reference(info),
        }


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str, bytes)


def refuse(value: Any, words: str = "") -> NoReturn:
    """Refuse a value that cannot be kept on disk.

    Raises:
        SpecError: always.
    """
    kind = value if isinstance(value, type) else type(value)
    name = getattr(value, "__qualname__", "")
    said = words or (f"the function {name}" if callable(value) and name else f"a {kind.__module__}.{kind.__qualname__}")
    raise SpecError(
        f"a job on disk cannot hold {said}; give values and functions of nnsight_vlm, plain data, tensors, arrays and "
        "pictures, or wait for the result (blocking=True)"
    )
