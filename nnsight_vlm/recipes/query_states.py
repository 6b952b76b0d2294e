"""Interchange patching between two pictures: which hidden states carry the difference between them.

Interchange interventions after Geiger et al. 2021 (arXiv 2106.02997), restoration as in NOTICE (Golovanevsky et al.
2024, arXiv 2406.16320): the residual stream of one token group in one layer is taken from a run on another picture.
How much of that picture's answer comes with it? A knockout shows what the model can do without a route; a patch leaves
every route open and shows what the model does.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from ..arguments import listed
from ..errors import SpecError
from ..families import Model
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.states import Patch
from ..statistics import summarise
from ..studies.asked import Columns, Questions
from ..studies.labels import SHARES
from ..studies.methods import OTHER_LAYERS
from ..studies.pair_scores import Condition, pair_rows
from ..studies.pair_sources import groups_with_states, patched_layers, sources_of
from ..studies.pair_study import of_others, open_pairs, pairs_asked
from ..studies.pairs import Pair
from ..studies.papers import GEIGER, NOTICE
from ..studies.registry import recipe
from ..studies.token_sets import owning_stage
from ..studies.work import PLAIN, Work

GROUPS = ("image", "question", "last")
BY = ["group", "layer", "control"]
MEASURES = ["restoration", "flipped"]


@can_run_in_background
@recipe(
    papers=(GEIGER, NOTICE),
    asks="Which hidden states carry the difference between two pictures, and in which layers?",
    method=(
        "The residual stream of each token group ({groups}) was taken, layer by layer, from a run on another "
        "picture with the same question, and the probability of that picture's answer was measured.",
        OTHER_LAYERS,
        "Controls took the same tokens from a third picture, and as many tokens at random positions.",
    ),
    shows="does",
    measures=("restoration",),
)
def query_patching(
    model: Model,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]] | Questions | None = None,
    *,
    items: Questions | None = None,
    columns: Columns | None = None,
    only_correct: bool = False,
    groups: Sequence[str] | None = None,
    layers: Layers | None = None,
    seed: int = 0,
    cluster: Sequence[Hashable] | None = None,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """How much of another picture's answer a token group carries in each layer.

    Args:
        model: an nnsight model from `load`.
        pairs: `(prompt, other prompt, answer, other answer)`; both prompts have the same text. Or a table, as `items`.
        items, columns: a table in place of pairs, with the columns `image, other_image, question, answer,
            other_answer`, see `knockout_windows`.
        only_correct: leave pairs out of which the model does not answer both questions right, in place of NaN; see
            `knockout_windows`.
        groups: token groups to patch, each alone. Groups outside the decoder's sequence are patched in the encoder.
            Default `image`, `question` (the query without the prompt's last token) and `last`, without those that have
            no hidden states at all (the image of Mllama, or a question of no tokens).
        layers: the layers whose output is patched, of the encoder for groups that lie there; default all.
        seed: of the random controls.
        cluster: a key for each pair, equal where pairs are about one image, see `knockout_windows`; default, pairs in
            which the same picture is patched, or the same two pictures are patched into each other, are one.
        per_image: return the rows of every pair instead of means with intervals; `image` is the pair's number.
        remote, blocking, path: see `nv.run`.
        work: journal, progress bar, size of chunks and memory.

    Returns:
        `group, layer, control, measure, mean, low, high, images`.

        Measures, with y the other picture's answer: `restoration`,
        `(P(y|patched) - P(y|prompt)) / (P(y|other) - P(y|prompt))`, which is 0 for no effect and 1 where the patch
        makes y as probable as in the other run; `flipped`, 1 where y becomes the most probable token. Pairs of which
        the model does not answer both questions right are left out (NaN; see `images`). Where that is so of all of
        them, every mean is NaN, of 0 images.

        Controls: `another image`, the same tokens from a third picture whose answers are different; `random
        positions`, as many tokens outside the group, from the other picture's run. There is no such row where too few
        tokens lie outside the group.

    Raises:
        SpecError: prompts whose text differs, equal answers, no pairs, a group without hidden states.
    """
    asked = pairs_asked(model, pairs, items, columns)
    layers = as_tuples(layers)
    if groups is not None:
        groups = listed("groups", groups, 'groups=["image", "last"]', kind=str)
    study, all_pairs = open_pairs(
        "query_patching",
        model,
        asked,
        only_correct=only_correct,
        cluster=cluster,
        seed=seed,
        per_image=per_image,
        work=work,
        remote=remote,
        look=partial(group_errors, model, groups=groups, layers=layers),
    )
    seed, work, chosen = study.seed, study.work, study.seen_in_all()
    if not chosen:
        raise SpecError('groups= names no group to patch; write groups=["image", "last"]')

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        computations = [
            partial(pair_rows, model, all_pairs[image], image, conditions(image), MEASURES, work, remote)
            for image in chunk
        ]
        return chain.from_iterable(together(computations, remote))

    def conditions(image: int) -> Iterator[Condition]:
        prompt = all_pairs[image].prompt
        for source in sources_of(all_pairs, image, chosen, seed):
            stage, positions = owning_stage(prompt, source.positions)
            for layer in patched_layers(model, prompt, source.positions, layers):
                labels = {"group": source.group, "layer": layer, "control": source.control}
                patch = Patch(positions, source=source.donor, layers=layer, stage=stage)
                yield Condition(labels, min(source.positions), patch)

    settings = {"groups": chosen, "layers": layers}
    return study.frame(settings, measure, summary, aside=of_others(all_pairs))


def group_errors(
    model: Model, prompt: Prompt, *, groups: Sequence[str] | None, layers: Layers | None
) -> dict[str, str]:
    """For each group that has hidden states in a prompt why it cannot be patched; empty where it can.

    Args:
        model: an nnsight model.
        prompt: of one row.
        groups: those that the user asked for, each of which must have some; None for `GROUPS`.
        layers: see `patched_layers`.

    Raises:
        SpecError: a group that was asked for has no tokens or hidden states, or no such layers.
    """
    found = {}
    for group in groups_with_states([prompt], GROUPS) if groups is None else groups:
        try:
            owning_stage(prompt, group)
            patched_layers(model, prompt, prompt[group], layers)
            found[group] = ""
        except SpecError as error:
            if groups is not None:
                raise
            found[group] = str(error)
    return found


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs with intervals, from the rows of every pair; where no pair counts, means of none."""
    tidy = summarise(frame, BY, MEASURES, shares=SHARES)
    counted = tidy[tidy["images"] > 0]
    return (counted if len(counted) else tidy).reset_index(drop=True)
