"""Which of several routes the model needs, which one is enough, and whether it falls back on one when another is cut.

Attention knockout (Geva et al. 2023, arXiv 2304.14767; Kaduri et al. 2024, arXiv 2411.17491) of each route, of all but
it, and of all together. A model that repairs itself loses little with each route alone and much with all of them
(McGrath et al. 2023, arXiv 2307.15771). Interchange along one route (`route_swaps`) stands beside the cuts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import flag, listed
from ..errors import SpecError
from ..execution.checking import check
from ..execution.decoding import Generation
from ..execution.emptiness import Call, generating
from ..families import Model
from ..identity import prompt_digest
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..questions.item_lists import Items
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..studies.asked import NOT_TAKEN, Columns, Questions, asked_given, scores_answers
from ..studies.controls import rng_of
from ..studies.given import lengths_given, objects_given
from ..studies.labels import DOES, NONE
from ..studies.methods import OTHER_LAYERS, only
from ..studies.pair_study import of_others
from ..studies.pairs import Pair, pairs_given
from ..studies.papers import GEVA, GOLDOWSKY_DILL, KADURI, MCGRATH
from ..studies.registry import recipe
from ..studies.study import open_study
from ..studies.words import Objects, Thing
from ..studies.work import PLAIN, Work, refuse_beside
from ..sweeping.answers import generations
from .route_cuts import ALL, DIRECT_AND_BY_TEXT, TO_THE_ANSWER, routes_in, usable_routes
from .route_losses import Cases, answer_rows, cases_of_routes, summary, text_rows
from .route_swaps import check_pairs, check_swaps, swap_rows, swappable

WRITE = 'routes=["image->last", "image->question"]'


@can_run_in_background
@recipe(
    papers=(GEVA, KADURI, MCGRATH, GOLDOWSKY_DILL),
    asks="Which route does the model need, which one is enough, and where does it fall back on another?",
    method=(
        "Attention was cut along each route alone ({routes}), along all but one, and along all of them.",
        OTHER_LAYERS,
        only("The loss of the answer's probability was measured.", answers=True),
        only(
            "The objects that descriptions of up to {max_new_tokens} tokens name were compared with those of the "
            "description without a cut.",
            answers=False,
        ),
        only(
            "Each route was also made to carry another picture while all else was this one's; the control swapped in a "
            "third picture.",
            pairs=True,
        ),
        "Controls cut as many random edges.",
    ),
    shows="could",
)
def joint_routes(
    model: Model,
    prompts: Sequence[Prompt] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    answers: Sequence[str | int] | bool | None = None,
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
        prompts: of one row each; several may be about one picture, see `cluster`. Or a table, as `items`.
        items, columns, only_correct: see `knockout_windows`.
        answers: one single-token answer for each prompt; without, the model describes each picture, and its
            descriptions are scored. `truths`, `objects`, `max_new_tokens` and `rows` go with descriptions only, see
            `knockout_windows`.
        truths, objects: see `knockout_windows`.
        pairs: `(prompt, other prompt, answer, other answer)`, one for each prompt and about its picture: a question of
            one token about it and about another picture; not beside items or `only_correct`. Without pairs, what the
            model does is not measured: there the frame has rows without a number, of 0 images.
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
    given = asked_given(prompts, items, columns)
    describes = not scores_answers(given, answers)
    if not describes:
        refuse_beside("answers", truths=truths, objects=objects, max_new_tokens=max_new_tokens, rows=rows)
    max_new_tokens, rows = lengths_given(64 if max_new_tokens is None else max_new_tokens, rows)
    objects, layers = objects_given(model, objects), as_tuples(layers)
    routes = None if routes is None else listed("routes", routes, WRITE, kind=str)
    only_correct = flag("only_correct", only_correct)
    if pairs is not None and (only_correct or isinstance(given, Items)):
        raise SpecError(f"pairs= go with prompts one for one; leave {'only_correct' if only_correct else 'items'} out")
    study = open_study(
        "joint_routes",
        model,
        given,
        only_correct=only_correct,
        answers=answers,
        truths=truths if describes else NOT_TAKEN,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(_route_errors, model, routes=routes, layers=layers, tokens=max_new_tokens if describes else None),
    )
    seed, work, names = study.seed, study.work, _compared(study.seen_in_all(), describes)
    asked = None if pairs is None else pairs_given(model, pairs)
    if asked is not None:
        check_pairs(study.prompts, asked, swappable(names))
        for pair in asked:
            check_swaps(model, pair, swappable(names), layers)
    settings = {"objects": objects, "routes": names, "layers": layers, "max_new_tokens": max_new_tokens}

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

    frame = study.frame(
        settings, describe if describes else score, summary, aside=None if asked is None else swapped_in(asked)
    )
    frame.attrs["swapped"] = asked is not None
    return frame


def _route_errors(
    model: Model, prompt: Prompt, *, routes: Sequence[str] | None, layers: Layers | None, tokens: int | None
) -> dict[str, str]:
    """For each route that is compared in a prompt nothing, and what is wrong with the others.

    Args:
        model: an nnsight model.
        prompt: of one row.
        routes: those that the user asked for, which raise.
        layers: see `joint_routes`.
        tokens: how many are generated at most; None where one token is scored.

    Raises:
        SpecError: naming the route.
    """
    among = DIRECT_AND_BY_TEXT if tokens is None else TO_THE_ANSWER
    names = usable_routes(model, prompt, among) if routes is None else routes
    call = Call(empty="ignore") if tokens is None else generating(tokens, "ignore")
    for each in routes_in(model, prompt, names, layers):
        check(model, prompt, each.cut(), call._replace(name=f"route {each.name!r}: "))
    return dict.fromkeys(names, "")


def _compared(names: Sequence[str], describes: bool) -> tuple[str, ...]:
    """The names of the routes that are compared.

    Raises:
        SpecError: fewer than two, or some that cannot change the answer of one token.
    """
    if len(names) < 2:
        raise SpecError(
            f"routes are compared with each other, and {len(names)} of them is named or found in all prompts; write "
            + WRITE
        )
    late = [name for name in names if name not in swappable(names)]
    if late and not describes:
        raise SpecError(
            f"route {late[0]!r} leads to tokens behind the answer's first, which it cannot change; leave it out, or "
            "leave answers out to score descriptions"
        )
    return tuple(names)


def swapped_in(pairs: Sequence[Pair]) -> dict[str, Any]:
    """What a journal must know of the pairs that are swapped."""
    return {**of_others(pairs), "swapped": [prompt_digest(pair.prompt) for pair in pairs]}


def _not_measured(image: int, route: str) -> dict[str, Any]:
    """A row that says that what the model does with a route was not measured."""
    labels = {"route": route, "condition": "swapped", "shows": DOES, "control": NONE}
    return {"image": image, **labels, "restoration": math.nan}
