"""How the cases of a sweep are laid out: which share a forward, and what of them need not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ..execution.footprint import Footprint
from ..families import Model, view_of
from ..lowering.answer_trees import NO_BRANCHES, AnswerTokens, Branches, all_at_once, one_by_one
from ..lowering.layouts import (
    Layout,
    after_prefix,
    answered,
    answering,
    from_layer,
    one_case_per_row,
    packed,
    padded_batch,
    repeated_embeddings,
    repeated_rows,
)
from ..lowering.resolve import resolver
from ..lowering.state_values import StateValues
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from .divergence import Divergence
from .kept_runs import KeptRuns
from .memory import AnswersBehind, Cuts, captured_bytes, forward_of_variants, kept_bytes, most_that_fit
from .prefixes import Prefix, PrefixRun, cache_for
from .schedule import FORWARD, Batch, Way, cheapest
from .sharing import can_branch
from .wanted import Wanted

TOKENS_BEHIND_PREFIX = 512
"""Most variant tokens in one forward behind a prefix; beyond, attention between variants costs more than it saves."""
TOKENS_WITH_PREFIX = 4096
"""Most tokens in one forward that runs the prefix too."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SweepContext:
    """What all forwards of a sweep have in common.

    Attributes:
        divergences: what is left to do of each case.
        values: the states that their patches take from other runs.
        wanted: what is asked of every case.
        memory: bytes that a forward may take, or None.
        runs: clean runs that its forwards share.
        branches: the answers that run now.
        reading: whether what runs now is looked at.
    """

    model: Model
    prompt: Prompt
    divergences: Sequence[Divergence]
    values: StateValues
    wanted: Wanted
    remote: Remote
    memory: int | None
    runs: KeptRuns[PrefixRun]
    branches: Branches = NO_BRANCHES
    reading: bool = False

    @cached_property
    def row(self) -> Prompt:
        """The prompt as a row of its own, with the answers behind it that run now."""
        return answering(self.prompt, self.branches.tree)

    @property
    def reads(self) -> int:
        """How many numbers are read of a case now."""
        own = resolver(self.model, one_case_per_row(self.prompt).placements[0])
        return sum(read.numbers(own) for read in self.wanted.reads.values()) if self.reading else 0


def branches_of(context: SweepContext, way: Way) -> list[Branches]:
    """The answers that run together: all of them, or one branch at a time where each run is to be a plain one."""
    answers = context.wanted.scored
    return all_at_once(answers) if can_branch(context.prompt, way) else one_by_one(answers)


def longest_answer(context: SweepContext, way: Way) -> AnswerTokens:
    """The longest of the answers that run together first."""
    together = branches_of(context, way)[0].answers
    return max((context.wanted.scored[number] for number in together), key=len)


def answers_behind(context: SweepContext, batch: Batch) -> AnswersBehind:
    """What is asked of each case of a batch at most, as far as it takes memory."""
    longest = max(len(branches.tree.tokens) for branches in branches_of(context, batch.way))
    return AnswersBehind(tokens=longest, reads=replace(context, reading=True).reads)


def is_clean(divergence: Divergence) -> bool:
    """Whether nothing is left to change in a case."""
    return not divergence.case.parts and divergence.donor is None


def by_layer(context: SweepContext, numbers: Sequence[int], prefix: Prefix | None) -> list[list[int]]:
    """Cases in groups: those that change late layers only skip the earlier ones."""
    if prefix is None or prefix.states is None or not numbers:
        return [list(numbers)] if numbers else []
    layers, length = view_of(context.model).stage().layer_count, context.prompt.rows[0].stop - prefix.length
    length += len(context.branches.tree.tokens)
    begins = [context.divergences[number].layer for number in numbers]
    return cheapest(numbers, begins, layers, tokens=length / layers, fixed=FORWARD)


def cases_per_forward(context: SweepContext, batch: Batch, prefix: Prefix | None) -> int:
    """How many cases of a batch one forward may take: as many as pay, and as fit into memory."""
    if batch.way == "single":
        return 1
    rows = batch.way == "rows"
    alone = rows and prefix is None
    behind = len(context.branches.tree.tokens)
    each = behind + (context.prompt.width if alone else context.prompt.rows[0].stop - batch.position)
    room = TOKENS_BEHIND_PREFIX if prefix is not None else TOKENS_WITH_PREFIX - (0 if rows else batch.position)
    most = max(1, min(room // each, len(batch.numbers)))
    if context.remote is not False and context.memory is None:  # what is free on a server is not known
        return most
    cases, model = [context.divergences[number].case for number in batch.numbers], context.model
    cuts, kept = Cuts.of(cases), 0
    if context.memory is not None:  # else what is free tells, because what is kept is there already
        kept = captured_bytes(model, cases)
        kept += kept_bytes(model, context.prompt, context.divergences) if prefix is not None else 0

    def needed(cases: int) -> Footprint:
        answers = AnswersBehind(tokens=behind, reads=context.reads)
        forward = forward_of_variants(model, context.prompt, batch, cases, cuts=cuts, answers=answers)
        return forward.beside(Footprint(kept=kept))

    return most_that_fit(most, needed, model, context.memory)


def layout_of(
    context: SweepContext, batch: Batch, numbers: Sequence[int], prefix: Prefix | None, embedded: torch.Tensor | None
) -> Layout:
    """How some cases of a batch are laid out: where they sit, and what of them need not run."""
    prompt, count, tree = context.row, len(numbers), context.branches.tree
    if batch.way == "packed":
        layout = packed(context.prompt, count, batch.position, tree)
    elif prefix is not None:
        layout = repeated_rows(prompt, count)
    elif embedded is not None:
        layout = repeated_embeddings(prompt, count, embedded)
    else:
        layout = padded_batch([prompt] * count)
    if batch.way != "packed":
        layout = answered(layout, context.prompt.rows[0], tree)
    return layout if prefix is None else _behind_prefix(context, numbers, layout, prefix)


def _behind_prefix(context: SweepContext, numbers: Sequence[int], layout: Layout, prefix: Prefix) -> Layout:
    """The layout without the tokens in the prefix's cache, and without the layers below the first changed one."""
    divergences, begin = [context.divergences[number] for number in numbers], prefix.length
    rows = divergences[: len(layout.prompt)]  # copies in one row all begin with the prompt's own prefix
    cache = cache_for(context.runs, context.model, prefix, rows, layout.prompt.width - begin)
    layout = after_prefix(layout, begin, cache)
    last_layer = view_of(context.model).stage().layer_count - 1
    depth = min(*(divergence.layer for divergence in divergences), last_layer)
    if prefix.states is None or depth == 0 or (prefix.answers is None and context.branches.tree.tokens):
        return layout
    entering = prefix.states[depth - 1][begin - prefix.first :]
    if prefix.answers is not None:
        entering = torch.cat([entering, prefix.answers[depth - 1].to(entering)])
    return from_layer(layout, depth, entering)
