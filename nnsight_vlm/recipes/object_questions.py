"""Which object of each picture an ablation is about, and how the model is asked about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from ..arguments import listed, one_of
from ..errors import SpecError
from ..execution.checking import check
from ..execution.decoding import Generation
from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..specs.states import Ablate, Patch
from ..studies.asked_objects import asked_of, names_given, things_asked, whose_prompt
from ..studies.box_formats import BOX_FORMATS, BoxFormat, format_of
from ..studies.given import TRUTHS, lengths_given, objects_given
from ..studies.image_token_sets import object_tokens, picture_grid
from ..studies.methods import only
from ..studies.object_words import first_mention
from ..studies.study import Study
from ..studies.words import Objects, Thing
from ..studies.work import refuse_beside
from ..sweeping.wanted import answer_token
from .token_variants import Target
from .token_writes import Writing, layout_of

Form = Literal["question", "polling", "generative", "box"]
FORMS: tuple[Form, ...] = get_args(Form)
"""How the model is asked: for one word, for yes or no, for a description, for a box."""
GENERATED = ("generative", "box")
"""The forms in which the model writes a text."""
OF_FORMS = (
    only(
        "The answer's log-probability was compared with the one without an ablation.",
        form="question",
    ),
    only(
        "The model was asked whether the object is there, and the probability of yes was compared with the one "
        "without an ablation.",
        form="polling",
    ),
    only(
        "The model described the picture in up to {max_new_tokens} tokens, and the objects that it names were "
        "compared with those that it names without an ablation.",
        form="generative",
    ),
    only(
        "The model was asked for the object's box, in up to {max_new_tokens} tokens, and its first box was compared "
        "with the object's.",
        form="box",
    ),
)
"""What was measured of each form, for a methods section."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asking:
    """How the model is asked about objects.

    Attributes:
        form: of the recipe.
        asked: for each prompt the object's name; None for all that a description names.
        answers: for each prompt the answer's token; empty where the model writes a text.
        against: the token of the other reply, of a yes-no question.
        objects: finds the objects that a description names.
        boxes: how boxes are written.
        max_new_tokens, rows: of texts, see `nv.generations`.
    """

    form: Form
    asked: tuple[str, ...] | None
    answers: tuple[int, ...]
    against: int | None
    objects: Objects
    boxes: BoxFormat
    max_new_tokens: int
    rows: int | None

    def settings(self) -> dict[str, Any]:
        """What rows depend on, for a journal."""
        names = ("form", "asked", "objects", "boxes", "max_new_tokens")
        replies = None if self.against is None else (self.answers[0], self.against)
        return {**{name: getattr(self, name) for name in names}, "replies": replies}

    def targets(self, image: int, prompt: Prompt, truth: Sequence[Thing], own: Generation | None) -> Iterator[Target]:
        """The objects of one picture that are measured; of a description only those that it names.

        Args:
            image: the prompt's number.
            prompt: the prompt.
            truth: the picture's objects.
            own: what the model writes without an ablation; None where it writes nothing.
        """
        grid = picture_grid(prompt, "a prompt")
        for name in self.names(image, truth):
            found, before, answer = object_tokens(grid, truth, name), prompt, None
            if not found.own.any():  # cropped away
                continue
            if self.form in ("question", "polling"):
                answer = self.answers[image]
            if self.form == "generative" and own is not None:
                mention = first_mention(own.prompt, name) if name in self.objects(own.text) else None
                if mention is None:
                    continue
                index = mention.positions[0] - prompt.rows[0].answer
                before, answer = prompt.grown(own.tokens[:index]) if index else prompt, own.tokens[index]
            yield Target(image, found, before, answer)

    def names(self, image: int, truth: Sequence[Thing]) -> tuple[str, ...]:
        """The objects that a prompt is asked about."""
        if self.asked is not None:
            return (self.asked[image],)
        return tuple(dict.fromkeys(thing.name for thing in truth if thing.mask is not None))


def check_form(form: Any, answers: Any, **others: Any) -> Form:
    """Refuse arguments that belong to another form.

    Args:
        form: how the model is asked.
        answers: None, or False for those of items.
        others: further arguments by name, None where they were not given.

    Raises:
        SpecError: naming the argument.
    """
    chosen: Form = one_of("form", form, FORMS)
    if chosen != "question" and answers is not None and answers is not False:
        raise SpecError(f'form="{form}" takes no answers=, which are the right answers of questions of one word')
    for name, value in others.items():
        if chosen not in _FORMS_OF[name]:
            refuse_beside(f'form="{form}"', **{name: value})
    return chosen


_FORMS_OF = {
    "replies": ("polling",),
    "objects": ("generative",),
    "boxes": ("box",),
    "max_new_tokens": GENERATED,
    "rows": GENERATED,
}
"""The forms that an argument belongs to."""


def asking_of(
    study: Study,
    measured: tuple[Prompt, ...] | Items,
    form: Form,
    asked: Any,
    replies: Any,
    objects: Any,
    boxes: Any,
    max_new_tokens: Any,
    rows: Any,
) -> Asking:
    """What a user asks, looked at before anything is measured.

    Args:
        study: of the prompts that are measured.
        measured: all prompts or items that the user gave.
        form, asked, replies, objects, boxes, max_new_tokens, rows: see `ablation`.

    Raises:
        SpecError: see `ablation`.
    """
    model = study.model
    if study.truths is None:
        raise SpecError(f"an ablation needs to know where the objects are; write {TRUTHS}, or give items with masks")
    if form == "question" and study.answers is None:
        raise SpecError('form="question" needs answers=["red", ...], the right answers of questions of one word')
    yes, no = _replies_given(model, replies) if form == "polling" else (None, None)
    answers = tuple(answer_token(model, answer) for answer in study.answers or ())
    length, rows = lengths_given(64 if max_new_tokens is None else max_new_tokens, rows)
    model_type = view_of(model).family.model_type
    return Asking(
        form=form,
        asked=None if form == "generative" and asked is None else _asked_given(study, measured, asked),
        answers=answers if yes is None else (yes,) * len(study.prompts),
        against=no,
        objects=objects_given(model, objects),
        boxes=format_of(model_type) if boxes is None else one_of("boxes", boxes, BOX_FORMATS, "format of boxes"),
        max_new_tokens=length,
        rows=rows,
    )


def _replies_given(model: Model, given: Any) -> tuple[int, int]:
    write = 'replies=("yes", "no"), the right answer first'
    replies = listed("replies", ("yes", "no") if given is None else given, write)
    if len(replies) != 2:
        raise SpecError(f"replies= are two answers, and {len(replies)} were given; write {write}")
    yes, no = (answer_token(model, reply) for reply in replies)
    if yes == no:
        raise SpecError(f"both replies are one token, {replies[0]!r}; write {write}")
    return yes, no


def _asked_given(study: Study, measured: tuple[Prompt, ...] | Items, given: Any) -> tuple[str, ...]:
    """For each prompt the object that it asks about.

    Raises:
        SpecError: no object of this name has a mask, nothing tells which object is meant, or there are several.
    """
    names, found = names_given(measured, given), list[str]()
    for number, truth in enumerate(study.truths or ()):
        whose, masked = whose_prompt(study, number), [thing for thing in truth if thing.mask is not None]
        things = things_asked(study.prompts[number], masked, asked_of(study, number, names), whose)
        chosen = list(dict.fromkeys(thing.name for thing in things))
        if len(chosen) != 1:
            raise SpecError(
                f"an ablation is of one object, and {whose} asks about {', '.join(map(repr, chosen))}; write asked=, "
                "one name for each prompt"
            )
        found += chosen
    return tuple(found)


def check_prompts(study: Study, asking: Asking, writing: Writing) -> list[str]:
    """Refuse prompts whose image tokens cannot be ablated, and masks that do not fit.

    Returns:
        For each prompt how its image tokens lie, see `layout_of`.

    Raises:
        SpecError: see `ablation`.
    """
    layouts = list[str]()
    for number, (prompt, truth) in enumerate(zip(study.prompts, study.truths or (), strict=True)):
        name = whose_prompt(study, number)
        grid = picture_grid(prompt, name)
        layouts.append(layout_of(grid))
        _check_writes(study.model, prompt, name, grid.positions, writing)
        for thing in asking.names(number, truth):
            if not object_tokens(grid, truth, thing).own.any() and asking.asked is not None:
                raise SpecError(
                    f"{thing!r} touches no patch of the picture of {name}: its mask is empty, or that part of the "
                    "picture is cropped away; leave this prompt out"
                )
    return layouts


def _check_writes(model: Model, prompt: Prompt, name: str, where: tuple[int, ...], writing: Writing) -> None:
    """Refuse image tokens over which nothing can be written, or not this vector."""
    if min(where) < 0 and writing.site != "features":
        raise SpecError(
            f"the image tokens of {name} lie outside the decoder's sequence, which reads them through "
            f'cross-attention, so it has no site {writing.site!r} for them; write site="features"'
        )
    check(model, prompt, Ablate(where, how="zero", site=writing.site, layers=writing.layers))
    if isinstance(writing.means, torch.Tensor):
        try:
            check(model, prompt, Patch(where, source=writing.means, site=writing.site, layers=writing.layers))
        except SpecError as error:
            raise SpecError(f"means= does not fit {name}: {error}") from None
