"""Which parts of a report are measured."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import SpecError
from .sections import SECTIONS

BASE = (
    *("knockout_windows", "patch_grounding", "attention_share", "prompt_ablation"),
    *("knockout_answers", "query_patching"),
)
"""What the claims rest on, and what stands beside them, by the names of their frames."""
NAMES = (*BASE, *(section.name for section in SECTIONS))
"""All parts of a report, in the order in which they are measured."""


def chosen_parts(only: Sequence[str], without: Sequence[str]) -> tuple[str, ...]:
    """The parts that are measured.

    Raises:
        SpecError: a name that no part has, both lists, or no part that is left.

    >>> chosen_parts(["ablation", "attention_share"], [])
    ('attention_share', 'ablation')
    """
    if only and without:
        raise SpecError(
            "--only (only=) names all parts that are measured, so --without (without=) has no place; drop it"
        )
    for option, names in (("--only (only=)", only), ("--without (without=)", without)):
        unknown = [name for name in names if name not in NAMES]
        if unknown:
            raise SpecError(f"{option} has no part {unknown[0]!r}; write some of {', '.join(NAMES)}")
    chosen = tuple(name for name in NAMES if (name in only if only else name not in without))
    if not chosen:
        raise SpecError("--without (without=) leaves nothing to measure; leave some names out")
    return chosen
