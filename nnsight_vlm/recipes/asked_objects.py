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
from ..families import view_of
from ..prompts.prompt import Prompt
from ..specs.states import Ablate, Patch
from ..studies.box_formats import BOX_FORMATS, BoxFormat, box_of, format_of
from ..studies.given import TRUTHS, lengths_given, objects_given
from ..studies.image_token_sets import object_tokens, picture_grid
from ..studies.object_words import first_mention
from ..studies.study import Study
from ..studies.words import Objects, Thing
from ..studies.work import one_for_each, refuse_beside
from ..sweeping.wanted import answer_token
from .token_variants import Target
from .token_writes import Writing

Form = Literal["question", "polling", "generative", "box"]
FORMS: tuple[Form, ...] = get_args(Form)
"""How the model is asked: for one word, for yes or no, for a description, for a box."""
GENERATED = ("generative", "box")
"""The forms in which the model writes a text."""
ABOUT = 'about=["red circle", ...], for each prompt the name of one of its truths'


@dataclass(frozen=True, kw_only=True, eq=False)
class Asking:
    """How the model is asked about objects.

    Attributes:
        form: of the recipe.
        about: for each prompt the object's name; None for all that a description names.
        answers: for each prompt the answer's token; empty where the model writes a text.
        against: the token of the other reply, of a yes-no question.
        objects: finds the objects that a description names.
        boxes: how boxes are written.
        max_new_tokens, rows: of texts, see `nv.generations`.
    """

    form: Form
    about: tuple[str, ...] | None
    answers: tuple[int, ...]
    against: int | None
    objects: Objects
    boxes: BoxFormat
    max_new_tokens: int
    rows: int | None

    def settings(self) -> dict[str, Any]:
        """What rows depend on, for a journal."""
        tokens = {"answer_tokens": self.answers, "against": self.against}
        names = ("form", "about", "objects", "boxes", "max_new_tokens")
        return {**{name: getattr(self, name) for name in names}, **tokens}

    def targets(self, image: int, prompt: Prompt, truth: Sequence[Thing], own: Generation | None) -> Iterator[Target]:
        """The objects of one picture that are measured; of a description only those that it names.

        Args:
            image: the prompt's number.
            prompt: the prompt.
            truth: the picture's objects.
            own: what the model writes without an ablation; None where it writes nothing.
        """
        grid = picture_grid(prompt, f"prompts[{image}]")
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
        if self.about is not None:
            return (self.about[image],)
        return tuple(dict.fromkeys(thing.name for thing in truth if thing.mask is not None))


def asking_given(
    study: Study,
    about: Any,
    form: Any,
    replies: Any,
    objects: Any,
    boxes: Any,
    max_new_tokens: Any,
    rows: Any,
) -> Asking:
    """What a user asks, looked at before anything is measured.

    Raises:
        SpecError: see `ablation`.
    """
    form = one_of("form", form, FORMS)
    if study.truths is None:
        raise SpecError(f"an ablation needs to know where the objects are; write {TRUTHS}")
    if form not in GENERATED:
        refuse_beside(f'form="{form}"', objects=objects, max_new_tokens=max_new_tokens, rows=rows)
    if form != "generative":
        refuse_beside(f'form="{form}"', objects=objects)
        if about is None:
            raise SpecError(f'form="{form}" asks about one object of each picture; write {ABOUT}')
    if form != "box":
        refuse_beside(f'form="{form}"', boxes=boxes)
    if (form == "question") != (study.answers is not None):
        given = 'needs answers=["red", ...]' if form == "question" else "takes no answers="
        raise SpecError(f'form="{form}" {given}, which are the right answers of questions of one word')
    if form != "polling":
        refuse_beside(f'form="{form}"', replies=replies)
    model = study.model
    yes, no = _replies_given(study, replies) if form == "polling" else (None, None)
    answers = tuple(answer_token(model, answer) for answer in study.answers or ())
    length, rows = lengths_given(64 if max_new_tokens is None else max_new_tokens, rows)
    model_type = view_of(model).family.model_type
    return Asking(
        form=form,
        about=None if about is None else _about_given(study, about),
        answers=answers if yes is None else (yes,) * len(study.prompts),
        against=no,
        objects=objects_given(model, objects),
        boxes=format_of(model_type) if boxes is None else one_of("boxes", boxes, BOX_FORMATS, "format of boxes"),
        max_new_tokens=length,
        rows=rows,
    )


def _replies_given(study: Study, given: Any) -> tuple[int, int]:
    write = 'replies=("yes", "no"), the right answer first'
    replies = listed("replies", ("yes", "no") if given is None else given, write)
    if len(replies) != 2:
        raise SpecError(f"replies= are two answers, and {len(replies)} were given; write {write}")
    yes, no = (answer_token(study.model, reply) for reply in replies)
    if yes == no:
        raise SpecError(f"both replies are one token, {replies[0]!r}; write {write}")
    return yes, no


def _about_given(study: Study, given: Any) -> tuple[str, ...]:
    if isinstance(given, str):
        raise SpecError(f"about={given!r} is one text; give one for each prompt, {ABOUT}")
    names = listed("about", given, ABOUT, kind=str)
    one_for_each(study.prompts, about=names)
    for number, (name, truth) in enumerate(zip(names, study.truths or (), strict=True)):
        masked = [thing.name for thing in truth if thing.mask is not None]
        if name not in masked:
            known = ", ".join(map(repr, dict.fromkeys(masked))) or "none"
            raise SpecError(f"about[{number}]={name!r} is no object with a mask in truths[{number}] (it has {known})")
    return names


def check_prompts(study: Study, asking: Asking, writing: Writing) -> None:
    """Refuse prompts whose image tokens cannot be ablated, and masks that do not fit.

    Raises:
        SpecError: see `ablation`.
    """
    for number, prompt in enumerate(study.prompts):
        truth = (study.truths or ())[number]
        grid = picture_grid(prompt, f"prompts[{number}]")
        vector, where = writing.means, grid.positions
        if min(where) < 0 and writing.site != "features":
            raise SpecError(
                f"the image tokens of prompts[{number}] lie outside the decoder's sequence, which reads them through "
                f'cross-attention, so it has no site {writing.site!r} for them; write site="features"'
            )
        if isinstance(vector, torch.Tensor):
            try:
                check(study.model, prompt, Patch(where, source=vector, site=writing.site, layers=writing.layers))
            except SpecError as error:
                raise SpecError(f"means= does not fit prompts[{number}]: {error}") from None
        else:
            check(study.model, prompt, Ablate(where, how="zero", site=writing.site, layers=writing.layers))
        for name in asking.names(number, truth):
            if not object_tokens(grid, truth, name).own.any() and asking.about is not None:
                raise SpecError(
                    f"about[{number}]={name!r} touches no patch of its picture: its mask is empty, or that part of the "
                    "picture is cropped away; leave this prompt out"
                )
            masks = [thing.mask for thing in truth if thing.name == name and thing.mask is not None]
            if asking.form == "box" and all(box_of(mask) is None for mask in masks):
                raise SpecError(f"the mask of {name!r} in truths[{number}] is empty, so it has no box")
