"""Carrying out a schedule: scores of many variants of one prompt, in few forwards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch

from ..device.readouts import answer_scores, logit_rows
from ..execution.capturing import capture
from ..execution.clean_runs import embed
from ..execution.preparing import prepare
from ..execution.requests import LogitRead, logit_columns, run_forward
from ..families import Model, view_of
from ..lowering.layouts import (
    Layout,
    after_prefix,
    from_layer,
    packed,
    padded_batch,
    repeated_embeddings,
    repeated_rows,
)
from ..lowering.plan import Plan
from ..lowering.read_requests import LogitRequest, ScoreRequest
from ..lowering.resolve import StateValues
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN, Intervention
from ..specs.knockouts import Knockout
from .agreement import Comparison, must_run_alone
from .divergence import Divergence, unshared_divergence
from .kept_runs import KeptRuns, runs_of_call
from .memory import cases_that_fit, out_of_memory
from .non_finite import apart
from .prefixes import Prefix, PrefixRun, cache_for, prefix_of, states_from_kept_run
from .schedule import FORWARD, WAYS, Batch, Execution, cheapest, schedule_sweep

TOKENS_BEHIND_PREFIX = 512
"""Most variant tokens in one forward behind a prefix; beyond, attention between variants costs more than it saves."""
TOKENS_WITH_PREFIX = 4096
"""Most tokens in one forward that runs the prefix too."""


class Score(NamedTuple):
    """How a variant scores the answer at the prompt's last token.

    Attributes:
        logit, logprob: of the answer.
        rank: how many tokens have a greater logit; 0 is best. Nan, like `logprob`, where a logit is not a number
            or +inf.
        top_token: the id of the most probable token; None there.
    """

    logit: float
    logprob: float
    rank: float
    top_token: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepContext:
    """What all forwards of a sweep have in common.

    Attributes:
        divergences: what is left to do of each case.
        values: the states that their patches take from other runs.
        token: the answer.
        memory: bytes that a forward may take, or None.
        runs: clean runs that its forwards share.
    """

    model: Model
    prompt: Prompt
    divergences: Sequence[Divergence]
    values: StateValues
    token: int
    remote: Remote
    memory: int | None
    runs: KeptRuns[PrefixRun]


def score(
    model: Model,
    prompt: Prompt,
    cases: Sequence[Intervention],
    token: int,
    *,
    execution: Execution = "auto",
    remote: Remote = False,
    memory: int | None = None,
) -> tuple[list[Score], dict[str, Any]]:
    """A score for each case, and what was done: `{"execution": the way, "passes": forwards by way}`.

    Raises:
        SpecError: see `schedule_sweep`.

    Warns:
        PassesDifferWarning: a shared pass does not give the numbers of single runs, so all cases ran one by one.
    """
    schedule = schedule_sweep(model, prompt, cases, execution, remote)
    divergences, batches = schedule.divergences, schedule.batches
    runs: KeptRuns[PrefixRun] = runs_of_call(model)
    shortcut = None if execution == "single" else partial(states_from_kept_run, runs)
    values = capture(model, [each.case for each in divergences], remote, shortcut=shortcut, stay_remote=True)
    context = SweepContext(
        model=model,
        prompt=prompt,
        divergences=divergences,
        values=values,
        token=token,
        remote=remote,
        memory=memory,
        runs=runs,
    )
    shared = [batch for batch in batches if batch.way != "single"]
    if must_run_alone(model, runs, remote, partial(_comparisons, context, shared, cases)):
        return score(model, prompt, cases, token, execution="single", remote=remote, memory=memory)
    parts = together([partial(_score_batch, context, batch) for batch in batches], remote)
    scores = {number: score for part, _ in parts for number, score in part.items()}
    passes: Counter[str] = Counter()
    for batch, (_, count) in zip(batches, parts, strict=True):
        passes[batch.way] += count
    way = max((batch.way for batch in batches), key=WAYS.index)
    return [scores[number] for number in range(len(cases))], {"execution": way, "passes": dict(+passes)}


def _score_batch(context: SweepContext, batch: Batch) -> tuple[dict[int, Score], int]:
    """Scores of a batch's cases by their number, and how many forwards they took."""
    prefix = prefix_of(context.runs, context.model, context.prompt, batch.position) if batch.shares_prefix else None
    scores: dict[int, Score] = {}
    if prefix is not None and prefix.logits is not None:  # the clean run is the prefix's own
        clean = _as_scores(answer_scores(prefix.logits[None, None], [(0, 0, context.token)], None))[0]
        scores = {number: clean for number in batch.numbers if _is_clean(context.divergences[number])}
    forwards = 0
    for numbers in _by_layer(context, [number for number in batch.numbers if number not in scores], prefix):
        for some, scored in _run(context, replace(batch, numbers=tuple(numbers)), prefix):
            scores |= dict(zip(some, scored, strict=True))
            forwards += 1
    if batch.way != "single":
        for some, again in apart(scores, lambda party: _run(context, replace(batch, numbers=party), prefix)):
            scores |= dict(zip(some, again, strict=True))
            forwards += 1
    return scores, forwards


def _is_clean(divergence: Divergence) -> bool:
    return not divergence.case.parts and divergence.donor is None


def _by_layer(context: SweepContext, numbers: Sequence[int], prefix: Prefix | None) -> list[list[int]]:
    """Cases in groups: those that change late layers only skip the earlier ones."""
    if prefix is None or prefix.states is None or not numbers:
        return [list(numbers)] if numbers else []
    layers, length = view_of(context.model).stage().layer_count, context.prompt.rows[0].stop - prefix.length
    begins = [context.divergences[number].layer for number in numbers]
    return cheapest(numbers, begins, layers, tokens=length / layers, fixed=FORWARD)


def _run(context: SweepContext, batch: Batch, prefix: Prefix | None) -> Iterator[tuple[Sequence[int], list[Score]]]:
    """A batch, forward by forward; half as many cases a forward where memory runs out."""
    embedded = embed(context.model, context.prompt) if batch.shares_image and len(batch.numbers) > 1 else None
    size, left = _cases_per_forward(context, batch, prefix), batch.numbers
    if context.remote is not False:
        each = [left[first : first + size] for first in range(0, len(left), size)]
        layouts = [_layout(context, batch, some, prefix, embedded) for some in each]
        scored = together(
            [partial(_forward, context, *pair) for pair in zip(each, layouts, strict=True)], context.remote
        )
        yield from zip(each, scored, strict=True)
        return
    while left:
        some = left[:size]
        try:
            scores = _forward(context, some, _layout(context, batch, some, prefix, embedded))
        except RuntimeError as error:
            if len(some) == 1 or not out_of_memory(error):
                raise
            size = len(some) // 2
            continue
        yield some, scores
        left = left[len(some) :]


def _comparisons(
    context: SweepContext, batches: Sequence[Batch], cases: Sequence[Intervention]
) -> Iterator[Comparison]:
    """For every kind of shared pass one such pass, and the first of its cases and a clean one by themselves."""
    for batch in batches:
        changed = [number for number in batch.numbers if not _is_clean(context.divergences[number])]
        if not changed or (len(batch.numbers) == 1 and not batch.shares_prefix):
            continue
        donated = any(context.divergences[number].donor is not None for number in changed)
        words = "packed into one sequence" if batch.way == "packed" else "as a row of a batch"
        yield Comparison(
            kind=(batch.way, batch.shares_prefix, batch.shares_image, donated),
            words=words + (" behind a prefix that was run before" if batch.shares_prefix else ""),
            shared=partial(_shared_logits, context, batch, changed),
            alone=partial(_single_logits, context, [cases[changed[0]], CLEAN]),
        )


def _shared_logits(context: SweepContext, batch: Batch, changed: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the cases of one pass and a clean one predict, `[case, word]`; and the same from a pass in another order."""
    clean = unshared_divergence(context.model, context.prompt, CLEAN)
    context = replace(context, divergences=[*context.divergences, clean])
    prefix = prefix_of(context.runs, context.model, context.prompt, batch.position) if batch.shares_prefix else None
    embedded = embed(context.model, context.prompt) if batch.shares_image else None
    alike = next(some for some in _by_layer(context, changed, prefix) if changed[0] in some)
    fitting = max(1, _cases_per_forward(context, batch, prefix) - 1)
    others = [number for number in alike if number != changed[0]][: fitting - 1]

    def logits(*some: int) -> torch.Tensor:
        layout = _layout(context, batch, some, prefix, embedded)
        cases = [context.divergences[number].case for number in some]
        return torch.cat(_last_logits(context, layout, prepare(context.model, layout, cases, context.values)))

    last = len(context.divergences) - 1
    return logits(changed[0], *others, last), logits(last, changed[0], *others).roll(-1, 0)


def _single_logits(context: SweepContext, cases: Sequence[Intervention]) -> torch.Tensor:
    """What cases predict in runs of their own, `[case, word]`."""
    layout, logits = padded_batch([context.prompt]), list[torch.Tensor]()
    for case in cases:
        values = capture(context.model, [case], context.remote, stay_remote=True)
        logits += _last_logits(context, layout, prepare(context.model, layout, [case], values))
    return torch.cat(logits)


def _last_logits(context: SweepContext, layout: Layout, plan: Plan, token: int | None = None) -> list[torch.Tensor]:
    """What the cases of a layout predict at their last tokens: logits `[1, word]`, or a token's score, one a case."""
    places = [placement.place(placement.tokens.stop - 1) for placement in layout.placements]
    kept = sorted(set(places))
    columns = logit_columns(layout, kept)
    at = [(placement.row, columns[place]) for placement, place in zip(layout.placements, places, strict=True)]
    if token is None:
        read = LogitRead(logit_rows, tuple(LogitRequest(row, (column,)) for row, column in at), kept)
    else:
        read = LogitRead(answer_scores, tuple(ScoreRequest(row, column, token) for row, column in at), kept)
    return run_forward(context.model, layout, plan, [], read, context.remote).logits


def _cases_per_forward(context: SweepContext, batch: Batch, prefix: Prefix | None) -> int:
    if batch.way == "single":
        return 1
    rows = batch.way == "rows"
    alone = rows and prefix is None
    each = context.prompt.width if alone else context.prompt.rows[0].stop - batch.position
    room = TOKENS_BEHIND_PREFIX if prefix is not None else TOKENS_WITH_PREFIX - (0 if rows else batch.position)
    parts = [part for number in batch.numbers for part in context.divergences[number].case.parts]
    heads = any(isinstance(part, Knockout) and part.heads is not None for part in parts)
    most, before = max(1, room // each), 0 if alone else batch.position
    if context.remote is not False and context.memory is None:  # what is free on a server is not known
        return most
    return cases_that_fit(context.model, most, each, before, context.memory, rows=rows, heads=heads)


def _layout(
    context: SweepContext, batch: Batch, numbers: Sequence[int], prefix: Prefix | None, embedded: torch.Tensor | None
) -> Layout:
    """How some cases of a batch are laid out: where they sit, and what of them need not run."""
    prompt, count = context.prompt, len(numbers)
    if batch.way == "packed":
        layout = packed(prompt, count, batch.position)
    elif prefix is not None:
        layout = repeated_rows(prompt, count)
    elif embedded is not None:
        layout = repeated_embeddings(prompt, count, embedded)
    else:
        layout = padded_batch([prompt] * count)
    return layout if prefix is None else _behind_prefix(context, numbers, layout, prefix)


def _behind_prefix(context: SweepContext, numbers: Sequence[int], layout: Layout, prefix: Prefix) -> Layout:
    """The layout without the tokens in the prefix's cache, and without the layers below the first changed one."""
    divergences, begin = [context.divergences[number] for number in numbers], prefix.length
    rows = divergences[: len(layout.prompt)]  # copies in one row all begin with the prompt's own prefix
    cache = cache_for(context.runs, context.model, prefix, rows, layout.prompt.width - begin)
    layout = after_prefix(layout, begin, cache)
    last_layer = view_of(context.model).stage().layer_count - 1
    depth = min(*(divergence.layer for divergence in divergences), last_layer)
    if prefix.states is None or depth == 0:
        return layout
    return from_layer(layout, depth, prefix.states[depth - 1][begin - prefix.first :])


def _forward(context: SweepContext, numbers: Sequence[int], layout: Layout) -> list[Score]:
    """One forward of some cases."""
    cases = [context.divergences[number].case for number in numbers]
    plan = prepare(context.model, layout, cases, context.values)
    return _as_scores(_last_logits(context, layout, plan, token=context.token))


def _as_scores(lines: Sequence[torch.Tensor]) -> list[Score]:
    numbers = (line.tolist() for line in lines)
    return [
        Score(logit, logprob, rank, None) if math.isnan(rank) else Score(logit, logprob, int(rank), int(top))
        for logit, logprob, rank, top in numbers
    ]
