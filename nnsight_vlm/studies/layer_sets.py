"""Sets of layers that the recipes compare: windows, halves, and the layers that read a group of tokens."""

from __future__ import annotations

from collections.abc import Sequence

from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from .token_sets import require


def as_numbers(layers: int | Sequence[int]) -> tuple[int, ...]:
    """Layer numbers, given as numbers or as how many layers there are."""
    return tuple(range(layers)) if isinstance(layers, int) else tuple(layers)


def equal_windows(layers: int | Sequence[int], count: int) -> tuple[tuple[int, ...], ...]:
    """`count` windows of equal size, evenly spread over the layers: quarters for `count=4`.

    Windows of equal size can be compared with each other. Where the number of layers is not divisible by `count`, the
    size is rounded up and neighbours overlap.

    Args:
        layers: how many layers there are, or their numbers.
        count: how many windows; 0 for none.

    >>> equal_windows(8, 4)
    ((0, 1), (2, 3), (4, 5), (6, 7))
    >>> equal_windows((3, 8, 13, 18), 2)
    ((3, 8), (13, 18))
    """
    if count < 1:
        return ()
    numbers = as_numbers(layers)
    size = -(-len(numbers) // count)
    starts = [round(window * (len(numbers) - size) / max(count - 1, 1)) for window in range(count)]
    return tuple(dict.fromkeys(numbers[start : start + size] for start in starts))


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
