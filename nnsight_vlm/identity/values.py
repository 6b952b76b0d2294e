"""The digest of values: equal where the values are equal to the bit, in any process.

A value is turned into a sequence of byte strings (*pieces*): first what kind of value it is, then its size, then its
content. Nothing is spelled by `str` or `repr` of an object, which may hold an address in memory: a value whose content
cannot be read is refused.
"""

from __future__ import annotations

import datetime
import enum
import hashlib
import math
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodDescriptorType
from typing import Any

import numpy as np
import torch

from ..errors import SpecError
from .functions import class_pieces, function_pieces, name_of

Slots = dict[int, int] | None
"""The number of each empty list met so far, by its `id`; None where empty lists are ordinary values."""


def digest(*parts: Any) -> str:
    """A short name for a request: equal where everything in it is equal, in any process.

    Lists and tuples of equal elements are equal. The order of a mapping's entries does not count. An empty list is a
    *slot* that the model fills with a result: slots are named by the order in which they are met, so that two uses of
    one slot differ from one use each of two.

    Raises:
        SpecError: a value that has no identity outside this process, such as a lambda or an object of unknown content.
    """
    return _hashed(_pieces(parts, {}))[:24]


def setting_digest(value: Any) -> str:
    """A short name for a setting.

    Unlike in `digest`, an empty list is an ordinary value, and the order of a mapping's entries counts: recipes measure
    the conditions of a mapping in its order, and their frames follow it.

    Raises:
        SpecError: see `digest`.
    """
    return _hashed(_pieces(value, None))[:24]


def _hashed(pieces: Iterable[bytes]) -> str:
    sha = hashlib.sha256()
    for piece in pieces:
        sha.update(len(piece).to_bytes(8, "little") + piece)
    return sha.hexdigest()


def bytes_of(tensor: torch.Tensor) -> bytes:
    """The values of a tensor, in row-major order."""
    plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def _pieces(value: Any, slots: Slots) -> Iterator[bytes]:
    for types, spell in _SPELLERS:
        if isinstance(value, types):
            yield from spell(value, slots)
            return
    if is_dataclass(value):
        yield from class_pieces(type(value), _pieces)
        yield from _pieces({field.name: getattr(value, field.name) for field in fields(value)}, slots)
        return
    library = type(value).__module__.partition(".")[0]
    if library not in _LIBRARIES:
        raise SpecError(
            f"a {name_of(type(value))} has no identity that another process would know; give plain values, arrays, "
            "tensors, pictures, frames, dataclasses of these, or a function defined at the top of a module"
        )
    yield from _LIBRARIES[library](value, slots)


def _enum(value: enum.Enum, _: Slots) -> Iterator[bytes]:
    yield from (b"enum", name_of(type(value)).encode(), value.name.encode())


def _tensor(value: torch.Tensor, _: Slots) -> Iterator[bytes]:
    if value.device.type == "meta" or value.layout != torch.strided or value.is_quantized:
        raise SpecError(
            f"a tensor on {value.device.type!r} of layout {value.layout} has no values to compare; give a dense one"
        )
    yield from (b"tensor", str(value.dtype).encode(), str(tuple(value.shape)).encode(), bytes_of(value))


def _array(value: np.ndarray | np.generic, slots: Slots) -> Iterator[bytes]:
    if not isinstance(value, np.generic) and type(value) not in (np.ndarray, np.memmap):
        raise SpecError(
            f"an array of type {name_of(type(value))} is not compared by its numbers alone; give np.asarray"
        )
    yield from (b"array", repr(value.dtype.descr).encode(), str(value.shape).encode())
    if value.dtype.hasobject:
        yield from _pieces(value.tolist(), slots)
    else:
        yield value.tobytes()


def _float(value: float, _: Slots) -> Iterator[bytes]:
    yield from (b"float", b"nan" if math.isnan(value) else struct.pack("<d", value))


def _complex(value: complex, slots: Slots) -> Iterator[bytes]:
    yield b"complex"
    yield from _float(value.real, slots)
    yield from _float(value.imag, slots)


def _mapping(value: Mapping[Any, Any], slots: Slots) -> Iterator[bytes]:
    entries = [(list(_pieces(key, None)), part) for key, part in value.items()]
    yield from (b"mapping", str(len(entries)).encode())
    for key, part in entries if slots is None else sorted(entries, key=lambda entry: entry[0]):
        yield from key
        yield from _pieces(part, slots)


def _set(value: frozenset[Any] | set[Any], _: Slots) -> Iterator[bytes]:
    yield from (b"set", str(len(value)).encode())
    yield from sorted(_hashed(_pieces(part, None)).encode() for part in value)


def _sequence(value: list[Any] | tuple[Any, ...] | range, slots: Slots) -> Iterator[bytes]:
    if slots is not None and isinstance(value, list) and not value:
        yield from (b"slot", str(slots.setdefault(id(value), len(slots))).encode())
    elif all(type(part) is int for part in value):  # tokens and positions: many, and one piece is enough for them
        yield from (b"ints", ",".join(map(str, value)).encode())
    else:
        yield from (b"sequence", str(len(value)).encode())
        for part in value:
            yield from _pieces(part, slots)


def _function(value: Any, _: Slots) -> Iterator[bytes]:
    yield from function_pieces(value, _pieces)


def _type(value: type, _: Slots) -> Iterator[bytes]:
    yield from class_pieces(value, _pieces)


def _picture(value: Any, slots: Slots) -> Iterator[bytes]:
    if not all(hasattr(value, name) for name in ("mode", "size", "tobytes", "getpalette")):
        raise SpecError(f"a {name_of(type(value))} is not a picture; give a PIL.Image.Image")
    yield from (b"picture", value.mode.encode(), str(value.size).encode(), value.tobytes())
    yield from _pieces([value.getpalette(), value.info.get("transparency")], slots)


def _frame(value: Any, slots: Slots) -> Iterator[bytes]:
    import pandas as pd

    if isinstance(value, pd.DataFrame):
        yield from (b"frame", str(value.shape).encode())
        yield from _pieces(value.columns.tolist(), slots)
        yield from _frame(value.index, slots)
        for number in range(value.shape[1]):
            yield from _frame(value.iloc[:, number], slots)
    elif isinstance(value, (pd.Series, pd.Index)):
        yield from (b"column", str(value.dtype).encode())
        if isinstance(value.dtype, pd.CategoricalDtype):
            yield from _pieces([value.dtype.categories.tolist(), value.dtype.ordered], slots)
        yield from _pieces(value.to_numpy() if value.dtype.kind in "biuf" else value.tolist(), slots)
    elif value is pd.NA or value is pd.NaT:
        yield b"not available"
    else:
        raise SpecError(f"a {name_of(type(value))} has no identity here; give a DataFrame or a Series")


def _plain(kind: bytes, encode: Any) -> Any:
    """Pieces of a value whose content is one byte string."""
    return lambda value, _: iter((kind, encode(value)))


_SPELLERS: tuple[tuple[Any, Any], ...] = (
    (type(None), _plain(b"none", lambda _: b"")),
    (type(Ellipsis), _plain(b"ellipsis", lambda _: b"")),
    (enum.Enum, _enum),
    (bool, _plain(b"bool", lambda value: b"1" if value else b"0")),
    ((np.ndarray, np.generic), _array),  # before numbers: numpy's float64 is a float, too
    (int, _plain(b"int", lambda value: str(int(value)).encode())),
    (float, _float),
    (complex, _complex),
    (str, _plain(b"str", lambda value: value.encode("utf-8", "surrogatepass"))),
    ((bytes, bytearray), _plain(b"bytes", bytes)),
    (torch.Tensor, _tensor),
    ((torch.dtype, torch.device), _plain(b"torch", lambda value: str(value).encode())),
    (PurePath, _plain(b"path", lambda value: str(value).encode("utf-8", "surrogatepass"))),
    (re.Pattern, lambda value, slots: _pieces(("pattern", value.pattern, int(value.flags)), slots)),
    (Mapping, _mapping),
    ((set, frozenset), _set),
    ((list, tuple, range), _sequence),
    ((datetime.date, datetime.time), _plain(b"time", lambda value: value.isoformat().encode())),
    (datetime.timedelta, _plain(b"timedelta", lambda value: str(value).encode())),
    (slice, lambda value, slots: _pieces(("slice", value.start, value.stop, value.step), slots)),
    (type, _type),
    ((FunctionType, BuiltinFunctionType, MethodDescriptorType), _function),
)
"""How values of each type are spelled; the first that fits is taken."""

_LIBRARIES = {"PIL": _picture, "pandas": _frame}
"""Values of libraries that are imported only where such a value is met."""
