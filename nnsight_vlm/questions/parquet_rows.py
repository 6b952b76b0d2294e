"""Cells of a Parquet file, of which pictures are read one by one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

STREAMS = 4
"""How many places of a file are read at a time: an item's own picture, and those of other items beside it."""


@dataclass(kw_only=True)
class _Stream:
    """A place in one column of a row group, from which cells are read on.

    Attributes:
        place: the column and the number of the row group.
        row: the number of the next row in this group.
        cells: the cells from there on.
        last: the cell before, which is often asked for again.
    """

    place: tuple[Hashable, int]
    row: int
    cells: Iterator[Any]
    last: Any = None


@dataclass(eq=False)
class ParquetRows:
    """Cells of a Parquet file; the file may be larger than the memory.

    Attributes:
        path: of the file.
        names: of its columns.
    """

    path: Path
    names: list[Hashable] = field(init=False)
    _first: np.ndarray = field(init=False, repr=False)
    _streams: list[_Stream] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        file = self._opened()
        self.names = list(file.schema_arrow.names)
        counts = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        self._first = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._first[-1])

    def column(self, name: Hashable) -> Sequence[Any]:
        cells: list[Any] = self._opened().read(columns=[name]).column(0).to_pylist()
        return cells

    def cell(self, name: Hashable, row: int) -> Any:
        group = int(np.searchsorted(self._first, row, side="right")) - 1
        place, inside = (name, group), row - int(self._first[group])
        stream = self._nearest(place, inside)
        while stream.row <= inside:
            stream.last = next(stream.cells)
            stream.row += 1
        return stream.last

    def is_at_hand(self, name: Hashable) -> bool:
        return str(self._opened().schema_arrow.field(name).type) in ("string", "large_string", "string_view")

    def _nearest(self, place: tuple[Hashable, int], row: int) -> _Stream:
        """The stream that comes to a row next, which becomes the latest of those that are kept."""
        behind = [each for each in self._streams if each.place == place and each.row - 1 <= row]
        stream = max(behind, key=lambda each: each.row, default=None)
        if stream is None:
            stream = _Stream(place=place, row=0, cells=self._read(*place))
        others = [each for each in self._streams if each is not stream]
        self._streams = [*others[-(STREAMS - 1) :], stream]
        return stream

    def _read(self, name: Hashable, group: int) -> Iterator[Any]:
        batches = self._opened().iter_batches(batch_size=1, row_groups=[group], columns=[name], use_threads=False)
        return (batch.column(0)[0].as_py() for batch in batches)

    def _opened(self) -> Any:
        from pyarrow import parquet

        return parquet.ParquetFile(self.path, memory_map=True, pre_buffer=False)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is open."""
        return {**vars(self), "_streams": []}
