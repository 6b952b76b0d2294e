"""Writes: what lowering an intervention gives, before a plan gathers them.

They are named here and plain tuples once they meet the model: named tuples would travel to a server as bytecode of this
Python version.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..prompts.ranges import Ranges


class HeadChoice(NamedTuple):
    """Some heads of a layer: how many it has, and the numbers of the chosen ones."""

    head_count: int
    numbers: tuple[int, ...]


class EdgeCut(NamedTuple):
    """Attention edges to close in one row of the batch, from `sources` (keys) to `targets` (queries).

    `how` is `"mask"`, before the softmax; or behind it `"zero"`, the edges' weight alone, or `"limit"`, that of all
    sources but the `top` that a query looks at most.
    """

    row: int
    targets: Ranges
    sources: Ranges
    heads: HeadChoice | None  # None is every head
    how: str = "mask"
    top: int = 0

    def plain(self) -> tuple[Any, ...]:
        """As `device.kernels.close_edges` takes it, or `device.weights.changed`."""
        heads = None if self.heads is None else tuple(self.heads)
        edges = self.row, self.targets.pairs, self.sources.pairs, heads
        return edges if self.how == "mask" else (*edges, self.how, self.top)


class StateWrite(NamedTuple):
    """Hidden states to write at `targets` in one row of the batch: their whole width, or that of some heads.

    `how` is `"set"` (to `values`: `[target, width]`, a slot that will hold them, or `[width]` for every target),
    `"add"` (these values), `"scale"` (by the number `values`), `"zero"` or `"mean"`.

    At a site whose states are heads side by side, `heads` are those that are written, and `held` those whose states
    `values` holds, side by side too; None where they are the same.
    """

    row: int
    targets: Ranges
    how: str
    values: Any
    heads: HeadChoice | None = None
    held: tuple[int, ...] | None = None

    def plain(self) -> tuple[Any, ...]:
        """As `device.states.write_rows` takes it."""
        heads = None if self.heads is None else (*self.heads, self.held or self.heads.numbers)
        return self.row, self.targets.pairs, self.how, self.values, heads


class PlannedWrite(NamedTuple):
    """A write, and the site of a stage's layer at which it is due."""

    stage: str
    site: str
    layer: int
    write: EdgeCut | StateWrite
