"""Many cases of one prompt in few passes through the model: which of them run together, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from .engine import Values, capture, prepare
from .errors import SpecError
from .families import family, lacking, shape
from .interventions import Intervention, Knockout
from .layouts import Layout, behind, below, in_rows, packed, rows_embedded, rows_of_one
from .memory import cases_that_fit, out_of_memory
from .prefixes import Prefix, cache_for, cuts, prefix_of, sharers, why_not_shared
from .prompts import Prompt
from .readouts import answer_scores
from .starts import Start, start_of, whole
from .traces import embed, forward, logit_columns
from .wire import Remote, together

EXECUTIONS = ("auto", "packed", "rows", "single")
TOKENS_PER_PASS = 512
"""Tokens of variants that one forward behind a prefix holds: more would look at each other for nothing."""
ALONE = 4096
"""The same where the prefix is run with them."""
PASS = 64
"""How many tokens cost as much as a forward's fixed part."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Cases that run alike.

    Attributes:
        numbers: which cases.
        way: `packed`, `rows` or `single`.
        position: the first position that any of them changes.
        shared: whether what lies before is run by itself.
    """

    numbers: tuple[int, ...]
    way: str
    position: int
    shared: bool


# which run together -----------------------------------------------------------------------------


def plan_passes(
    model: Any, prompt: Prompt, cases: Sequence[Intervention], execution: str, remote: Remote
) -> tuple[list[Start], list[Batch]]:
    """What is left to do of each case, and the batches in which they run.

    Raises:
        SpecError: no such execution; packing asked for where it would not be exact; a model with edits.
    """
    if execution not in EXECUTIONS:
        raise SpecError(f"no execution {execution!r}; there are {', '.join(EXECUTIONS)}")
    if model._edits and execution in ("packed", "rows"):
        raise SpecError(
            "the model has edits of its own, which name rows and positions of its runs; packed or as rows they would "
            'act elsewhere. Write execution="single", or compose what the edits do with each variant'
        )
    if execution == "single" or model._edits:
        plain = [whole(model, prompt, case) for case in cases]
        return plain, [_batch(range(len(cases)), plain, "single", shared=False)]
    local = remote is False
    starts = [start_of(model, prompt, case, donors=local and execution != "packed") for case in cases]
    together = sharers(model, prompt, starts) if local else []
    alone = sorted(set(range(len(cases))) - set(together))
    for number in alone:
        if starts[number].donor is not None:
            starts[number] = whole(model, prompt, cases[number])
    ways = [_way(model, prompt, start, execution) for start in starts]
    batches = [_batch(alone, starts, max(ways[number] for number in alone), shared=False)] if alone else []
    for way in dict.fromkeys(ways):
        batches += _by_position(prompt, [number for number in together if ways[number] == way], starts, way)
    return starts, batches


def _batch(numbers: Sequence[int], starts: Sequence[Start], way: str, shared: bool) -> Batch:
    position = min(starts[number].position for number in numbers)
    return Batch(numbers=tuple(numbers), way=way, position=position, shared=shared)


def _way(model: Any, prompt: Prompt, start: Start, execution: str) -> str:
    """How a case runs; rows serve any, also those that could be packed."""
    obstacle = why_not_packed(model, prompt, start)
    if execution == "packed" and obstacle:
        raise SpecError(f'{obstacle}; write execution="rows"')
    return execution if execution != "auto" else "rows" if obstacle else "packed"


def why_not_packed(model: Any, prompt: Prompt, start: Start) -> str:
    """Why a case cannot run in one sequence with others, behind what they share; empty where it can."""
    row = family(model)
    if "packed" in lacking(row):
        return f"models of type {row.name!r} cannot run variants behind a shared prefix: {lacking(row)['packed']}"
    return "the states of another prompt come before it" if start.donor else why_not_shared(prompt, start)


def _by_position(prompt: Prompt, numbers: Sequence[int], starts: Sequence[Start], way: str) -> list[Batch]:
    """Batches behind a cached prefix: cases that change late positions only are not made to run the earlier ones.

    What a donor lends ends where its case starts, so that case starts nowhere else.
    """
    lent = [number for number in numbers if starts[number].donor is not None]
    own = [number for number in numbers if starts[number].donor is None]
    ends = dict.fromkeys(starts[number].position for number in lent)
    groups = [[number for number in lent if starts[number].position == end] for end in ends]
    stop, again = prompt.rows[0].stop, 0 if cuts(prompt.model) else prompt.rows[0].stop
    groups += cheapest(own, [starts[number].position for number in own], stop, tokens=1, fixed=PASS + again)
    return [_batch(here, starts, way, shared=True) for here in groups]


def cheapest(
    numbers: Sequence[int], begins: Sequence[int], stop: int, *, tokens: float, fixed: float
) -> list[list[int]]:
    """Numbers in groups, so that it costs least to run each group from the first of its begins to `stop`.

    A step costs `tokens` for each member of a group, and a group costs `fixed`.
    """
    known = sorted(set(begins))
    at = [[number for number, begin in zip(numbers, begins, strict=True) if begin == one] for one in known]
    ahead = list(accumulate(map(len, at), initial=0))
    best = [(0.0, 0)]  # of the first groups: what they cost, and where the last of them begins
    for end in range(1, len(known) + 1):
        costs = (
            (best[first][0] + (ahead[end] - ahead[first]) * (stop - known[first]) * tokens + fixed, first)
            for first in range(end)
        )
        best.append(min(costs))
    groups, end = list[list[int]](), len(known)
    while end:
        first = best[end][1]
        groups.append([number for some in at[first:end] for number in some])
        end = first
    return groups[::-1]


# running them -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """What all passes have in common: the prompt, its cases, what their patches take from other runs, the token."""

    model: Any
    prompt: Prompt
    starts: Sequence[Start]
    values: Values
    token: int
    remote: Remote
    memory: int | None


def score(
    model: Any,
    prompt: Prompt,
    cases: Sequence[Intervention],
    token: int,
    *,
    execution: str = "auto",
    remote: Remote = False,
    memory: int | None = None,
) -> tuple[list[list[float]], dict[str, Any]]:
    """`[logit, logprob, rank, top token]` of the last position, one list a case; and what was done.

    Raises:
        SpecError: see `plan_passes`.
    """
    starts, batches = plan_passes(model, prompt, cases, execution, remote)
    values = capture(model, [start.case for start in starts], remote, kept=execution != "single", lent=True)
    work = Work(model=model, prompt=prompt, starts=starts, values=values, token=token, remote=remote, memory=memory)
    parts = together([partial(_score, work, batch) for batch in batches], remote)
    found = {number: scored for part, _ in parts for number, scored in part.items()}
    passes: Counter[str] = Counter()
    for batch, (_, count) in zip(batches, parts, strict=True):
        passes[batch.way] += count
    done = {"execution": max(batch.way for batch in batches), "passes": dict(+passes)}
    return [found[number] for number in range(len(cases))], done


def _score(work: Work, batch: Batch) -> tuple[dict[int, list[float]], int]:
    """Scores of a batch's cases by their number, and how many passes they took."""
    prefix = prefix_of(work.model, work.prompt, batch.position) if batch.shared else None
    found: dict[int, list[float]] = {}
    if prefix is not None and prefix.logits is not None:
        clean = [n for n in batch.numbers if not work.starts[n].case.parts and work.starts[n].donor is None]
        score = _listed(answer_scores(prefix.logits[None, None], [(0, 0, work.token)], None))[0]
        found = dict.fromkeys(clean, score)
    passes = 0
    for numbers in _by_layer(work, [number for number in batch.numbers if number not in found], prefix):
        for some, scored in _run(work, replace(batch, numbers=tuple(numbers)), prefix):
            found |= dict(zip(some, scored, strict=True))
            passes += 1
    return found, passes


def _by_layer(work: Work, numbers: Sequence[int], prefix: Prefix | None) -> list[list[int]]:
    """Cases in groups: those that change late layers only are not made to run the earlier ones."""
    if prefix is None or prefix.states is None or not numbers:
        return [list(numbers)] if numbers else []
    layers, each = shape(work.model).layer_count, work.prompt.rows[0].stop - prefix.length
    begins = [work.starts[number].layer for number in numbers]
    return cheapest(numbers, begins, layers, tokens=each / layers, fixed=PASS)


def _run(work: Work, batch: Batch, prefix: Prefix | None) -> Iterator[tuple[Sequence[int], list[list[float]]]]:
    """A batch, pass by pass; half as many cases a pass where memory runs out."""
    embedded = embed(work.model, work.prompt) if _sees_once(work, batch) else None
    size, left = _size(work, batch, prefix), batch.numbers
    if work.remote is not False:
        each = [left[first : first + size] for first in range(0, len(left), size)]
        passes = [partial(_pass, work, some, _layout(work, batch, some, prefix, embedded)) for some in each]
        yield from zip(each, together(passes, work.remote), strict=True)
        return
    while left:
        some = left[:size]
        try:
            scored = _pass(work, some, _layout(work, batch, some, prefix, embedded))
        except RuntimeError as error:
            if len(some) == 1 or not out_of_memory(error):
                raise
            size = len(some) // 2
            continue
        yield some, scored
        left = left[len(some) :]


def _sees_once(work: Work, batch: Batch) -> bool:
    """Whether cases that share nothing else can at least share what the vision tower made of the image."""
    alone = batch.way == "rows" and not batch.shared and work.remote is False and len(batch.numbers) > 1
    early = any(part.acts_in != "decoder" for number in batch.numbers for part in work.starts[number].case.parts)
    there = bool(work.prompt.rows[0].images) and "embedded" not in lacking(family(work.model))
    return alone and there and not early


def _size(work: Work, batch: Batch, prefix: Prefix | None) -> int:
    """How many cases one pass takes."""
    if batch.way == "single":
        return 1
    rows, begin = batch.way == "rows", batch.position
    alone = rows and prefix is None
    each = work.prompt.width if alone else work.prompt.rows[0].stop - begin
    room = TOKENS_PER_PASS if prefix is not None else ALONE - (0 if rows else begin)
    parts = [part for number in batch.numbers for part in work.starts[number].case.parts]
    heads = any(isinstance(part, Knockout) and part.heads is not None for part in parts)
    most, before = max(1, room // each), 0 if alone else begin
    if work.remote is not False and work.memory is None:  # what is free on a server is not known
        return most
    return cases_that_fit(work.model, most, each, before, work.memory, rows=rows, heads=heads)


def _layout(
    work: Work, batch: Batch, numbers: Sequence[int], prefix: Prefix | None, embedded: torch.Tensor | None
) -> Layout:
    prompt, count, begin = work.prompt, len(numbers), batch.position
    if batch.way == "packed":
        layout = packed(prompt, count, begin)
    elif prefix is not None:
        layout = rows_of_one(prompt, count)
    else:
        return in_rows([prompt] * count) if embedded is None else rows_embedded(prompt, count, embedded)
    if prefix is None:
        return layout
    starts = [work.starts[number] for number in numbers]
    alike = starts[: len(layout.prompt)]  # copies in one row all begin with the prompt's own prefix
    layout = behind(layout, begin, cache_for(work.model, prefix, alike, layout.prompt.width - begin))
    depth = min(*(start.layer for start in starts), shape(work.model).layer_count - 1)
    if prefix.states is None or depth == 0:
        return layout
    return below(layout, depth, prefix.states[depth - 1][begin - prefix.first :])


def _pass(work: Work, numbers: Sequence[int], layout: Layout) -> list[list[float]]:
    places = [seat.place(seat.tokens.stop - 1) for seat in layout.seats]
    kept = sorted(set(places))
    columns = logit_columns(layout, kept)
    requests = tuple((seat.row, columns[place], work.token) for seat, place in zip(layout.seats, places, strict=True))
    plan = prepare(work.model, layout, [work.starts[number].case for number in numbers], work.values)
    scored = (answer_scores, requests)
    return _listed(forward(work.model, layout, plan, [], scored, kept, work.remote)[0])


def _listed(scores: Sequence[torch.Tensor]) -> list[list[float]]:
    return [[float(number) for number in line] for line in scores]
