"""Queries that a cut would leave without any key: refused before the model runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .errors import SpecError
from .families import Reach
from .rows import Range, Ranges, Row

Write = tuple[Any, ...]


def refuse_blind_rows(cuts: Sequence[Write], tokens: Row, sees: Reach) -> None:
    """Refuse cuts `(row, targets, sources, heads)` of one layer that leave a query without a key.

    Such a row would be NaN, zero or uniform, depending on the attention implementation.

    Raises:
        SpecError: naming the first such position.
    """
    single = {head for cut in cuts if cut[3] is not None for head in cut[3][1]}
    everywhere = [cut for cut in cuts if cut[3] is None]
    for head in sorted(single) or [None]:
        chosen = everywhere + [cut for cut in cuts if cut[3] is not None and head in cut[3][1]]
        blind = _blind_rows([(cut[1], cut[2]) for cut in chosen], tokens, sees)
        if len(blind):
            raise SpecError(
                f"position {blind[0]} would be left with no key to attend to; leave it something to read, "
                'for example itself or the group "first"'
            )


def _blind_rows(pairs: Sequence[tuple[Ranges, Ranges]], tokens: Row, sees: Reach) -> np.ndarray:
    """Absolute positions of targets all of whose keys are sources; one not-yet-written token included."""
    stop = tokens.stop + 1
    target = np.zeros((len(pairs), stop), dtype=bool)
    source = np.zeros((len(pairs), stop), dtype=bool)
    for number, (targets, sources) in enumerate(pairs):
        _mark(target[number], targets)
        _mark(source[number], sources)
    rows = np.flatnonzero(target.any(0))
    closed = np.einsum("pq,pk->qk", target[:, rows].astype(np.float32), source.astype(np.float32)) > 0
    return np.asarray(rows[~(seen_keys(rows, stop, tokens, sees) & ~closed).any(1)])


def seen_keys(rows: np.ndarray, stop: int, tokens: Row, sees: Reach) -> np.ndarray:
    """`[query, key]`: which keys queries may see in a clean run."""
    keys, queries = np.arange(stop)[None, :], rows[:, None]
    block = np.zeros((len(rows), stop), dtype=bool)
    for start, end in tokens.blocks if sees.blocks else ():
        block |= (start <= keys) & (keys < (end or stop)) & (start <= queries) & (queries < (end or stop))
    seen = (keys <= queries) | block
    if sees.span is not None:
        seen &= keys > queries - sees.span
    if sees.chunk is not None:
        seen &= (keys - tokens.start) // sees.chunk == (queries - tokens.start) // sees.chunk
    return np.asarray((seen | (block & sees.whole)) & (keys >= tokens.start))


def _mark(line: np.ndarray, ranges: Sequence[Range]) -> None:
    for start, stop in ranges:
        line[start:stop] = True
