"""The token maps of the vision tower: which of its tokens is what.

A tower's batch differs from the text's: a sequence for every picture or tile of all texts, or all patches in one line.
Here positions of a row count all tokens of its sequences, one sequence after the other, in the order in which the
tower's layers hold them. As with every stage that has a batch of its own, maps are made from the encoding that runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ..families import VISION, ModelView
from ..grids import TOWER_SEQUENCES, Cells, GridShape, Shown, TowerSequence
from ..grids.tokens import Inputs
from .ranges import NOWHERE, Ranges
from .token_map import TokenMap
from .visuals import IMAGE, VIDEO

OF_TEXT = ("system", "markup", "query", "question", "text", "generated", "bos")
"""Groups that no tower has."""


def with_tower(view: ModelView, inputs: Inputs, rows: Sequence[TokenMap]) -> tuple[TokenMap, ...]:
    """The rows of an encoding, each with the token map of the vision tower.

    A row without pictures has none; nor has any row where the tower runs more than once, for images and for videos.
    """
    stage = view.family.stages.get(VISION)
    if stage is None or stage.tower is None:
        return tuple(rows)
    shown, owner = _shown(rows)
    if not shown or runs_twice(view, rows) or not any(name in inputs for name in view.family.all_pixels):
        return tuple(map(_without_tower, rows))
    made = [_Made() for _ in rows]
    row = min(owner.values())
    for sequence in TOWER_SEQUENCES[stage.tower.sequences](view, inputs, shown):
        row = owner.get((sequence.kind, sequence.number), row)
        made[row].add(sequence)
    firsts = _first_numbers(rows)
    return tuple(
        _with_stage(tokens, each.token_map(tokens, first)) if each.length else _without_tower(tokens)
        for tokens, each, first in zip(rows, made, firsts, strict=True)
    )


def runs_twice(view: ModelView, rows: Sequence[TokenMap]) -> bool:
    """Whether the tower runs once for the images and once more for the videos of an encoding."""
    kinds = {visual.kind for tokens in rows for visual in tokens.visuals}
    return len(kinds) > 1 and view.family.video is not None and view.family.video.is_apart


def real_places(tokens: TokenMap) -> list[int]:
    """The positions of a tower's map that are no padding: a row has equally many, in the same order, in any batch."""
    padding = set(tokens.padding)
    return [place for place in range(tokens.stop) if place not in padding]


def _shown(rows: Sequence[TokenMap]) -> tuple[list[Shown], dict[tuple[str, int], int]]:
    """The pictures and videos of an encoding in the order of the text, and the row of each."""
    shown, owner, counted = list[Shown](), dict[tuple[str, int], int](), {IMAGE: 0, VIDEO: 0}
    for row, tokens in enumerate(rows):
        for visual in tokens.visuals:
            number = counted[visual.kind]
            counted[visual.kind] += 1
            shown.append(Shown(visual.kind, number, visual.cells))
            owner[visual.kind, number] = row
    return shown, owner


def _first_numbers(rows: Sequence[TokenMap]) -> Iterator[dict[str, int]]:
    """For each row the numbers that its first image and its first video have in the encoding."""
    before = {IMAGE: 0, VIDEO: 0}
    for tokens in rows:
        yield dict(before)
        before[IMAGE] += len(tokens.images)
        before[VIDEO] += len(tokens.videos)


def _without_tower(tokens: TokenMap) -> TokenMap:
    return replace(tokens, stages=tuple((name, its) for name, its in tokens.stages if name != VISION))


def _with_stage(tokens: TokenMap, own: TokenMap) -> TokenMap:
    return replace(tokens, stages=((VISION, own), *_without_tower(tokens).stages))


@dataclass(kw_only=True)
class _Made:
    """The tower's tokens of one row, as they are gathered."""

    length: int = 0
    sequences: list[tuple[int, TowerSequence]] = field(default_factory=list)

    def add(self, sequence: TowerSequence) -> None:
        self.sequences.append((self.length, sequence))
        self.length += len(sequence.places)

    def token_map(self, tokens: TokenMap, first: dict[str, int]) -> TokenMap:
        """The map of a row, whose first image and video have such numbers in the encoding."""
        padding = sorted(self._where("padding"))
        images = [self._visual(IMAGE, first[IMAGE] + number) for number in range(len(tokens.images))]
        videos = [self._visual(VIDEO, first[VIDEO] + number) for number in range(len(tokens.videos))]
        frames = [own.frames for own in tokens.video_cells]
        real = set(range(self.length)).difference(padding)
        shown = {position for positions, _ in (*images, *videos) for position in positions}
        filling = real.difference(shown, self._where("cls"), self._where("registers"))
        return TokenMap(
            tokens=(0,) * self.length,
            start=0,
            stop=self.length,
            answer=self.length,
            images=tuple(positions for positions, _ in images),
            cells=tuple(cells for _, cells in images),
            videos=tuple(positions for positions, _ in videos),
            video_cells=tuple(
                replace(cells, frames=own if len(own) == len(cells.shapes) else ())
                for (_, cells), own in zip(videos, frames, strict=True)
            ),
            blocks=tuple(Ranges.of(real.intersection(range(at, at + len(its.places)))) for at, its in self.sequences),
            windows=tuple(self._windows()),
            padding=tuple(padding),
            named=(
                ("cls", Ranges.of(self._where("cls"))),
                ("registers", Ranges.of(self._where("registers"))),
                ("all", Ranges.of(real)),
                ("first", Ranges.of(sorted(real - filling)[:1])),
                ("last", Ranges.of(sorted(real - filling)[-1:])),
                *((name, NOWHERE) for name in OF_TEXT),
                *([("filling", Ranges.of(filling))] if filling else []),
            ),
        )

    def _windows(self) -> Iterator[Ranges]:
        """The windows of all sequences, one after the other."""
        for at, sequence in self.sequences:
            for start, stop in pairwise((0, *sequence.windows)):
                yield Ranges(((at + start, at + stop),))

    def _where(self, kind: str) -> list[int]:
        """The positions of class tokens, registers or padding."""
        return [at + place for at, sequence in self.sequences for place in getattr(sequence, kind)]

    def _visual(self, kind: str, number: int) -> tuple[tuple[int, ...], Cells]:
        """The positions of the patches of a picture or video, and where these lie on its tiles."""
        positions, places, shapes = list[int](), list[np.ndarray](), list[GridShape]()
        for at, sequence in self.sequences:
            if (sequence.kind, sequence.number) != (kind, number):
                continue
            patches = np.flatnonzero(sequence.places[:, 0] >= 0)
            positions += (at + patches).tolist()
            places.append(sequence.places[patches] + [len(shapes), 0, 0])
            shapes += sequence.shapes
        return tuple(positions), Cells(np.concatenate([np.empty((0, 3), dtype=int), *places]), tuple(shapes))
