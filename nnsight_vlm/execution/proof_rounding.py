"""How far apart two computations of one thing may lie by rounding alone, so that a proof says no more and no less.

A bound is worth what it excludes. One that follows from the dtype alone has to hold for every model and in half
precision would let an intervention pass that does nothing. So each proof measures how far apart the same two ways of
computing lie in the *clean* run, and allows a small multiple of that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch

from ..errors import InterventionError
from ..families import Model, view_of

SINGLE = torch.finfo(torch.float32).eps
"""No model computes more precisely: norms, softmax and rotary angles are float32 also in a model in float64, and
transformers' generation hands out logits in float32."""
COMPUTED_IN = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that models compute in; weights of other types (8 bits, 4 bits) are converted to the others."""
MOST = 0.25
"""Never is a gap larger than this share of the logits put down to rounding."""


class Rounding(NamedTuple):
    """What rounding may do in one model.

    Attributes:
        unit: the distance from 1 to the next number, in the coarsest type that the model computes in.
        least: logits of words that a model never says are as low as its type allows: this or lower.
        units: how many units two ways of computing may lie apart where the clean run's do not lie apart at all.
        growth: how many times further apart they may lie under an intervention than in the clean run, which makes the
            same additions of other values.
    """

    unit: float
    least: float
    units: float
    growth: float

    @property
    def attention(self) -> float:
        """The most for what one attention gives, as a share of the size of its scores and values."""
        return 16 * self.unit

    def gap(self, found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """The greatest difference at each position of `[..., position, word]`, as a share of the greatest logit at any.

        Words that a model never says are left out: their logits would dwarf all others. It is infinite where a word is
        unsaid in one only, and NaN where a logit is no number.
        """
        here, there = found.double(), expected.double()
        unsaid, also_unsaid = here <= self.least, there <= self.least
        away = (here - there).abs().masked_fill(unsaid & also_unsaid, 0.0).masked_fill(unsaid ^ also_unsaid, torch.inf)
        scale = there.masked_fill(also_unsaid, 0.0).abs().amax((-2, -1))
        return away.amax(-1) / scale.clamp(min=1e-3)[..., None]

    def moved(self, clean: torch.Tensor, changed: torch.Tensor) -> float:
        """The largest change of the logit of a word that is said in either; NaN where one is no number any more."""
        unsaid = (clean <= self.least) & (changed <= self.least)
        return float((changed - clean).abs().masked_fill(unsaid, 0.0).max())

    def allowed(self, clean_gaps: Sequence[float], apart: str) -> float:
        """The largest gap between two ways of computing logits that rounding explains under an intervention.

        Args:
            clean_gaps: their gaps without an intervention, one a row.
            apart: what lies apart, for the message: `"its logits in ... are off by {} from ..."`.

        Raises:
            InterventionError: the two ways lie so far apart without an intervention that nothing could be proved.
        """
        most = min(64 * self.units * self.unit, MOST / 2)
        for row, gap in enumerate(clean_gaps):
            if math.isnan(gap):
                raise no_numbers(row)
            if gap > most:
                raise InterventionError(
                    f"row {row}: even without an intervention {apart.format(f'{gap:.3g} of their size')}, so nothing "
                    "can be proved of this prompt",
                    plain="Nothing can be proved here: the model's numbers are too inexact.",
                    advice="; run its rows alone, or load the model in float32",
                )
        return min(self.units * self.unit + self.growth * max(clean_gaps), MOST)


def no_numbers(row: int) -> InterventionError:
    """What is raised where the clean run has nothing to compare with."""
    return InterventionError(
        f"row {row}: even without an intervention the model gives logits that are no numbers (NaN), so nothing can be "
        "proved of it. Padding does this to models in float64 under eager attention, and large states to models in "
        "float16",
        plain="Nothing can be proved here: the model's scores of words are no numbers (NaN).",
        advice=': run the rows alone, or load the model with attn_implementation="sdpa", or in float32',
    )


def rounding_of(model: Model) -> Rounding:
    """What rounding may do in a model, from the types of its weights."""
    types = [
        weight.dtype
        for weight in {weight.dtype: weight for weight in view_of(model).module.parameters()}.values()
        if weight.dtype in COMPUTED_IN
    ]
    coarsest = max(types or [view_of(model).dtype], key=lambda dtype: torch.finfo(dtype).eps)
    is_half = torch.finfo(coarsest).eps > SINGLE
    return Rounding(
        unit=max(torch.finfo(coarsest).eps, SINGLE),
        least=float(torch.finfo(coarsest).min),
        units=8 if is_half else 64,
        growth=4 if is_half else 64,
    )


def worst(gaps: Iterable[torch.Tensor]) -> list[float]:
    """The greatest gap of each row; NaN where there is one."""
    return [float(gap.amax()) for gap in gaps]
