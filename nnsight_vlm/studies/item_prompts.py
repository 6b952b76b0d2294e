"""The prompts and objects of items: each is made when it is asked for, and only the latest are kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar, overload

from ..errors import SpecError
from ..families import Model
from ..identity import prompt_digest, setting_digest
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..questions.things import Thing

T = TypeVar("T")


class Made(Sequence[T], Generic[T]):
    """A sequence whose members are made when they are asked for; of those asked for by number the latest are kept.

    Attributes:
        keep: how many are kept.
    """

    def __init__(self, count: int, keep: int) -> None:
        self._count, self.keep = count, keep
        self._kept: OrderedDict[int, T] = OrderedDict()

    def make(self, number: int) -> T:
        """The member of a number, made anew."""
        raise NotImplementedError

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> T: ...
    @overload
    def __getitem__(self, number: slice) -> list[T]: ...
    def __getitem__(self, number: int | slice) -> T | list[T]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self._count))]
        place = range(self._count)[number]
        if place not in self._kept:
            while len(self._kept) >= self.keep:  # before another is made, so that its memory is free
                self._kept.popitem(last=False)
            self._kept[place] = self.make(place)
        self._kept.move_to_end(place)
        return self._kept[place]

    def __iter__(self) -> Iterator[T]:
        """All members, one after the other; none is kept."""
        for place in range(self._count):
            yield self._kept[place] if place in self._kept else self.make(place)


class ItemPrompts(Made[Prompt]):
    """The prompts of items.

    Attributes:
        model: the model that they are encoded for.
        items: the items.
        digests: of each prompt, as it was when it was looked at first, see `identity.prompt_digest`.
        picture_keys: of each prompt, equal where the model is handed the same pixels.
        words: of each prompt, equal where the tokens are.
        other: whether the prompts are about the items' other pictures.
    """

    def __init__(
        self,
        model: Model,
        items: Items,
        *,
        digests: Sequence[str],
        picture_keys: Sequence[str],
        words: Sequence[str],
        keep: int,
        other: bool = False,
    ) -> None:
        super().__init__(len(items), keep)
        self.model, self.items, self.other = model, items, other
        self.digests, self.picture_keys, self.words = tuple(digests), tuple(picture_keys), tuple(words)

    def make(self, number: int) -> Prompt:
        item = self.items[number]
        prompt = item.encode(self.model, other=self.other)
        if prompt_digest(prompt) != self.digests[number]:
            raise SpecError(
                f"item {item.id!r} is another one than it was when the recipe began: its picture, or the model's "
                "processor, was changed in between; call the recipe again"
            )
        return prompt

    def only(self, numbers: Sequence[int]) -> ItemPrompts:
        """Some of the prompts."""
        return ItemPrompts(
            self.model,
            self.items.only(numbers),
            digests=[self.digests[number] for number in numbers],
            picture_keys=[self.picture_keys[number] for number in numbers],
            words=[self.words[number] for number in numbers],
            keep=self.keep,
            other=self.other,
        )


class ItemThings(Made["tuple[Thing, ...]"]):
    """The objects of each item's picture.

    Attributes:
        items: the items.
        digests: of the objects of each.
    """

    def __init__(self, items: Items, digests: Sequence[str]) -> None:
        super().__init__(len(items), keep=1)
        self.items, self.digests = items, tuple(digests)

    def make(self, number: int) -> tuple[Thing, ...]:
        return self.items[number].things or ()

    def only(self, numbers: Sequence[int]) -> ItemThings:
        """Those of some of the items."""
        return ItemThings(self.items.only(numbers), [self.digests[number] for number in numbers])


def things_digest(things: Iterable[Thing]) -> str:
    """A short name for the objects of one picture: their names and masks."""
    return setting_digest([(thing.name, thing.mask) for thing in things])


def chosen(given: Any, numbers: Sequence[int]) -> Any:
    """Some members of a sequence that has one for each prompt; None stays None."""
    if given is None:
        return None
    return given.only(numbers) if isinstance(given, (ItemPrompts, ItemThings)) else tuple(given[n] for n in numbers)
