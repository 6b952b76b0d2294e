"""Proof that weights are changed where an intervention says so and no mask shows it, and nowhere else.

The weights that an attention computes are recomputed from what it was handed, as everywhere in the proof. Here they are
changed as the intervention says, from its positions alone, and what they mix out of the values must be what the
attention returned: so the other weights are those that it computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..lowering.writes import EdgeCut


def edges_named(cuts: Sequence[EdgeCut], rows: Sequence[int], keys: range, heads: int) -> torch.Tensor:
    """`[head, query, key]`: which edges the intervention names, from its positions alone."""
    planned = torch.zeros(heads, len(rows), len(keys), dtype=torch.bool)
    for cut in cuts:
        query = torch.tensor([row in cut.targets for row in rows])
        key = torch.tensor([position in cut.sources for position in keys])
        chosen = torch.tensor([cut.heads is None or head in cut.heads.numbers for head in range(heads)])
        planned |= chosen[:, None, None] & query[None, :, None] & key[None, None, :]
    return planned


def first_key(site: str, given: dict[str, Any]) -> int:
    """The position of the first key of an attention, by the site of its mask."""
    return -int(given["open"].shape[-1]) if site == "cross mask" else 0


def take_changes(changes: Sequence[EdgeCut], rows: Sequence[int], first: int, given: dict[str, Any]) -> int:
    """Put what changed weights mix in place of what an attention was `given` to mix.

    Args:
        changes: what is done to this attention in one row of the batch, in order.
        rows: the positions of the queries that were read.
        first: the position of the first key.
        given: what the attention was given, see `device.readouts.edges_used`; with its values.

    Returns:
        How many edges that were open have lost their weight.
    """
    if not changes:
        return 0
    weights = given["weights"]
    heads, _, keys = weights.shape
    taken = torch.zeros(weights.shape, dtype=torch.bool)
    for change in changes:
        named = edges_named([change], rows, range(first, first + keys), heads)
        if change.how == "zero":
            lost = named
            weights = weights.masked_fill(lost, 0.0)
        elif change.how == "mask":  # of an attention that is handed no mask
            lost = named
            kept = weights.masked_fill(lost, 0.0)
            weights = torch.where(lost.any(-1, keepdim=True), kept / kept.sum(-1, keepdim=True), weights)
        else:
            lost = named & (_rank(weights.masked_fill(~named, -1.0)) >= change.top)
            kept = weights.masked_fill(lost, 0.0)
            sums = weights.sum(-1, keepdim=True), kept.sum(-1, keepdim=True)
            weights = torch.where(lost.any(-1, keepdim=True) & (sums[1] > 0), kept * (sums[0] / sums[1]), kept)
        taken |= lost
    values = given["values"].repeat_interleave(heads // given["values"].shape[0], dim=0)
    given["mixed"] = torch.matmul(weights, values)
    return int((taken & given["open"].expand_as(taken)).sum())


def _rank(weights: torch.Tensor) -> torch.Tensor:
    """The rank of each weight in its row, 0 for the greatest; of equals, the earlier comes first."""
    order = torch.argsort(-weights, dim=-1, stable=True)
    return torch.argsort(order, dim=-1)
