"""Every item of a recipe, opened and encoded once before the first is measured, so that none ends the recipe midway."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ..errors import SpecError
from ..execution.checking import require_model
from ..execution.memory import refuse_large_prompt
from ..families import Model
from ..identity import prompt_digest, setting_digest
from ..prompts.prompt import Prompt
from ..questions.item_lists import Item, Items, LeftOut
from ..questions.making import MOST_NAMED, unusable_words
from ..remote.model_call import Remote
from ..sweeping.wanted import answer_token
from .controls import picture_key
from .item_prompts import ItemPrompts, ItemThings, things_digest
from .pairs import ItemPairs, Pair, check_pair
from .work import Work

Look = Callable[[Prompt], Any]
"""What a recipe wants to know of every prompt; it raises a SpecError where the prompt cannot be measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Looked:
    """What was found in looking at all items.

    Attributes:
        items: those that can be used.
        numbers: of these among all.
        prompts: theirs.
        things: the objects of their pictures; None where the recipe does not take them, or they are not known.
        seen: what the recipe's own look gave of each.
    """

    items: Items
    numbers: tuple[int, ...]
    prompts: ItemPrompts
    things: ItemThings | None
    seen: tuple[Any, ...]


class _Identity(NamedTuple):
    """What tells a prompt from others when it is not there: digests of all of it, of its pixels, of its tokens."""

    digest: str
    picture_key: str
    words: str


class _Notes(NamedTuple):
    """What is kept of one item: the identity of its prompts, that of its objects, and what the recipe saw."""

    own: _Identity
    seen: Any
    things: str = ""
    other: _Identity = _Identity("", "", "")


def look_at_all(
    model: Model,
    items: Items,
    *,
    answered: bool,
    with_things: bool,
    look: Look | None,
    work: Work,
    remote: Remote,
) -> Looked:
    """Open and encode every item once; those that cannot be used are left out, if `nv.items` was told so.

    Args:
        model: an nnsight model.
        items: what is measured.
        answered: whether an answer of one token is scored.
        with_things: whether the recipe takes the objects of pictures.
        look: of the recipe.
        work: how large a prompt may be, and how many are kept.
        remote: see `nv.run`.

    Raises:
        SpecError: items that cannot be used, or none that can be; what `look` raises, which names the item.
    """

    def note(item: Item) -> _Notes:
        if answered:
            answer_token(model, str(item.answer))
        prompt = _encoded(model, item, work, remote)
        things = things_digest(item.things or ()) if with_things else ""
        return _Notes(_identity(prompt), _looked(look, prompt, item), things)

    used, numbers, notes = _usable(items, note, work)
    things = ItemThings(used, [each.things for each in notes]) if with_things else None
    prompts = _prompts(model, used, work, [each.own for each in notes])
    return Looked(items=used, numbers=numbers, prompts=prompts, things=things, seen=tuple(each.seen for each in notes))


def look_at_pairs(model: Model, items: Items, *, look: Look, work: Work, remote: Remote) -> tuple[Looked, ItemPairs]:
    """The same for items with a second picture and its answer: what was found, and the pairs.

    Raises:
        SpecError: see `look_at_all` and `check_pair`.
    """

    def note(item: Item) -> _Notes:
        prompt, other = (_encoded(model, item, work, remote, other=each) for each in (False, True))
        check_pair(model, Pair(prompt, other, str(item.answer), str(item.other_answer)), "")
        return _Notes(_identity(prompt), _looked(look, prompt, item), other=_identity(other))

    used, numbers, notes = _usable(items, note, work)
    prompts = _prompts(model, used, work, [each.own for each in notes])
    others = _prompts(model, used, work, [each.other for each in notes], other=True)
    looked = Looked(items=used, numbers=numbers, prompts=prompts, things=None, seen=tuple(each.seen for each in notes))
    return looked, ItemPairs(prompts, others, work.chunk + 1)


def _usable(items: Items, note: Callable[[Item], _Notes], work: Work) -> tuple[Items, tuple[int, ...], list[_Notes]]:
    """The items that can be used, their numbers, and what was noted of them.

    Raises:
        SpecError: some cannot, and are not to be left out; or none can.
    """
    numbers, notes, left_out = list[int](), list[_Notes](), list[LeftOut]()
    for number in tqdm(range(len(items)), desc="items", unit="image", disable=not work.progress, leave=False):
        item = items[number]
        try:
            notes.append(note(item))
            numbers.append(number)
        except _NotOfTheItem as error:
            raise SpecError(str(error)) from error
        except SpecError as error:
            left_out.append(LeftOut(item.id, str(error).removeprefix(f"item {item.id!r}: ")))
            if not items.skip and len(left_out) >= MOST_NAMED:
                break
    if left_out and (not items.skip or not numbers):
        called = items.source.table.called
        raise SpecError(unusable_words(left_out, len(items), called, all_of_them=not numbers))
    used = replace(items.only(numbers), left_out=(*items.left_out, *left_out))
    return used, tuple(numbers), notes


def _identity(prompt: Prompt) -> _Identity:
    return _Identity(prompt_digest(prompt), picture_key(prompt), setting_digest(prompt.rows[0].tokens))


def _prompts(
    model: Model, items: Items, work: Work, identities: Sequence[_Identity], *, other: bool = False
) -> ItemPrompts:
    return ItemPrompts(
        model,
        items,
        digests=[each.digest for each in identities],
        picture_keys=[each.picture_key or f"prompt {number}" for number, each in enumerate(identities)],
        words=[each.words for each in identities],
        keep=work.chunk + 1,
        other=other,
    )


def _encoded(model: Model, item: Item, work: Work, remote: Remote, *, other: bool = False) -> Prompt:
    prompt = item.encode(model, other=other)
    require_model(model, prompt)
    refuse_large_prompt(model, prompt, remote, memory=work.memory, whose="its prompt")
    return prompt


class _NotOfTheItem(SpecError):
    """What is wrong with the recipe's arguments, and shows in an item; leaving the item out would hide it."""


def _looked(look: Look | None, prompt: Prompt, item: Item) -> Any:
    try:
        return None if look is None else look(prompt)
    except SpecError as error:
        raise _NotOfTheItem(f"item {item.id!r}: {error}") from error
