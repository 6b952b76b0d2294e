"""Maps of interchange patching: layer by group of tokens, by position, or by attention head.

Interchange interventions after Geiger et al. 2021 (arXiv 2106.02997), restoration as in NOTICE (Golovanevsky et al.
2024, arXiv 2406.16320). Hidden states of a run on one picture are written into a run of the same question on another,
at one place after the other. A patch shows what the model does with the states at a place: which of them carry the
difference between the two answers. (A knockout shows what it could do without them.)

The last token, the query, the image and all rows stand side by side in every map: in most layers the last token alone
shows nothing, while the image rows carry almost all (arXiv 2604.09364).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..families import Model
from ..lowering.layers import Layers
from ..lowering.sites import StateSite
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.comparisons import with_comparisons
from ..studies.labels import ANOTHER_IMAGE, SHARES
from ..studies.methods import COMPARED, OTHER_LAYERS, only
from ..studies.pair_scores import LOGIT_DIFFS, pair_rows
from ..studies.pair_study import of_others, open_pairs, pairs_asked
from ..studies.pairs import Pair
from ..studies.papers import GEIGER, NOTICE, PAPERS
from ..studies.registry import recipe
from ..studies.work import PLAIN, Work
from .patched_places import GROUPS, Over, conditions_of, place_errors, places_given

BY = {
    "group": ["layer", "group", "control"],
    "position": ["layer", "position", "control"],
    "head": ["layer", "group", "head", "control"],
}
MEASURES = ["restoration", *LOGIT_DIFFS]
TESTED = ["restoration", "logit_diff_change"]


@can_run_in_background
@recipe(
    papers=(GEIGER, NOTICE, PAPERS["2604.09364"]),
    asks="Which layers, tokens and heads carry another picture's answer, when each place is tried?",
    method=(
        "Hidden states (site {site}) were taken, one {over} and layer at a time, from a run on another picture with "
        "the same question, and the probability and the logit difference of that picture's answer were measured.",
        OTHER_LAYERS,
        "Controls took the states of the same place from a third picture.",
        only("Controls took as many tokens at random positions.", over="group"),
        COMPARED,
    ),
    shows="does",
)
def patching_map(
    model: Model,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    over: Over = "group",
    groups: Sequence[str] | None = None,
    positions: Sequence[str] | None = None,
    layers: Layers | None = None,
    site: StateSite | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """How much of another picture's answer each place in the model carries: a map of layers and places.

    Args:
        model: an nnsight model from `load`.
        pairs: `(prompt, other prompt, answer, other answer)`; both prompts have the same text. Or a table, as `items`.
        items, columns: a table in place of pairs, with the columns `image, other_image, question, answer,
            other_answer`, see `knockout_windows`.
        only_correct: leave pairs out of which the model does not answer both questions right, in place of NaN; see
            `knockout_windows`.
        over: what is patched at a time in each layer: all tokens of a `group`, the token at one `position`, or one
            attention `head` at the tokens of a group. Every map has the rows `last`, `query`, `image` and `all` (with
            `over="head"` for all heads together), without those that have no hidden states (the image of Mllama).
            `all` are the tokens of the decoder's sequence: what lies outside it stays the prompt's own.
        groups: further groups, each patched as a whole; with `over="head"` the groups at which single heads are
            patched, default `last`. Groups outside the decoder's sequence are patched in the encoder.
        positions: with `over="position"`, the groups whose tokens are patched one by one; default `query`. Image tokens
            change all that follows, so that each of them costs a whole forward in each layer.
        layers: the layers that are patched; default all that have the site.
        site: what is patched, see `nv.Patch`: default `residual`, the layers' output, and `head` with `over="head"`.
        seed: of the random control and of the test.
        cluster: a key for each pair, equal where pairs are about one image, see `knockout_windows`; default, pairs in
            which the same picture is patched, or the same two pictures are patched into each other, are one.
        per_image: return the rows of every pair instead of means with intervals; `image` is the pair's number.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `layer`, then `group`, `position`, or `group` and `head`, then `control, measure, mean, low, high, images, p,
        survives`. A position is called by its place from the prompt's end and its text, `"-2 cross"`, and an image
        token by its cell, `"image.0 3,4"`; tokens of different texts are compared nowhere, because they have different
        names.

        Measures, with y the other picture's answer and x the prompt's own: `restoration`,
        `(P(y|patched) - P(y|prompt)) / (P(y|other) - P(y|prompt))`, 0 for no effect and 1 where the patch makes y as
        probable as in the other run; `logit_diff`, the logit of y minus that of x; `logit_diff_change`, that minus the
        prompt's own; `logit_diff_restored`, the change as a share of the other run's. Pairs of which the model does not
        answer both questions right are left out (NaN; see `images`).

        Controls: `another image`, the same place from a third picture whose answers are different; with `over="group"`
        also `random positions`, as many tokens outside the group, from the other picture's run.

        A map makes many comparisons: `p` is that of `restoration` and of `logit_diff_change` against the control
        `another image`, by flipping signs over images, and `survives` says whether it holds among all of them (false
        discovery rate 0.05, Benjamini and Hochberg 1995). `attrs["comparisons"]` is how many were made, and
        `attrs["against"]` the control; None where no pair has a third picture, and then `p` compares with 0. With n
        images no p-value lies below `2 ** (1 - n)`: give 10 pairs or more.

    Raises:
        SpecError: prompts whose text differs, equal answers, no pairs, a group without hidden states, a site that a
            layer has not got, or heads of a site without heads.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> pairs = nv.shapes.color_pairs(2)
    >>> frame = nv.recipes.patching_map(model, pairs, layers=[0, 9], work=nv.recipes.Work(progress=False))
    >>> of_all = frame[(frame["group"] == "all") & (frame["control"] == "none") & (frame["measure"] == "restoration")]
    >>> of_all["mean"].round(3).tolist()
    [1.0, 1.0]
    """
    asked = pairs_asked(model, pairs, items, columns)
    places = places_given(over, groups, positions, layers, site)
    study, all_pairs = open_pairs(
        "patching_map",
        model,
        asked,
        only_correct=only_correct,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(place_errors, model, places=places),
    )
    found = study.seen_in_all()
    places = places._replace(groups=tuple(name for name in found if name in (*GROUPS, *places.groups)))

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        return chain.from_iterable(together([partial(rows, image) for image in chunk], remote))

    def rows(image: int) -> list[dict[str, Any]]:
        conditions = conditions_of(model, all_pairs, image, places, study.seed)
        return pair_rows(model, all_pairs[image], image, conditions, MEASURES, study.work, remote)

    def sum_up(frame: pd.DataFrame) -> pd.DataFrame:
        return summary(frame, places.over, study.seed)

    return study.frame(places._asdict(), measure, sum_up, aside=of_others(all_pairs))


def summary(frame: pd.DataFrame, over: Over, seed: int = 0) -> pd.DataFrame:
    """Means over pairs with intervals and comparisons, from the rows of every pair; where no pair counts, of none."""
    by = BY[over]
    tidy = summarise(frame, by, MEASURES, shares=SHARES)
    present = tidy[tidy["images"] > 0]
    tidy = (present if len(present) else tidy).reset_index(drop=True)
    against = ANOTHER_IMAGE if ANOTHER_IMAGE in set(frame["control"]) else None
    return with_comparisons(tidy, frame, by, TESTED, against=against, seed=seed)
