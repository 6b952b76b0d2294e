"""Answers to many prompts, each under its own intervention, as rows of cached batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..arguments import listed, refuse
from ..errors import SpecError
from ..execution.capturing import capture
from ..execution.checking import as_intervention, check
from ..execution.decoding import Generation, as_generation, check_decoding, decode, decode_logits, end_tokens
from ..execution.emptiness import Empty, check_empty, generating
from ..execution.generation_options import check_options, check_rows
from ..execution.memory import check_memory, in_portions
from ..execution.preparing import prepare
from ..families import Model
from ..families.locks import one_thread
from ..lowering.layouts import Layout, padded_batch, repeated_rows
from ..lowering.state_values import StateValues
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import CLEAN, Intervention
from .agreement import Comparison, must_run_alone
from .divergence import unshared_divergence
from .kept_runs import KeptRuns, runs_of_call
from .memory import AnswersPerBatch
from .prefixes import PrefixRun, cache_for, prefix_of, states_from_kept_run
from .schedule import Batch, Case, Schedule, schedule_answers
from .sharing import answers_per_batch, answers_share_prefix


@can_run_in_background
def generations(
    model: Model,
    cases: Sequence[tuple[Prompt, Intervention | None]],
    *,
    max_new_tokens: int = 64,
    rows: int | None = None,
    memory: int | None = None,
    empty: Empty = "error",
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    **options: Any,
) -> Iterator[Generation]:
    """Answers to many prompts, each under its own intervention, as rows of cached batches.

    Args:
        model: an nnsight model from `load`.
        cases: `(prompt of one row, intervention or None)`; prompts of different length are padded.
        max_new_tokens, options: see `nv.generate`. Conditions on one prompt begin in the cache of its first tokens,
            unless `options` or the checkpoint say what cache is used (`use_cache`, `cache_implementation`).
        rows: how many cases share a batch at most; by default as many as memory has room for, 64 at most (32 on a
            server, where what is free is not known).
        memory: bytes that a batch may take beside the weights, what its cases share included; default a quarter of
            what is free on the model's device. Where memory runs out all the same, fewer cases share a batch.
        empty: see `nv.run`; tokens that are generated and then run count as there, which are all but the last.
        remote, blocking, path: see `nv.run`.

    Returns:
        An iterator of one `Generation` a case, in order, each as soon as its batch is done.

    Raises:
        SpecError: anything wrong with any case or option, before the model runs; a case that does not fit into
            `memory`, or into what is free, by itself.

    Warns:
        NonFiniteWarning: see `nv.generate`.
        PassesDifferWarning: batches do not give the numbers of single runs in this model, so the cases run one by one.
    """
    options = check_options(model, {"max_new_tokens": max_new_tokens, **options})
    check_empty(empty)
    ready = _cases_given(cases)
    for number, (prompt, case) in enumerate(ready):
        check_decoding(prompt)
        check(model, prompt, case, generating(options["max_new_tokens"], empty, f"case {number}: "))
    check_rows(model, [prompt.rows[0] for prompt, _ in ready], options)
    cached = answers_share_prefix(model, options)
    rows_of = AnswersPerBatch(
        model=model,
        cases=ready,
        most=answers_per_batch(model, rows, remote),
        new_tokens=options["max_new_tokens"],
        remote=remote,
        memory=check_memory(memory),
    )
    schedule = schedule_answers(model, ready, rows_of, remote, cached=cached)
    work = _Answering(
        model=model, cases=ready, schedule=schedule, options=options, remote=remote, runs=runs_of_call(model)
    )
    return _in_order(work)


CASES = "pairs of a prompt and an intervention or None, [(prompt, None), (prompt, nv.Knockout(...))]"


def _cases_given(given: Any) -> list[Case]:
    """Prompts of one row, each with its intervention, as a user gives them."""
    cases = listed("cases", given, CASES, kind=(tuple, list))
    if not cases:
        raise SpecError(f"no cases to answer; write cases= {CASES}")
    for number, case in enumerate(cases):
        if len(case) != 2:
            refuse(f"cases[{number}]", case, "pair", CASES)
    named = [(single_prompt(prompt, f"cases[{number}]"), case) for number, (prompt, case) in enumerate(cases)]
    return [(prompt, as_intervention(case)) for prompt, case in named]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Answering:
    """What all batches have in common.

    Attributes:
        runs: clean runs that its batches share.
        values: of each prompt whose conditions have batches of their own, the states that its patches take.
    """

    model: Model
    cases: Sequence[Case]
    schedule: Schedule
    options: dict[str, Any]
    remote: Remote
    runs: KeptRuns[PrefixRun]
    values: dict[int, StateValues] = field(default_factory=dict)


def _in_order(work: _Answering) -> Iterator[Generation]:
    """The answers of all batches, yielded in order."""
    with one_thread(work.model, here=work.remote is False):
        alone = must_run_alone(work.model, work.runs, work.remote, partial(_comparisons, work))
    if alone:
        one_by_one = schedule_answers(work.model, work.cases, lambda *_: 1, work.remote, cached=False)
        work = replace(work, schedule=one_by_one, values={})
    batches, ready, due = work.schedule.batches, dict[int, Generation](), 0
    run = [partial(_answer, work, batch) for batch in batches]
    answered = (answer() for answer in run) if work.remote is False else iter(together(run, work.remote))
    for batch, answers in zip(batches, answered, strict=True):
        ready |= dict(zip(batch.numbers, answers, strict=True))
        while due in ready:
            yield ready.pop(due)
            due += 1


def _answer(work: _Answering, batch: Batch) -> list[Generation]:
    """The answers of one batch; half as many at a time where memory runs out."""
    if work.remote is not False:
        return _answer_at_once(work, batch)
    with one_thread(work.model):
        portions = in_portions(
            batch.numbers, len(batch.numbers), lambda some: _answer_at_once(work, replace(batch, numbers=tuple(some)))
        )
        return [answer for _, answers in portions for answer in answers]


def _answer_at_once(work: _Answering, batch: Batch) -> list[Generation]:
    """The answers of one batch."""
    model, options = work.model, work.options
    prompts = [work.cases[number][0] for number in batch.numbers]
    values, cases = _values(work, batch), [work.schedule.divergences[number].case for number in batch.numbers]
    layout, cache = _layout(work, batch, prompts)
    plan = prepare(model, layout, cases, values)
    names = [f"case {number}" for number in batch.numbers]
    lines = decode(model, layout.prompt, plan, options, work.remote, cache, names=names).tolist()
    ends = end_tokens(model, options)
    return [as_generation(model, prompt, line, ends) for prompt, line in zip(prompts, lines, strict=True)]


def _layout(work: _Answering, batch: Batch, prompts: Sequence[Prompt]) -> tuple[Layout, Any]:
    """How the cases of a batch are laid out, and the cache in which they begin."""
    if not batch.shares_prefix:
        return padded_batch(prompts), None
    prompt = prompts[0]
    some = [work.schedule.divergences[number] for number in batch.numbers]
    prefix = prefix_of(work.runs, work.model, prompt, batch.position)
    room = prompt.width - batch.position + work.options["max_new_tokens"]
    return repeated_rows(prompt, len(prompts)), cache_for(work.runs, work.model, prefix, some, room)


def _values(work: _Answering, batch: Batch) -> StateValues:
    """The states that the patches of a batch take; conditions on one prompt take them together."""
    divergences = work.schedule.divergences
    if not batch.shares_prefix:
        return _captured(work, [divergences[number].case for number in batch.numbers])
    key = id(work.cases[batch.numbers[0]][0])
    if key not in work.values:
        alike = [each for each in work.schedule.batches if id(work.cases[each.numbers[0]][0]) == key]
        cases = [divergences[number].case for each in alike if each.shares_prefix for number in each.numbers]
        work.values[key] = _captured(work, cases)
    return work.values[key]


def _captured(work: _Answering, cases: Sequence[Intervention]) -> StateValues:
    return capture(work.model, cases, work.remote, shortcut=partial(states_from_kept_run, work.runs), stay_remote=True)


# is a batch what single runs are? ------------------------------------------------------------------

COMPARED_TOKENS = 2
"""How many tokens are decoded to compare a batch with a single run: one after the prompt, one after a token."""


def _comparisons(work: _Answering) -> Iterator[Comparison]:
    """For every kind of batch one such batch, and the first of its cases and a clean one by themselves."""
    for batch in work.schedule.batches:
        if len(batch.numbers) == 1 and not batch.shares_prefix:
            continue
        numbers = sorted(batch.numbers, key=lambda number: work.cases[number][0].width)  # the most padded is the first
        prompt, case = work.cases[numbers[0]]
        padded = len({work.cases[number][0].width for number in numbers}) > 1
        donated = any(work.schedule.divergences[number].donor is not None for number in numbers)
        yield Comparison(
            kind=("answers", batch.shares_prefix, padded, donated),
            words="as a row of a batch" + (" behind a prefix that was run before" if batch.shares_prefix else ""),
            shared=partial(_shared_logits, work, batch, numbers),
            alone=partial(_single_logits, work, [(prompt, case), (prompt, CLEAN)]),
        )


def _shared_logits(work: _Answering, batch: Batch, numbers: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of the first tokens of a batch and of a clean case, `[case, token and word]`; and in another order."""
    clean = (work.cases[numbers[0]][0], CLEAN)
    divergences = [*work.schedule.divergences, unshared_divergence(work.model, *clean)]
    values, last = _values(work, batch), len(work.cases)
    work = replace(work, cases=[*work.cases, clean], schedule=replace(work.schedule, divergences=divergences))

    def logits(*some: int) -> torch.Tensor:
        prompts = [work.cases[number][0] for number in some]
        layout, cache = _layout(work, replace(batch, numbers=some), prompts)
        return _first_logits(work, layout, [divergences[number].case for number in some], values, cache)

    return logits(*numbers, last), logits(last, *numbers).roll(-1, 0)


def _single_logits(work: _Answering, cases: Sequence[Case]) -> torch.Tensor:
    """The same of cases by themselves, `[case, token and word]`."""
    logits = list[torch.Tensor]()
    for prompt, case in cases:
        values = capture(work.model, [case], work.remote, stay_remote=True)
        logits.append(_first_logits(work, padded_batch([prompt]), [case], values, None))
    return torch.cat(logits)


def _first_logits(
    work: _Answering, layout: Layout, cases: Sequence[Intervention], values: StateValues, cache: Any
) -> torch.Tensor:
    plan = prepare(work.model, layout, cases, values)
    tokens = min(COMPARED_TOKENS, work.options["max_new_tokens"])
    return decode_logits(work.model, layout.prompt, plan, tokens, work.remote, cache)[1].flatten(1)
