"""`nv.items`: from a table to questions about pictures, with every row looked at before any picture is opened."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from ..arguments import folder as folder_given
from ..arguments import one_of, refuse, spelled, text
from ..errors import SpecError
from .annotations import annotations_given
from .cells import answer_cell, cluster_cell, id_cell, letter_of, options_cell, text_cell
from .item_lists import Items, LeftOut, Line, Source
from .tables import Table, table_given

COLUMNS = {
    "image": "the picture: a path, a URL, a picture, or a list of several",
    "question": "what is asked",
    "answer": "the right answer: a text, or a whole number as it is said",
    "options": "of a multiple choice: a list of texts",
    "boxes": "objects of the picture: a label and a box for each",
    "masks": "objects of the picture: a label and a mask for each",
    "labels": "the labels, where boxes or masks have none",
    "id": "what the row is called",
    "cluster": "equal where rows are about one picture",
    "other_image": "in tables of pairs, the picture that the same question is asked about",
    "other_answer": "the right answer about that one",
}
"""The columns that a table of items can have, by the names that `columns=` has for them."""
PICTURES = ("image", "other_image")
MOST_NAMED = 5
"""How many unusable rows a message names."""

Unusable = Literal["error", "leave out"]


def items(
    source: Any,
    *,
    columns: Mapping[str, Hashable | Sequence[Hashable]] | None = None,
    question: str | None = None,
    folder: str | Path | None = None,
    objects: Any = None,
    unusable: Unusable = "error",
) -> Items:
    """Questions about pictures, from a table. Pictures are opened one by one, when an item is asked for.

    What is checked here, before any model runs and for all rows: that files are there, that no question, answer, id or
    cluster is empty, that an answer is one of its options, that ids differ, that boxes are four numbers with an area.
    What is checked when a picture is opened, which recipes do for all items before they measure the first: that it is
    a picture, that boxes lie in it, that masks have its size.

    Args:
        source: a pandas DataFrame; the path of a `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet` file; a list of dicts;
            a `Dataset` of Hugging Face's `datasets`; or `Items`. Cells of `.csv` and `.tsv` are text.
        columns: the table's name for each of these columns that has another one there, `{"question": "query", "image":
            "file_name"}`:

            - `image`: the path of a file, a URL, a PIL image, bytes, an array, `{"bytes": ..., "path": ...}` as
              `datasets` stores pictures, or a list of several; `columns={"image": ["left", "right"]}` takes several
              columns.
            - `question`: a text.
            - `answer`: a text, or a whole number, which stands for the digits that spell it; with options the text,
              letter or number (from 0) of the right one.
            - `options`: of a multiple choice, a list of texts. They are written under the question, each with its
              letter, and the letter is the answer.
            - `boxes` or `masks`: the objects of the picture, `[{"label": "dog", "box": [x0, y0, x1, y1]}, ...]` in
              pixels of the upright picture, or with `"mask"`: an array, a picture, polygons or run lengths as in COCO.
              `labels` is their column where the entries are boxes or masks alone.
            - `id`: a text or whole number; default the number of the row.
            - `cluster`: equal where rows are about one picture; default, equal pictures.
            - `other_image`, `other_answer`: for `query_patching`, a second picture and its answer.

            `image` and `question` must be there; nothing is guessed from other names.
        question: one question for all rows, in place of a column.
        folder: where relative paths of pictures and masks begin; default the folder of the table's file.
        objects: objects that lie beside the table: the path of a COCO file (`.json`), of a table with the columns
            `image, label, x0, y0, x1, y1` (`.csv`, a line for each box), or such a DataFrame. A picture is found there
            by the path that `image` has, else by its file name.
        unusable: what becomes of rows that cannot be used. `"error"` refuses the table and names them; `"leave out"`
            goes on without them. They are then in `left_out` with reasons, and in `attrs["left_out"]` of the frames
            that recipes give.

    Returns:
        `Items`, a sequence of `Item`.

    Raises:
        SpecError: no table; a column that it has not got; rows that cannot be used; no row that can be.

    >>> import nnsight_vlm as nv
    >>> rows = [{"image": nv.shapes.scene(seed).image, "question": "what is red ?"} for seed in range(3)]
    >>> asked = nv.items(rows)
    >>> asked, asked[1].question
    (Items(3 of the list source=: image, question), 'what is red ?')
    """
    unusable = one_of("unusable", unusable, ("error", "leave out"))
    if isinstance(source, Items):
        return _again(source, columns=columns, question=question, folder=folder, objects=objects)
    table = table_given(source)
    asked = None if question is None else text("question", question)
    if asked is not None and not asked.strip():
        refuse("question", question, "question", 'question="Describe the image."')
    found = columns_given(table, columns, asked)
    below = table.folder if folder is None else folder_given("folder", folder)
    beside = None
    if objects is not None:
        if "boxes" in found or "masks" in found:
            raise SpecError("objects= and a column of boxes or masks were given; leave one of them out")
        beside = annotations_given(objects, table, found["image"])
    made = Source(table=table, columns=found, folder=below, annotations=beside)
    return _checked(made, asked, skip=unusable == "leave out")


def _again(given: Items, **others: Any) -> Items:
    """Items as they are; what says how a table is read is refused beside them."""
    for name, value in others.items():
        if value is not None:
            raise SpecError(f"{name}= says how a table is read, and these are items already; leave it out")
    return given


# columns ------------------------------------------------------------------------------------------


def columns_given(table: Table, given: Any, question: str | None) -> dict[str, Any]:
    """The names of a table's columns by what they hold.

    Args:
        table: the table.
        given: what the user wrote.
        question: the one question for all rows.

    Raises:
        SpecError: a column that the table has not got, or that items do not have; no picture, no question; boxes and
            masks, or half of a pair.
    """
    write = 'columns={"image": "file_name", "question": "query"}'
    if not (given is None or isinstance(given, Mapping)):
        refuse("columns", given, "mapping from names of items to names of the table", write)
    chosen: dict[str, Any] = {}
    for name, theirs in (given or {}).items():
        if name not in COLUMNS:
            raise SpecError(f"columns= has {spelled(name)}; items have {', '.join(COLUMNS)}")
        several = isinstance(theirs, list) and name in PICTURES and bool(theirs)
        for column in theirs if several else [theirs]:
            if not isinstance(column, Hashable) or column not in table.cells.names:
                raise SpecError(
                    f"columns= takes {name!r} from {spelled(column)}, and {table.called} has the columns "
                    f"{table.shown_names()}"
                )
        chosen[name] = theirs
    own = {name: name for name in COLUMNS if name not in chosen and name in table.cells.names}
    found = {name: {**own, **chosen}[name] for name in COLUMNS if name in {**own, **chosen}}
    if question is not None and "question" in chosen:
        raise SpecError("question= and columns= both say what is asked; leave one of them out")
    _check_found(table, found, question)
    return found


def _check_found(table: Table, found: Mapping[str, Any], question: str | None) -> None:
    needed = ["image"] if question is not None else ["image", "question"]
    for name in needed:
        if name not in found:
            instead = ', or question="..." for one question about all' if name == "question" else ""
            raise SpecError(
                f"{table.called} has no column {name!r} ({COLUMNS[name]}); its columns are {table.shown_names()}. Say "
                f'which it is, columns={{{name!r}: "..."}}{instead}'
            )
    for one, other in (("other_image", "other_answer"), ("other_answer", "other_image"), ("other_answer", "answer")):
        if one in found and other not in found:
            raise SpecError(f"the column {one!r} goes with {other!r}, which {table.called} has not got")
    if "boxes" in found and "masks" in found:
        raise SpecError("the table has boxes and masks; take one of them out of it, because masks would be two things")
    if "options" in found and "other_answer" in found:
        raise SpecError(
            "the table has options and pairs; write the options into the question and take their column out"
        )


# rows ---------------------------------------------------------------------------------------------


def _checked(source: Source, question: str | None, *, skip: bool) -> Items:
    """The rows that can be used.

    Raises:
        SpecError: some cannot, and are not to be left out; or none can.
    """
    count = len(source.table.cells)
    if not count:
        raise SpecError(f"{source.table.called} has no rows; give it one for each question")
    lines, left_out = list[Line](), list[LeftOut]()
    called = dict[str | int, int]()
    for row, cells in enumerate(_text_cells(source)):
        name: str | int = row
        try:
            name = id_cell(cells["id"]) if "id" in cells else row
            if name in called:
                raise SpecError(f"its id {name!r} is that of row {called[name]} too")
            called[name] = row
            line = _line(row, name, cells, question)
            _check_places(source, row)
            lines.append(line)
        except SpecError as error:
            left_out.append(LeftOut(name, str(error)))
    if left_out and (not skip or not lines):
        raise SpecError(unusable_words(left_out, count, source.table.called, all_of_them=not lines))
    return Items(lines=tuple(lines), source=source, left_out=tuple(left_out), skip=skip)


def _text_cells(source: Source) -> Iterator[dict[str, Any]]:
    """The text cells of each row, by what they hold."""
    names = [name for name in source.columns if name not in (*PICTURES, "boxes", "masks", "labels")]
    columns = [source.table.cells.column(source.columns[name]) for name in names]
    for row in range(len(source.table.cells)):
        yield {name: column[row] for name, column in zip(names, columns, strict=True)}


def _line(row: int, name: str | int, cells: Mapping[str, Any], question: str | None) -> Line:
    options = options_cell(cells["options"]) if "options" in cells else ()
    answer = None
    if "answer" in cells:
        answer = letter_of(cells["answer"], options) if options else answer_cell("answer", cells["answer"])
    return Line(
        row=row,
        id=name,
        question=text_cell("question", cells["question"]) if question is None else question,
        answer=answer,
        options=options,
        cluster=cluster_cell(cells["cluster"]) if "cluster" in cells else None,
        other_answer=answer_cell("other answer", cells["other_answer"]) if "other_answer" in cells else None,
    )


def _check_places(source: Source, row: int) -> None:
    """Look for the files of a row, and at its boxes; pictures that are part of the table are not opened."""
    for name in PICTURES:
        if name in source.columns and source.is_at_hand(name):
            source.pictures(row, name)
    if source.annotations is not None or source.form == "box":
        source.outlines(row)


def unusable_words(left_out: Sequence[LeftOut], count: int, called: str, *, all_of_them: bool = False) -> str:
    """What a message says of rows that cannot be used."""
    named = "; ".join(f"row {each.id!r}: {each.why}" for each in left_out[:MOST_NAMED])
    more = f"; and {len(left_out) - MOST_NAMED} more" if len(left_out) > MOST_NAMED else ""
    write = "Mend them" if all_of_them else 'Mend them, or go on without them, nv.items(..., unusable="leave out")'
    return f"{len(left_out)} of the {count} rows of {called} cannot be used. {named}{more}. {write}"
