"""What recipes are given, looked at before anything is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..arguments import flag, function, instance, listed, whole_number
from ..errors import SpecError
from ..families import Model
from ..sweeping.wanted import answer_token
from .words import Objects, Thing, default_objects
from .work import Work, one_for_each

TRUTHS = 'truths=[[Thing(name="dog", mask=mask), ...], ...], a list of things for each prompt'


def usual_given(seed: Any, per_image: Any, work: Any) -> tuple[int, bool, Work]:
    """What every recipe takes: the seed of its controls, whether it gives the rows behind the means, and how it works.

    Raises:
        SpecError: one of them is something else.
    """
    instance("work", work, Work, 'work=Work(journal="a/folder", chunk=4)')
    return whole_number("seed", seed, least=0, kind="seed"), flag("per_image", per_image), work


def lengths_given(max_new_tokens: Any, rows: Any) -> tuple[int, int | None]:
    """How long descriptions are, and how many are generated in one batch; None for as many as fit.

    Raises:
        SpecError: no numbers from 1 on.
    """
    length = whole_number("max_new_tokens", max_new_tokens, least=1, kind="length")
    if rows is None:
        return length, None
    return length, whole_number("rows", rows, least=1, kind="number of cases that share a batch")


def truths_given(prompts: Sequence[Any], truths: Any) -> list[tuple[Thing, ...]] | None:
    """The objects that are really in each picture; None where they are not known.

    Raises:
        SpecError: not a list of things for each prompt.
    """
    if truths is None:
        return None
    each = [
        listed(f"truths[{number}]", truth, TRUTHS, kind=Thing)
        for number, truth in enumerate(listed("truths", truths, TRUTHS))
    ]
    one_for_each(prompts, truths=each)
    return each


def objects_given(model: Model, objects: Any) -> Objects:
    """What finds the objects that a text names; a default for the model where none is given.

    Raises:
        SpecError: no function.
    """
    write = 'objects=nv.recipes.vocabulary(["dog", "cat"]), or a function from a text to names'
    return default_objects(model) if objects is None else function("objects", objects, write)


def answers_given(model: Model, prompts: Sequence[Any], answers: Any) -> tuple[str | int, ...]:
    """One single-token answer for each prompt.

    Raises:
        SpecError: no such list, or an answer that is not one token.
    """
    if isinstance(answers, str):
        raise SpecError(f"answers={answers!r} is one text; give one for each prompt, answers=[{answers!r}]")
    each = listed("answers", answers, 'one for each prompt, answers=["red", ...]')
    one_for_each(prompts, answers=each)
    for answer in each:
        answer_token(model, answer)
    return each
