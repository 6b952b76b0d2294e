"""One question about one picture, and many of them, of which only those are opened that are asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, overload

from PIL import Image

from ..arguments import flag, listed, whole_number
from ..errors import SpecError
from ..families import Model
from ..prompts.encoding import encode
from ..prompts.prompt import Prompt
from .cells import with_options
from .masks import Size
from .object_cells import Form, Outline, outlines_in
from .picture_cells import opened, pictures_in
from .tables import Table
from .things import Thing

T = TypeVar("T")
Outlines = Callable[[int], tuple[Outline, ...]]


class LeftOut(NamedTuple):
    """A row that is not used.

    Attributes:
        id: of the row.
        why: in words.
    """

    id: str | int
    why: str


class Line(NamedTuple):
    """The text cells of one row.

    Attributes:
        row: its number in the table.
        id: what it is called.
        question: as the table has it.
        answer: the right answer; None where the table has none. With options it is the letter of the right one.
        options: of the question; none for an open question.
        cluster: a key that is equal where rows are about one picture; None where the table has none.
        other_answer: the right answer about the other picture, in tables of pairs.
    """

    row: int
    id: str | int
    question: str
    answer: str | None = None
    options: tuple[str, ...] = ()
    cluster: Hashable | None = None
    other_answer: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Where the pictures and objects of items are.

    Attributes:
        table: the table.
        columns: names of its columns by what they hold; for pictures there may be several.
        folder: where relative paths begin.
        annotations: the objects of each row that are kept beside the table; None where there are none.
    """

    table: Table
    columns: Mapping[str, Any]
    folder: Path | None
    annotations: Outlines | None = None

    def pictures(self, row: int, name: str = "image") -> tuple[Any, ...]:
        """What is opened for each picture of a row.

        Raises:
            SpecError: see `pictures_in`.
        """
        columns = self.columns[name]
        several = columns if isinstance(columns, list) else [columns]
        cells = [self.table.cells.cell(column, row) for column in several]
        return tuple(source for cell in cells for source in pictures_in(cell, self.folder, name.replace("_", " ")))

    def is_at_hand(self, name: str) -> bool:
        """Whether cells of pictures can be read without opening a picture: they are paths, or in memory already."""
        columns = self.columns[name]
        return all(map(self.table.cells.is_at_hand, columns if isinstance(columns, list) else [columns]))

    @property
    def form(self) -> Form | None:
        """What the table's objects have; None where it has no objects."""
        return "box" if "boxes" in self.columns else "mask" if "masks" in self.columns else None

    def outlines(self, row: int) -> tuple[Outline, ...] | None:
        """The objects of a row's picture; None where they are not known.

        Raises:
            SpecError: see `outlines_in`.
        """
        if self.annotations is not None:
            return self.annotations(row)
        if (form := self.form) is None:
            return None
        cell = self.table.cells.cell(self.columns["boxes" if form == "box" else "masks"], row)
        labels = self.table.cells.cell(self.columns["labels"], row) if "labels" in self.columns else None
        return outlines_in(cell, labels, form)


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """One question about one picture or several. Its pictures and objects are opened when they are asked for.

    Attributes:
        id: what it is called: the cell of the column `id`, or the number of its row.
        question: as the table has it.
        answer: the right answer, None where the table has none. With options it is the letter of the right one.
        options: of the question; none for an open question.
        cluster: a key that is equal where items are about one picture; None where the table has none.
        other_answer: the right answer about the other picture, in tables of pairs.
    """

    id: str | int
    question: str
    answer: str | None
    options: tuple[str, ...]
    cluster: Hashable | None
    other_answer: str | None
    row: int
    _source: Source = field(repr=False)

    @property
    def text(self) -> str:
        """What the model is asked, the question with its options under it where it has some."""
        return with_options(self.question, self.options)

    @cached_property
    def images(self) -> tuple[Image.Image, ...]:
        """The pictures, upright.

        Raises:
            SpecError: one of them cannot be opened.
        """
        return self._opened("image")

    @property
    def image(self) -> Image.Image:
        """The first picture, upright."""
        return self.images[0]

    @cached_property
    def other_images(self) -> tuple[Image.Image, ...]:
        """The other pictures, in tables of pairs; none elsewhere."""
        return self._opened("other_image") if "other_image" in self._source.columns else ()

    def _opened(self, name: str) -> tuple[Image.Image, ...]:
        return self._named(
            lambda: tuple(opened(source, name.replace("_", " ")) for source in self._source.pictures(self.row, name))
        )

    @cached_property
    def things(self) -> tuple[Thing, ...] | None:
        """The objects that are really in the first picture, with masks; None where they are not known.

        Raises:
            SpecError: a box or mask that is not one of this picture.
        """
        outlines = self._named(lambda: self._source.outlines(self.row))
        if outlines is None:
            return None
        size = Size(*self.image.size)
        return self._named(lambda: tuple(outline.thing(size, self._source.folder) for outline in outlines))

    def encode(self, model: Model, *, other: bool = False) -> Prompt:
        """The question about the pictures, or about the other pictures, as a prompt: what `nv.encode` gives of them.

        Raises:
            SpecError: naming the item: a picture that cannot be opened or encoded.
        """
        if flag("other", other) and not self.other_images:
            raise SpecError(f"item {self.id!r} has no other picture; leave other= out")
        pictures = self.other_images if other else self.images
        return self._named(lambda: encode(model, self.text, list(pictures)))

    def _named(self, do: Callable[[], T]) -> T:
        """Something of this item, whose errors name it."""
        try:
            return do()
        except SpecError as error:
            raise SpecError(f"item {self.id!r}: {error}") from error


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Items(Sequence[Item]):
    """Questions about pictures, made by `nv.items`. An item is put together when it is asked for, and is not kept.

    Attributes:
        lines: the text cells of the rows that are used.
        source: where their pictures and objects are.
        left_out: the rows that are not used.
        skip: whether items that cannot be used are left out; otherwise they are an error.
    """

    lines: tuple[Line, ...]
    source: Source
    left_out: tuple[LeftOut, ...] = ()
    skip: bool = False

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, number: int) -> Item: ...
    @overload
    def __getitem__(self, number: slice) -> Items: ...
    def __getitem__(self, number: int | slice) -> Item | Items:
        if isinstance(number, slice):
            return replace(self, lines=self.lines[number])
        line = self.lines[whole_number("number", number, kind="number of an item")]
        return Item(**line._asdict(), _source=self.source)

    def __iter__(self) -> Iterator[Item]:
        return (self[number] for number in range(len(self)))

    def only(self, numbers: Sequence[int]) -> Items:
        """Some of the items, in the order in which their numbers are given."""
        chosen = listed("numbers", numbers, "items.only([0, 2])")
        limits: dict[str, Any] = {"least": -len(self), "most": len(self) - 1, "kind": "number of an item"}
        places = [whole_number("numbers", number, **limits) for number in chosen]
        return replace(self, lines=tuple(self.lines[place] for place in places))

    @property
    def ids(self) -> tuple[str | int, ...]:
        """What the items are called."""
        return tuple(line.id for line in self.lines)

    @property
    def has_answers(self) -> bool:
        """Whether every item has an answer."""
        return "answer" in self.source.columns

    @property
    def has_clusters(self) -> bool:
        """Whether every item has a cluster."""
        return "cluster" in self.source.columns

    @property
    def has_things(self) -> bool:
        """Whether the objects of every picture are known."""
        return self.source.annotations is not None or self.source.form is not None

    @property
    def has_pairs(self) -> bool:
        """Whether every item has another picture with another answer."""
        return "other_image" in self.source.columns

    def __repr__(self) -> str:
        out = f", {len(self.left_out)} left out" if self.left_out else ""
        return f"Items({len(self)} of {self.source.table.called}: {', '.join(self.source.columns)}{out})"
