"""Carrying out a schedule: scores of many variants of one prompt, in few forwards."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch

from ..device.readouts import answer_scores, logit_rows
from ..execution.capturing import capture
from ..execution.clean_runs import embed
from ..execution.memory import in_portions
from ..execution.preparing import prepare
from ..execution.requests import LogitRead, logit_columns, run_forward
from ..families import Model
from ..lowering.layouts import Layout, padded_batch
from ..lowering.plan import Plan
from ..lowering.read_requests import LogitRequest, ScoreRequest
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN, Intervention
from .agreement import Comparison, must_run_alone
from .arrangement import SweepContext, by_layer, cases_per_forward, is_clean, layout_of
from .divergence import unshared_divergence
from .kept_runs import KeptRuns, runs_of_call
from .memory import refuse_large_sweep
from .non_finite import apart
from .prefixes import Prefix, PrefixRun, prefix_of, states_from_kept_run
from .schedule import WAYS, Batch, Execution, schedule_sweep


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
        SpecError: see `schedule_sweep` and `refuse_large_sweep`.

    Warns:
        PassesDifferWarning: a shared pass does not give the numbers of single runs, so all cases ran one by one.
    """
    schedule = schedule_sweep(model, prompt, cases, execution, remote)
    refuse_large_sweep(model, prompt, schedule, remote, memory)
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
        scores = {number: clean for number in batch.numbers if is_clean(context.divergences[number])}
    forwards = 0
    for numbers in by_layer(context, [number for number in batch.numbers if number not in scores], prefix):
        for some, scored in _run(context, replace(batch, numbers=tuple(numbers)), prefix):
            scores |= dict(zip(some, scored, strict=True))
            forwards += 1
    if batch.way != "single":
        for some, again in apart(scores, lambda party: _run(context, replace(batch, numbers=party), prefix)):
            scores |= dict(zip(some, again, strict=True))
            forwards += 1
    return scores, forwards


def _run(context: SweepContext, batch: Batch, prefix: Prefix | None) -> Iterator[tuple[Sequence[int], list[Score]]]:
    """A batch, forward by forward; half as many cases a forward where memory runs out."""
    embedded = embed(context.model, context.prompt) if batch.shares_image and len(batch.numbers) > 1 else None
    size = cases_per_forward(context, batch, prefix)
    if context.remote is not False:
        each = [batch.numbers[first : first + size] for first in range(0, len(batch.numbers), size)]
        layouts = [layout_of(context, batch, some, prefix, embedded) for some in each]
        scored = together(
            [partial(_forward, context, *pair) for pair in zip(each, layouts, strict=True)], context.remote
        )
        yield from zip(each, scored, strict=True)
        return
    yield from in_portions(
        batch.numbers,
        size,
        lambda some: _forward(context, some, layout_of(context, batch, some, prefix, embedded)),
    )


def _comparisons(
    context: SweepContext, batches: Sequence[Batch], cases: Sequence[Intervention]
) -> Iterator[Comparison]:
    """For every kind of shared pass one such pass, and the first of its cases and a clean one by themselves."""
    for batch in batches:
        changed = [number for number in batch.numbers if not is_clean(context.divergences[number])]
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
    alike = next(some for some in by_layer(context, changed, prefix) if changed[0] in some)
    fitting = max(1, cases_per_forward(context, batch, prefix) - 1)
    others = [number for number in alike if number != changed[0]][: fitting - 1]

    def logits(*some: int) -> torch.Tensor:
        layout = layout_of(context, batch, some, prefix, embedded)
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
