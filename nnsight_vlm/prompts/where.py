"""Positions as a user gives them: group names, numbers, and collections of either.

What can be gone through only once (a generator, `map`, `filter`) is gone through here, when a value is made: later it
would be used up, and the second look at it would find nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ..errors import SpecError

Where = str | int | Sequence["str | int"]
"""A group's name, a position, or several of either."""

WRITE = 'write group names or whole numbers: "image", 5, [5, 6] or ["image", 5]'


@dataclass(frozen=True)
class MaskedPositions:
    """Positions that were given as a boolean mask: where it is true, and how long it is.

    The mask must have an entry for every token of the prompt, which is checked once a prompt is known.
    """

    positions: tuple[int, ...]
    length: int

    def within(self, tokens: int) -> tuple[int, ...]:
        """The positions in a row of so many tokens.

        Raises:
            SpecError: the mask has another length.
        """
        if self.length != tokens:
            raise SpecError(
                f"a mask of {self.length} entries was given and the prompt has {tokens} tokens; a mask needs an entry "
                "for every token, padding included. For a part of the prompt write positions: "
                "[position for position, on in zip(prompt[group], mask) if on]"
            )
        return self.positions


def as_tuples(where: Any) -> Any:
    """Any collection of positions as a tuple of ints and names, sets in order; booleans as `MaskedPositions`.

    What is no position stays as it is, and is refused where positions are looked up.

    >>> as_tuples(number for number in range(3))
    (0, 1, 2)
    >>> as_tuples(np.array([False, True, True]))
    MaskedPositions(positions=(1, 2), length=3)
    """
    if type(where) is tuple and all(type(part) is int for part in where):
        return where  # as all positions are once they were looked at
    if isinstance(where, (np.ndarray, np.generic, torch.Tensor)):
        where = where.tolist()
    if isinstance(where, (str, bytes, Mapping)) or not isinstance(where, Iterable):
        return where
    parts = tuple(as_tuples(part) for part in where)
    if isinstance(where, (set, frozenset)):
        names = sorted(part for part in parts if isinstance(part, str))
        numbers = sorted(part for part in parts if isinstance(part, int))
        parts = (*names, *numbers, *(part for part in parts if not isinstance(part, (str, int))))
    if parts and all(isinstance(part, bool) for part in parts):
        return MaskedPositions(tuple(place for place, on in enumerate(parts) if on), len(parts))
    return parts


def names_in(where: Any) -> Iterator[str]:
    """The group names among some positions."""
    if isinstance(where, str):
        yield where
    elif isinstance(where, tuple):
        for part in where:
            yield from names_in(part)


def numbers_in(where: Any) -> Iterator[int]:
    """The numbers among some positions, in the order given."""
    if isinstance(where, int) and not isinstance(where, bool):
        yield where
    elif isinstance(where, MaskedPositions):
        yield from where.positions
    elif isinstance(where, tuple):
        for part in where:
            yield from numbers_in(part)


def require_number(where: Any) -> int:
    """A single position that is no group name.

    Raises:
        SpecError: what was given is no whole number.
    """
    if isinstance(where, bool):
        raise SpecError(f"a bool is no position: {where} was given; {WRITE}, or a mask with an entry for every token")
    if not isinstance(where, int):
        raise SpecError(f"{where!r} of type {type(where).__name__} is no position; {WRITE}")
    return where


def require_ascending(given: Any, called: str = "positions", order: str = "of the sequence") -> None:
    """Refuse positions, layers or heads in an order of their own where values go with them, which follow the model's.

    Args:
        given: what the user gave.
        called: what it is.
        order: which order its values have.

    Raises:
        SpecError: numbers that are not in ascending order.
    """
    numbers = tuple(numbers_in(as_tuples(given)))
    if any(after <= before for before, after in pairwise(numbers)):
        raise SpecError(f"{called} {numbers} must ascend: values go with them in the order {order}")


def shown(where: Any) -> str:
    """Positions as a message names them: a long list by its ends.

    >>> shown(tuple(range(5, 105)))
    '(5, 6, 7, ... 104; 100 positions)'
    """
    if isinstance(where, MaskedPositions):
        return f"a mask of {where.length} entries"
    if not isinstance(where, tuple) or len(where) <= 6:
        return repr(where)
    first = ", ".join(repr(part) for part in where[:3])
    return f"({first}, ... {where[-1]!r}; {len(where)} positions)"


def missing_stage(name: str, there: Iterable[str]) -> SpecError:
    """What to raise where a row has no such stage, but others."""
    return SpecError(
        f"no stage {name!r} here; the stages of this prompt are {', '.join(there)} (one that reads an image's patches "
        'is there for a prompt with one image of one crop, and "vision", in families that have it, for a prompt with '
        "images or with videos, but not both)"
    )
