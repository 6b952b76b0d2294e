"""A table from whatever holds one: a DataFrame, a file, a list of dicts, a data set of Hugging Face's `datasets`.

Cells of text are read at once, a whole column at a time. Cells that hold pictures are read one by one when they are
asked for, because all of them together may not fit into memory.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from ..arguments import refuse
from ..errors import SpecError, reason_of
from .parquet_rows import ParquetRows

SOURCES = (
    'a DataFrame, the path of a .csv, .tsv, .jsonl or .parquet file, a list of dicts, or a data set of "datasets", '
    'such as nv.items("questions.csv")'
)


class Cells(Protocol):
    """Where the cells of a table are."""

    @property
    def names(self) -> Sequence[Hashable]:
        """The names of the columns."""
        ...

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def column(self, name: Hashable) -> Sequence[Any]:
        """All cells of one column."""
        ...

    def cell(self, name: Hashable, row: int) -> Any:
        """One cell."""
        ...

    def is_at_hand(self, name: Hashable) -> bool:
        """Whether the cells of a column are in memory, or are short texts, so that all of them may be read at once."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A table, and where the files are that it names.

    Attributes:
        cells: where its cells are.
        called: what a message calls it.
        folder: where relative paths in it begin; None for the folder in which the process runs.
    """

    cells: Cells
    called: str
    folder: Path | None = None

    def shown_names(self) -> str:
        """The names of the columns as a message lists them."""
        return ", ".join(map(repr, self.cells.names)) or "none"


def table_given(source: Any, name: str = "source") -> Table:
    """A table as a user gives it.

    Args:
        source: the table, or the path of one.
        name: of the argument.

    Raises:
        SpecError: something else was given, or a file that cannot be read as a table.
    """
    if isinstance(source, (str, Path)):
        return _of_file(source, name)
    if isinstance(source, pd.DataFrame):
        cells: Cells = FrameCells(source)
        return Table(cells=cells, called="the DataFrame")
    if isinstance(source, (list, tuple)):
        return Table(cells=DictCells(_dicts(source, name)), called=f"the list {name}=")
    if is_data_set(source):
        return Table(cells=DataSetCells(source), called="the data set")
    names = getattr(source, "column_names", None)
    if isinstance(names, Mapping):  # a DatasetDict
        splits = list(names)
        raise SpecError(
            f"{name}= holds several data sets, {', '.join(map(repr, splits))}; give one of them, "
            f"dataset[{splits[0] if splits else 'validation'!r}]"
        )
    refuse(name, source, "table of questions about pictures", SOURCES)


def is_data_set(given: Any) -> bool:
    """Whether something is a data set of Hugging Face's `datasets`, or looks like one: columns, and rows by number."""
    return isinstance(getattr(given, "column_names", None), (list, tuple)) and all(
        hasattr(given, name) for name in ("__getitem__", "__len__")
    )


# files --------------------------------------------------------------------------------------------


def _of_file(source: str | Path, name: str) -> Table:
    path = Path(source)
    reader = READERS.get(path.suffix.lower())
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # longer than a name can be, or with a character that no name has
        is_file = False
    if not is_file:
        raise SpecError(f"{name}={str(source)!r}: there is no such file; give {SOURCES}")
    if reader is None:
        raise SpecError(f"{name}={str(source)!r} ends in {path.suffix!r}, which is no table; give {SOURCES}")
    try:
        cells = reader(path)
    except SpecError as error:
        raise SpecError(f"{name}={str(source)!r}: {error}") from error
    except Exception as error:  # whatever a broken file makes a reader raise
        raise SpecError(
            f"{name}={str(source)!r} cannot be read as {path.suffix} ({reason_of(error)}); give {SOURCES}"
        ) from error
    return Table(cells=cells, called=repr(str(source)), folder=path.parent)


def _of_csv(path: Path, separator: str = ",") -> FrameCells:
    """A file of text cells: none is taken for a number, and `NA` and `None` are the words that they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a line of more cells than the first line has
        read = pd.read_csv(
            path,
            sep=separator,
            header=None,
            dtype=str,
            keep_default_na=False,
            na_filter=False,
            index_col=False,
            encoding="utf-8-sig",
            skip_blank_lines=True,
        )
    names = read.iloc[0].tolist()
    frame = read.iloc[1:].reset_index(drop=True)
    frame.columns = names
    return FrameCells(frame)


def _of_json_lines(path: Path) -> DictCells:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise SpecError(f"line {number} is no JSON ({error.msg}); write one object a line") from error
    return DictCells(_dicts(rows, "rows"))


def _of_json(path: Path) -> DictCells:
    rows = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(rows, list):
        raise SpecError(f"it holds a {type(rows).__name__}, and a list of objects, one for each row, was expected")
    return DictCells(_dicts(rows, "rows"))


READERS: Mapping[str, Callable[[Path], Cells]] = {
    ".csv": _of_csv,
    ".tsv": lambda path: _of_csv(path, "\t"),
    ".json": _of_json,
    ".jsonl": _of_json_lines,
    ".ndjson": _of_json_lines,
    ".parquet": ParquetRows,
    ".pq": ParquetRows,
}
"""How a file is read, by its ending."""


# where cells are ----------------------------------------------------------------------------------


class FrameCells:
    """Cells of a DataFrame as it is now; later changes of the frame are not seen."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.names = frame.columns.tolist()
        doubled = [name for number, name in enumerate(self.names) if name in self.names[:number]]
        if doubled:
            raise SpecError(f"the table has two columns {doubled[0]!r}; rename one of them")
        self._columns: dict[Hashable, list[Any]] = {name: frame[name].tolist() for name in self.names}
        self._count = len(frame)

    def __len__(self) -> int:
        return self._count

    def column(self, name: Hashable) -> Sequence[Any]:
        return self._columns[name]

    def cell(self, name: Hashable, row: int) -> Any:
        return self._columns[name][row]

    def is_at_hand(self, name: Hashable) -> bool:  # noqa: ARG002
        return True


class DictCells:
    """Cells of a list of dicts; a row need not have every column."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.rows = rows
        self.names = list(dict.fromkeys(name for row in rows for name in row))

    def __len__(self) -> int:
        return len(self.rows)

    def column(self, name: Hashable) -> Sequence[Any]:
        return [row.get(name) for row in self.rows]  # type: ignore[call-overload]

    def cell(self, name: Hashable, row: int) -> Any:
        return self.rows[row].get(name)  # type: ignore[call-overload]

    def is_at_hand(self, name: Hashable) -> bool:  # noqa: ARG002
        return True


class DataSetCells:
    """Cells of a data set of Hugging Face's `datasets`, which decodes a picture when its row is asked for."""

    def __init__(self, data: Any) -> None:
        self.data = data
        self.names = list(data.column_names)

    def __len__(self) -> int:
        return len(self.data)

    def column(self, name: Hashable) -> Sequence[Any]:
        return list(self._only(name)[name])

    def cell(self, name: Hashable, row: int) -> Any:
        return self._only(name)[row][name]

    def is_at_hand(self, name: Hashable) -> bool:
        features = getattr(self.data, "features", None) or {}
        return getattr(features.get(name), "dtype", None) in ("string", "large_string")

    def _only(self, name: Hashable) -> Any:
        """The data set without its other columns, so that these are not decoded."""
        select = getattr(self.data, "select_columns", None)
        return self.data if select is None else select([name])


def _dicts(given: Sequence[Any], name: str) -> list[Mapping[str, Any]]:
    """Rows as dicts.

    Raises:
        SpecError: naming the first that is none.
    """
    for number, row in enumerate(given):
        if not isinstance(row, Mapping):
            refuse(f"{name}[{number}]", row, "row of a table", '{"image": "a.png", "question": "What is it?"}')
    return [dict(row) for row in given]
