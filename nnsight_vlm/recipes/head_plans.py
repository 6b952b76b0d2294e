"""What `heads` is asked: which heads are looked for, of which objects, and towards which others they are steered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arguments import number, one_of, whole_number
from ..errors import SpecError
from ..execution.checking import check, require_model
from ..families import Model
from ..lowering.layers import Layers
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..prompts.prompt import Prompt
from ..prompts.where import Where, as_tuples
from ..questions.item_lists import Items
from ..specs.measurements import Attention
from ..studies.asked_objects import asked_of, asked_patches, names_given, things_asked, whose_prompt
from ..studies.given import answers_given
from ..studies.image_token_sets import picture_grid
from ..studies.study import Study
from ..sweeping.wanted import answer_token
from .head_scores import CHOOSE, LOWEST, Choose, Pictured, head_layers
from .head_sets import Answers, steering, whole_cut


class Plan(NamedTuple):
    """How heads are chosen and tested; for the fields see `heads`."""

    choose: Choose
    top: int
    lowest: int | None
    calibration: float
    target: Where
    layers: Layers
    smooth: float
    draws: int


def plan_given(
    choose: Any, top: Any, lowest: Any, calibration: Any, target: Any, layers: Any, smooth: Any, draws: Any
) -> Plan:
    """The plan as a user gives it.

    Raises:
        SpecError: an unknown word, a number beyond its limits, or `lowest` where nothing is selected by it.
    """
    choose = one_of("choose", choose, CHOOSE)
    if choose != "paper" and lowest is not None:
        raise SpecError(f'lowest= is of choose="paper", and choose={choose!r}; leave it out')
    if choose == "paper":
        lowest = LOWEST if lowest is None else whole_number("lowest", lowest, least=1, kind="number of heads")
    return Plan(
        choose=choose,
        top=whole_number("top", top, least=1, kind="number of heads"),
        lowest=lowest,
        calibration=number("calibration", calibration, above=0, below=1, kind="share of the pictures"),
        target=as_tuples(target),
        layers=as_tuples(layers),
        smooth=number("smooth", smooth, least=0, kind="number of patches"),
        draws=whole_number("draws", draws, least=1, kind="number of random sets"),
    )


class Aims(NamedTuple):
    """Other objects and what is right of them, by the number of the prompt or what the item is called."""

    names: Mapping[str | int, tuple[str, ...]]
    answers: Mapping[str | int, str | int]


def aims_given(model: Model, measured: Sequence[Prompt] | Items, towards: Any, other_answers: Any) -> Aims | None:
    """The objects towards which heads are steered, as a user gives them; None where there are none.

    Raises:
        SpecError: only one of the two lists, or no such list.
    """
    names = names_given(measured, towards, "towards")
    if (names is None) != (other_answers is None):
        given, missing = ("towards", "other_answers") if names is not None else ("other_answers", "towards")
        raise SpecError(f"{given}= was given, and {missing}= was not; write both, or leave both out")
    if names is None:
        return None
    try:
        listed = answers_given(model, measured, other_answers)
    except SpecError as error:
        raise SpecError(f"other_answers=: {error}") from error
    return Aims(names, dict(zip(names, listed, strict=True)))


def layers_seen(model: Model, plan: Plan, prompt: Prompt) -> tuple[int, ...]:
    """The layers whose heads are measured in a prompt.

    Raises:
        SpecError: a prompt of another model, without one picture whose tokens have a place, no such layers, no target.
    """
    require_model(model, prompt)
    grid = picture_grid(prompt, "a prompt")
    layers = head_layers(model, prompt, grid, plan.target, plan.layers)
    here = resolver(model, one_case_per_row(prompt).placements[0])
    list(Attention(plan.target, grid.positions, layers=layers).lower(here))
    most = len(layers) * here.spec.head_count
    if plan.top > most:
        raise SpecError(f"top={plan.top} of {most} heads; write a number from 1 to {most}")
    return layers


@dataclass(frozen=True, kw_only=True, eq=False)
class Subjects:
    """The pictures of a study, and what heads are to look at in each.

    Attributes:
        study: the prompts, answers and objects.
        plan: how heads are chosen.
        layers: whose heads are measured.
        about: the names that the user gave of the objects that are asked about; None where none were given.
        aims: the other objects; None where nothing is steered.
    """

    study: Study
    plan: Plan
    layers: tuple[int, ...]
    about: Mapping[str | int, tuple[str, ...]] | None
    aims: Aims | None

    def pictured(self, image: int) -> Pictured:
        """One picture, by what its patches show.

        Raises:
            SpecError: nothing tells which object is meant, it has no mask, or a mask of another size.
        """
        study, prompt = self.study, self.study.prompts[image]
        whose, truth = whose_prompt(study, image), (study.truths or ())[image]
        grid, names = picture_grid(prompt, whose), asked_of(study, image, self.about)
        own = asked_patches(prompt, grid, truth, names, whose).object
        meant = {thing.name for thing in things_asked(prompt, truth, names, whose)}
        others = np.zeros(len(own), bool)
        for thing in truth:
            if thing.mask is not None and thing.name not in meant:
                others |= grid.coverage(thing.mask) > 0
        return Pictured(image, prompt, grid, own, others & ~own, self._towards(image, prompt, own))

    def _towards(self, image: int, prompt: Prompt, own: np.ndarray) -> tuple[int, ...]:
        """The positions of the other object's patches that do not show the object itself."""
        if self.aims is None:
            return ()
        whose, truth = whose_prompt(self.study, image), (self.study.truths or ())[image]
        names = asked_of(self.study, image, self.aims.names)
        aimed = asked_patches(prompt, picture_grid(prompt, whose), truth, names, whose, "towards")
        return tuple(
            int(position) for position, inside in zip(aimed.grid.positions, aimed.object & ~own, strict=True) if inside
        )

    def answers(self, image: int) -> Answers | None:
        """The tokens whose probability is followed; None where no answer is known."""
        if self.study.answers is None:
            return None
        other = None if self.aims is None else self.aims.answers[self._key(image)]
        return Answers(self.study.answers[image], other)

    def _key(self, image: int) -> str | int:
        return image if self.study.ids is None else self.study.ids[image]

    def usable(self) -> tuple[int, ...]:
        """The prompts that can be measured: those of whose object some patch shows something.

        Raises:
            SpecError: no objects are known, or something is wrong with a prompt.
        """
        if self.study.truths is None:
            raise SpecError(
                "heads are scored by the object that they look at, and no objects are known; write truths=, the "
                "things in each picture with masks, or give items with boxes or masks"
            )
        if self.aims is not None and self.study.answers is None:
            raise SpecError("towards= says where answers are steered, and no answers are known; write answers=")
        return tuple(image for image in range(len(self.study.prompts)) if self._is_usable(image))

    def _is_usable(self, image: int) -> bool:
        """Whether a prompt can be measured.

        Raises:
            SpecError: its cuts change nothing or leave nothing, or both its answers are one.
        """
        model, plan, layers = self.study.model, self.plan, self.layers
        pictured, answers = self.pictured(image), self.answers(image)
        if answers is not None:
            check(model, pictured.prompt, whole_cut(plan.target, layers))
            if answers.other is not None and len({answer_token(model, answer) for answer in answers}) == 1:  # type: ignore[arg-type]
                raise SpecError(
                    f"other_answers= has {answers.other!r} for {whose_prompt(self.study, image)}, which is the answer "
                    "itself; steer towards an object of which another answer is right"
                )
        for forced in (False, True) if pictured.towards else ():
            check(
                model, pictured.prompt, steering(pictured.prompt, pictured.towards, plan.target, layers, forced=forced)
            )
        return bool(pictured.own.any())

    def aimed(self) -> list[tuple[tuple[str, ...], str | int]] | None:
        """The other object and its answer, for each prompt."""
        if self.aims is None:
            return None
        keys = [self._key(image) for image in range(len(self.study.prompts))]
        return [(self.aims.names[key], self.aims.answers[key]) for key in keys]

    def settings(self) -> dict[str, Any]:
        """What the scores of heads depend on."""
        about = None if self.about is None else list(self.about.values())
        return {"target": self.plan.target, "layers": self.layers, "asked": about}
