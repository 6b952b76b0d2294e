"""Answers whose logits are infinite or not a number: the greatest of them is word 0, which means nothing."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList

from ..errors import NonFiniteWarning


class FiniteWatch:
    """Looks at the logits of every token that is generated, and leaves them as they are.

    Attributes:
        spoilt: `[row]`, whether a logit was not a number or +inf so far; None before the first token. -inf is a word
            that is never said.
    """

    def __init__(self) -> None:
        self.spoilt: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """The scores `[row, word]` of the next token as they came."""
        here = (scores.isnan() | scores.isposinf()).any(-1)
        self.spoilt = here if self.spoilt is None else self.spoilt | here
        return scores

    def options(self) -> dict[str, Any]:
        """The option of `generate` that makes it look."""
        return {"logits_processor": LogitsProcessorList([self])}

    def warn(self, names: Sequence[str] = ()) -> None:
        """Warn of answers that were chosen among such logits.

        Args:
            names: what messages call the rows; default by number.
        """
        rows = [] if self.spoilt is None else self.spoilt.nonzero().flatten().tolist()
        if rows:
            called = ", ".join(names[row] if names else f"row {row}" for row in rows)
            warnings.warn(
                f"while answers were generated, logits were infinite or not a number in {called}: the words of these "
                "answers mean nothing",
                NonFiniteWarning,
                stacklevel=2,
            )
