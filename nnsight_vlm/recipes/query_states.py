"""Interchange patching between two pictures: where the difference between them *does* act.

Restoration as in NOTICE (Golovanevsky et al. 2024, arXiv 2406.16320): the residual stream of one token
group in one layer is taken from a run on another picture; how much of that picture's answer comes with
it? Unlike a knockout this leaves every route open, so it says what the model does and not what it could do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..errors import SpecError
from ..execution.checking import require_model
from ..execution.forward import run
from ..families import view_of
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.states import Patch
from ..statistics import summarise
from ..sweeping.table import answer_token, sweep
from .controls import image_inputs, owning_stage, rng_of, same_axis_positions, with_picture_of
from .journal import measured
from .work import NONE, PLAIN, Work

GROUPS = ("image", "query", "last")
BY = ["group", "layer", "control"]


class Pair(NamedTuple):
    """The same question about two pictures with different answers.

    Attributes:
        prompt: the run that is patched.
        other: the run that lends its hidden states.
        answer: the right answer to `prompt`, one token.
        other_answer: the right answer to `other`, one token.
    """

    prompt: Prompt
    other: Prompt
    answer: str | int
    other_answer: str | int


@can_run_in_background
def query_patching(
    model: Any,
    pairs: Sequence[Pair | tuple[Prompt, Prompt, str | int, str | int]],
    *,
    groups: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    per_image: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    work: Work = PLAIN,
) -> pd.DataFrame:
    """How much of another picture's answer a token group carries in each layer.

    Args:
        model: an nnsight model from `load`.
        pairs: `(prompt, other prompt, answer, other answer)`; the two prompts have the same words.
        groups: token groups to patch, each alone; `query` leaves out the last token where `last` is
            a group of its own. Default `image`, `query` and `last`. A group outside the decoder's sequence
            is patched in the encoder; where it has no hidden states at all (Mllama's image), it is no default.
        layers: which layers' outputs, of the encoder for groups that lie there; default all.
        seed: of the random controls.
        per_image: return the rows of every pair instead of means with intervals.
        work: journal, progress bar and size of chunks.

    Returns:
        `group, layer, control, measure, mean, low, high, images`. Measures: `restoration`,
        `(P(y|patched) - P(y|prompt)) / (P(y|other) - P(y|prompt))` for y the other picture's answer,
        0 for no effect and 1 for all of it; `flipped`, 1 where y becomes the most probable token.
        Pairs of which the model does not know both answers are left out (NaN; see `images`).
        Controls: `another image`, the same tokens from a third picture whose answers differ;
        `random positions`, as many tokens outside the group from the other picture's run; no
        rows where too few tokens lie outside it.

    Raises:
        SpecError: prompts whose tokens differ, equal answers, no pairs, a group without hidden states.
    """
    known = [Pair(*pair) for pair in pairs]
    for number, pair in enumerate(known):
        _check(number, pair)
        require_model(model, pair.other)
    chosen = default_groups([pair.prompt for pair in known]) if groups is None else groups
    for pair in known:
        for group in chosen:
            owning_stage(pair.prompt, group)

    def measure(chunk: range) -> Iterable[dict[str, Any]]:
        asked = [partial(_rows, model, known, image, chosen, layers, seed, remote) for image in chunk]
        return chain.from_iterable(together(asked, remote))

    prompts = [pair.prompt for pair in known]
    answers = [(pair.answer, pair.other_answer) for pair in known]
    others = [image_inputs(pair.other) for pair in known]
    settings = {"groups": chosen, "layers": layers, "seed": seed, "answers": answers, "others": others}
    frame = measured("query_patching", model, prompts, settings, measure, work, remote)
    return frame if per_image else summary(frame)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs with bootstrap intervals, from the rows of every pair."""
    tidy = summarise(frame, BY, ["restoration", "flipped"])
    return tidy[tidy["images"] > 0].reset_index(drop=True)


def default_groups(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    """The groups of `GROUPS` that have hidden states in every prompt."""

    def has_states(group: str) -> bool:
        try:
            return all(owning_stage(prompt, group) for prompt in prompts)
        except SpecError:
            return False

    return tuple(group for group in GROUPS if has_states(group))


def _check(number: int, pair: Pair) -> None:
    here, there = pair.prompt.rows[0], pair.other.rows[0]
    if (here.tokens, here.outside_tokens) != (there.tokens, there.outside_tokens):
        raise SpecError(
            f"pair {number}: the two prompts differ in their words; a pair is one question about two pictures"
        )
    if pair.answer == pair.other_answer:
        raise SpecError(f"pair {number}: both answers are {pair.answer!r}; nothing could be restored")


def _rows(
    model: Any,
    pairs: Sequence[Pair],
    image: int,
    groups: Sequence[str],
    layers: Sequence[int] | None,
    seed: int,
    remote: Remote,
) -> list[dict[str, Any]]:
    pair = pairs[image]
    right, wanted = answer_token(model, pair.answer), answer_token(model, pair.other_answer)
    cases = _cases(model, pairs, image, groups, layers, seed)
    asked: list[Callable[[], Any]] = [partial(run, model, each, remote=remote) for each in (pair.prompt, pair.other)]
    asked += [partial(_patched, model, pair.prompt, some, wanted, remote) for some in cases]
    *clean, late, early = together(asked, remote)
    here, there = (found.logits.double() for found in clean)
    low, high = (float(logits.softmax(-1)[wanted]) for logits in (here, there))
    knows = int(here.argmax()) == right and int(there.argmax()) == wanted
    return [
        {
            "image": image,
            **labels,
            "restoration": (math.exp(logprob) - low) / (high - low) if knows else math.nan,
            "flipped": float(rank == 0) if knows else math.nan,
        }
        for labels, logprob, rank in (*late, *early)
    ]


def _patched(
    model: Any, prompt: Prompt, cases: Sequence[tuple[dict[str, Any], Patch]], wanted: int, remote: Remote
) -> list[tuple[dict[str, Any], float, float]]:
    """Labels, log-probability and rank of every patch."""
    if not cases:
        return []
    frame = sweep(model, prompt, [patch for _, patch in cases], answer=wanted, remote=remote)
    return [(labels, row.logprob, row.rank) for (labels, _), row in zip(cases, frame.itertuples(), strict=True)]


def _cases(
    model: Any, pairs: Sequence[Pair], image: int, groups: Sequence[str], layers: Sequence[int] | None, seed: int
) -> Iterator[list[tuple[dict[str, Any], Patch]]]:
    """Labels and patches: those of text, which share one packed forward, and those that change earlier tokens."""
    prompt = pairs[image].prompt
    first_text = prompt["query"][0]
    sources = list(sources_of(pairs, image, groups, seed))
    for early in (False, True):
        some = [found for found in sources if (min(found[2]) < first_text) == early]
        yield [
            ({"group": g, "layer": layer, "control": c}, Patch(places, source=source, layers=layer, stage=stage))
            for g, c, where, source in some
            for stage, places in [owning_stage(prompt, where)]
            for layer in (range(view_of(model).stage(stage).layer_count) if layers is None else layers)
        ]


def sources_of(
    pairs: Sequence[Pair], image: int, groups: Sequence[str], seed: int
) -> Iterator[tuple[str, str, tuple[int, ...], Prompt]]:
    """`(group, control, positions, run that lends them)`."""
    pair, third = pairs[image], _third(pairs, image)
    rng = rng_of(seed, image)
    for group in groups:
        where = pair.prompt[group]
        where = tuple(
            place for place in where if group != "query" or "last" not in groups or place not in pair.prompt["last"]
        )
        if not where:
            continue
        yield group, NONE, where, pair.other
        if third is not None:
            yield group, "another image", where, third
        rest = [
            place
            for place in same_axis_positions(pair.prompt, where)[1:]
            if place not in {*where, *pair.prompt["last"]}
        ]
        if len(rest) >= len(where):
            drawn = rng.choice(rest, len(where), replace=False)
            yield group, "random positions", tuple(sorted(map(int, drawn))), pair.other


def _third(pairs: Sequence[Pair], image: int) -> Prompt | None:
    """The same words about the picture of the next pair whose answers are all different."""
    pair = pairs[image]
    for step in range(1, len(pairs)):
        lender = pairs[(image + step) % len(pairs)]
        if not {lender.answer, lender.other_answer} & {pair.answer, pair.other_answer}:
            return with_picture_of(pair.prompt, lender.prompt)
    return None
