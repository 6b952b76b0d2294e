"""How recipes group layers for cuts: in windows that part them, or in a window around each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arguments import whole_number
from ..errors import SpecError
from .layer_sets import as_numbers, centred_windows, equal_windows, spell_layers

USUAL = 4
"""How many windows the layers are divided into unless something else is asked for."""
PAPER_WIDTH, PAPER_LAYERS = 9, 32
"""The windows of Zhang et al. 2024 (arXiv 2411.18620): 9 layers, in models of 32 layers and more."""


class LayerWindow(NamedTuple):
    """Some neighbouring layers among those that have a route.

    Attributes:
        label: what a table calls the window: its layers, or its centre where it lies around one.
        centre: the layer in its middle, or around which it was laid.
        layers: their numbers.
    """

    label: str
    centre: int
    layers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How layers are grouped; made by `windows_given`.

    Attributes:
        count: how many windows part the layers; None for windows around layers.
        width: how many layers a window around a layer has; None for a width that follows from how many there are.
        stride: how many layers lie between the centres of such windows.
        at_most: take fewer windows where there are fewer layers than `count`.
    """

    count: int | None = None
    width: int | None = None
    stride: int = 1
    at_most: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What a journal keeps of it, and a methods section says."""
        if self.count is not None:
            return {"windows": "one window of layers" if self.count == 1 else f"each of {self.count} windows of layers"}
        width = f"about {PAPER_WIDTH}/{PAPER_LAYERS} of the" if self.width is None else self.width
        step = "layer" if self.stride == 1 else f"{self.stride} layers"
        return {"windows": f"a window of {width} layers around every {step}"}

    def of(self, layers: int | Sequence[int], whose: str = "") -> tuple[LayerWindow, ...]:
        """The windows of some layers.

        Args:
            layers: how many there are, or their numbers.
            whose: what an error begins with.

        Raises:
            SpecError: more windows, or wider ones, than there are layers.
        """
        numbers = as_numbers(layers)
        try:
            if self.count is None:
                width = usual_width(len(numbers)) if self.width is None else self.width
                return tuple(
                    LayerWindow(str(window.centre), window.centre, window.layers)
                    for window in centred_windows(numbers, width, self.stride)
                )
            count = min(self.count, len(numbers)) if self.at_most else self.count
            return tuple(
                LayerWindow(spell_layers(window), window[len(window) // 2], window)
                for window in equal_windows(numbers, count)
            )
        except SpecError as error:
            raise SpecError(f"{whose}{error}") from None


def windows_given(windows: Any, width: Any, stride: Any, usual: Windows) -> Windows:
    """How the user groups the layers.

    Args:
        windows, width, stride: as given, None where they were not.
        usual: what is done where none was given.

    Raises:
        SpecError: no whole numbers, windows beside a width or a stride, or a stride alone where windows of equal size
            are usual.
    """
    if windows is not None and (width is not None or stride is not None):
        raise SpecError(
            "windows= parts the layers, and width= and stride= lay windows around layers; write windows=4, or width=9 "
            "and stride=1"
        )
    if windows is not None:
        least = 1 if usual.count is None else 0  # without a window a recipe may cut in all layers, or nothing is left
        return Windows(count=whole_number("windows", windows, least=least, kind="number of windows"))
    if width is None and stride is None:
        return usual
    if width is None and usual.count is not None:
        raise SpecError(f"stride={stride!r} lies between windows of a width, and none is given; write width=9 as well")
    step = 1 if stride is None else whole_number("stride", stride, least=1, kind="number of layers")
    if width is None:
        return Windows(stride=step)
    return Windows(width=whole_number("width", width, least=1, kind="number of layers"), stride=step)


def usual_width(layers: int) -> int:
    """The width of windows around layers: the share of the depth that 9 of 32 layers are, at most 9, and odd.

    >>> [usual_width(layers) for layers in (2, 8, 16, 24, 28, 32, 40)]
    [1, 3, 5, 7, 7, 9, 9]
    """
    return min(2 * (layers * PAPER_WIDTH // (2 * PAPER_LAYERS)) + 1, PAPER_WIDTH)


def nested_draws(layers: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> dict[int, tuple[int, ...]]:
    """Random layers for each size of window: the larger draw holds the smaller one.

    Windows of one size share a draw, so that windows of several sizes need few controls, and these differ in how many
    layers they hold only.

    Args:
        layers: those that have the route.
        sizes: how many layers windows have; where it is all of them, there is no draw, because it would be no control.
        rng: of the image.
    """
    wanted = [size for size in dict.fromkeys(sizes) if size < len(layers)]
    drawn = rng.choice(len(layers), max(wanted, default=0), replace=False)
    return {size: tuple(layers[place] for place in sorted(map(int, drawn[:size]))) for size in wanted}
