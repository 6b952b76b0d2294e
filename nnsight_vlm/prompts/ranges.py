"""Positions as ranges.

Positions are absolute: they count padding, so they index the tensors that the model sees. A range whose end is None is
open: it also holds tokens that are not generated yet. Keys outside the sequence, which are read through cross-attention
(an image in Mllama, the encoder's tokens in Florence-2), have negative positions, as if they stood before it; no range
reaches from outside the sequence into it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

Range = tuple[int, int | None]


def moved(position: int, by: int) -> int:
    """A position in the sequence moved by so many; one outside it stays."""
    return position + by if position >= 0 else position


@dataclass(frozen=True)
class Ranges:
    """Ranges `(start, stop)` of positions, `stop` excluded; iterates over these pairs.

    Attributes:
        pairs: the ranges as plain tuples, which is how they travel to a server.

    >>> Ranges.of([9, 5, 6, 7])
    Ranges(pairs=((5, 8), (9, 10)))
    """

    pairs: tuple[Range, ...] = ()

    @classmethod
    def of(cls, positions: Iterable[int]) -> Ranges:
        """Positions in any order, each once."""
        return cls.in_order(sorted(set(positions)))

    @classmethod
    def in_order(cls, positions: Sequence[int]) -> Ranges:
        """Positions in an order of their own, which is kept: values that go with them follow it.

        >>> Ranges.in_order([4, 5, 6, 2, 3])
        Ranges(pairs=((4, 7), (2, 4)))
        """
        pairs: list[tuple[int, int]] = []
        for position in positions:
            if pairs and pairs[-1][1] == position and position != 0:
                pairs[-1] = (pairs[-1][0], position + 1)
            else:
                pairs.append((position, position + 1))
        return cls(tuple(pairs))

    @classmethod
    def union(cls, several: Iterable[Ranges]) -> Ranges:
        """All positions of several ranges, sorted, without overlap."""
        pairs: list[Range] = []
        for start, stop in sorted((pair for each in several for pair in each.pairs), key=lambda pair: pair[0]):
            last = pairs[-1][1] if pairs else -1
            if pairs and (last is None or start <= last) and (start, last) != (0, 0):
                pairs[-1] = (pairs[-1][0], None if last is None or stop is None else max(last, stop))
            else:
                pairs.append((start, stop))
        return cls(tuple(pairs))

    def __iter__(self) -> Iterator[Range]:
        return iter(self.pairs)

    def __len__(self) -> int:
        """How many ranges these are."""
        return len(self.pairs)

    def __contains__(self, position: int) -> bool:
        return any(start <= position and (stop is None or position < stop) for start, stop in self.pairs)

    @property
    def is_open(self) -> bool:
        """Whether tokens that are not generated yet belong to them."""
        return any(stop is None for _, stop in self.pairs)

    @property
    def inside(self) -> Ranges:
        """Those in the sequence."""
        return Ranges(tuple(pair for pair in self.pairs if pair[0] >= 0))

    @property
    def outside(self) -> Ranges:
        """Those outside the sequence."""
        return Ranges(tuple(pair for pair in self.pairs if pair[0] < 0))

    @property
    def first(self) -> int | None:
        """The least position; None where there is none."""
        return min((start for start, _ in self.pairs), default=None)

    def positions(self, stop: int) -> tuple[int, ...]:
        """Every position once, sorted, open ends cut at `stop`."""
        return tuple(sorted({p for a, b in self.pairs for p in range(a, stop if b is None else min(b, stop))}))

    def shifted(self, by: int) -> Ranges:
        """Positions in the sequence moved by so many; those outside it stay, and so do open ends."""
        # an end lies behind a last position, and it is this position that moves
        return Ranges(tuple((moved(a, by), None if b is None else moved(b - 1, by) + 1) for a, b in self.pairs))

    def without(self, other: Ranges) -> Ranges:
        """The positions of closed ranges that are not in those of others.

        >>> Ranges(((5, 9),)).without(Ranges(((6, 7),)))
        Ranges(pairs=((5, 6), (7, 9)))
        """
        taken = set(other._closed())
        return Ranges.of(p for p in self._closed() if p not in taken)

    def _closed(self) -> Iterator[int]:
        return (p for a, b in self.pairs for p in range(a, a if b is None else b))

    def outside_of(self, length: int) -> Ranges:
        """Positions in a sequence as positions outside another, which it precedes."""
        return Ranges(tuple((a - length, None if b is None else b - length) for a, b in self.pairs))


NOWHERE = Ranges()
