"""Attention knockout by depth: which route carries the picture into the words, and in which layers.

Kaduri et al. 2024 (arXiv 2411.17491), sections 4 and 5; windows after Geva et al. 2023 (arXiv 2304.14767).

A knockout shows what *could* be done without a route; a route whose cut changes nothing may still be
used, because the model falls back on another. So every route is shown beside the joint route
`image->text` (the blind row) and beside cuts of as many random edges and as many random layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import SpecError
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..sweeping.answers import generations
from ..sweeping.table import answer_token, sweep
from .journal import measured
from .routes import FORMS, cases_of, default_routes
from .words import Objects, Thing, agreement, default_objects
from .work import PLAIN, Case, Work, one_for_each

BY = ["route", "form", "window", "layers", "control"]
OWN = ("precision", "recall", "f1")
TRUE = tuple(f"{name}_true" for name in OWN)


@can_run_in_background
def knockout_windows(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    answers: Sequence[str | int] | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    routes: Sequence[str] | None = None,
    windows: int = 4,
    forms: Sequence[str] = FORMS,
    max_new_tokens: int = 64,
    rows: int = 64,
    seed: int = 0,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Cut routes of attention in windows of layers, and see what becomes of the answer.

    Args:
        model: an nnsight model from `load`.
        prompts: one prompt an image.
        answers: one single-token answer a prompt: then its log-probability is measured, and nothing
            is generated. Without answers the model describes, and its descriptions are scored.
        truths: what is truly in each picture, for the measures that end in `_true`.
        objects: `text -> names`; default the parser of the synthetic world for an embedded model,
            every content word for any other.
        routes: `"source->target"` in group names. `generated` are the answer's tokens after the
            first; the first is predicted by `last`, as in the released code of the paper. Default
            `routes.ROUTES`, of which those are left out whose target lies outside the decoder's
            sequence: in an encoder-decoder the question (its encoder has no generated tokens).
        windows: how many windows of equal size the layers are cut into that have the route: those
            with cross-attention where the source lies outside the decoder's sequence, else those with
            self-attention; 0 for all of them only.
        forms: `block` closes the route in the window; `allow` closes it everywhere else.
        max_new_tokens, rows: length of descriptions, and how many are generated in one batch.
        seed: of every random control.
        per_image: return the rows of every image instead of means with intervals.
        work: journal, progress bar and size of chunks.

    A cut closes attention. In hybrid decoders some layers carry a state through the sequence instead, past every
    cut: there the `blind` row shows how much still comes through.

    Returns:
        `route, form, window, layers, control, measure, mean, low, high, images`. Measures of a
        description: `precision`, `recall`, `f1` against the model's own un-cut description, the same
        with `_true`, and `objects`, how many it names. Of an answer: `logprob_change` (nats) and
        `kept` (1 where it is still the most probable token). `overlap` is the share of a random cut
        that falls into the group itself. `control` is one of

        - `none`: the measurement. Besides routes and forms there are a `clean` and a `blind` row, in
          which no token but the image's own sees the image; in an encoder, neither does the question.
        - `random positions`: each target row loses as many edges, to positions outside the group,
          or, where too few lie outside (image tokens are most of a prompt), anywhere before it;
          no rows where that is impossible. In cross-attention they are other keys of it.
        - `random layers`: the route is cut in as many layers, drawn at random for every image.
        - `query of another image`: with `image->generated` cut in all layers, the query tokens'
          residual stream (in an encoder-decoder, the encoder's) is that of another picture: what is
          left is what the query does not carry.

    Raises:
        SpecError: a route or form that does not exist, lists of different length, no prompts.
    """
    routes = default_routes(prompts) if routes is None else routes
    _check(prompts, routes, forms, answers=answers, truths=truths)
    objects = objects or default_objects(model)
    settings = {"answers": answers, "truths": truths, "objects": objects, "routes": routes, "windows": windows}
    settings |= {"forms": forms, "max_new_tokens": max_new_tokens, "seed": seed}
    tokens = [answer_token(model, answer) for answer in answers or ()]
    plan = cases_of(model, prompts, routes, windows=windows, forms=forms, seed=seed)
    every = [plan(image) for image in range(len(prompts))]

    def score(chunk: range) -> Iterable[dict[str, Any]]:
        asked = [
            partial(_score_answer, model, prompts[image], every[image], tokens[image], image, remote) for image in chunk
        ]
        return chain.from_iterable(together(asked, remote))

    def describe(chunk: range) -> Iterator[dict[str, Any]]:
        wanted = [(prompts[image], case.intervention) for image in chunk for case in every[image]]
        told = generations(model, wanted, max_new_tokens=max_new_tokens, rows=rows, remote=remote)
        for image in chunk:
            texts = [next(told).text for _ in every[image]]
            yield from score_texts(every[image], texts, None if truths is None else truths[image], objects, image)

    frame = measured("knockout_windows", model, prompts, settings, describe if answers is None else score, work, remote)
    return frame if per_image else summary(frame)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with bootstrap intervals, from the rows of every image."""
    measures = [name for name in (*OWN, *TRUE, "objects", "logprob_change", "kept", "overlap") if name in frame]
    tidy = summarise(frame, BY, measures)
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def _check(
    prompts: Sequence[Prompt], routes: Sequence[str], forms: Sequence[str], **lists: Sequence[Any] | None
) -> None:
    for route in routes:
        if len(route.split("->")) != 2:
            raise SpecError(f'no route {route!r}; a route is "source->target" in group names, such as "image->query"')
    for form in forms:
        if form not in FORMS:
            raise SpecError(f"no form {form!r}; there are {', '.join(FORMS)}")
    one_for_each(prompts, **lists)


def _score_answer(
    model: Any, prompt: Prompt, cases: Sequence[Case], answer: int, image: int, remote: Remote
) -> list[dict[str, Any]]:
    """Rows of one question; routes into the answer's later tokens cannot change its first."""
    acting = [
        case for case in cases if case.intervention is not None and not case.labels["route"].endswith("generated")
    ]
    found = sweep(
        model,
        prompt,
        [case.intervention for case in acting if case.intervention is not None],
        answer=answer,
        remote=remote,
    )
    return [
        {
            "image": image,
            **case.labels,
            "logprob_change": float(row.logprob - row.clean_logprob),
            "kept": float(row.rank == 0),
            "overlap": case.overlap,
        }
        for case, row in zip(acting, found.itertuples(), strict=True)
    ]


def score_texts(
    cases: Sequence[Case], texts: Sequence[str], truth: Sequence[Thing] | None, objects: Objects, image: int
) -> Iterator[dict[str, Any]]:
    """Rows of one description; the first is the model's own, un-cut one."""
    own = objects(texts[0])
    names = [thing.name for thing in truth or ()]
    for case, text in zip(cases, texts, strict=True):
        said = objects(text)
        true = agreement(said, names)
        row = {
            "image": image,
            **case.labels,
            **agreement(said, own),
            **{f"{key}_true": value for key, value in true.items()},
        }
        yield {**row, "objects": float(len(said)), "overlap": case.overlap, "text": text}
