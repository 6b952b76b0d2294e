"""Maps of attribution patching: which layers, groups of tokens and heads carry another picture's answer, estimated.

Attribution patching (Nanda 2023; Syed et al. 2023, arXiv 2310.10348): a gradient estimates the effect of every
interchange patch at once. An estimate is to first order, so the places with the largest are patched in all pairs, and
the map says how far both agree.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ..arguments import listed, whole_number
from ..errors import SpecError
from ..families import Model
from ..gradients.edges import check_edges
from ..gradients.places import GRADED, GROUPS, SITES_WRITTEN, spots_of
from ..lowering.layers import Layers
from ..lowering.sites import BEFORE_LAYERS, StateSite
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.comparisons import with_comparisons
from ..studies.labels import ANOTHER_IMAGE
from ..studies.methods import COMPARED, only
from ..studies.pair_study import of_others, open_pairs, pairs_asked
from ..studies.pairs import Pair
from ..studies.papers import GEIGER, SYED
from ..studies.registry import recipe
from ..studies.work import PLAIN, Work
from .pair_estimates import EDGE, PLACE, Asked, estimates_of, exact_of, largest, with_agreement

BY = [*PLACE, "control"]
MEASURES = ["estimate", "estimate_restored", "exact", "exact_restored", "correlation"]
LIMIT = 0.9999
"""The largest correlation that Fisher's transformation is given, which has no value at 1."""
DEFAULT = ("image", "question", "last")
Edge = Literal["edge"]


@can_run_in_background
@recipe(
    papers=(SYED, GEIGER),
    asks="Which heads and groups of tokens carry another picture's answer, estimated at all places at once?",
    method=(
        "The effect on the logit difference of the two answers of patching each place (sites {at}; groups {groups}; "
        "layers: {layers}) with states of a run on another picture was estimated by a gradient (attribution patching; "
        "steps: {steps}).",
        only(
            "At the site edge a head's output was computed with what it reads of one group from that run, and the "
            "gradient stands for what lies behind the head.",
            at="edge",
        ),
        only(
            "The places of each site with the largest mean estimates ({exact} of them) were patched in every pair.",
            exact=True,
        ),
        "Controls estimated patches from a third picture.",
        COMPARED,
    ),
    shows="does",
    measures=("exact_restored", "estimate_restored"),
    shows_of={"estimate": "estimates", "estimate_restored": "estimates", "correlation": "method"},
)
def attribution_map(
    model: Model,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    at: StateSite | Edge | Sequence[StateSite | Edge] = ("residual", "head"),
    groups: Sequence[str] | None = None,
    layers: Layers = "all",
    exact: int = 10,
    steps: int = 1,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """Estimate how much of another picture's answer each place carries, and patch the places with the most.

    All estimates of a pair cost two forwards and a backward, as many again for the control, where `patching_map` takes
    a forward a place.

    Args:
        model: an nnsight model from `load`.
        pairs: `(prompt, other prompt, answer, other answer)`; both prompts have the same text. Or a table, as `items`.
        items, columns: a table in place of pairs, with the columns `image, other_image, question, answer,
            other_answer`, see `knockout_windows`.
        only_correct: leave pairs out of which the model does not answer both questions right, see `knockout_windows`.
        at: the sites, see `nv.attribute`; sites of heads have a row for each head. `edge` is what a head reads: for
            every two groups, with the first before or among the second, a row for each head.
        groups: groups of tokens, each patched as a whole; default `image`, `question` and `last`, those of them that
            every prompt has and that have states at every site.
        layers: which layers; `"all"` is all that have the site.
        exact: so many places of each site, those with the largest mean estimates (in either direction), are patched
            in every pair; 0 for none.
        steps: integrated steps of the gradient, see `nv.attribute`; not of `edge`.
        seed: of the test.
        cluster: a key for each pair, equal where pairs are about one image, see `patching_map`.
        per_image: return the rows of every pair instead of means with intervals; `image` is the pair's number.
        remote, blocking, path: see `nv.run`. The model needs gradients where it runs, see `nv.attribute`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `site, layer, group, head, source, control, measure, mean, low, high, images, p, survives`; `head` is a number
        as text, or `all` at sites without heads, and `layer` is missing at sites before the first layer. `source` is
        `all` but for `edge`: there `group` is the target, and the head's output at the target is patched with what it
        is where this head reads the `source`'s keys and values from the other picture's run, and everything else from
        the prompt's own. Measures, in which the logit difference is the logit of the other picture's answer less that
        of the prompt's own:

        - `estimate`: by how much the patch would move the logit difference, to first order; `estimate_restored`, that
          as a share of the difference between the two clean runs. Of `edge`, the head's new output is computed, its
          softmax included, and the gradient stands for what lies behind the head.
        - `exact`, `exact_restored`: by how much it does, at the places that were patched. They were chosen by their
          estimates from the same pairs, so estimates there are larger than they would be in other pairs; the patches
          themselves are not estimates.
        - `correlation`: of estimate and exact over the places of a site that were patched, in each pair (`group` and
          `head` are `all`, and `layer` is missing); means are Fisher's. Where it is low, believe `exact`.

        Pairs in which the difference between the answers does not change its sign from one clean run to the other are
        left out (NaN; see `images`). The control `another image` estimates the patch from a third picture whose
        answers are different.

        `p` is that of `estimate` against the control, by flipping signs over images, and `survives` says whether it
        holds among all (false discovery rate 0.05). `attrs["comparisons"]` is how many were made, `attrs["against"]`
        the control; None where no pair has a third picture, and then `p` compares with 0. With n images no p-value lies
        below `2 ** (1 - n)`.

    Raises:
        SpecError: prompts whose text differs, equal answers, no pairs, a group without states at a site, layers that
            have not got the site, or what `nv.attribute` refuses.
        InterventionError: a logit is infinite or not a number.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> pairs = nv.shapes.color_pairs(2)
    >>> quiet = nv.recipes.Work(progress=False)
    >>> frame = nv.recipes.attribution_map(model, pairs, at="residual", layers=[0, 9], exact=1, work=quiet)
    >>> frame.loc[frame["measure"] == "exact_restored", ["layer", "group"]].values.tolist()
    [[9, 'last']]
    """
    asked = pairs_asked(model, pairs, items, columns)
    wanted = _asked(at, layers, groups, steps)
    exact = whole_number("exact", exact, least=0, kind="number of places")
    study, all_pairs = open_pairs(
        "attribution_map",
        model,
        asked,
        only_correct=only_correct,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(_group_errors, model, wanted),
    )
    wanted = wanted._replace(groups=study.seen_in_all())
    if not wanted.groups:
        raise SpecError(f"no group of {', '.join(DEFAULT)} has states at all of at={list(wanted.at)}; write groups=")

    def of_pair(rows: Any, chunk: range) -> Iterable[dict[str, Any]]:
        calls = [partial(rows, model, all_pairs, image, wanted, study.work, remote) for image in chunk]
        return chain.from_iterable(together(calls, remote))

    settings = {
        "at": (*wanted.at, *((EDGE,) if wanted.edges else ())),
        "layers": wanted.layers,
        "groups": wanted.groups,
        "steps": wanted.steps,
    }
    others, apart = of_others(all_pairs), replace(study, per_image=True)
    frame = apart.frame(settings, partial(of_pair, estimates_of), summary, aside=others)
    places = largest(frame, exact)
    if places:
        patched = apart.frame(
            settings, partial(of_pair, partial(exact_of, places)), summary, aside={**others, "places": places}
        )
        frame = with_agreement(frame, patched)
    frame = frame.drop(columns="span")
    given = frame if study.per_image else summary(frame, study.seed)
    return study.finished(_shown(given), {**settings, "exact": exact})


def summary(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means over pairs with intervals and comparisons, from the rows of every pair."""
    present = [measure for measure in MEASURES if measure in frame.columns]
    is_correlated = "correlation" in present
    turned = frame.assign(correlation=np.arctanh(frame["correlation"].clip(-LIMIT, LIMIT))) if is_correlated else frame
    tidy = summarise(turned, BY, present)
    of_correlation = tidy["measure"] == "correlation"
    for name in ("mean", "low", "high"):  # means of correlations are Fisher's
        tidy.loc[of_correlation, name] = np.tanh(tidy.loc[of_correlation, name].astype(float))
    known = tidy[tidy["images"] > 0]
    tidy = (known if len(known) else tidy).reset_index(drop=True)
    against = ANOTHER_IMAGE if ANOTHER_IMAGE in set(frame["control"]) else None
    tested = frame[frame["estimate"].notna()]
    return with_comparisons(tidy, tested if len(tested) else frame, BY, ["estimate"], against=against, seed=seed)


def _asked(at: Any, layers: Any, groups: Any, steps: Any) -> Asked:
    """What the user asked for.

    Raises:
        SpecError: no sites, no group names, or no number of steps.
    """
    sites = (at,) if isinstance(at, str) else listed("at", at, SITES_WRITTEN, kind=str)
    if not sites or any(site not in (*GRADED, EDGE) for site in sites):
        raise SpecError(f"at={at!r} names no site; write some of {', '.join((*GRADED, EDGE))}")
    names = None if groups is None else listed("groups", groups, GROUPS, kind=str)
    if names == ():
        raise SpecError(f"groups=() names no group; write {GROUPS}")
    some: Any = tuple(dict.fromkeys(site for site in sites if site != EDGE))
    steps = whole_number("steps", steps, least=1, kind="number of steps")
    if steps > 1 and not some:
        raise SpecError('steps= are taken between the states of two runs, which at="edge" does not; leave steps= out')
    return Asked(some, EDGE in sites, as_tuples(layers), names, steps)


def _group_errors(model: Model, asked: Asked, prompt: Prompt) -> dict[str, str]:
    """For each group why a prompt has no states of it, empty where it has.

    Raises:
        SpecError: of a group that was asked for, or layers that have not got a site.
    """
    found = dict[str, str]()
    for group in DEFAULT if asked.groups is None else asked.groups:
        try:
            prompt.rows[0].required(group)
            if asked.at:
                spots_of(model, prompt, prompt, asked.at, (group,), "group", asked.layers)
            if asked.edges:
                check_edges(model, prompt, group, asked.layers)
            found[group] = ""
        except SpecError:
            if asked.groups is not None or group == "last":
                raise
    return found


def _shown(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with missing layers where there are none."""
    layers = frame["layer"].astype("Int64")
    return frame.assign(layer=layers.mask(layers == BEFORE_LAYERS))
