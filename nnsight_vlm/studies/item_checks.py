"""Every item of a recipe, opened and encoded once before the first is measured, so that none ends the recipe midway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tqdm.auto import tqdm

from ..errors import SpecError
from ..execution.checking import require_model
from ..execution.memory import refuse_large_prompt
from ..families import Model
from ..identity import prompt_digest
from ..prompts.prompt import Prompt
from ..questions.item_lists import Item, Items, LeftOut
from ..questions.making import MOST_NAMED, unusable_words
from ..remote.model_call import Remote
from ..sweeping.wanted import answer_token
from .controls import picture_key
from .item_prompts import ItemPrompts, ItemThings, things_digest
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Notes:
    """What is kept of one item."""

    digest: str
    picture_key: str
    things: str
    seen: Any


def look_at_all(
    model: Model,
    items: Items,
    *,
    answered: bool,
    with_things: bool,
    look: Look | None,
    work: Work,
    remote: Remote,
    other: bool = False,
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
        other: look at the prompts about the other pictures.

    Raises:
        SpecError: items that cannot be used, or none that can be; what `look` raises, which names the item.
    """
    kept, notes, left_out = list[int](), list[_Notes](), list[LeftOut]()
    for number in tqdm(range(len(items)), desc="items", unit="image", disable=not work.progress, leave=False):
        item = items[number]
        try:
            prompt = _encoded(model, item, answered, work, remote, other)
            things = things_digest(item.things or ()) if with_things else ""
        except SpecError as error:
            left_out.append(LeftOut(item.id, _without_name(str(error), item)))
            if not items.skip and len(left_out) >= MOST_NAMED:
                break
            continue
        seen = None if look is None else _looked(look, prompt, item)
        key = picture_key(prompt) or f"prompt {number}"
        kept.append(number)
        notes.append(_Notes(digest=prompt_digest(prompt), picture_key=key, things=things, seen=seen))
    if left_out and (not items.skip or not kept):
        called = items.source.table.called
        raise SpecError(unusable_words(left_out, len(items), called, all_of_them=not kept))
    used = replace(items.only(kept), left_out=(*items.left_out, *left_out))
    prompts = ItemPrompts(
        model,
        used,
        digests=[note.digest for note in notes],
        picture_keys=[note.picture_key for note in notes],
        keep=work.chunk,
        other=other,
    )
    things_of = ItemThings(used, [note.things for note in notes]) if with_things else None
    return Looked(
        items=used, numbers=tuple(kept), prompts=prompts, things=things_of, seen=tuple(note.seen for note in notes)
    )


def _encoded(model: Model, item: Item, answered: bool, work: Work, remote: Remote, other: bool) -> Prompt:
    if answered:
        for answer in (item.answer, item.other_answer):
            if answer is not None:
                answer_token(model, answer)
    prompt = item.encode(model, other=other)
    require_model(model, prompt)
    refuse_large_prompt(model, prompt, remote, memory=work.memory, whose="its prompt")
    return prompt


def _without_name(message: str, item: Item) -> str:
    return message.removeprefix(f"item {item.id!r}: ")


def _looked(look: Look, prompt: Prompt, item: Item) -> Any:
    try:
        return look(prompt)
    except SpecError as error:
        raise SpecError(f"item {item.id!r}: {error}") from error
