"""Placements: which row of the batch, and which place in that row, the positions of one case's prompt have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..families import VISION
from ..prompts.ranges import Range, Ranges
from ..prompts.token_map import TokenMap
from ..prompts.tower_maps import real_places


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where one case sits: its position `p` is at place `p` before `branch`, else at `p + shift`.

    Attributes:
        tokens: the token map of the case's own prompt, in its own positions.
        row: row of the batch.
        branch: first position that is the case's own.
        shift: how far its own positions are moved.
        features: where the case's image features begin in the projector's output, counted in its rows.
        vision: where the case's tokens of the vision tower begin among those of the whole batch.
        shared: whether other cases share what lies before `branch`.
        answers: how many tokens of answers run behind the case's prompt; they count as generated.
        outside: how far its negative positions, outside the sequence, are moved down.
        moved: where a position lies that does not move like the others, `{position: place}`.
        batch: the token map of the row that runs, where that is another than the prompt's own, because it is padded to
            the other rows; None where they are one.
    """

    tokens: TokenMap
    row: int = 0
    branch: int = 0
    shift: int = 0
    features: int = 0
    vision: int = 0
    shared: bool = False
    answers: int = 0
    outside: int = 0
    moved: Mapping[int, int] = field(default_factory=dict)
    batch: TokenMap | None = None

    def at(self, stage: str) -> Placement:
        """The same case in the sequence of a stage that runs before the decoder.

        Its row there is the stage's own; the sequence is padded on the right, and its keys as `stage_keys` says. The
        tokens of the vision tower are one line, those of all cases.
        """
        own = self.tokens.stage(stage)
        there = own if self.batch is None else self.batch.stage(stage)
        if stage == VISION:
            return Placement(tokens=own, shift=self.vision, moved=tower_places(own, there, self.vision))
        return Placement(tokens=own, row=there.row, features=self.features, moved=stage_keys(own, there))

    def place(self, position: int) -> int:
        """Where a position of the prompt lies in the sequence that runs."""
        if position in self.moved:
            return self.moved[position]
        if position < 0:
            return position - self.outside
        return position if position < self.branch else position + self.shift

    def places(self, ranges: Ranges) -> Ranges:
        """Where ranges lie in the sequence that runs; in a packed sequence open ranges end with the case."""
        placed: list[Range] = []
        for start, end in ranges:
            if start in self.moved:
                placed += Ranges.of(self.place(position) for position in range(start, end or 0))
                continue
            if start < 0:
                placed.append((start - self.outside, end - self.outside if end is not None else 0))
                continue
            stop = self._closed(end) if self.shared else end
            if start < self.branch:
                placed.append((start, self.branch if stop is None else min(stop, self.branch)))
            if stop is None or stop > self.branch:
                placed.append((max(start, self.branch) + self.shift, None if stop is None else stop + self.shift))
        return Ranges(tuple(pair for pair in placed if pair[1] is None or pair[0] < pair[1]))

    def _closed(self, end: int | None) -> int:
        """Where a range ends in a packed sequence, in which the case's answers are all that follows its prompt."""
        return self.tokens.stop + self.answers if end is None else min(end, self.tokens.stop)

    def of_prompt(self) -> Placement:
        """The same without answers: open ranges end with the prompt, as where it is run by itself."""
        return replace(self, shared=True, answers=0)


def stage_keys(own: TokenMap, there: TokenMap) -> dict[int, int]:
    """Where the keys of a stage that a prompt has alone lie in a batch whose pictures are padded to larger grids.

    Patches keep their row and column, and the keys behind them their distance from the end.
    """
    if own.key_grid is None or there.key_grid is None or own.key_grid == there.key_grid:
        return {}
    (rows, columns), (_, width) = own.key_grid, there.key_grid
    places = ((row * columns + column, row * width + column) for row in range(rows) for column in range(columns))
    return {alone - own.outside: in_batch - there.outside for alone, in_batch in places}


def tower_places(own: TokenMap, there: TokenMap, offset: int) -> dict[int, int]:
    """Where the tokens of a tower that a prompt has alone lie in a batch whose sequences are padded to longer ones.

    Empty where all of them are `offset` further on.
    """
    if (own.stop, own.padding) == (there.stop, there.padding):
        return {}
    pairs = zip(real_places(own), real_places(there), strict=True)
    return {alone: in_batch + offset for alone, in_batch in pairs}
