"""The beginning and the end of every recipe: what it asks one model, and the frame that it gives.

A recipe opens a `Study` from what the user handed over, measures prompt by prompt, and ends in `Study.frame`:

    study = open_study(
        "my_recipe", model, prompts, items=items, columns=columns, only_correct=only_correct, cluster=cluster, work=work
    )
    ...
    return study.frame(settings, measure, summary)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pandas as pd

from ..arguments import flag
from ..errors import SpecError
from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items, LeftOut
from ..remote.model_call import Remote
from .asked import NOT_TAKEN, asked_given, own_or_given, scores_answers
from .clusters import checked_keys, clusters_of, numbered, with_clusters
from .given import answers_given, truths_given, usual_given
from .item_checks import Look, look_at_all
from .item_prompts import ItemPrompts, ItemThings, chosen, things_digest
from .journal import Measure, measured
from .provenance import counted
from .right_answers import nothing_right, right_answers
from .words import Thing
from .work import PLAIN, Work

T = TypeVar("T")
Summary = Callable[[pd.DataFrame], pd.DataFrame]
"""From the rows of every image to means over images with intervals."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """What a recipe asks one model, and how it goes about its work.

    Attributes:
        recipe: name of the recipe.
        model: an nnsight model from `load`.
        prompts: one row each; a recipe's rows call the number of a prompt `image`. Those of items are encoded when they
            are asked for, so a recipe never keeps more of them than those of a chunk.
        answers: one single-token answer for each prompt; None where none are given.
        truths: the objects that are really in each picture; None where they are not known.
        clusters: for each prompt, the number of the first prompt about the same image.
        seed: of the random controls.
        per_image: whether the rows of every image are given in place of means.
        work: journal, progress bar, size of chunks and memory.
        remote: where the model runs, see `nv.run`.
        ids: what the prompts' items are called; None for prompts that are no items.
        left_out: items that are not measured, and why.
        seen: what the recipe's `look` gave of each prompt.
    """

    recipe: str
    model: Model
    prompts: Sequence[Prompt]
    answers: Sequence[str | int] | None
    truths: Sequence[tuple[Thing, ...]] | None
    clusters: Sequence[int]
    seed: int
    per_image: bool
    work: Work
    remote: Remote
    ids: tuple[str | int, ...] | None = None
    left_out: tuple[LeftOut, ...] = ()
    seen: tuple[Any, ...] = ()

    def frame(
        self,
        settings: Mapping[str, Any],
        measure: Measure,
        summary: Summary,
        *,
        columns: Sequence[str] = (),
        aside: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Measure all prompts, chunk by chunk, and give the recipe's frame.

        Where items were measured, or only what the model answers right, `attrs["left_out"]` of the frame lists
        `(id, why)` of those that were not, and `attrs["ids"]` what each number in the column `image` is called.

        Args:
            settings: all on which the rows depend beside the model, the prompts, answers, truths and the seed.
            measure: from the numbers of some prompts to their rows; each row has `image`, the number of its prompt.
            summary: from the rows of every image to means with intervals.
            columns: the columns of a frame without rows, for recipes that may find nothing to measure.
            aside: more on which the rows depend, which the frame does not show.

        Raises:
            SpecError: see `journal.measured`.
        """
        given = {"answers": self.answers, "truths": self._truth_digests(), "seed": self.seed}
        given |= aside or {}
        rows = measured(self.recipe, self.model, self.prompts, {**settings, **given}, measure, self.work, self.remote)
        frame = with_clusters(rows if len(rows) else pd.DataFrame(columns=columns), self.clusters)
        return self.finished(frame if self.per_image else summary(frame), settings)

    def finished(self, frame: pd.DataFrame, settings: Mapping[str, Any]) -> pd.DataFrame:
        """A frame that says what was counted, which items it is about, and which were left out."""
        known = {"answers": self.answers is not None, "truths": self.truths is not None}
        frame = counted(frame, self.clusters, settings, known)
        if self.ids is not None:
            frame.attrs["ids"] = list(self.ids)
            frame.attrs["left_out"] = [(each.id, each.why) for each in self.left_out]
        return frame

    def seen_in_all(self) -> tuple[str, ...]:
        """The names that the recipe's `look` found in every prompt, where it gives `{name: what is wrong with it}`.

        Raises:
            SpecError: something is wrong with one of them in some prompt.
        """
        names = tuple(name for name in self.seen[0] if all(name in seen for seen in self.seen))
        for number, seen in enumerate(self.seen):
            for name in names:
                if seen[name]:
                    raise SpecError(f"{self.called(number)}{seen[name]}")
        return names

    def called(self, number: int) -> str:
        """How a message begins about a prompt; nothing where prompts are no items."""
        return "" if self.ids is None else f"item {self.ids[number]!r}: "

    def kept_of(self, measured: Sequence[Any], given: Sequence[T]) -> tuple[T, ...]:
        """Of a list with an entry for each prompt or item that was handed over, those of the ones that are measured."""
        handed_over = measured.ids if isinstance(measured, Items) else range(len(measured))
        entries = dict(zip(handed_over, given, strict=True))
        return tuple(given) if self.ids is None else tuple(entries[each] for each in self.ids)

    def only(self, numbers: Sequence[int], left_out: Sequence[LeftOut]) -> Study:
        """The study of some of its prompts, which are counted anew.

        Args:
            numbers: of the prompts that stay.
            left_out: the others, with reasons.
        """
        ids = range(len(self.prompts)) if self.ids is None else self.ids
        return replace(
            self,
            prompts=chosen(self.prompts, numbers),
            answers=chosen(self.answers, numbers),
            truths=chosen(self.truths, numbers),
            clusters=numbered([self.clusters[number] for number in numbers]),
            ids=tuple(ids[number] for number in numbers),
            left_out=(*self.left_out, *left_out),
            seen=chosen(self.seen or None, numbers) or (),
        )

    def _truth_digests(self) -> Sequence[str] | None:
        if self.truths is None or isinstance(self.truths, ItemThings):
            return None if self.truths is None else self.truths.digests
        return [things_digest(each) for each in self.truths]


def open_study(
    recipe: str,
    model: Model,
    prompts: Any,
    *,
    items: Any = None,
    columns: Any = None,
    only_correct: Any = False,
    answers: Any = NOT_TAKEN,
    truths: Any = NOT_TAKEN,
    cluster: Sequence[Hashable] | None = None,
    seed: Any = 0,
    per_image: Any = False,
    work: Any = PLAIN,
    remote: Remote = False,
    look: Look | None = None,
) -> Study:
    """Check what every recipe is given; items are opened and encoded once, and put aside again.

    Args:
        recipe: name of the recipe.
        model: an nnsight model from `load`.
        prompts, items, columns: what is measured, see `asked_given`.
        only_correct: keep the prompts that the model answers right, see `right_answers`.
        answers, truths: left out by recipes that do not take them. Else as the user gave them, with None for those of
            the items, if they have any; `answers=False` asks for none.
        cluster, seed, per_image, work, remote: as the user gave them, see `Study` and `knockout_windows`.
        look: what the recipe wants to know of every prompt; its results are `Study.seen`. A recipe that checks its
            prompts here, and not in a loop of its own, encodes items once less.

    Raises:
        SpecError: naming the argument that is something else.
    """
    seed, per_image, work = usual_given(seed, per_image, work)
    only_correct = flag("only_correct", only_correct)
    asked = asked_given(prompts, items, columns)
    if isinstance(asked, Items):
        view_of(model)
        study = _of_items(recipe, model, asked, answers, truths, cluster, work, remote, look)
    else:
        study = _of_prompts(recipe, model, asked, answers, truths, cluster, work, remote, look)
    study = replace(study, seed=seed, per_image=per_image)
    return _answered_right(study) if only_correct else study


def _of_prompts(
    recipe: str,
    model: Model,
    prompts: tuple[Prompt, ...],
    answers: Any,
    truths: Any,
    cluster: Any,
    work: Work,
    remote: Remote,
    look: Look | None,
) -> Study:
    """The study of prompts that are encoded already."""
    return Study(
        recipe=recipe,
        model=model,
        prompts=prompts,
        answers=answers_given(model, prompts, answers) if scores_answers(prompts, answers) else None,
        truths=truths_given(prompts, None if truths is NOT_TAKEN else truths),
        clusters=clusters_of(prompts, cluster),
        seed=0,
        per_image=False,
        work=work,
        remote=remote,
        seen=() if look is None else tuple(map(look, prompts)),
    )


def _of_items(
    recipe: str,
    model: Model,
    items: Items,
    answers: Any,
    truths: Any,
    cluster: Any,
    work: Work,
    remote: Remote,
    look: Look | None,
) -> Study:
    """The study of items, which are looked at one by one."""
    own_answers = own_or_given("answers", answers, has_own=items.has_answers)
    given_answers = None if own_answers or not scores_answers(items, answers) else answers
    own_truths = own_or_given("truths", truths, has_own=items.has_things)
    own_clusters = own_or_given("cluster", cluster, has_own=items.has_clusters)
    listed_answers = None if given_answers is None else answers_given(model, items, given_answers)
    listed_truths = truths_given(items, None if own_truths or truths is NOT_TAKEN else truths)
    keys = None if cluster is None else checked_keys(items, cluster)
    looked = look_at_all(
        model, items, answered=own_answers, with_things=own_truths, look=look, work=work, remote=remote
    )
    lines = looked.items.lines
    return Study(
        recipe=recipe,
        model=model,
        prompts=looked.prompts,
        answers=tuple(str(line.answer) for line in lines) if own_answers else chosen(listed_answers, looked.numbers),
        truths=looked.things if own_truths else chosen(listed_truths, looked.numbers),
        clusters=clusters_of(
            looked.prompts, [line.cluster for line in lines] if own_clusters else chosen(keys, looked.numbers)
        ),
        seed=0,
        per_image=False,
        work=work,
        remote=remote,
        ids=looked.items.ids,
        left_out=looked.items.left_out,
        seen=looked.seen if look is not None else (),
    )


def _answered_right(study: Study) -> Study:
    """The study of those prompts that the model answers right.

    Raises:
        SpecError: no answers are known, or none is right.
    """
    answers = study.answers
    if answers is None and isinstance(study.prompts, ItemPrompts) and study.prompts.items.has_answers:
        answers = [str(line.answer) for line in study.prompts.items.lines]
    if answers is None:
        raise SpecError(
            "only_correct=True keeps what the model answers right, and no answers are known; give items with a column "
            "of answers, or leave it out"
        )
    scored = study.answers is not None
    wrong = right_answers(study.model, study.prompts, answers, scored=scored, work=study.work, remote=study.remote)
    kept = [number for number, why in enumerate(wrong) if not why]
    ids = range(len(wrong)) if study.ids is None else study.ids
    left_out = [LeftOut(ids[number], why) for number, why in enumerate(wrong) if why]
    if not kept:
        raise SpecError(nothing_right(left_out))
    return study.only(kept, left_out)
