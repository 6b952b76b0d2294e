"""Sets of layers that the recipes compare: windows, halves, and the layers that read a group of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ..errors import SpecError
from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from .token_sets import require


def as_numbers(layers: int | Sequence[int]) -> tuple[int, ...]:
    """Layer numbers, given as numbers or as how many layers there are."""
    return tuple(range(layers)) if isinstance(layers, int) else tuple(layers)


def equal_windows(layers: int | Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """The layers divided into `count` windows: quarters for `count=4`.

    Every layer is in one window, and sizes differ by one layer at most.

    Args:
        layers: how many layers there are, or their numbers.
        count: how many windows, as many as there are layers at most; 0 for none.

    >>> equal_windows(8, 4)
    ((0, 1), (2, 3), (4, 5), (6, 7))
    >>> equal_windows(10, 4)
    ((0, 1), (2, 3, 4), (5, 6), (7, 8, 9))
    >>> equal_windows((3, 8, 13, 18), 2)
    ((3, 8), (13, 18))

    Raises:
        SpecError: more windows than layers.
    """
    numbers = as_numbers(layers)
    count = _within("windows", count, numbers, least=0)
    bounds = [window * len(numbers) // max(count, 1) for window in range(count + 1)]
    return tuple(numbers[start:stop] for start, stop in pairwise(bounds))


class CentredWindow(NamedTuple):
    """The layers around one layer.

    Attributes:
        centre: the number of the layer around which they lie.
        layers: their numbers.
    """

    centre: int
    layers: tuple[int, ...]


def centred_windows(layers: int | Sequence[int], width: int, stride: int = 1) -> tuple[CentredWindow, ...]:
    """Windows of `width` layers around every `stride`-th layer, clipped at both ends.

    As in Zhang et al. 2024 (arXiv 2411.18620): `width // 2` layers before the centre, and the rest from the centre on.
    With an even width there is one more layer before the centre than behind it. At the ends, windows hold only the
    layers that exist.

    Args:
        layers: how many layers there are, or their numbers; neighbours are neighbours in this list.
        width: how many layers a window has, as many as there are layers at most.
        stride: how many layers lie between neighbouring centres.

    >>> [window.layers for window in centred_windows(4, 3)]
    [(0, 1), (0, 1, 2), (1, 2, 3), (2, 3)]
    >>> centred_windows((3, 8, 13, 18), 2, stride=3)
    (CentredWindow(centre=3, layers=(3,)), CentredWindow(centre=18, layers=(13, 18)))

    Raises:
        SpecError: a width or a stride of more layers than there are.
    """
    numbers = as_numbers(layers)
    width, stride = _within("width", width, numbers, least=1), _within("stride", stride, numbers, least=1)
    return tuple(
        CentredWindow(numbers[place], numbers[max(place - width // 2, 0) : place - width // 2 + width])
        for place in range(0, len(numbers), stride)
    )


def _within(name: str, given: int, layers: Sequence[int], *, least: int) -> int:
    """A number of layers or windows that is not greater than the number of layers.

    Raises:
        SpecError: it is.
    """
    if not least <= given <= len(layers):
        raise SpecError(
            f"{name}={given} does not fit {len(layers)} layer(s) ({spell_layers(layers)}); write a number from {least} "
            f"to {len(layers)}"
        )
    return given


def middle_half(layers: int | Sequence[int]) -> tuple[int, ...]:
    """The middle half of the layers: all but the first and the last quarter.

    >>> middle_half(8)
    (2, 3, 4, 5)
    """
    numbers = as_numbers(layers)
    size = max(len(numbers) // 2, 1)
    start = (len(numbers) - size) // 2
    return numbers[start : start + size]


def other_layers(layers: int | Sequence[int], chosen: Sequence[int]) -> tuple[int, ...]:
    """The layers that are not among the chosen ones."""
    return tuple(layer for layer in as_numbers(layers) if layer not in set(chosen))


def spell_layers(layers: Sequence[int]) -> str:
    """Layers as a table shows them, in runs.

    >>> spell_layers([3, 4, 5, 8])
    '3-5,8'
    """
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def layers_reading(model: Model, prompt: Prompt, source: Where) -> tuple[int, ...]:
    """The decoder layers whose attention has the source tokens among its keys.

    These are the layers with cross-attention where the source lies outside the decoder's sequence, else those with
    self-attention.

    Raises:
        SpecError: the prompt has no such tokens.
    """
    require(prompt, source)
    spec = view_of(model).stage()
    by_range = [spec.cross if start < 0 else spec.attention for start, _ in prompt.rows[0].ranges(source)]
    return tuple(layer for layer in range(spec.layer_count) if all(layer in layers for layers in by_range))
