"""Answers to many prompts, each under its own intervention, as rows of cached batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..execution.capturing import capture
from ..execution.checking import as_intervention, check
from ..execution.decoding import Generation, as_generation, check_decoding, decode, end_tokens
from ..execution.generation_options import check_options, check_rows
from ..execution.preparing import prepare
from ..families import Model
from ..lowering.layouts import Layout, padded_batch, repeated_rows
from ..lowering.resolve import StateValues
from ..prompts.prompt import Prompt
from ..remote.background import can_run_in_background
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .kept_runs import KeptRuns, runs_of_call
from .prefixes import PrefixRun, cache_for, prefix_of, states_from_kept_run
from .schedule import Batch, Case, Schedule, schedule_answers
from .sharing import answers_per_batch


@can_run_in_background
def generations(
    model: Model,
    cases: Sequence[tuple[Prompt, Intervention | None]],
    *,
    max_new_tokens: int = 64,
    rows: int = 32,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
    **options: Any,
) -> Iterator[Generation]:
    """Answers to many prompts, each under its own intervention, as rows of cached batches.

    Args:
        model: an nnsight model from `load`.
        cases: `(prompt of one row, intervention or None)`; prompts of different length are padded.
        max_new_tokens, options: see `nv.generate`.
        rows: cases that share a batch.
        remote, blocking, path: see `nv.run`.

    Returns:
        An iterator of one `Generation` a case, in order, each as soon as its batch is done.

    Raises:
        SpecError: anything wrong with any case, before the model runs.
    """
    options = check_options(model, {"max_new_tokens": max_new_tokens, **options})
    ready = [(prompt, as_intervention(case)) for prompt, case in cases]
    for prompt, case in ready:
        if len(prompt) > 1:
            raise SpecError(f"a case takes a prompt of one row and one has {len(prompt)}; write prompt.row(0)")
        check_decoding(prompt)
        check(model, prompt, case, to_come=options["max_new_tokens"])
    check_rows(model, [prompt.rows[0] for prompt, _ in ready], options)
    schedule = schedule_answers(model, ready, answers_per_batch(model, rows), remote)
    work = _Answering(
        model=model, cases=ready, schedule=schedule, options=options, remote=remote, runs=runs_of_call(model)
    )
    return _in_order(work)


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
    batches, ready, due = work.schedule.batches, dict[int, Generation](), 0
    run = [partial(_answer, work, batch) for batch in batches]
    answered = (answer() for answer in run) if work.remote is False else iter(together(run, work.remote))
    for batch, answers in zip(batches, answered, strict=True):
        ready |= dict(zip(batch.numbers, answers, strict=True))
        while due in ready:
            yield ready.pop(due)
            due += 1


def _answer(work: _Answering, batch: Batch) -> list[Generation]:
    """The answers of one batch."""
    model, options = work.model, work.options
    prompts = [work.cases[number][0] for number in batch.numbers]
    values, cases = _values(work, batch), [work.schedule.divergences[number].case for number in batch.numbers]
    layout, cache = _layout(work, batch, prompts)
    plan = prepare(model, layout, cases, values)
    lines, ends = decode(model, layout.prompt, plan, options, work.remote, cache).tolist(), end_tokens(model, options)
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
