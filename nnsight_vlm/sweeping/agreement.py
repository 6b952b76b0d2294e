"""Whether a shared pass gives what single runs give, where that is not certain.

Packed variants and rows of a batch get the numbers of single runs in a model of plain modules, and nothing is compared
there. Where a model has other parts (see `unusual`), two cases of every kind of shared pass are run by themselves
before the kind is used, and the pass in two orders. If logits differ by more than rounding, the call goes on one by
one, and says so. Rows are no check of a packed pass, because they share a pass too; single runs are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from ..errors import PassesDifferWarning
from ..families import Model, view_of
from ..remote.model_call import Remote
from .kept_runs import KeptRuns
from .unusual import unusual_parts

FLOAT32_SHARE = 256 * torch.finfo(torch.float32).eps
"""The most by which two ways of computing logits may differ, as a share of their scale; float64 models convert to
float32 in places."""
ROUNDINGS = 4
"""The same for narrower types, in roundings of the type: they add up like a random walk over the layers."""
TF32 = 2.0**-10
"""The rounding of float32 in matrix products on a GPU, where that is allowed."""
BARRED = 1e3
"""Logits so far below the greatest do not count: models bar words with some very low number."""
NAMED = 2
"""How many unusual parts a warning names."""


class Comparison(NamedTuple):
    """Cases in a shared pass, and two of them by themselves: one of the call, and a clean one.

    A cut may hide what is to be seen, so a clean case is among them. And a part may disturb one case of a pass alone,
    such as a hook that writes at one position, so the pass is run in a second order too: no case may depend on its
    place.

    Attributes:
        kind: of pass, as a value that is equal where passes are alike.
        words: what kind of pass it is, in words.
        shared: computes the logits of all cases, `[case, word]`, and the same from a pass in another order.
        alone: computes the logits of the first and the last case by themselves, `[2, word]`.
    """

    kind: tuple[Any, ...]
    words: str
    shared: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    alone: Callable[[], torch.Tensor]


def must_run_alone(
    model: Model, runs: KeptRuns[Any], remote: Remote, compared: Callable[[], Iterable[Comparison]]
) -> bool:
    """Whether the cases of a call must be run one by one, because this model's shared passes give other numbers.

    Costs no forward where a model has only plain parts. What was found out holds as long as kept runs do: for one call,
    for one recipe, or inside `nv.reuse`, and for the same unusual parts.

    Args:
        model: an nnsight model.
        runs: of the call.
        remote: see `nv.run`.
        compared: makes one comparison for each kind of shared pass that the call would use.

    Warns:
        PassesDifferWarning: what differs, by how much, and what that means.
    """
    parts = unusual_parts(model, remote)
    if not parts:
        return False
    for comparison in compared():
        known = (parts, comparison.kind)
        if known not in runs.agreements:
            runs.agreements[known] = _agree(model, comparison, [name for name, _ in parts])
        if not runs.agreements[known]:
            return True
    return False


def _agree(model: Model, comparison: Comparison, parts: Sequence[str]) -> bool:
    """Compare; warn where the two are not the same."""
    alone, (shared, moved) = comparison.alone(), comparison.shared()
    counted = alone[-1] > alone[-1].max() - BARRED
    scale = float(alone[-1][counted].abs().max()) if counted.any() else 0.0
    limit = share(model) * scale
    gap = max(_gap(shared[[0, -1]], alone, counted), _gap(shared, moved, counted))
    if gap <= limit:
        return True
    again = _gap(comparison.alone(), alone, counted)
    chance = (
        f" Two single runs of one case differ by {again:.2g} as well: the model's output depends on chance or on "
        "earlier runs, so no two numbers of it can be compared."
        if not again <= limit
        else ""
    )
    named = ", ".join(parts[:NAMED]) + (f" and {len(parts) - NAMED} more" if len(parts) > NAMED else "")
    warnings.warn(
        f"in this model a case's numbers depend on what else is in the pass. {comparison.words.capitalize()}, a logit "
        f"lies {gap:.2g} off that of the single run, or of the same pass in another order, where the largest logit is "
        f"{scale:.2g}. The cases of this call are run one by one instead, which takes longer and gives the numbers of "
        f"nv.run and nv.generate. Parts that are not of a known plain kind: {named}.{chance}",
        PassesDifferWarning,
        stacklevel=6,
    )
    return False


def share(model: Model) -> float:
    """The most by which rounding alone may change logits, as a share of their scale."""
    view = view_of(model)
    device = view.device.type
    roundings = [float(torch.finfo(view.dtype).eps)]
    if device != "meta" and torch.is_autocast_enabled(device):
        roundings.append(float(torch.finfo(torch.get_autocast_dtype(device)).eps))
    if device == "cuda" and torch.get_float32_matmul_precision() != "highest":
        roundings.append(TF32)
    return max(FLOAT32_SHARE, ROUNDINGS * max(roundings))


def _gap(one: torch.Tensor, other: torch.Tensor, counted: torch.Tensor) -> float:
    """The greatest difference of two counted logits `[case, word]`; infinite where one is no number."""
    difference = (one.double() - other.double()).abs()[:, counted]
    return float(difference.nan_to_num(nan=torch.inf).max()) if difference.numel() else 0.0
