"""Image tokens in an encoding, before it is known which image they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import SpecError
from ..families import view_of


def marked(model: Any, inputs: Mapping[str, Any]) -> np.ndarray:
    """`[row, token]`: where the encoding has image tokens; a video's frames may bear the same token (GLM-V)."""
    found = inputs["input_ids"] == view_of(model).config.image_token_id
    kinds = inputs.get("mm_token_type_ids")
    return np.asarray((found if kinds is None else found & (kinds != 2)).cpu())


def counts(model: Any, inputs: Mapping[str, Any]) -> list[int]:
    """How many there are in each row."""
    return [int(count) for count in marked(model, inputs).sum(1)]


def runs(line: np.ndarray) -> list[tuple[int, int]]:
    """`(start, stop)` of each unbroken run of them in a row."""
    edges = np.flatnonzero(np.diff(line.astype(int), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def shares(total: int, each: int) -> int:
    """How many images, or tiles, of `each` tokens are `total` tokens.

    Raises:
        SpecError: no whole number of them.
    """
    if total % max(each, 1):
        raise SpecError(
            f"{total} image tokens are no whole images or tiles of {each}; hand over the encoding uncut, as the "
            "processor of this very model made it"
        )
    return total // max(each, 1)


def check_total(images: Sequence[int], found: int) -> None:
    """Refuse images of other tokens than there are.

    Raises:
        SpecError: both must come from one call of the processor.
    """
    if sum(images) != found:
        raise SpecError(
            f"{len(images)} image(s) of {list(images)} tokens do not make the {found} image tokens of input_ids; "
            "both must come from one call of the processor, uncut"
        )
