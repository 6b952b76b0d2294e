"""Sets of heads on pictures on which none was chosen: their common map, and answers when they are cut or steered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from ..families import Model, view_of
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN
from ..specs.knockouts import Knockout
from ..studies.controls import rng_of
from ..studies.head_maps import above_mean, chance_fit, fit_of, smoothed
from ..studies.labels import HEADS_OF_LAYERS, NONE, OTHER_OBJECT, RANDOM_HEADS, RANDOM_PATCHES
from ..studies.token_sets import same_axis_positions
from ..sweeping.table import sweep
from ..sweeping.wanted import Answer, answer_token
from .head_scores import MAP, NO_HEAD, Head, Pictured, maps_of

SMOOTHED, CUT, STEERED, FORCED, NOTHING = "smoothed map", "cut", "steered", "forced", "nothing"
CHOSEN, ALL = "chosen", "all"


class Sets(NamedTuple):
    """What is asked of sets of heads.

    Attributes:
        target: the positions whose attention is read and cut.
        layers: whose heads are measured.
        chosen: the heads that were chosen, best first.
        draws: how many random sets of each kind are compared with them, in each picture.
        smooth: the standard deviation of the Gaussian that smooths maps, in patches; 0 for none.
    """

    target: Where
    layers: tuple[int, ...]
    chosen: tuple[Head, ...]
    draws: int
    smooth: float

    def random_sets(self, head_count: int, seed: int, image: int) -> list[tuple[str, tuple[Head, ...]]]:
        """As many other heads as were chosen, drawn so often, by control; none where there are too few others."""
        others = [(layer, head) for layer in self.layers for head in range(head_count)]
        others = [head for head in others if head not in self.chosen]
        rng = rng_of(seed, image)
        wanted = Counter(layer for layer, _ in self.chosen)
        found = list[tuple[str, tuple[Head, ...]]]()
        for _ in range(self.draws if len(others) >= len(self.chosen) else 0):
            found.append((RANDOM_HEADS, _drawn(others, len(self.chosen), rng)))
        beside = {layer: [head for head in others if head[0] == layer] for layer in wanted}
        for _ in range(self.draws if all(len(beside[layer]) >= wanted[layer] for layer in wanted) else 0):
            of_layers = [_drawn(beside[layer], count, rng) for layer, count in wanted.items()]
            found.append((HEADS_OF_LAYERS, tuple(chain.from_iterable(of_layers))))
        return found


def _drawn(candidates: Sequence[Head], count: int, rng: np.random.Generator) -> tuple[Head, ...]:
    """So many different heads out of the candidates."""
    return tuple(candidates[number] for number in sorted(rng.choice(len(candidates), count, replace=False)))


class Answers(NamedTuple):
    """Tokens whose probability is followed: the answer, and that of another object, None where nothing is steered."""

    own: str | int
    other: str | int | None


class _Changed(NamedTuple):
    """An intervention in some heads, and what the table says of it."""

    what: str
    heads: str
    control: str
    cut: Knockout


def set_rows(
    model: Model,
    pictured: Pictured,
    sets: Sets,
    answers: Answers | None,
    seed: int,
    memory: int | None,
    remote: Remote,
) -> list[dict[str, Any]]:
    """The rows of one picture: maps, and what becomes of the answer where one is known."""
    drawn = sets.random_sets(view_of(model).stage().head_count, seed, pictured.image)
    asked: list[Callable[[], Any]] = [
        partial(maps_of, model, pictured.prompt, pictured.grid, sets.target, sets.layers, remote)
    ]
    if answers is not None:
        asked.append(partial(_answer_rows, model, pictured, sets, drawn, answers, memory, remote))
    maps, *changed = together(asked, remote)  # in one job
    common = {"image": pictured.image, "layer": NO_HEAD, "head": NO_HEAD}
    return [{**common, **row} for row in chain(_map_rows(pictured, maps, sets, drawn), *changed)]


# maps -------------------------------------------------------------------------------------------------


def _map_rows(
    pictured: Pictured, maps: np.ndarray, sets: Sets, drawn: Sequence[tuple[str, tuple[Head, ...]]]
) -> Iterator[dict[str, Any]]:
    """How well the mean map of each set fits the object."""

    def mean_map(heads: Sequence[Head]) -> np.ndarray:
        found: np.ndarray = np.mean([maps[sets.layers.index(layer), head] for layer, head in heads], axis=0)
        return found

    own = mean_map(sets.chosen)
    kinds = [(CHOSEN, NONE, own), *((CHOSEN, control, mean_map(heads)) for control, heads in drawn)]
    kinds.append((ALL, NONE, maps.mean((0, 1))))
    for what in (MAP, *((SMOOTHED,) if sets.smooth else ())):

        def seen(values: np.ndarray, what: str = what) -> np.ndarray:
            return smoothed(values, pictured.grid, sets.smooth) if what == SMOOTHED else values

        for heads, control, values in kinds:
            yield {"what": what, "heads": heads, "control": control, **fit_of(seen(values), pictured.own)}
        labels = {"what": what, "heads": CHOSEN}
        if pictured.others.any():
            yield {**labels, "control": OTHER_OBJECT, **fit_of(seen(own), pictured.others)}
        marked = int(above_mean(seen(own)).sum())
        yield {**labels, "control": RANDOM_PATCHES, **chance_fit(pictured.own, marked)}


# answers ----------------------------------------------------------------------------------------------


def whole_cut(target: Where, layers: Sequence[int]) -> Knockout:
    """The target attends to no image token in any head of these layers."""
    return Knockout("image", target, layers=tuple(layers))


def steering(
    prompt: Prompt, towards: Sequence[int], target: Where, layers: Sequence[int], *, forced: bool = False
) -> Knockout:
    """The target attends to no image token but these; forced, to nothing else at all.

    Args:
        prompt: of one row.
        towards: the positions that stay open.
        target, layers: who attends, and where.
        forced: whether text is closed too.
    """
    keys = same_axis_positions(prompt, towards) if forced else prompt["image"]
    return Knockout(tuple(key for key in keys if key not in set(towards)), target, layers=tuple(layers))


def _within(cut: Knockout, heads: Sequence[Head]) -> Knockout:
    """The same in some heads only."""
    layers = tuple(sorted({layer for layer, _ in heads}))
    return Knockout(cut.source, cut.target, layers=layers, heads=tuple(heads))


def _changes(pictured: Pictured, sets: Sets, drawn: Sequence[tuple[str, tuple[Head, ...]]]) -> Iterator[_Changed]:
    """Every intervention: in the chosen heads, in random ones, and where it leaves something to see in all heads."""
    kinds = {CUT: whole_cut(sets.target, sets.layers)}
    if pictured.towards:
        for what in (STEERED, FORCED):
            kinds[what] = steering(pictured.prompt, pictured.towards, sets.target, sets.layers, forced=what == FORCED)
    for what, cut in kinds.items():
        yield _Changed(what, CHOSEN, NONE, _within(cut, sets.chosen))
        for control, heads in drawn:
            yield _Changed(what, CHOSEN, control, _within(cut, heads))
        if what != FORCED:
            yield _Changed(what, ALL, NONE, cut)


def _answer_rows(
    model: Model,
    pictured: Pictured,
    sets: Sets,
    drawn: Sequence[tuple[str, tuple[Head, ...]]],
    answers: Answers,
    memory: int | None,
    remote: Remote,
) -> list[dict[str, Any]]:
    """What becomes of the answer, and of the other object's, from one sweep."""
    changes = [*_changes(pictured, sets, drawn)]
    tokens: list[Answer] = [answer_token(model, answer) for answer in answers if answer is not None]
    cuts = [CLEAN, *(change.cut for change in changes)]
    frame = sweep(model, pictured.prompt, cuts, answer=tokens, memory=memory, empty="ignore", remote=remote)
    scores: Iterator[Any] = frame.itertuples()
    clean = _ranks([each.rank for each in islice(scores, len(tokens))], bool(pictured.towards))
    rows: list[dict[str, Any]] = [{"what": NOTHING, "heads": "", "control": NONE, **clean}]
    for change in changes:
        own, *other = islice(scores, len(tokens))
        row: dict[str, Any] = {"what": change.what, "heads": change.heads, "control": change.control}
        row["logprob_change"] = float(own.logprob - own.clean_logprob)
        if change.what != CUT:
            row["other_change"] = float(other[0].logprob - other[0].clean_logprob)
        rows.append(row | _ranks([own.rank, *(each.rank for each in other)], change.what != CUT))
    return rows


def _ranks(ranks: Sequence[float], steered: bool) -> dict[str, float]:
    """Whether the answer, and the other object's, is the most probable token."""
    names = ("kept", "flipped") if steered else ("kept",)
    return {name: math.nan if math.isnan(rank) else float(rank == 0) for name, rank in zip(names, ranks, strict=False)}
