"""Queries that a cut would leave without any key: refused before the model runs.

Softmax over no key is NaN, zero or uniform, depending on how attention is implemented.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import SpecError
from ..families import Reach
from ..prompts.ranges import Ranges
from ..prompts.token_map import TokenMap
from .writes import EdgeCut


def refuse_empty_rows(cuts: Sequence[EdgeCut], tokens: TokenMap, reach: Reach, to_come: int = 0) -> None:
    """Refuse the cuts of one layer if they leave a query without a key, now or among the tokens that may follow.

    Args:
        cuts: all cuts of the layer in one row.
        tokens: which token of the row is what.
        reach: which keys a query of this layer may see.
        to_come: how many tokens may be decoded after these.

    Raises:
        SpecError: naming the first such position.
    """
    stop = tokens.stop + min(to_come, _until_all_is_alike(reach))
    named_heads = {head for cut in cuts if cut.heads is not None for head in cut.heads.numbers}
    heads: list[int | None] = [*sorted(named_heads)] or [None]
    for head in heads:
        here = [cut for cut in cuts if cut.heads is None or head in cut.heads.numbers]
        empty = _empty_rows(here, tokens, reach, stop)
        if len(empty):
            number = int(empty[0]) - tokens.stop
            which = f" (generated token {number + 1})" if number >= 0 else ""
            shorter = f", or generate at most {number} tokens" if number > 0 else ""
            raise SpecError(
                f"position {empty[0]}{which} would be left with no key to attend to; leave it something to read, "
                f'for example itself or the group "first"{shorter}'
            )


def _until_all_is_alike(reach: Reach) -> int:
    """After how many decoded tokens each is as well off as the one before: all that it may see was decoded too."""
    return 1 + max(reach.span or 0, 2 * (reach.chunk or 0))


def _empty_rows(cuts: Sequence[EdgeCut], tokens: TokenMap, reach: Reach, stop: int) -> np.ndarray:
    """Absolute positions before `stop` of targets all of whose keys are sources."""
    targets = np.stack([_as_mask(cut.targets, stop) for cut in cuts])
    sources = np.stack([_as_mask(cut.sources, stop) for cut in cuts])
    parts = [np.arange(stop)]
    if not reach.causal:  # a tower has many tokens, and each sees those of its own block
        parts = [np.array(block.positions(stop), dtype=int) for block in blocks_seen(tokens, reach)]
    empty = [_without_keys(targets, sources, part, tokens, reach) for part in parts]
    return np.sort(np.concatenate([np.empty(0, dtype=int), *empty]))


def _without_keys(
    targets: np.ndarray, sources: np.ndarray, among: np.ndarray, tokens: TokenMap, reach: Reach
) -> np.ndarray:
    """Which of some tokens, that see none but each other, are left without a key by cuts `[cut, position]`."""
    queries = among[targets[:, among].any(0)]
    closed = np.einsum("cq,ck->qk", targets[:, queries].astype(np.float32), sources[:, among].astype(np.float32)) > 0
    return np.asarray(queries[~(may_look(queries, among, tokens, reach) & ~closed).any(1)])


def seen_keys(queries: np.ndarray, stop: int, tokens: TokenMap, reach: Reach) -> np.ndarray:
    """`[query, key]`: which of the keys before `stop` queries may see in a clean run."""
    return may_look(queries, np.arange(stop), tokens, reach)


def may_look(queries: np.ndarray, among: np.ndarray, tokens: TokenMap, reach: Reach) -> np.ndarray:
    """`[query, key]`: at which keys `among` these queries may look in a clean run."""
    keys, rows = among[None, :], queries[:, None]
    blocks = blocks_seen(tokens, reach)
    own, theirs = _numbers(blocks, rows), _numbers(blocks, keys)
    block = (own == theirs) & (own >= 0)
    filling = dict(tokens.named).get("filling")
    if filling is not None:
        block &= ~(_within(filling, rows) & _within(filling, keys))
    seen = ((keys <= rows) & reach.causal) | block
    if reach.span is not None:
        seen &= keys > rows - reach.span
    if reach.chunk is not None:
        seen &= (keys - tokens.start) // reach.chunk == (rows - tokens.start) // reach.chunk
    seen = (seen | (block & reach.blocks_ignore_span)) & (keys >= tokens.start)
    return np.asarray(seen & ~np.isin(keys, tokens.padding) if tokens.padding else seen)


def blocks_seen(tokens: TokenMap, reach: Reach) -> tuple[Ranges, ...]:
    """The blocks whose tokens see each other in a layer."""
    return (tokens.windows if reach.windows else tokens.blocks) if reach.blocks else ()


def _numbers(blocks: Sequence[Ranges], places: np.ndarray) -> np.ndarray:
    """The number of the block that each place is in, -1 for none; a place is in one of them at most."""
    numbers = np.full(places.shape, -1)
    for number, inside in enumerate(blocks):
        numbers[_within(inside, places)] = number
    return numbers


def _within(ranges: Ranges, places: np.ndarray) -> np.ndarray:
    """Which of the places are in the ranges."""
    inside = np.zeros(places.shape, dtype=bool)
    for start, stop in ranges:
        inside |= (start <= places) & (places < (np.inf if stop is None else stop))
    return inside


def _as_mask(ranges: Ranges, stop: int) -> np.ndarray:
    mask = np.zeros(stop, dtype=bool)
    for first, end in ranges:
        mask[first:end] = True
    return mask
