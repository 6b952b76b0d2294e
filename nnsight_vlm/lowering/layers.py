"""Layers: which ones, by number, by window or by fraction of the depth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..arguments import number, whole_number
from ..errors import SpecError
from ..prompts.where import MaskedPositions, as_tuples, numbers_in, shown


@dataclass(frozen=True)
class Window:
    """The layers `start .. stop - 1`; made by `window`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Depth:
    """The layers between two fractions of the depth; made by `depth`."""

    start: float
    stop: float


Layers = int | str | Window | Depth | Sequence[int]


def window(start: int, stop: int) -> Window:
    """The layers `start`, ..., `stop - 1`.

    Raises:
        SpecError: `stop` is not after `start`.
    """
    first, end = whole_number("start", start, kind="layer"), whole_number("stop", stop, kind="layer")
    if not 0 <= first < end:
        raise SpecError(f"window({first}, {end}) holds no layer; write nv.window(8, 16) for layers 8 to 15")
    return Window(first, end)


def depth(start: float, stop: float) -> Depth:
    """The layers from `start` to `stop` as fractions of the depth; adjacent fractions never share a layer.

    Raises:
        SpecError: the fractions are not 0 <= start < stop <= 1.
    """
    begin, end = (number(name, given, kind="fraction") for name, given in (("start", start), ("stop", stop)))
    if not 0 <= begin < end <= 1:
        raise SpecError(f"depth({start}, {stop}) is no part of the depth; write nv.depth(0.25, 0.5)")
    return Depth(begin, end)


def layer_numbers(layers: Layers, count: int) -> tuple[int, ...]:
    """What a layer choice means in a model of `count` layers, sorted; negative numbers count from the end.

    >>> layer_numbers([0, -1], 4)
    (0, 3)

    Raises:
        SpecError: a layer that the model has not got, a depth that holds none, or a value that is no layer choice.
    """
    numbers = _numbers(layers, count)
    if not numbers and isinstance(layers, Depth):
        raise SpecError(f"depth({layers.start}, {layers.stop}) holds none of the model's {count} layers; make it wider")
    outside = [layer for layer in numbers if not -count <= layer < count]
    if outside:
        raise SpecError(
            f"layer {outside[0]} is out of range: the model has layers 0..{count - 1}, from the end -{count}..-1"
        )
    return numbers if not numbers or numbers[0] >= 0 else tuple(sorted({layer % count for layer in numbers}))


def require_ascending_layers(layers: Layers, count: int | None = None) -> None:
    """Refuse layers in an order of their own where values go with them, which follow the model's.

    Args:
        layers: what the user gave.
        count: how many layers there are; None where no model is known yet, and layers that are counted from the end
            have no number.

    Raises:
        SpecError: layers that do not ascend.
    """
    given = tuple(numbers_in(as_tuples(layers)))
    numbers = given if count is None else tuple(layer % count for layer in given)
    if min(numbers, default=0) < 0:
        return
    if any(after <= before for before, after in pairwise(numbers)):
        raise SpecError(
            f"layers {given} must ascend: values go with them in the order of the model, where they are {numbers}"
        )


def _numbers(layers: Layers, count: int) -> tuple[int, ...]:
    if isinstance(layers, str) and layers in ("all", "attention"):
        return tuple(range(count))
    if isinstance(layers, Window):
        return tuple(range(layers.start, min(layers.stop, max(layers.start, count) + 1)))
    if isinstance(layers, Depth):
        return tuple(range(round(layers.start * count), round(layers.stop * count)))
    given: Any = as_tuples(layers)
    listed = given if isinstance(given, tuple) else (given,)
    numbers = [layer for layer in listed if type(layer) is int]
    if len(numbers) < len(listed):
        raise SpecError(
            f'no layers {shown(given)}; {_in_python(given)}write "all", a number, a list of numbers, nv.window(8, 16) '
            "or nv.depth(0.25, 0.5); of a mask [layer for layer, on in enumerate(mask) if on]"
        )
    return tuple(sorted(set(numbers)))


def _in_python(given: Any) -> str:
    """What to write for layers that were given as a table spells them (see `label`), for a message; nothing for others.

    >>> _in_python("3:6"), _in_python("0.25:0.5"), _in_python("1, 2")
    ('write nv.window(3, 6); or ', 'write nv.depth(0.25, 0.5); or ', 'write [1, 2]; or ')
    """
    text = given.replace(" ", "") if isinstance(given, str) else ""
    if ends := re.fullmatch(r"(\d+):(\d+)", text):
        return f"write nv.window({ends[1]}, {ends[2]}); or "
    if ends := re.fullmatch(r"([\d.]+):([\d.]+)", text):
        return f"write nv.depth({ends[1]}, {ends[2]}); or "
    return f"write [{text.replace(',', ', ')}]; or " if re.fullmatch(r"-?\d+(,-?\d+)*", text) else ""


def label(value: Any) -> Any:
    """A field of an intervention as a table shows it, and as the command line takes it.

    A window is spelled as Python spells it, without its end. Fractions have a point, so that no fraction of the depth
    is taken for a layer.

    >>> label(window(8, 16)), label(depth(0, 0.5)), label((1, 2, 5))
    ('8:16', '0.0:0.5', '1,2,5')
    """
    if isinstance(value, Window):
        return f"{value.start}:{value.stop}"
    if isinstance(value, Depth):
        return f"{float(value.start)}:{float(value.stop)}"
    if isinstance(value, MaskedPositions):
        return label(value.positions)
    if isinstance(value, tuple):
        return ",".join(str(label(part)) for part in value)
    return value
