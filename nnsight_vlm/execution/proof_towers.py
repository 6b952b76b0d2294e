"""How a proof looks at a vision tower: sequence by sequence, as the tower itself runs them.

A plan names positions of one line that holds all of the tower's tokens, and the kernels find the sequence of each. The
proof divides them here, by itself, and compares what the attention was handed in every sequence of the batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..families import VISION, view_of
from ..lowering.layouts import Layout, Placement
from ..lowering.writes import EdgeCut, PlannedWrite
from ..prompts.ranges import Ranges
from ..prompts.token_map import TokenMap


def placements_in(layout: Layout, stage: str) -> list[Placement]:
    """The cases in a stage, without those of rows that have no such stage; of the vision tower, its sequences."""
    if stage == "decoder":
        return list(layout.placements)
    if stage == VISION:
        return sequences_of(layout)
    return [placement.at(stage) for placement in layout.placements if stage in dict(placement.tokens.stages)]


def sequences_of(layout: Layout) -> list[Placement]:
    """Each sequence of the tower's batch as if it were a case: its row there, and positions from its first place on.

    Where tokens lie in one line, that is one: which of them see each other is told by what its attention is handed.
    """
    maps, tower = layout.tower_maps, view_of(layout.prompt.model).stage(VISION).stage.tower
    assert tower is not None
    count = 1 if tower.packed else sum(len(tokens.blocks) for tokens in maps)
    length = sum(tokens.stop for tokens in maps)
    each = length // max(count, 1)
    alone = TokenMap(tokens=(0,) * each, start=0, stop=each, answer=each, images=())
    return [Placement(tokens=alone, row=row) for row in range(count)]


def by_sequence(layout: Layout, writes: Iterable[PlannedWrite]) -> Iterator[PlannedWrite]:
    """The same writes; those of the tower with the row and the positions of each sequence that they concern."""
    for planned in writes:
        if planned.stage != VISION:
            yield planned
            continue
        for sequence in sequences_of(layout):
            write, length = planned.write, sequence.tokens.stop
            targets = _inside(write.targets, sequence.row * length, length)
            if not isinstance(write, EdgeCut):
                yield planned._replace(write=write._replace(row=sequence.row, targets=targets))
                continue
            sources = _inside(write.sources, sequence.row * length, length)
            yield planned._replace(write=write._replace(row=sequence.row, targets=targets, sources=sources))


def _inside(ranges: Ranges, first: int, length: int) -> Ranges:
    """The positions in `first .. first + length`, counted from there."""
    return Ranges.of(place for place in range(length) if first + place in ranges)
