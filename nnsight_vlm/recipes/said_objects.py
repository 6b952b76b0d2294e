"""Which objects a description names, and whether they are there: precision, recall, F1 and CHAIR.

Rohrbach et al. 2018 (arXiv 1809.02156) count the objects that a caption names and that are not in the picture. Here the
names are found offline, and a judge of the user's, such as a language model, may read the same descriptions; how far
both agree is part of the frame.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..arguments import flag, function
from ..errors import SpecError
from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.model_call import Remote
from ..studies.asked import Columns, Questions
from ..studies.coco_names import COCO, coco_objects
from ..studies.controls import other_image
from ..studies.given import lengths_given
from ..studies.judging import Asked, Judge, judge_given
from ..studies.labels import ANOTHER_IMAGE, BOTH_SCORERS, JUDGE, NAMES, NONE
from ..studies.methods import only
from ..studies.named_objects import ObjectNames
from ..studies.papers import ROHRBACH
from ..studies.registry import recipe
from ..studies.study import Study, open_study
from ..studies.token_sets import require
from ..studies.words import Objects, Thing, Vocabulary, content_words, default_objects
from ..studies.work import PLAIN, Work
from ..sweeping.answers import generations
from .said_means import decisions, scores_of, summary

WRITE = 'objects=nv.recipes.object_names({"dog": ["puppy"]}), or a function from a text to names'


class Scoring(NamedTuple):
    """How a description is scored.

    Attributes:
        objects: finds the names in a text.
        counts: whether an object that is named twice counts twice.
        asked: the judge; None where there is none.
        truths: for each prompt the names of what is in its picture, as `objects` writes them.
    """

    objects: Objects
    counts: bool
    asked: Asked | None
    truths: list[tuple[str, ...]]


@can_run_in_background
@recipe(
    papers=(ROHRBACH,),
    asks="Are the objects that a description names in the picture, and which of those in it does it name?",
    method=(
        "The model generated a description of up to {max_new_tokens} tokens, and the objects that it names were "
        "compared with those in the picture.",
        only("A judge ({judge}) was also asked which objects the description says are there.", judge=True),
        "The control compared the same descriptions with the objects of another picture.",
    ),
    shows="reads",
    measures=("f1", "chair_i"),
)
def object_score(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    counts: bool | None = None,
    judge: Judge | None = None,
    transcripts: str | Path | None = None,
    max_new_tokens: int = 64,
    rows: int | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Let the model describe each picture, and compare the objects it names with those that are there.

    Nothing is changed in the model, so the numbers say what it writes, and not what it could or does do inside.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row each, such as "describe the image"; several may be about one picture, see `cluster`. Or a
            table, as `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`; its boxes or
            masks say what is in each picture.
        only_correct: measure only the items that the model answers right, see `knockout_windows`.
        truths: the objects in each picture, unless items have them. Masks are not needed.
        objects: finds the objects that a text names; default `shape_objects` for the models inside the package, and
            `coco_objects` for any other. Where it is a list of names (`object_names`, `coco_objects`), the names of the
            truths are looked up in it, so that "people" is a person.
        counts: whether an object that is named twice counts twice, in the text and in the picture; default as `objects`
            does: not for `coco_objects`, `vocabulary` and `object_names(..., counts=False)`, and yes for all others.
        judge: `(text, names) -> names that the text says are there`, for example a language model that you ask. It runs
            on this machine, and is asked about all names of the list, or where `objects` is another function, about
            those of all truths and those found in the text. Each name counts once.
        transcripts: folder in which every call of the judge is kept, so that it is not asked the same twice; default
            `transcripts` in the journal's folder, if there is one. Of a lambda or closure they are written and not
            read, because a later call could not know that it is the same.
        max_new_tokens, rows: length of descriptions in tokens, and how many are generated in one batch at most, see
            `nv.generations`.
        seed: of the other picture.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every description instead of means with intervals; they have the description
            (`text`), the objects that it names (`said`), and those of them that are not there (`not_there`).
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `scorer, control, measure, mean, low, high, images`; `scorer` is `names`, `judge` or `names and judge`. Measures
        of the first two:

        - `precision`: share of the named objects that are there, 0 where none is named; `recall`: share of those there
          that are named; `f1`. Of pictures in which nothing is known to be, they are unknown and not counted.
        - `hallucinated`: share of the named objects that are not there, as a mean over pictures that have any named;
          `chair_i`: the same over the named objects of all pictures together; `chair_s`: share of descriptions that
          name an object that is not there.
        - `objects`: how many are named.

        Of `names and judge`, over all names that the judge was asked about: `agree`, the share on which both decide
        alike, and `kappa`, Cohen's kappa of all decisions together, which takes off what chance would give; it is
        unknown where one decision is never taken. The control `another image` compares the same descriptions with the
        objects of another picture, found by a fixed shift: what a description gets right by what is in most pictures.

    Raises:
        SpecError: no truths, a truth whose name `objects` does not know, `counts=True` with names that are given once,
            transcripts without a judge, a judge that cannot be named in a journal. While it runs: a judge that raises
            or answers with something else, naming the item.
    """
    max_new_tokens, rows = lengths_given(max_new_tokens, rows)
    objects = _default(model) if objects is None else function("objects", objects, WRITE)
    counts = _counts_given(objects, counts)
    study = open_study(
        "object_score",
        model,
        prompts,
        items=items,
        columns=columns,
        only_correct=only_correct,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(require, where="image"),
    )
    judge, kept_in = judge_given(judge, transcripts, study.work.journal)
    asked = None if judge is None else Asked.of(judge, kept_in)
    scoring = Scoring(objects, counts, asked, _names_in(study, objects))
    settings = {"objects": objects, "counts": counts, "judge": judge, "max_new_tokens": max_new_tokens}

    def measure(chunk: range) -> Iterator[dict[str, Any]]:
        wanted = [(study.prompts[image], None) for image in chunk]
        answers = generations(
            model, wanted, max_new_tokens=max_new_tokens, rows=rows, memory=study.work.memory, remote=remote
        )
        for image, answer in zip(chunk, answers, strict=True):
            yield from _rows(study, scoring, answer.text, image)

    return study.frame(settings, measure, summary)


def _default(model: Model) -> Objects:
    """What finds the names in the model's descriptions where the user says nothing."""
    usual = default_objects(model)
    return coco_objects if usual is content_words else usual


def _list_of(objects: Objects) -> ObjectNames | None:
    """The list of names behind a function; None where there is none."""
    found = COCO if objects is coco_objects else objects
    return found if isinstance(found, ObjectNames) else None


def _counts_given(objects: Objects, counts: Any) -> bool:
    """Whether an object that is named twice counts twice.

    Raises:
        SpecError: no flag, or `objects` gives each name once.
    """
    listed = _list_of(objects)
    names_once = isinstance(objects, Vocabulary) or objects is content_words
    can_count = not names_once if listed is None else listed.counts
    if counts is None:
        return can_count
    if flag("counts", counts) and not can_count:
        raise SpecError(
            "counts=True counts how often an object is named, and objects= names each once; write "
            "objects=nv.recipes.object_names(..., counts=True)"
        )
    return bool(counts)


def _names_in(study: Study, objects: Objects) -> list[tuple[str, ...]]:
    """The names of what is in each picture, as `objects` writes them.

    Raises:
        SpecError: nothing is known of the pictures, or `objects` can never find a name.
    """
    if study.truths is None:
        raise SpecError(
            "object_score compares with the objects in each picture, and none are known; give items with a column of "
            'boxes, or write truths=[[Thing(name="dog")], ...]'
        )
    names = list[tuple[str, ...]]()
    for number, things in enumerate(study.truths):
        given = [thing.name for thing in things]
        found = [_known_as(objects, name) for name in given]
        for name, known in zip(given, found, strict=True):
            if known is None:
                raise SpecError(
                    f"{_whose(study, number)}: objects= does not know {name!r}, which is in the picture, so no text "
                    "could name it; leave it out of the truths, or write "
                    'objects=nv.recipes.object_names({"dog": ["puppy"], ...}) with all names that are in the pictures'
                )
        names.append(tuple(name for name in found if name is not None))
    return names


def _known_as(objects: Objects, name: str) -> str | None:
    """What `objects` calls an object; None where it can never find it."""
    listed = _list_of(objects)
    if listed is not None:
        return listed.name_of(name)
    if isinstance(objects, Vocabulary):
        return name.strip().lower() if name.strip().lower() in objects.names else None
    return name


def _whose(study: Study, number: int) -> str:
    return f"prompt {number}" if study.ids is None else f"item {study.ids[number]!r}"


def _rows(study: Study, scoring: Scoring, text: str, image: int) -> Iterator[dict[str, Any]]:
    """The rows of one description: by each scorer, against its own picture and another, and how far both agree."""
    named, truths = _found(scoring.objects, text, _whose(study, image)), scoring.truths
    by_scorer = {NAMES: (named if scoring.counts else tuple(dict.fromkeys(named)), scoring.counts)}
    about = _asked_about(scoring, named)
    if scoring.asked is not None:
        by_scorer[JUDGE] = (scoring.asked.said(text, about, _whose(study, image)), False)
    other = other_image(study.prompts, image, study.seed)
    for scorer, (said, counts) in by_scorer.items():
        for control, number in ((NONE, image), (ANOTHER_IMAGE, other)):
            if number is not None:
                labels = {"image": image, "scorer": scorer, "control": control}
                yield {**labels, **scores_of(said, truths[number], counts=counts), "text": text}
    if scoring.asked is not None:
        labels = {"image": image, "scorer": BOTH_SCORERS, "control": NONE, "said": "", "not_there": "", "text": text}
        yield {**labels, **decisions(named, by_scorer[JUDGE][0], about)}


def _found(objects: Objects, text: str, whose: str) -> tuple[str, ...]:
    """The objects that a text names.

    Raises:
        SpecError: a function of the user's that gives something else than names.
    """
    given = objects(text)
    if isinstance(given, (str, bytes)) or not all(isinstance(name, str) for name in given):
        raise SpecError(f"{whose}: objects= gave {given!r:.200}, and must give a list of names, such as ['dog', 'cat']")
    return tuple(given)


def _asked_about(scoring: Scoring, named: Sequence[str]) -> tuple[str, ...]:
    """The names that a judge is asked about."""
    listed = _list_of(scoring.objects)
    if listed is not None:
        return listed.names
    if isinstance(scoring.objects, Vocabulary):
        return scoring.objects.names
    return tuple(dict.fromkeys([*(name for names in scoring.truths for name in names), *named]))
