"""Attention knockout by depth: which route carries the picture into the words, and in which layers.

Kaduri et al. 2024 (arXiv 2411.17491), sections 4 and 5; windows of layers after Geva et al. 2023 (arXiv 2304.14767).

A knockout shows what the model can do without a route. A route whose cut changes nothing may still be used, because
the model can fall back on another. So every route is shown beside the cut of the joint route `image->text` (the blind
baseline), and beside cuts of as many random edges and of as many random layers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import listed, words_given
from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import NOT_TAKEN, Columns, Questions, asked_given, scores_answers
from ..studies.given import lengths_given, objects_given
from ..studies.labels import AGREEMENT, FORMS, SHARES, TRUE_AGREEMENT, Form
from ..studies.methods import only
from ..studies.papers import GEVA, KADURI
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.windows import USUAL, Windows, windows_given
from ..studies.words import Objects, Thing, agreement
from ..studies.work import PLAIN, Case, Work, refuse_beside
from ..sweeping.answers import generations
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token
from .routes import cases_of, route_errors

BY = ["route", "form", "window", "layers", "control"]


@can_run_in_background
@recipe(
    papers=(KADURI, GEVA),
    asks="Which route carries the picture into the words, and in which layers?",
    method=(
        "Routes of attention ({routes}) were closed in all layers.",
        only("They were also closed in {windows}.", windows=True, forms="block"),
        only("They were also closed in all layers outside {windows}.", windows=True, forms="allow"),
        only(
            "The answer's log-probability was measured; routes to generated tokens, which follow it, were left out.",
            answers=True,
        ),
        only(
            "The objects that descriptions of up to {max_new_tokens} tokens name were compared with those of the "
            "description without a cut.",
            answers=False,
        ),
        only("They were also compared with the objects in the picture.", answers=False, truths=True),
        "Controls closed as many edges to random positions; a blind baseline closed all attention to the image.",
        only("Controls closed the route in as many random layers, where a window has not all.", windows=True),
        only(
            "With image->generated closed, a control took the query's states from a run on another picture.",
            answers=False,
            routes="image->generated",
        ),
    ),
    shows="could",
    shows_of={"overlap": "method"},
    measures=("f1", "logprob_change"),
)
def knockout_windows(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    answers: Sequence[str | int] | bool | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    routes: Sequence[str] | None = None,
    windows: int | None = None,
    width: int | None = None,
    stride: int | None = None,
    forms: Sequence[Form] = FORMS,
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
    """Cut routes of attention in windows of layers, and score the answer that the model still gives.

    A cut closes attention and nothing else. In hybrid decoders some layers carry a state through the sequence instead,
    which no cut stops: there the `blind` row shows how much of the picture still comes through.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row each; several may be about one picture, see `cluster`. Or a table, as `items`.
        items, columns: a table of questions about pictures in place of prompts, and the names of its columns: `Items`
            or what `nv.items` makes them of. Each is encoded when it is measured, so that they need not fit into
            memory. All are opened and encoded once before, so that one that cannot be used is found at the beginning.
            Their answers, objects and clusters are `answers`, `truths` and `cluster`. `attrs["ids"]` of the frame says
            what each is called.
        only_correct: measure only the items, or prompts with answers, that the model answers right by itself, greedily.
            Where the answers' tokens are scored, it must say these tokens; elsewhere its text must begin with the
            answer, in any case. `attrs["left_out"]` of the frame lists `(id, why)` of all that were left out.
        answers: one single-token answer for each prompt. With answers, their log-probability is measured and nothing
            is generated; without, the model describes each picture and its descriptions are scored. What is said of
            descriptions (`truths`, `objects`, `max_new_tokens`, `rows`) goes with the second only. Items that have
            answers are measured by them, unless `answers=False` asks for descriptions.
        truths: the objects that are really in each picture, for the measures that end in `_true`.
        objects: `text -> names of objects`; default the parser of the synthetic world for an embedded model, every
            content word for any other.
        routes: `"source->target"` in group names; default those of `routes.ROUTES` whose target lies in the decoder's
            sequence. As in the paper's released code, `generated` is the answer's tokens after the first, because the
            first is predicted by the prompt's `last` token.
        windows: how many windows the layers are divided into, counting only layers that have the route:
            cross-attention layers where the source lies outside the decoder's sequence, else self-attention layers.
            Windows do not overlap, and their sizes differ by one layer at most. Default 4, or as many as a route has
            layers. With 0, routes are cut in all layers only.
        width, stride: in their place, windows of `width` layers around every `stride`-th layer (default every one),
            clipped at both ends, as in Zhang et al. 2024 (arXiv 2411.18620); see `information_flow`.
        forms: `block` closes the route in a window; `allow` closes it in all other layers.
        max_new_tokens, rows: length of the descriptions in tokens, 64 unless told otherwise, and how many are generated
            in one batch at most, see `nv.generations`.
        seed: of every random control.
        cluster: a key for each prompt, equal where prompts are about one image; default, pictures of equal pixels are
            one image. Rows of one prompt are averaged, then prompts of one image, then images: every image counts
            once, however many questions are asked about it, and intervals are over images.
        per_image: return the rows of every image instead of means with intervals.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `route, form, window, layers, control, measure, mean, low, high, images`.

        Measures of a description: `precision`, `recall` and `f1` of its objects against those of the model's own
        description without a cut; the same with `_true` against `truths`; `objects`, how many it names. Measures of an
        answer: `logprob_change` in nats, and `kept`, 1 where it is still the most probable token. `overlap` is the
        share of a random cut that falls into the group itself.

        `window` is the layers of a window, or with `width=` the layer at its centre; `layers` is the layers themselves.
        Rows with `form` `clean` (no cut) and `blind` (no token other than the image's own attends to the image; in an
        encoder, neither does the question) are baselines. `control` is `none` for a measurement, or

        - `random positions`: every target token loses as many edges, but to positions outside the source group; where
          too few lie outside (image tokens are most of a prompt), to any before it. In cross-attention these are other
          keys of the cross-attention. There is no row where no such cut exists.
        - `random layers`: the route is cut in as many layers, drawn at random for every image. There is one such row
            for each size that windows have, `any 3` for 3 layers; a smaller draw is part of a larger one.
        - `query of another image`: with `image->generated` cut in all layers, the residual stream of the query tokens
          (of the encoder, in an encoder-decoder) comes from a run on another picture. What remains of the description
          is what the query tokens did not carry.

    Raises:
        SpecError: a route or form that does not exist, a route along which nothing can flow in a prompt (the target
            comes before the source), more windows than a route has layers, `windows` beside `width` or `stride`, lists
            of different length, no prompts; answers, and something that is said of descriptions. In windows of layers
            a route may be closed already, where layers see a few tokens back only: there the change is 0.
    """
    asked = asked_given(prompts, items, columns)
    is_scored = scores_answers(asked, answers)
    if is_scored:
        refuse_beside("answers", truths=truths, objects=objects, max_new_tokens=max_new_tokens, rows=rows)
    max_new_tokens, rows = lengths_given(64 if max_new_tokens is None else max_new_tokens, rows)
    objects = objects_given(model, objects)
    grouped = windows_given(windows, width, stride, usual=Windows(count=USUAL, at_most=True))
    forms, length = words_given("forms", forms, FORMS, "form"), None if is_scored else max_new_tokens
    routes = None if routes is None else listed("routes", routes, '["image->last"]', kind=str)
    study = open_study(
        "knockout_windows",
        model,
        asked,
        only_correct=only_correct,
        answers=answers,
        truths=NOT_TAKEN if is_scored else truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(route_errors, model, routes=routes, windows=grouped, max_new_tokens=length),
    )
    prompts, answers, truths, seed, work = study.prompts, study.answers, study.truths, study.seed, study.work
    routes = study.seen_in_all()
    settings = {"objects": objects, "routes": routes, "forms": forms, "max_new_tokens": max_new_tokens}
    settings |= grouped.settings
    tokens = [answer_token(model, answer) for answer in answers or ()]
    image_cases = cases_of(model, prompts, routes, windows=grouped, forms=forms, seed=seed)

    def score(chunk: range) -> Iterable[dict[str, Any]]:
        scores = [
            partial(_score_answer, model, prompts[image], image_cases(image), tokens[image], image, work, remote)
            for image in chunk
        ]
        return chain.from_iterable(together(scores, remote))

    def describe(chunk: range) -> Iterator[dict[str, Any]]:
        cases = {image: image_cases(image) for image in chunk}
        of_chunk = {image: prompts[image] for image in chunk}
        wanted = [(of_chunk[image], case.intervention) for image in chunk for case in cases[image]]
        generated = generations(
            model, wanted, max_new_tokens=max_new_tokens, rows=rows, memory=work.memory, empty="ignore", remote=remote
        )
        for image in chunk:
            texts = [next(generated).text for _ in cases[image]]
            yield from score_texts(cases[image], texts, None if truths is None else truths[image], objects, image)

    return study.frame(settings, score if is_scored else describe, summary)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image."""
    measures = (*AGREEMENT, *TRUE_AGREEMENT, "objects", "logprob_change", "kept", "overlap")
    tidy = summarise(frame, BY, [name for name in measures if name in frame], shares=SHARES)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _score_answer(
    model: Model, prompt: Prompt, cases: Sequence[Case], answer: int, image: int, work: Work, remote: Remote
) -> list[dict[str, Any]]:
    """Rows of one question. Routes to generated tokens are left out: they cannot change the answer's first token."""
    cuts = {
        number: case.intervention
        for number, case in enumerate(cases)
        if case.intervention is not None and not case.labels["route"].endswith("generated")
    }
    variants = list(cuts.values())
    scores = sweep(model, prompt, variants, answer=answer, memory=work.memory, empty="ignore", remote=remote)
    return [
        {
            "image": image,
            **cases[number].labels,
            "logprob_change": float(score.logprob - score.clean_logprob),
            "kept": math.nan if math.isnan(score.rank) else float(score.rank == 0),
            "overlap": cases[number].overlap,
        }
        for number, score in zip(cuts, scores.itertuples(), strict=True)
    ]


def score_texts(
    cases: Sequence[Case], texts: Sequence[str], truth: Sequence[Thing] | None, objects: Objects, image: int
) -> Iterator[dict[str, Any]]:
    """Rows of one picture's descriptions, one for each condition; the first is the model's own, without a cut."""
    own_objects = objects(texts[0])
    true_objects = [thing.name for thing in truth or ()]
    for case, text in zip(cases, texts, strict=True):
        named = objects(text)
        yield {
            "image": image,
            **case.labels,
            **agreement(named, own_objects),
            **{f"{measure}_true": value for measure, value in agreement(named, true_objects).items()},
            "objects": float(len(named)),
            "overlap": case.overlap,
            "text": text,
        }
