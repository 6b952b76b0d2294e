"""What one forward of a sweep says of its cases: scores of answers, metrics, reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from ..device.readouts import answer_scores, logit_rows
from ..execution.preparing import prepare
from ..execution.requests import LogitRead, logit_columns, read_steps, run_forward
from ..families import view_of
from ..lowering.answer_trees import PROMPT, Branches
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.placements import Placement
from ..lowering.plan import Plan
from ..lowering.read_requests import LogitRequest, ScoreRequest
from ..lowering.resolve import resolver
from ..specs.measurements import Attention, Readout
from .arrangement import SweepContext
from .wanted import Metric, Wanted, measured


class Score(NamedTuple):
    """How a variant scores an answer behind the prompt.

    Attributes:
        logit: of the answer's first token at the prompt's last.
        logprob: of the whole answer, the sum over its tokens.
        rank: how many tokens have a greater logit than the first one; 0 is best. Nan, like `logprob`, where a logit is
            not a number or +inf.
        top_token: the id of the most probable token in its place; None there.
        metric: of the logits that predict the answer's tokens; nan without a metric.
    """

    logit: float
    logprob: float
    rank: float
    top_token: int | None
    metric: float = math.nan


class CaseScore(NamedTuple):
    """What a case gave.

    Attributes:
        answers: scores by the number of the answer in `Wanted.scored`.
        reads: what was looked at, in order; empty from a forward that did not look.
    """

    answers: Mapping[int, Score]
    reads: tuple[torch.Tensor, ...] = ()

    @property
    def logprob(self) -> float:
        """Of all answers; nan where one has none."""
        return sum(score.logprob for score in self.answers.values())

    def joined(self, other: CaseScore) -> CaseScore:
        """What two forwards of the same case gave."""
        return CaseScore({**self.answers, **other.answers}, self.reads or other.reads)


Spot = tuple[int, int]
"""A token of an answer: the number in the tree of the token that predicts it, and its id."""


def spots_of(wanted: Wanted, branches: Branches) -> dict[int, list[Spot]]:
    """The tokens of each answer among the branches, by the answer's number."""
    answers = {number: wanted.scored[number] for number in branches.answers}
    return {
        number: list(zip(branches.tree.predicting(answer), answer, strict=True)) for number, answer in answers.items()
    }


def predictors(wanted: Wanted, branches: Branches) -> tuple[int, ...]:
    """The numbers of the tokens that predict some token of an answer, each once."""
    return tuple(dict.fromkeys(node for spots in spots_of(wanted, branches).values() for node, _ in spots))


# a forward ----------------------------------------------------------------------------------------


def score_cases(context: SweepContext, numbers: Sequence[int], layout: Layout) -> list[CaseScore]:
    """One forward of some cases."""
    cases = [context.divergences[number].case for number in numbers]
    plan = prepare(context.model, layout, cases, context.values)
    reads = list(context.wanted.reads.values()) if context.reading else []
    steps = [list(read_steps(context.model, of_prompts(layout), read)) for read in reads]
    spots = _distinct(context)
    result = run_forward(
        context.model,
        layout,
        plan,
        steps,
        _logit_read(context, layout, spots),
        context.remote,
        numbers=_numbers(context, layout, reads),
    )
    looked_at = [
        tuple(
            _in_own_positions(each, each.assemble([layer[at] for layer in layers]), placement)
            for each, layers in zip(reads, result.readouts, strict=True)
        )
        for at, placement in enumerate(layout.placements)
    ]
    scores = _by_case(context, spots, result.logits)
    return [CaseScore(answers, seen) for answers, seen in zip(scores, looked_at, strict=True)]


def logits_of(context: SweepContext, layout: Layout, plan: Plan, nodes: Sequence[int]) -> torch.Tensor:
    """The logits that some tokens of the answers' tree predict, side by side: `[case, token and word]`."""
    rows = run_forward(context.model, layout, plan, [], rows_at(layout, nodes), context.remote).logits
    return torch.stack([row.flatten() for row in rows])


def score_logits(wanted: Wanted, branches: Branches, logits: Mapping[int, torch.Tensor]) -> CaseScore:
    """The scores of a case from the logits `[word]` that predict the answers' tokens, by the predicting token."""
    spots = spots_of(wanted, branches)
    asked = list(dict.fromkeys(spot for some in spots.values() for spot in some))
    lines = {(node, token): answer_scores(logits[node][None, None], [(0, 0, token)], None)[0] for node, token in asked}
    return CaseScore({number: _score(wanted.metric, some, lines, logits) for number, some in spots.items()})


def of_prompts(layout: Layout) -> Layout:
    """The layout as reads see it: a group ends with the prompt, as in `nv.run`, whatever answers follow."""
    return replace(layout, placements=tuple(placement.of_prompt() for placement in layout.placements))


def _distinct(context: SweepContext) -> list[Spot]:
    """The tokens whose scores are taken of every case."""
    by_answer = spots_of(context.wanted, context.branches).values()
    return list(dict.fromkeys(spot for spots in by_answer for spot in spots))


def _logit_read(context: SweepContext, layout: Layout, spots: Sequence[Spot]) -> LogitRead:
    """What is taken of the logits: the scores of each case's tokens in turn; all logits where a metric wants them."""
    nodes = predictors(context.wanted, context.branches)
    if context.wanted.metric is not None:
        return rows_at(layout, nodes)
    kept, columns = _columns(layout, nodes)
    requests = (
        ScoreRequest(placement.row, columns[_place(placement, node)], token)
        for placement in layout.placements
        for node, token in spots
    )
    return LogitRead(answer_scores, tuple(requests), kept)


def rows_at(layout: Layout, nodes: Sequence[int]) -> LogitRead:
    """The logits that predict some tokens, `[token, word]` a case."""
    kept, columns = _columns(layout, nodes)
    requests = (
        LogitRequest(placement.row, tuple(columns[_place(placement, node)] for node in nodes))
        for placement in layout.placements
    )
    return LogitRead(logit_rows, tuple(requests), kept)


def _columns(layout: Layout, nodes: Sequence[int]) -> tuple[list[int], dict[int, int]]:
    kept = sorted({_place(placement, node) for placement in layout.placements for node in nodes})
    return kept, logit_columns(layout, kept)


def _place(placement: Placement, node: int) -> int:
    """Where a token of an answer runs, or the prompt's last."""
    stop = placement.tokens.stop
    return placement.place(stop - 1 if node == PROMPT else stop + node)


def _by_case(context: SweepContext, spots: Sequence[Spot], taken: Sequence[torch.Tensor]) -> list[dict[int, Score]]:
    """The scores of each case, from what was taken of the logits."""
    wanted, branches = context.wanted, context.branches
    if wanted.metric is not None:
        nodes = predictors(wanted, branches)
        by_node = (dict(zip(nodes, rows, strict=True)) for rows in taken)
        return [dict(score_logits(wanted, branches, rows).answers) for rows in by_node]
    cases = (taken[first : first + len(spots)] for first in range(0, len(taken), len(spots)))
    by_spot = (dict(zip(spots, lines, strict=True)) for lines in cases)
    by_answer = spots_of(wanted, branches)
    return [{number: _score(None, some, lines, {}) for number, some in by_answer.items()} for lines in by_spot]


def _score(
    metric: Metric | None,
    spots: Sequence[Spot],
    lines: Mapping[Spot, torch.Tensor],
    logits: Mapping[int, torch.Tensor],
) -> Score:
    """The score of an answer from those of its tokens, and from the logits that predict them."""
    logit, first, rank, top = lines[spots[0]].tolist()
    logprob = sum((float(lines[spot][1]) for spot in spots[1:]), first)
    number = math.nan if metric is None else measured(metric, torch.stack([logits[node].cpu() for node, _ in spots]))
    if math.isnan(rank):
        return Score(logit, logprob, rank, None, number)
    return Score(logit, logprob, int(rank), int(top), number)


def _numbers(context: SweepContext, layout: Layout, reads: Sequence[Readout]) -> int:
    """How many numbers come back at most."""
    cases, nodes = len(layout.placements), len(predictors(context.wanted, context.branches))
    logits = 0 if context.wanted.metric is None else nodes * view_of(context.model).vocab_size
    own = resolver(context.model, one_case_per_row(context.prompt).placements[0])
    return cases * (logits + sum(read.numbers(own) for read in reads))


def _in_own_positions(read: Readout, found: torch.Tensor, placement: Placement) -> torch.Tensor:
    """What a read found, with the case's own positions where it tells places of the sequence that ran."""
    if not isinstance(read, Attention) or read.reduce != "top" or not placement.shift:
        return found
    places = found[..., 0]
    own = torch.where(places >= placement.branch + placement.shift, places - placement.shift, places)
    return torch.stack([own, found[..., 1]], dim=-1)
