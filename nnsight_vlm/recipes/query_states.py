"""Interchange patching between two pictures: which hidden states carry the difference between them.

Interchange interventions after Geiger et al. 2021 (arXiv 2106.02997), restoration as in NOTICE (Golovanevsky et al.
2024, arXiv 2406.16320): the residual stream of one token group in one layer is taken from a run on another picture.
How much of that picture's answer comes with it? A knockout shows what the model can do without a route; a patch leaves
every route open and shows what the model does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..arguments import listed
from ..errors import SpecError
from ..execution.forward import run
from ..families import Model, view_of
from ..identity import prompt_digest
from ..lowering.layers import Layers, layer_numbers
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.states import Patch
from ..statistics import summarise
from ..studies.clusters import clusters_of_pairs, with_clusters
from ..studies.controls import random_positions, rng_of, same_pictures, with_picture_of
from ..studies.given import usual_given
from ..studies.journal import measured
from ..studies.labels import ANOTHER_IMAGE, NONE, RANDOM_POSITIONS, SHARES, Control
from ..studies.pairs import Pair, pairs_given
from ..studies.papers import GEIGER, NOTICE
from ..studies.provenance import counted
from ..studies.registry import recipe
from ..studies.token_sets import owning_stage, same_axis_positions
from ..studies.work import PLAIN, Work
from ..sweeping.table import sweep
from ..sweeping.wanted import answer_token

GROUPS = ("image", "question", "last")
BY = ["group", "layer", "control"]


@can_run_in_background
@recipe(
    papers=(GEIGER, NOTICE),
    asks="Which hidden states carry the difference between two pictures, and in which layers?",
    method=(
        "The residual stream of each token group ({groups}) was taken, layer by layer, from a run on another "
        "picture with the same question, and the probability of that picture's answer was measured. Controls "
        "took the same tokens from a third picture, and as many tokens at random positions."
    ),
    shows="does",
)
def query_patching(
    model: Model,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]],
    *,
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
        pairs: `(prompt, other prompt, answer, other answer)`; both prompts have the same text.
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
    seed, per_image, work = usual_given(seed, per_image, work)
    all_pairs = pairs_given(model, pairs)
    prompts, others = [pair.prompt for pair in all_pairs], [pair.other for pair in all_pairs]
    chosen, layers = default_groups(prompts), as_tuples(layers)
    if groups is not None:
        chosen = listed("groups", groups, 'groups=["image", "last"]', kind=str)
    if not chosen:
        raise SpecError('groups= names no group to patch; write groups=["image", "last"]')
    for pair in all_pairs:
        for group in chosen:
            pair.prompt.rows[0].required(group)
            patched_layers(model, owning_stage(pair.prompt, group).stage, layers)
    clusters = clusters_of_pairs(prompts, others, cluster)

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        computations = [partial(_rows, model, all_pairs, image, chosen, layers, seed, work, remote) for image in chunk]
        return chain.from_iterable(together(computations, remote))

    answers = [(pair.answer, pair.other_answer) for pair in all_pairs]
    digests = [prompt_digest(other) for other in others]
    settings = {"groups": chosen, "layers": layers, "seed": seed, "answers": answers, "others": digests}
    rows_of_images = measured("query_patching", model, prompts, settings, measure, work, remote)
    frame = with_clusters(rows_of_images, clusters)
    return counted(frame if per_image else summary(frame), clusters, {"groups": chosen, "layers": layers})


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs with intervals, from the rows of every pair; where no pair counts, means of none."""
    tidy = summarise(frame, BY, ["restoration", "flipped"], shares=SHARES)
    counted = tidy[tidy["images"] > 0]
    return (counted if len(counted) else tidy).reset_index(drop=True)


def default_groups(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The groups of `GROUPS` that have hidden states in every prompt."""

    def has_states(group: str) -> bool:
        try:
            return all(owning_stage(prompt, group) for prompt in prompts)
        except SpecError:
            return False

    return tuple(group for group in GROUPS if has_states(group))


def patched_layers(model: Model, stage: str, layers: Layers | None) -> tuple[int, ...]:
    """The layers of a stage whose output is patched; all where none are named.

    Raises:
        SpecError: the stage has not got them, or none are named.
    """
    numbers = layer_numbers("all" if layers is None else layers, view_of(model).stage(stage).layer_count)
    if not numbers:
        raise SpecError("layers=() names no layer to patch; write a number or a list of numbers, or leave layers out")
    return numbers


# one pair -----------------------------------------------------------------------------------------


class StateSource(NamedTuple):
    """Hidden states to write.

    Attributes:
        group: the token group that is patched, or that a control stands for.
        control: `none` for the group itself.
        positions: the positions that are written.
        donor: the prompt whose run gives the states.
    """

    group: str
    control: Control
    positions: tuple[int, ...]
    donor: Prompt


class _LabelledPatch(NamedTuple):
    """A patch, and what the table says of it."""

    labels: Mapping[str, Any]
    patch: Patch


class _PatchedScore(NamedTuple):
    """The other picture's answer in a patched run: its log-probability, and its rank (0 is the most probable)."""

    labels: Mapping[str, Any]
    logprob: float
    rank: float


def _rows(
    model: Model,
    pairs: Sequence[Pair],
    image: int,
    groups: Sequence[str],
    layers: Layers | None,
    seed: int,
    work: Work,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of one pair, from its two clean runs and one sweep for each batch of patches."""
    pair = pairs[image]
    answer, other_answer = answer_token(model, pair.answer), answer_token(model, pair.other_answer)
    computations: list[Callable[[], Any]] = [
        partial(run, model, prompt, remote=remote) for prompt in (pair.prompt, pair.other)
    ]
    for batch in _patches(model, pairs, image, groups, layers, seed):
        computations.append(partial(_scores, model, pair.prompt, batch, other_answer, work, remote))
    own_run, other_run, *by_batch = together(computations, remote)
    logits, other_logits = own_run.logits.double(), other_run.logits.double()
    before, after = (float(each.softmax(-1)[other_answer]) for each in (logits, other_logits))
    knows_both = int(logits.argmax()) == answer and int(other_logits.argmax()) == other_answer
    return [
        {
            "image": image,
            **score.labels,
            "restoration": (math.exp(score.logprob) - before) / (after - before) if knows_both else math.nan,
            "flipped": float(score.rank == 0) if knows_both and not math.isnan(score.rank) else math.nan,
        }
        for score in chain.from_iterable(by_batch)
    ]


def _scores(
    model: Model, prompt: Prompt, batch: Sequence[_LabelledPatch], answer: int, work: Work, remote: Remote
) -> list[_PatchedScore]:
    if not batch:
        return []
    frame = sweep(model, prompt, [patch for _, patch in batch], answer=answer, memory=work.memory, remote=remote)
    scores = zip(batch, frame.itertuples(), strict=True)
    return [_PatchedScore(labelled.labels, score.logprob, score.rank) for labelled, score in scores]


def _patches(
    model: Model, pairs: Sequence[Pair], image: int, groups: Sequence[str], layers: Layers | None, seed: int
) -> Iterator[list[_LabelledPatch]]:
    """Two batches: patches of text tokens, which can share one packed forward, and patches of earlier tokens."""
    prompt = pairs[image].prompt
    first_text = min(prompt["query"], default=prompt.rows[0].answer)
    sources = list(sources_of(pairs, image, groups, seed))
    for early in (False, True):
        batch = []
        for source in sources:
            if (min(source.positions) < first_text) != early:
                continue
            stage, positions = owning_stage(prompt, source.positions)
            for layer in patched_layers(model, stage, layers):
                labels = {"group": source.group, "layer": layer, "control": source.control}
                patch = Patch(positions, source=source.donor, layers=layer, stage=stage)
                batch.append(_LabelledPatch(labels, patch))
        yield batch


def sources_of(pairs: Sequence[Pair], image: int, groups: Sequence[str], seed: int) -> Iterator[StateSource]:
    """The hidden states that are written into one pair's prompt: for each group its own, then those of its controls."""
    pair, third = pairs[image], _third_picture(pairs, image)
    rng, last = rng_of(seed, image), pair.prompt["last"]
    for group in groups:
        positions = pair.prompt[group]
        yield StateSource(group, NONE, positions, pair.other)
        if third is not None:
            yield StateSource(group, ANOTHER_IMAGE, positions, third)
        others = same_axis_positions(pair.prompt, positions)[1:]
        candidates = [position for position in others if position not in {*positions, *last}]
        if len(candidates) >= len(positions):
            drawn = random_positions(candidates, len(positions), rng)
            yield StateSource(group, RANDOM_POSITIONS, drawn, pair.other)


def _third_picture(pairs: Sequence[Pair], image: int) -> Prompt | None:
    """The pair's text about the picture of the next pair that shares no answer, and not this picture, with it."""
    pair = pairs[image]
    for step in range(1, len(pairs)):
        candidate = pairs[(image + step) % len(pairs)]
        shares_answer = {candidate.answer, candidate.other_answer} & {pair.answer, pair.other_answer}
        if not shares_answer and not any(same_pictures(candidate.prompt, own) for own in (pair.prompt, pair.other)):
            return with_picture_of(pair.prompt, candidate.prompt)
    return None
