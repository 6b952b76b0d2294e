"""Carrying out a schedule: scores of many variants of one prompt, in few forwards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..execution.capturing import capture
from ..execution.clean_runs import embed
from ..execution.memory import in_portions
from ..execution.preparing import prepare
from ..families import Model
from ..lowering.answer_trees import AnswerTokens, Branches, tree_of
from ..lowering.layouts import answered, padded_batch
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..remote.watching import step
from ..specs.interventions import CLEAN, Intervention
from .agreement import Comparison, must_run_alone
from .arrangement import (
    SweepContext,
    answers_behind,
    branches_of,
    by_layer,
    cases_per_forward,
    is_clean,
    layout_of,
    longest_answer,
)
from .clean_answers import clean_answers
from .divergence import unshared_divergence
from .kept_runs import KeptRuns, runs_of_call
from .memory import refuse_large_sweep
from .non_finite import apart
from .prefixes import Prefix, PrefixRun, prefix_of, states_from_kept_run
from .schedule import WAYS, Batch, Execution, schedule_sweep
from .scores import CaseScore, logits_of, score_cases
from .sharing import looked_at
from .wanted import Wanted

CLEAN_CASE = 0
"""The number of the case that a sweep adds, the clean run that its variants are compared with."""


def score(
    model: Model,
    prompt: Prompt,
    cases: Sequence[Intervention],
    wanted: Wanted,
    *,
    execution: Execution = "auto",
    remote: Remote = False,
    memory: int | None = None,
) -> tuple[list[CaseScore], dict[str, Any]]:
    """What each case gives, and what was done: `{"execution": the way, "passes": forwards by way}`.

    Raises:
        SpecError: see `schedule_sweep` and `refuse_large_sweep`.

    Warns:
        PassesDifferWarning: a shared pass does not give the numbers of single runs, so all cases ran one by one.
    """
    schedule = schedule_sweep(model, prompt, cases, execution, remote, looked_at(model, prompt, wanted.reads.values()))
    divergences, batches = schedule.divergences, schedule.batches
    runs: KeptRuns[PrefixRun] = runs_of_call(model)
    context = SweepContext(
        model=model,
        prompt=prompt,
        divergences=divergences,
        values={},
        wanted=wanted,
        remote=remote,
        memory=memory,
        runs=runs,
    )
    refuse_large_sweep(model, prompt, schedule, remote, memory, partial(answers_behind, context))
    shortcut = None if execution == "single" else partial(states_from_kept_run, runs)
    values = capture(model, [each.case for each in divergences], remote, shortcut=shortcut, stay_remote=True)
    context = replace(context, values=values)
    shared = [batch for batch in batches if batch.way != "single"]
    if must_run_alone(model, runs, remote, partial(_comparisons, context, shared, cases)):
        return score(model, prompt, cases, wanted, execution="single", remote=remote, memory=memory)
    parts = together([partial(_score_batch, context, batch) for batch in batches], remote)
    scores = {number: score for part, _ in parts for number, score in part.items()}
    passes: Counter[str] = Counter()
    for batch, (_, count) in zip(batches, parts, strict=True):
        passes[batch.way] += count
    way = max((batch.way for batch in batches), key=WAYS.index)
    return [scores[number] for number in range(len(cases))], {"execution": way, "passes": dict(+passes)}


def _score_batch(context: SweepContext, batch: Batch) -> tuple[dict[int, CaseScore], int]:
    """What a batch's cases give, by their number, and how many forwards they took."""
    parts = [
        replace(context, branches=branches, reading=number == 0 and bool(context.wanted.reads))
        for number, branches in enumerate(branches_of(context, batch.way))
    ]
    scores: dict[int, CaseScore] = {}
    forwards = 0
    for some, count in together([partial(_score_branches, part, batch) for part in parts], context.remote):
        scores = {number: scores[number].joined(each) if scores else each for number, each in some.items()}
        forwards += count
    return scores, forwards


def _score_branches(context: SweepContext, batch: Batch) -> tuple[dict[int, CaseScore], int]:
    """The same of some of the answers."""
    prefix = prefix_of(context.runs, context.model, context.prompt, batch.position) if batch.shares_prefix else None
    scores: dict[int, CaseScore] = {}
    forwards = 0
    if prefix is not None and prefix.logits is not None:  # the clean run is the prefix's own
        prefix, clean = clean_answers(context, prefix)
        forwards += bool(context.branches.tree.tokens)
        same = [number for number in batch.numbers if is_clean(context.divergences[number])]
        scores = {number: clean for number in same if number == CLEAN_CASE or not context.reading}
    for numbers in by_layer(context, [number for number in batch.numbers if number not in scores], prefix):
        for some, scored in _run(context, replace(batch, numbers=tuple(numbers)), prefix):
            scores |= dict(zip(some, scored, strict=True))
            forwards += 1
            step(len(some))
    if batch.way != "single":
        for some, again in apart(scores, lambda party: _run(context, replace(batch, numbers=party), prefix)):
            scores |= dict(zip(some, again, strict=True))
            forwards += 1
    return scores, forwards


def _run(context: SweepContext, batch: Batch, prefix: Prefix | None) -> Iterator[tuple[Sequence[int], list[CaseScore]]]:
    """A batch, forward by forward; half as many cases a forward where memory runs out."""
    embedded = embed(context.model, context.row) if batch.shares_image and len(batch.numbers) > 1 else None
    size = cases_per_forward(context, batch, prefix)
    if context.remote is not False:
        each = [batch.numbers[first : first + size] for first in range(0, len(batch.numbers), size)]
        layouts = [layout_of(context, batch, some, prefix, embedded) for some in each]
        scored = together(
            [partial(score_cases, context, *pair) for pair in zip(each, layouts, strict=True)], context.remote
        )
        yield from zip(each, scored, strict=True)
        return
    yield from in_portions(
        batch.numbers,
        size,
        lambda some: score_cases(context, some, layout_of(context, batch, some, prefix, embedded)),
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
        parents = branches_of(context, batch.way)[0].tree.parents
        yield Comparison(
            kind=(batch.way, batch.shares_prefix, batch.shares_image, donated, parents),
            words=words + (" behind a prefix that was run before" if batch.shares_prefix else ""),
            shared=partial(_shared_logits, context, batch, changed),
            alone=partial(_single_logits, context, longest_answer(context, batch.way), [cases[changed[0]], CLEAN]),
        )


def _shared_logits(context: SweepContext, batch: Batch, changed: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the cases of a pass and a clean one predict, `[case, token and word]`; and from a pass in another order."""
    clean = unshared_divergence(context.model, context.prompt, CLEAN)
    context = replace(context, divergences=[*context.divergences, clean], branches=branches_of(context, batch.way)[0])
    nodes = context.branches.tree.predicting(longest_answer(context, batch.way))
    prefix = prefix_of(context.runs, context.model, context.prompt, batch.position) if batch.shares_prefix else None
    if prefix is not None and prefix.logits is not None:
        prefix, _ = clean_answers(context, prefix)
    embedded = embed(context.model, context.row) if batch.shares_image else None
    alike = next(some for some in by_layer(context, changed, prefix) if changed[0] in some)
    fitting = max(1, cases_per_forward(context, batch, prefix) - 1)
    others = [number for number in alike if number != changed[0]][: fitting - 1]

    def logits(*some: int) -> torch.Tensor:
        layout = layout_of(context, batch, some, prefix, embedded)
        cases = [context.divergences[number].case for number in some]
        return logits_of(context, layout, prepare(context.model, layout, cases, context.values), nodes)

    last = len(context.divergences) - 1
    return logits(changed[0], *others, last), logits(last, changed[0], *others).roll(-1, 0)


def _single_logits(context: SweepContext, answer: AnswerTokens, cases: Sequence[Intervention]) -> torch.Tensor:
    """What cases predict in runs of their own, `[case, token and word]`, with an answer behind the prompt."""
    context = replace(context, branches=Branches(tree_of([answer]), ()))
    nodes, logits = context.branches.tree.predicting(answer), list[torch.Tensor]()
    layout = answered(padded_batch([context.row]), context.prompt.rows[0], context.branches.tree)
    for case in cases:
        values = capture(context.model, [case], context.remote, stay_remote=True)
        logits.append(logits_of(context, layout, prepare(context.model, layout, [case], values), nodes))
    return torch.cat(logits)
