"""From JSON and bytes to the arguments of a call: the counterpart of `value_writer`.

Nothing in a file is trusted. Entries are looked up in the tables of `value_table`, and whatever is not there is an
error; no name is imported and no code of the file is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..prompts.inputs import Inputs
from .value_table import (
    ARRAY_KINDS,
    CONTAINERS,
    PATHS,
    SEQUENCES,
    TORCH_DTYPES,
    argument_function,
    check_inputs,
    refuse_code,
    value_class,
)


class ValueReader:
    """Makes the values of a file's entries, each once.

    Args:
        entries: as `ValueWriter.entries`.
        blobs: as `ValueWriter.blobs`.
        model_of: makes a model from its description.
    """

    def __init__(
        self, entries: Sequence[Any], blobs: Sequence[bytes], model_of: Callable[[dict[str, Any]], Any]
    ) -> None:
        self._entries, self._blobs, self._model_of = entries, blobs, model_of
        self._values: dict[int, Any] = {}
        self._unfinished: set[int] = set()

    def read(self, json_value: Any) -> Any:
        """The value that `ValueWriter.write` wrote.

        Containers that can be changed are made first, empty, and filled last. All other values are made from their
        parts, so a value that holds itself is possible exactly where Python makes it possible: by way of a container.

        Raises:
            SpecError: an option that would run code; a prompt whose inputs are more than numbers.
            Exception: of any kind, where the file is broken.
        """
        for number, entry in enumerate(self._entries):
            if entry["type"] in CONTAINERS:
                self._values[number] = CONTAINERS[entry["type"]]()
        containers = dict(self._values)
        value = self._value(json_value)
        for number, container in containers.items():
            self._fill(container, self._entries[number])
        for made in self._values.values():
            if isinstance(made, value_class("Prompt")):
                check_inputs(made)
        return value

    def _value(self, json_value: Any) -> Any:
        if json_value is None or isinstance(json_value, (bool, int, float, str)):
            return json_value
        number = json_value["at"]
        if number not in self._values:
            if number in self._unfinished or not 0 <= number < len(self._entries):
                raise ValueError(f"entry {number} is missing or holds itself")
            self._unfinished.add(number)
            self._values[number] = self._made(self._entries[number])
        return self._values[number]

    def _parts(self, json_values: Sequence[Any]) -> list[Any]:
        return [self._value(json_value) for json_value in json_values]

    def _fill(self, container: Any, entry: dict[str, Any]) -> None:
        if isinstance(container, list):
            container.extend(self._parts(entry["items"]))
        elif isinstance(container, set):
            container.update(self._parts(entry["items"]))
        else:
            container.update((self._value(name), self._value(value)) for name, value in entry["items"])
            refuse_code(container)

    def _made(self, entry: dict[str, Any]) -> Any:
        kind = entry["type"]
        if kind in SEQUENCES:
            return SEQUENCES[kind](self._parts(entry["items"]))
        readers: dict[str, Callable[[], Any]] = {
            "int": lambda: int(entry["hex"], 16),
            "float": lambda: float(entry["text"]),
            "scalar": lambda: self._array(entry["dtype"], (), entry["blob"])[()],
            "array": lambda: self._array(entry["dtype"], entry["shape"], entry["blob"]),
            "tensor": lambda: self._tensor(entry),
            "picture": lambda: self._picture(entry),
            "frame": lambda: self._frame(entry),
            "bytes": lambda: bytes(self._blob(entry["blob"])),
            "bytearray": lambda: bytearray(self._blob(entry["blob"])),
            "model": lambda: self._model_of({name: value for name, value in entry.items() if name != "type"}),
            "value": lambda: self._package_value(entry),
            "function": lambda: argument_function(entry["name"]),
            "torch.dtype": lambda: TORCH_DTYPES[entry["name"]],
            "device": lambda: torch.device(entry["name"]),
            "dtype": lambda: _numpy_dtype(entry["name"]),
            "path": lambda: PATHS[entry["class"]](entry["path"]),
        }
        return readers[kind]()

    def _package_value(self, entry: dict[str, Any]) -> Any:
        fields = {name: self._value(value) for name, value in entry["fields"].items()}
        kind = value_class(entry["class"])
        if issubclass(kind, value_class("Prompt")):
            fields["inputs"] = Inputs(fields["inputs"])  # around the dictionary itself, which is filled later
        return kind(**fields)

    def _blob(self, number: int) -> bytes:
        if number < 0:
            raise ValueError("a blob's number is negative")
        return self._blobs[number]

    def _array(self, dtype_name: str, shape: Sequence[int], blob: int) -> np.ndarray:
        dtype, content = _numpy_dtype(dtype_name), self._blob(blob)
        if not content:
            _check_empty(shape)
            return np.zeros(tuple(shape), dtype)
        return np.frombuffer(content, dtype).reshape(tuple(shape)).copy()

    def _tensor(self, entry: dict[str, Any]) -> torch.Tensor:
        dtype, content = TORCH_DTYPES[entry["dtype"]], self._blob(entry["blob"])
        if not content:
            _check_empty(entry["shape"])
            return torch.empty(entry["shape"], dtype=dtype)
        return torch.frombuffer(bytearray(content), dtype=dtype).reshape(entry["shape"])

    def _frame(self, entry: dict[str, Any]) -> pd.DataFrame:
        columns = self._parts(entry["columns"])
        cells = np.empty((len(columns[0]) if columns else 0, len(columns)), dtype=object)
        for number, column in enumerate(columns):
            for row, cell in enumerate(column):  # one by one, because numpy would take arrays and pictures apart
                cells[row, number] = cell
        return pd.DataFrame(cells, columns=pd.Index(self._parts(entry["names"]), dtype=object))

    def _picture(self, entry: dict[str, Any]) -> Image.Image:
        (width, height), content = entry["size"], self._blob(entry["blob"])
        if width * height > 8 * len(content):  # every mode takes at least one bit a pixel
            raise ValueError(f"a picture of {width} x {height} pixels has {len(content)} bytes")
        picture = Image.frombytes(entry["mode"], (width, height), content)
        if entry["palette"] is not None:
            mode, colours = entry["palette"]
            picture.putpalette(self._blob(colours), mode)
        picture.info = self._value(entry["info"])  # filled later, as every dictionary
        return picture


def _numpy_dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(str(name))
    if dtype.kind not in ARRAY_KINDS:
        raise ValueError(f"arrays of {dtype} are not read")
    return dtype


def _check_empty(shape: Sequence[int]) -> None:
    """Refuse the shape of an array with content, which has none; it could be of any size."""
    if 0 not in shape:
        raise ValueError(f"an array of shape {tuple(shape)} has no content")
