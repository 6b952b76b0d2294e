"""Cases whose logits are infinite or not a number: run apart, named, and without a rank.

A closed edge is 0 times a value, and 0 times infinity is not a number: one case with such states spoils every other
that is packed into the same sequence. Whatever comes back so is run again in smaller parties, until each case either
has a score or has none in a run of its own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from ..errors import InterventionError, NonFiniteWarning


class Scored(Protocol):
    """What a case scored; its log-probability is no number exactly where one of its logits is none or is +inf."""

    @property
    def logprob(self) -> float: ...


Party = Iterator[tuple[Sequence[int], Sequence[Any]]]
"""Forward by forward, some cases and their scores."""


def is_finite(score: Scored) -> bool:
    """Whether a case has a score; a probability of 0 is one."""
    return not math.isnan(score.logprob)


def apart(scores: Mapping[int, Any], run: Callable[[tuple[int, ...]], Party]) -> Party:
    """Run again what came back without a score, in ever smaller parties; forward by forward, as `run` gives them.

    Args:
        scores: of some cases, by number, from forwards that they shared.
        run: runs cases, in one forward or in several.
    """
    spoilt = tuple(number for number, score in scores.items() if not is_finite(score))
    middle = max(1, len(spoilt) // 2)
    for party in (spoilt[:middle], spoilt[middle:]):
        if not party:
            continue
        found: dict[int, Any] = {}
        for numbers, scored in run(party):
            found |= dict(zip(numbers, scored, strict=True))
            yield numbers, scored
        if len(party) > 1:
            yield from apart(found, run)


def require_finite(clean: Scored) -> None:
    """Refuse scores that would be compared with a clean run that has none.

    Raises:
        InterventionError: saying what to write.
    """
    if not is_finite(clean):
        raise InterventionError(
            "the clean run's logits are infinite or not a number, so nothing can be compared with it; a model that "
            'overflows in float16 needs dtype="bfloat16" or dtype="float32" in nv.load'
        )


def name_non_finite(names: Sequence[Any], scores: Sequence[Scored]) -> None:
    """Warn of variants without a score, by name."""
    lost = [name for name, score in zip(names, scores, strict=True) if not is_finite(score)]
    if lost:
        warnings.warn(
            f"the logits of {len(lost)} of {len(scores)} variants are infinite or not a number, so they have neither "
            f"rank nor top token: {', '.join(map(repr, lost[:20]))}{', ...' if len(lost) > 20 else ''}",
            NonFiniteWarning,
            stacklevel=2,
        )
