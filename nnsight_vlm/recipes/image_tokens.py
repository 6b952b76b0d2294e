"""Ablation of image tokens: what can the model still say of an object without the tokens that show it?

Neo et al. 2024 (arXiv 2410.07149), section 3: object tokens, with a border, against as many random tokens, tokens of
large norm ("register tokens") and those of large integrated gradients; asked to describe, by yes-no questions and by
questions of one word. The box metric follows arXiv 2605.19792.

An ablation shows what the model *can* do without tokens, not what it does with them: an answer that survives may
come from the ablated tokens in an ordinary run, and from their neighbours only where these are overwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..execution.decoding import Generation
from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..statistics import summarise
from ..studies.asked import Columns, Questions, asked_given
from ..studies.box_formats import BoxFormat
from ..studies.controls import rng_of
from ..studies.image_token_sets import Chosen, picture_grid
from ..studies.labels import AGREEMENT, SHARES, TRUE_AGREEMENT
from ..studies.methods import only
from ..studies.papers import NEO, PAPERS
from ..studies.registry import recipe
from ..studies.study import Study, open_study
from ..studies.words import Objects, Thing
from ..studies.work import PLAIN, Work
from ..sweeping.answers import generations
from .object_questions import GENERATED, OF_FORMS, Asking, Form, asking_of, check_form, check_prompts
from .token_answers import BoxReading, answer_rows, box_rows, description_rows, resized_size, whole_text
from .token_variants import Target, Variant, attributions_of, variants_of
from .token_writes import OF_WRITES, How, Site, Writing, states_of, with_other_pictures, writing_given

BY = ["tokens", "border", "how", "form", "control"]
OF_ANSWERS = ("logprob_change", "kept", "yes", "yes_change")
OF_TEXTS = ("named", *AGREEMENT, *TRUE_AGREEMENT, "objects", "box_iou", "box_hit", "boxes")
MEASURES = (*OF_ANSWERS, *OF_TEXTS, "count", "overlap", "registers")


@can_run_in_background
@recipe(
    papers=(NEO, PAPERS["2605.19792"]),
    asks="What can the model still say of an object without the image tokens that show it?",
    method=(
        "Image tokens ({tokens}) were overwritten ({how}) at the site {site}, each set as large as the object with a "
        "border of {border} patches.",
        *OF_WRITES,
        *OF_FORMS,
        only("Controls overwrote as many random image tokens outside the object, drawn twice.", tokens="random"),
        only("Controls overwrote as many tokens of other objects.", tokens="object"),
    ),
    shows="could",
    shows_of=dict.fromkeys(("count", "overlap", "registers"), "method"),
)
def ablation(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    truths: Sequence[Sequence[Thing]] | None = None,
    asked: Sequence[str | Sequence[str]] | None = None,
    answers: Sequence[str | int] | bool | None = None,
    form: Form = "question",
    replies: tuple[str | int, str | int] | None = None,
    tokens: Chosen | Sequence[Chosen] | None = None,
    border: int | Sequence[int] = 0,
    how: How | Sequence[How] = "mean",
    site: Site = "features",
    layer: int | None = None,
    means: torch.Tensor | None = None,
    steps: int = 1,
    objects: Objects | None = None,
    boxes: BoxFormat | None = None,
    max_new_tokens: int | None = None,
    rows: int | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Overwrite the image tokens of one object, and score what the model still answers about it.

    Every set of tokens costs a forward over the whole prompt for each `how`, because image tokens come early: with
    the defaults six for each object and border, in one sweep, beside the forwards that choose the tokens.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row and one picture each; several may be about one picture, see `cluster`. Or a table, as
            `items`.
        items, columns: a table of questions about pictures in place of prompts, see `knockout_windows`.
        only_correct: measure only the items that the model answers right, see `knockout_windows`.
        truths: the objects of every picture, with masks; needed, unless items have them.
        asked: for each prompt or item the name of the object that it asks about, one of its truths; objects of one name
            are ablated together. Default the only object with a mask, else the one whose name, or last word of it, the
            question says, see `information_flow`; where the model describes, every object with a mask that its own
            description names, one at a time.
        answers: of questions, one single-token answer for each prompt, unless items have them.
        form: how the model is asked.

            - `question`: a question about the object with an answer of one token.
            - `polling`: "is there a ...?", to which yes is right.
            - `generative`: describe the picture.
            - `box`: where is the object, answered with a box. `gradient` tokens do not exist there.

        replies: of `polling`, the tokens for yes and for no; default `("yes", "no")`.
        tokens: which image tokens are ablated, default all that the form has. Each set has as many as the object with
            its border: `object`; `random`, from outside the object, drawn twice; `register-like`, those with the
            largest norm at `site`; `gradient`, those with the largest integrated gradient of the answer's first token.
            Sets of the last two kinds may hold tokens of the object: see `overlap`.
        border: how many patches around the object, in each direction and within its tile, are ablated too; several
            for a row each.
        how: what is written. `mean`: the mean image token of the study's other pictures, so that a picture is not
            told by its own mean, or `means`. `zero`. `resample`: the tokens at the same places of another picture,
            found by a fixed shift.
        site: where it is written: `features`, what leaves the projector; `embedding`, what enters the decoder;
            `residual`, what leaves the decoder's layer `layer`, where other tokens may have read the image before.
            There are no `gradient` tokens for it. Families that add image features in their first layers too (see
            `nv.describe`) need a later layer.
        layer: number of that layer.
        means: a vector `[width]` that `mean` writes, from `nv.mean_state` over a data set for example.
        steps: of the integral of gradients, from zero; 1 is the gradient times the state.
        objects: which objects a description names, see `knockout_windows`.
        boxes: how the model writes boxes, see `boxes_in`; default as its family does.
        max_new_tokens, rows: length of descriptions and boxes in tokens, 64 unless told otherwise, and how many are
            generated in one batch at most, see `nv.generations`.
        seed: of the random tokens, and of the other picture.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every object instead of means with intervals; they also have `image, thing`, and
            `text` where one is generated.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `tokens, border, how, form, control, measure, mean, low, high, images`; the objects of a picture are averaged
        first. The row whose `tokens` and `how` are `nothing` is the run without an ablation.

        Measures of a question: `logprob_change` of the answer in nats; `kept`, 1 where it is the most probable token.
        Of polling: `yes`, P(yes) / (P(yes) + P(no)), `yes_change`, `logprob_change` of yes, and `kept`, 1 where yes is
        more probable than no. Of a description: `named`, 1 where it names the object; `precision`, `recall` and `f1`
        of its objects against those of the model's own description, with `_true` against the truths; `objects`, how
        many it names. Of a box: `box_iou` of the first box, `box_hit`, 1 where that is 0.5 or more, `boxes`, how many
        boxes the answer gives.

        Of every set of tokens: `count`, how many; `overlap`, the share that touches the object; `registers`, the
        share whose norm lies two standard deviations or more above the mean, as a register token's does.

        Controls: `random patches` and `random patches, again` (the rows of `tokens` `random`), and `other object`, as
        many tokens of the picture's other objects. There is no such row where too few tokens lie outside the object.

    Raises:
        SpecError: no truths, an object that is not among them or touches no patch, prompts without a picture or with
            several, image tokens without a place in the picture (BLIP-2, Aria), a site that the family has not got,
            arguments that belong to another form, one picture and `mean` or `resample`.
    """
    of_texts = {"max_new_tokens": max_new_tokens, "rows": rows}
    form = check_form(form, answers, replies=replies, objects=objects, boxes=boxes, **of_texts)
    writing = writing_given(tokens, border, how, site, layer, means, steps, answered=form != "box")
    measured = asked_given(prompts, items, columns)
    study = open_study(
        "ablation",
        model,
        measured,
        only_correct=only_correct,
        answers=answers if form == "question" else False,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
    )
    asking = asking_of(study, measured, form, asked, replies, objects, boxes, max_new_tokens, rows)
    writing_of_study = with_other_pictures(study, writing, check_prompts(study, asking, writing))
    measure = partial(_measure, study, asking, writing_of_study)
    settings, donors = {**asking.settings(), **writing.settings()}, {"donors": list(writing_of_study.donors)}
    return study.frame(settings, measure, summary, columns=["image", *BY], aside=donors)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every object."""
    if frame.empty:
        return pd.DataFrame(columns=[*BY, "measure", "mean", "low", "high", "images"])
    tidy = summarise(frame, BY, [name for name in MEASURES if name in frame], shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


# one chunk ----------------------------------------------------------------------------------------


def _measure(study: Study, asking: Asking, writing: Writing, chunk: range) -> Iterator[dict[str, Any]]:
    """The rows of some prompts."""
    prompts, truths = {image: study.prompts[image] for image in chunk}, study.truths or ()
    own = _generated(study, asking, [(prompt, None) for prompt in prompts.values()])
    targets = list[Target]()
    for image, prompt in prompts.items():
        targets += asking.targets(image, prompt, truths[image], next(own, None))
    variants = _variants(study, writing, prompts, targets)
    rows = _of_texts if asking.form in GENERATED else _of_answers
    for row in rows(study, asking, prompts, targets, variants):
        yield {**row, "form": asking.form}


def _variants(
    study: Study, writing: Writing, prompts: Mapping[int, Prompt], targets: Sequence[Target]
) -> list[list[Variant]]:
    """The ablations of every object, from one reading of each picture and one gradient of each answer."""
    model, remote, images = study.model, study.remote, list(dict.fromkeys(target.image for target in targets))
    donors = [study.prompts[writing.donors[image]] for image in images] if writing.donors else []
    read = [*(prompts[image] for image in images), *donors]
    states = _together([partial(_states, model, prompt, writing, remote) for prompt in read], remote)
    own, donated = dict(zip(images, states, strict=False)), dict(zip(images, states[len(images) :], strict=False))
    graded = [target for target in targets if "gradient" in writing.tokens and target.answer is not None]
    gradients = [partial(attributions_of, model, target, own[target.image], writing, remote) for target in graded]
    attributions = dict(zip(map(id, graded), _together(gradients, remote), strict=True))
    rngs = {image: rng_of(study.seed, image) for image in images}
    return [
        variants_of(
            target, own[image], donated.get(image), attributions.get(id(target)), writing, rngs[image]
        )
        for target in targets
        for image in [target.image]
    ]  # fmt: skip


def _together(computations: Sequence[Callable[[], Any]], remote: Remote) -> list[Any]:
    return list(together(computations, remote)) if computations else []


def _states(model: Model, prompt: Prompt, writing: Writing, remote: Remote) -> torch.Tensor:
    return states_of(model, prompt, picture_grid(prompt, "a prompt"), writing, remote)


def _generated(
    study: Study, asking: Asking, cases: Sequence[tuple[Prompt, Intervention | None]]
) -> Iterator[Generation]:
    """What the model writes in each case; nothing where it is not asked for a text."""
    if asking.form not in GENERATED or not cases:
        return iter(())
    return generations(
        study.model,
        cases,
        max_new_tokens=asking.max_new_tokens,
        rows=asking.rows,
        memory=study.work.memory,
        remote=study.remote,
    )


def _of_answers(
    study: Study,
    asking: Asking,
    prompts: Mapping[int, Prompt],  # noqa: ARG001
    targets: Sequence[Target],
    variants: Sequence[Sequence[Variant]],
) -> Iterator[dict[str, Any]]:
    """Rows of answers of one token, one sweep an object."""
    sweeps = [
        partial(answer_rows, study.model, target, some, asking.against, study.work.memory, study.remote)
        for target, some in zip(targets, variants, strict=True)
    ]
    return chain.from_iterable(_together(sweeps, study.remote))


def _of_texts(
    study: Study,
    asking: Asking,
    prompts: Mapping[int, Prompt],
    targets: Sequence[Target],
    variants: Sequence[Sequence[Variant]],
) -> Iterator[dict[str, Any]]:
    """Rows of descriptions or of boxes, generated in common batches."""
    pairs = list(zip(targets, variants, strict=True))
    cases = [(prompts[target.image], variant.intervention) for target, some in pairs for variant in some]
    generated = _generated(study, asking, cases)
    for target, some in pairs:
        truth, answers = (study.truths or ())[target.image], [next(generated) for _ in some]
        if asking.form == "generative":
            yield from description_rows(target, some, [answer.text for answer in answers], truth, asking.objects)
        else:
            texts = [whole_text(study.model, answer.tokens) for answer in answers]
            reading = BoxReading(asking.boxes, target.found.grid.size, resized_size(prompts[target.image]))
            yield from box_rows(target, some, texts, truth, reading)
