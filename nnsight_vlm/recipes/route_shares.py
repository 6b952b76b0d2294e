"""Which of several routes the model needs, which one is enough, and whether it falls back on one when another is cut.

Attention knockout (Geva et al. 2023, arXiv 2304.14767; Kaduri et al. 2024, arXiv 2411.17491) of each route, of all but
it, and of all together. A model that repairs itself loses little with each route alone and much with all of them
(McGrath et al. 2023, arXiv 2307.15771). Interchange along one route (`route_swaps`) stands beside the cuts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import listed
from ..errors import SpecError
from ..execution.checking import check
from ..execution.decoding import Generation
from ..execution.emptiness import Call, generating
from ..families import Model
from ..identity import prompt_digest
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import UNKNOWN, Estimate, image_means, interval, summarise
from ..studies.controls import rng_of
from ..studies.given import lengths_given, objects_given
from ..studies.labels import AGREEMENT, DOES, NONE, SHARES, TRUE_AGREEMENT
from ..studies.pairs import Pair, pairs_given
from ..studies.papers import GEVA, GOLDOWSKY_DILL, KADURI, MCGRATH
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.words import Objects, Thing
from ..studies.work import PLAIN, Work, refuse_beside
from ..sweeping.answers import generations
from .route_cuts import ALL, DIRECT_AND_BY_TEXT, TO_THE_ANSWER, routes_in, usable_routes
from .route_losses import LOSS, VERDICTS, Cases, answer_rows, cases_of_routes, text_rows
from .route_swaps import check_pairs, check_swaps, swap_rows, swappable

BY = ["route", "condition", "shows", "control"]


@can_run_in_background
@recipe(
    papers=(GEVA, KADURI, MCGRATH, GOLDOWSKY_DILL),
    asks="Which route does the model need, which one is enough, and where does it fall back on another?",
    method=(
        "Attention was cut along each route alone ({routes}), along all but one, and along all of them. Where pairs of "
        "pictures were given, each route carried another picture while all else was this one's. Controls cut as many "
        "random edges, and swapped in a third picture."
    ),
    shows="could",
)
def joint_routes(
    model: Model,
    prompts: Sequence[Prompt],
    *,
    answers: Sequence[str | int] | None = None,
    truths: Sequence[Sequence[Thing]] | None = None,
    objects: Objects | None = None,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]] | None = None,
    routes: Sequence[str] | None = None,
    layers: Layers | None = None,
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
    """Cut routes alone and together, and swap what they carry: which is needed, which suffices, which is used.

    Cuts show what the model could do (`shows` is `could`): a route whose cut costs nothing may still be used, because
    the model falls back on another. With `pairs`, an interchange shows what it does (`does`): along one route the
    tokens read another picture, along every other route this one.

    Args:
        model: an nnsight model from `load`.
        prompts: of one row each; several may be about one picture, see `cluster`.
        answers: one single-token answer for each prompt; without, the model describes each picture, and its
            descriptions are scored. `truths`, `objects`, `max_new_tokens` and `rows` go with descriptions only, see
            `knockout_windows`.
        truths, objects: see `knockout_windows`.
        pairs: `(prompt, other prompt, answer, other answer)`, one for each prompt and about its picture: a question of
            one token about it and about another picture. Without pairs, what the model does is not measured: there the
            frame has rows without a number, of 0 images.
        routes: two or more, `"source->target"` in group names. They are compared as ways that have no edge in common:
            a token that is in two targets belongs to the route that is named first. Default `image->last`,
            `image->question` and `image->markers` (the template's tokens), and for descriptions `image->generated`, as
            far as all prompts have them. What the image tells other tokens (a system prompt behind it) is in none of
            these; compare `all` with `blind`.
        layers: in which the routes are cut or swapped; default all that have them.
        max_new_tokens, rows: see `knockout_windows`.
        seed: of the random control.
        cluster: a key for each prompt, equal where prompts are about one image; see `knockout_windows`.
        per_image: return the rows of every image instead of means with intervals.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `route, condition, shows, control, measure, mean, low, high, images`. `route` is one of the routes, two of them
        (`a & b`), `all`, or "" where nothing is cut. `condition` is `cut`, `only` (every other route is cut), `clean`,
        `blind` (as in `knockout_windows`), `swapped` or `others swapped`.

        Measures of cuts: those of `knockout_windows`, of an answer also `probability_change`; and from the *loss*: it
        is the probability that an answer loses (in nats, one picture could outweigh all others), or 1 - `f1`

        - `needed`, of a route that is cut: the loss.
        - `suffices`, of the only open route: the loss when all are cut, less the loss when this one is open.
        - `self_repair`, of all routes: the loss when all are cut, less the sum of the losses of each alone. Above 0,
          the model falls back on other routes; below, the routes work only together.

        Each is also given as a share of the mean loss when all are cut (`needed_share` and so on); NaN where that loss
        is not above 0 with certainty, because there is nothing to share out.

        Measures of swaps: `restoration` and `flipped`, see `query_patching`; pairs of which the model does not answer
        both questions right are left out. With every token that reads the image swapped, restoration is 1.

        Controls: `random edges`, as many edges closed in the same layers, drawn from those of the prompt that belong to
        no route; there is no such row where too few are left. `another image`, a third picture whose answers are
        different, swapped in.

    Raises:
        SpecError: fewer than two routes, or one along which nothing can flow; pairs that are about other pictures, or
            routes of several sources beside pairs; lists of different length.
    """
    if answers is not None:
        refuse_beside("answers", truths=truths, objects=objects, max_new_tokens=max_new_tokens, rows=rows)
    study = open_study(
        "joint_routes",
        model,
        prompts,
        answers=answers,
        truths=truths,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
    )
    seed, work = study.seed, study.work
    max_new_tokens, rows = lengths_given(64 if max_new_tokens is None else max_new_tokens, rows)
    objects, layers = objects_given(model, objects), as_tuples(layers)
    describes = study.answers is None
    names = _routes_given(model, study.prompts, routes, describes)
    asked = None if pairs is None else pairs_given(model, pairs)
    for prompt in study.prompts:
        in_prompt = routes_in(model, prompt, names, layers)
        check(
            model,
            prompt,
            in_prompt[0].cut(),
            generating(max_new_tokens, "ignore") if describes else Call(empty="ignore"),
        )
    if asked is not None:
        check_pairs(study.prompts, asked, swappable(names))
        for pair in asked:
            check_swaps(model, pair, swappable(names), layers)
    settings = {"objects": objects, "routes": names, "layers": layers, "max_new_tokens": max_new_tokens}
    if asked is not None:
        settings |= {"pairs": [(*map(prompt_digest, pair[:2]), pair.answer, pair.other_answer) for pair in asked]}

    def swaps(image: int) -> list[dict[str, Any]]:
        if asked is None:
            return [_not_measured(image, name) for name in (*swappable(names), ALL)]
        return swap_rows(model, asked, image, swappable(names), layers, work, remote)

    def cases(image: int, decoded: int = 0) -> Cases:
        return cases_of_routes(model, study.prompts[image], names, layers, rng_of(seed, image), decoded)

    def score(chunk: range) -> Iterable[dict[str, Any]]:
        answered = study.answers or ()
        computations = [
            partial(answer_rows, model, study.prompts[image], cases(image), answered[image], image, work, remote)
            for image in chunk
        ]
        return chain.from_iterable(together([*computations, *(partial(swaps, image) for image in chunk)], remote))

    def generated(wanted: Sequence[tuple[Prompt, Any]]) -> Iterator[Generation]:
        return generations(
            model, wanted, max_new_tokens=max_new_tokens, rows=rows, memory=work.memory, empty="ignore", remote=remote
        )

    def describe(chunk: range) -> Iterator[dict[str, Any]]:
        own = list(generated([(study.prompts[image], None) for image in chunk]))
        of_chunk = [cases(image, len(each.tokens) - 1) for image, each in zip(chunk, own, strict=True)]
        cut = zip(chunk, of_chunk, strict=True)
        under_cuts = generated([(study.prompts[image], each) for image, of in cut for each in of.cuts[1:]])
        for image, each, of in zip(chunk, own, of_chunk, strict=True):
            texts = [each.text, *(next(under_cuts).text for _ in of.cuts[1:])]
            yield from text_rows(of, texts, None if study.truths is None else study.truths[image], objects, image)
        yield from chain.from_iterable(together([partial(swaps, image) for image in chunk], remote))

    frame = study.frame(settings, describe if describes else score, summary)
    if asked is None:
        frame.attrs["left_out"] = ["what the model does: no pairs= to swap were given"]
    return frame


def _routes_given(model: Model, prompts: Sequence[Prompt], given: Any, describes: bool) -> tuple[str, ...]:
    """The names of the routes that are compared.

    Raises:
        SpecError: fewer than two, or some that cannot change the answer of one token.
    """
    write = 'routes=["image->last", "image->question"]'
    among = TO_THE_ANSWER if describes else DIRECT_AND_BY_TEXT
    names = usable_routes(model, prompts, among) if given is None else listed("routes", given, write, kind=str)
    if len(names) < 2:
        had = "the prompts have" if given is None else "routes= names"
        raise SpecError(f"{had} {len(names)} route(s), and routes are compared with each other; write {write}")
    late = [name for name in names if name not in swappable(names)]
    if late and not describes:
        raise SpecError(
            f"route {late[0]!r} leads to tokens behind the answer's first, which it cannot change; leave it out, or "
            "leave answers out to score descriptions"
        )
    return names


def _not_measured(image: int, route: str) -> dict[str, Any]:
    """A row that says that what the model does with a route was not measured."""
    labels = {"route": route, "condition": "swapped", "shows": DOES, "control": NONE}
    return {"image": image, **labels, "restoration": math.nan}


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over images with intervals, from the rows of every image; then shares of the loss when all are cut."""
    names = (
        *AGREEMENT,
        *TRUE_AGREEMENT,
        "objects",
        "logprob_change",
        "probability_change",
        "kept",
        *VERDICTS,
        "restoration",
        "flipped",
    )
    tidy = summarise(frame, BY, [name for name in names if name in frame], shares=SHARES)
    unmeasured = (tidy["shows"] == DOES) & (tidy["control"] == NONE) & (tidy["measure"] == "restoration")
    tidy = pd.concat([tidy[(tidy["images"] > 0) | unmeasured], _shares(frame)], ignore_index=True)
    order = {key: place for place, key in enumerate(dict.fromkeys(zip(*(tidy[name] for name in BY), strict=True)))}
    places = [order[key] for key in zip(*(tidy[name] for name in BY), strict=True)]
    return tidy.assign(place=places).sort_values("place", kind="stable").drop(columns="place").reset_index(drop=True)


def _shares(frame: pd.DataFrame) -> pd.DataFrame:
    """The verdicts as shares of the mean loss when all routes are cut."""
    found = list[dict[str, Any]]()
    for verdict in VERDICTS:
        rows = frame[frame[verdict].notna() & frame[LOSS].notna()]
        if rows.empty:
            continue
        means = image_means(rows, [verdict, LOSS], BY)
        for key, group in means.groupby(level=BY, dropna=False, sort=False):
            least = interval(group[[LOSS]], lambda of: of[LOSS]).low
            share = interval(group, partial(_ratio, verdict)) if least > 0 else UNKNOWN
            found.append(
                {**dict(zip(BY, key, strict=True)), "measure": f"{verdict}_share", **_named(share, len(group))}
            )
    return pd.DataFrame(found)


def _ratio(verdict: str, means: Mapping[str, Any]) -> Any:
    return means[verdict] / means[LOSS]


def _named(share: Estimate, images: int) -> dict[str, float]:
    return {"mean": share.value, "low": share.low, "high": share.high, "images": images}
