"""The part of a picture that a question is about: the patches of the object it names, and the rest of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arguments import listed, refuse
from ..errors import SpecError
from ..grids import Grid
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from .study import Study
from .words import Thing
from .work import one_for_each

ASKED = 'the names of things, one prompt after the other: {name}=["dog", ["red ring", "blue circle"], ...]'


class AskedPatches(NamedTuple):
    """Patches of a picture by whether they show what the question is about.

    Attributes:
        object: which patches touch the object, bool `[patch]`.
        grid: the patches.
    """

    object: np.ndarray
    grid: Grid

    @property
    def inside(self) -> tuple[int, ...]:
        """Positions of the object's image tokens."""
        return self._positions(self.object)

    @property
    def outside(self) -> tuple[int, ...]:
        """Positions of all other image tokens that show part of the picture."""
        return self._positions(~self.object & (self.grid.areas > 0))

    def _positions(self, chosen: np.ndarray) -> tuple[int, ...]:
        return tuple(int(position) for position in np.asarray(self.grid.positions)[chosen])


def names_given(
    measured: Sequence[Prompt] | Items, asked: Any, name: str = "asked"
) -> dict[str | int, tuple[str, ...]] | None:
    """What each question is about, as the user says: a name, or several, for each prompt.

    Args:
        measured: the prompts, or items.
        asked: one name, or list of names, for each of them; None where the user says nothing.
        name: of the argument.

    Returns:
        The names by the number of the prompt, or by what the item is called.

    Raises:
        SpecError: no such list.
    """
    if asked is None:
        return None
    each, write = [], ASKED.format(name=name)
    for number, names in enumerate(listed(name, asked, write)):
        given = (names,) if isinstance(names, str) else listed(f"{name}[{number}]", names, write, kind=str)
        if not given:
            refuse(f"{name}[{number}]", names, "name of a thing", write)
        each.append(given)
    one_for_each(measured, **{f"names in {name}=": each})
    ids = measured.ids if isinstance(measured, Items) else range(len(measured))
    return dict(zip(ids, each, strict=True))


def asked_patches(
    prompt: Prompt, grid: Grid, truth: Sequence[Thing], asked: Sequence[str] | None, whose: str, name: str = "asked"
) -> AskedPatches:
    """The patches of the things that a question is about.

    Args:
        prompt: the question about the picture.
        grid: the picture's patches.
        truth: the things that are in the picture.
        asked: their names; None for the only thing, or things of one name, else for those that the question names, in
            full or by the last word of their name (`ring` for `red ring`).
        whose: what the prompt is called in errors.
        name: of the argument that has the names.

    Raises:
        SpecError: nothing tells which things are meant, there is none of such a name, or it has no mask.
    """
    things = things_asked(prompt, truth, asked, whose, name)
    covered = np.zeros(len(grid.positions), bool)
    for thing in things:
        if thing.mask is None:
            raise SpecError(
                f"{whose} asks about {thing.name!r}, which has no mask; write Thing(name={thing.name!r}, mask=mask)"
            )
        covered |= grid.coverage(thing.mask) > 0
    return AskedPatches(covered, grid)


def things_asked(
    prompt: Prompt, truth: Sequence[Thing], asked: Sequence[str] | None, whose: str, name: str = "asked"
) -> list[Thing]:
    """The things that a question is about, see `asked_patches`.

    Raises:
        SpecError: nothing tells which things are meant, or there is none of such a name.
    """
    return _named(truth, asked, whose, name) if asked is not None else _asked_about(prompt, truth, whose)


def asked_of(study: Study, number: int, about: Mapping[str | int, tuple[str, ...]] | None) -> tuple[str, ...] | None:
    """The names for one prompt of a study, from which some may have been left out."""
    return None if about is None else about[number if study.ids is None else study.ids[number]]


def whose_prompt(study: Study, number: int) -> str:
    """What a prompt of a study is called in errors."""
    return f"prompt {number}" if study.ids is None else f"item {study.ids[number]!r}"


def _named(truth: Sequence[Thing], asked: Sequence[str], whose: str, argument: str) -> list[Thing]:
    names = [thing.name for thing in truth]
    for name in asked:
        if name not in names:
            raise SpecError(f"{argument}= names {name!r} for {whose}, and its picture has {_listed(names)}; write one")
    return [thing for thing in truth if thing.name in asked]


def _asked_about(prompt: Prompt, truth: Sequence[Thing], whose: str) -> list[Thing]:
    """The only thing, or things of one name, or those that the question names.

    A last word that is common to things of different names tells none of them apart.
    """
    if len({thing.name for thing in truth}) == 1:
        return list(truth)
    in_full = [thing for thing in truth if _is_said(prompt, thing.name)]
    if in_full:
        return in_full
    by_last_word = [thing for thing in truth if _is_said(prompt, thing.name.split()[-1])]
    names = {thing.name for thing in by_last_word}
    if not names or len({name.split()[-1] for name in names}) < len(names):
        raise SpecError(
            f"nothing tells which object {whose} asks about: its question names "
            f"{'several' if by_last_word else 'none'} of {_listed([thing.name for thing in truth])}; write asked=, the "
            "name of the thing for each prompt"
        )
    return by_last_word


def _is_said(prompt: Prompt, name: str) -> bool:
    return bool(prompt.find_all(name, within="query", ignore_case=True))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) or "no things"
