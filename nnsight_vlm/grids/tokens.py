"""The image tokens of an encoding, before it is known which image each belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..errors import SpecError
from ..families import ModelView

Inputs = Mapping[str, Any]
"""An encoding: tensors by the names of a forward's inputs."""


class TokenRun(NamedTuple):
    """Consecutive image tokens in a row: the first position, and one past the last."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start


def marked(view: ModelView, inputs: Inputs) -> np.ndarray:
    """`[row, token]`: whether a token is an image token. Video tokens, which may have the same id (GLM-V), are not."""
    image = inputs["input_ids"] == view.config.image_token_id
    token_types = inputs.get("mm_token_type_ids")
    return np.asarray((image if token_types is None else image & (token_types != 2)).cpu())


def video_marked(view: ModelView, inputs: Inputs) -> np.ndarray:
    """`[row, token]`: whether a token has the id that stands for a part of a video; none where frames are images."""
    token = view.video_token
    ids = inputs["input_ids"]
    return np.zeros(ids.shape, dtype=bool) if token is None else np.asarray((ids == token).cpu())


def counts(view: ModelView, inputs: Inputs) -> list[int]:
    """The number of image tokens in each row."""
    return [int(count) for count in marked(view, inputs).sum(1)]


def runs(row: np.ndarray) -> list[TokenRun]:
    """The runs of image tokens in a row of `marked`."""
    edges = np.flatnonzero(np.diff(row.astype(int), prepend=0, append=0)).tolist()
    return [TokenRun(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]


def count_units(tokens: int, per_unit: int) -> int:
    """How many images, or tiles, of `per_unit` tokens each make up `tokens` tokens.

    Raises:
        SpecError: tokens are left over.
    """
    if tokens % max(per_unit, 1):
        raise SpecError(
            f"{tokens} image tokens, but an image or tile of this model has {per_unit}, and they do not divide evenly; "
            "give the encoding as this model's processor returned it, without cutting it"
        )
    return tokens // max(per_unit, 1)


def check_total(expected: Sequence[int], total: int, kind: str = "image") -> None:
    """Refuse an encoding whose number of image tokens is not that of its images, or of videos.

    Raises:
        SpecError: with both numbers.
    """
    if sum(expected) != total:
        raise SpecError(
            f"{len(expected)} {kind}(s) of {', '.join(map(str, expected)) or 'no'} tokens, but input_ids have {total} "
            f"{kind} tokens; both must come from one call of the processor, without cutting it"
        )
