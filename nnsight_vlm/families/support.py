"""What works in each family, from the family table: `nnsight-vlm families` and docs/families.md."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from .columns import Family
from .options import Limitation
from .verified import Status, record, status_of

if TYPE_CHECKING:
    import pandas as pd


SITES: tuple[Limitation, ...] = ("projector", "features", "embedding", "mlp")
"""The sites that may be missing in a family; the others are in all of them."""
Works = Literal["yes", "in part", "no"]


class Column(NamedTuple):
    """A column of the table of what works.

    Attributes:
        main: the limitation of families in which none of it works.
        parts: limitations of families in which a part of it does not work.
    """

    main: Limitation
    parts: tuple[Limitation, ...] = ()


TOWER = "vision tower"
"""The heading of the column of the stage `"vision"`."""
COLUMNS: dict[str, Column] = {
    TOWER: Column("vision"),
    "knockout": Column("knockout", ("complete cut",)),
    "patch": Column("patch", SITES),
    "ablate": Column("ablate", SITES),
    "heads": Column("heads"),
    "attention weights": Column("attention"),
    "lens": Column("lens", ("image lens",)),
    "grid": Column("grid"),
    "generate": Column("generate", ("padded generation", "uncached generation")),
    "text alone": Column("text alone"),
    "several images": Column("several images"),
    "video": Column("video", ("video beside images",)),
    "packed sweep": Column("packed"),
    "cached prefix": Column("prefix"),
    "image encoded once": Column("embedded"),
    "sdpa": Column("sdpa"),
    "static cache": Column("static cache"),
}
"""The columns of the table of what works, by their headings."""

COMPUTES_POSITIONS = "the model computes position ids itself and cannot be given any"
NO_VIDEO = "videos of these models are not taken; where several images are, give the frames as images"
IMAGE_OUTSIDE = (
    "the decoder only reads the image, through cross-attention: the states of image tokens never reach its head, so "
    "they stand for no words"
)
CARRIES_STATE = (
    "some layers carry a state through the sequence (recurrent or convolutional), so variants cannot share one; they "
    "run as rows of a batch"
)
CARRIES_PICTURE = (
    "some layers carry a state through the sequence (recurrent or convolutional), and it takes the picture past every "
    "cut of attention"
)


class Support(NamedTuple):
    """What works in several families.

    Attributes:
        table: a line per family: the status of each column, followed by the numbers of footnotes.
        footnotes: the reasons; the first has number 1.
    """

    table: pd.DataFrame
    footnotes: list[str]


def unsupported(family: Family) -> dict[Limitation, str]:
    """What does not work in a family, and why: what its entry says, and what follows from its other columns."""
    limits: dict[Limitation, str] = {}
    if family.decoder.attention.layers == "typed":
        limits |= {"packed": CARRIES_STATE, "complete cut": CARRIES_PICTURE}
    if "packed" in family.limitations:
        limits["prefix"] = family.limitations["packed"]
    if family.image_at != "decoder":
        limits["image lens"] = IMAGE_OUTSIDE
    if family.video is None:
        limits["video"] = NO_VIDEO
    if family.positions == "own":
        limits["embedded"] = COMPUTES_POSITIONS
    return {**limits, **family.limitations}


def support(families: Iterable[Family]) -> Support:
    """What works in these families, as a table with footnotes."""
    import pandas as pd

    footnotes: list[str] = []
    return Support(pd.DataFrame([_line(family, footnotes) for family in families]), footnotes)


class Cell(NamedTuple):
    """Whether something works in a family, and what of it does not.

    Attributes:
        works: "yes", "no", or "in part".
        status: whether that was tested, see `verified.MEANING`.
        missing: what does not work, and why, a sentence each.
    """

    works: Works
    status: Status
    missing: tuple[str, ...] = ()


def cells_of(family: Family) -> dict[str, Cell]:
    """What works in one family, by the headings of the table."""
    limits, lacking = unsupported(family), {TOWER: tuple(_lacking(family))}
    return {heading: _cell(family.name, heading, limits, lacking.get(heading, ())) for heading in COLUMNS}


def _cell(family: str, heading: str, limits: dict[Limitation, str], lacking: tuple[str, ...]) -> Cell:
    """Whether a column works, and what of it does not."""
    column = COLUMNS[heading]
    subjects: dict[Limitation, str] = {column.main: heading}
    subjects |= {part: f'site "{part}"' if part in SITES else part for part in column.parts}
    missing = [f"{subject} not supported: {limits[name]}" for name, subject in subjects.items() if name in limits]
    missing += lacking
    works: Works = "no" if column.main in limits else "in part" if missing else "yes"
    return Cell(works, status_of(family, heading, works), tuple(missing))


def _line(family: Family, footnotes: list[str]) -> dict[str, Any]:
    """The line of one family; footnotes that are new are added to the list."""
    cells = {heading: _noted(cell, footnotes) for heading, cell in cells_of(family).items()}
    named = {"family": family.name, "model type": family.model_type, "transformers": family.transformers}
    return {**named, "stages": ", ".join(family.stages), **cells}


def _noted(cell: Cell, footnotes: list[str]) -> str:
    """A cell of the table: its status, and the numbers of the footnotes that say what does not work."""
    footnotes += [note for note in cell.missing if note not in footnotes]
    return " ".join([cell.status, *(f"[{footnotes.index(note) + 1}]" for note in cell.missing)])


def _lacking(family: Family) -> Iterator[str]:
    """What the vision tower has not got, and why: a note for each reason."""
    lacks = {} if family.tower is None else family.tower.lacks
    for why in dict.fromkeys(lacks.values()):
        yield f"{', '.join(what for what, its in lacks.items() if its == why)} in the {TOWER} not supported: {why}"


def markdown(families: Iterable[Family]) -> str:
    """The table and its footnotes as docs/families.md has them."""
    table, footnotes = support(families)
    lines = [list(table.columns), ["---"] * len(table.columns), *table.itertuples(index=False)]
    table_lines = [f"| {' | '.join(line)} |" for line in lines]
    notes = [f"Verified with {record().told}.", ""]
    return "\n".join([*table_lines, "", *notes, *(f"[{number}] {note}  " for number, note in enumerate(footnotes, 1))])
