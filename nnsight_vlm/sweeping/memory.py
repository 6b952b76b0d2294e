"""How many cases fit into one forward: an estimate of what they take, held against a budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from ..device.kernels import MASKS_IN_MEMORY
from ..execution.caches import ROOM
from ..execution.checking import captured_shape
from ..execution.footprint import Footprint, Passing, cached_bytes, footprint, footprint_of, number_bytes, pictures_of
from ..execution.memory import LITTLE, SHARE, free_bytes, refuse_what_cannot_fit
from ..families import Model, view_of
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout
from .divergence import Divergence
from .prefixes import end_of_images
from .schedule import Batch, Schedule


def most_that_fit(most: int, needed: Callable[[int], Footprint], model: Model, memory: int | None) -> int:
    """How many cases, `most` at most and one at least, take no more than `memory`, or than a share of what is free.

    Args:
        most: how many pay.
        needed: what so many cases take.
        model: an nnsight model.
        memory: bytes; None for a share of what is free.
    """
    if memory is None and needed(most).total <= LITTLE:
        return most
    cases, budget = most, int(SHARE * free_bytes(model)) if memory is None else memory
    while cases > 1 and needed(cases).total > budget:
        cases = max(1, cases * 3 // 4)
    return cases


class Cuts(NamedTuple):
    """What cases cut, as far as it decides how large their masks are.

    Attributes:
        parts: the most cuts of any case; layers with the same cuts share a mask.
        heads: whether some heads are cut and others are not, so that every head has a mask of its own.
    """

    parts: int
    heads: bool

    @classmethod
    def of(cls, cases: Iterable[Intervention]) -> Cuts:
        """The cuts of some cases."""
        by_case = [[part for part in case.parts if isinstance(part, Knockout) and part.how == "mask"] for case in cases]
        heads = any(cut.heads is not None for cuts in by_case for cut in cuts)
        return cls(max(map(len, by_case), default=0), heads)

    def masks(self, cases: int) -> int:
        """How many masks exist at once while so many of the cases run: the one that is cut, and what comes of it."""
        return 0 if not self.parts else min(MASKS_IN_MEMORY, 1 + cases * self.parts)


# what is kept beside a forward --------------------------------------------------------------------


def kept_bytes(model: Model, prompt: Prompt, divergences: Sequence[Divergence]) -> int:
    """What the clean runs take that cases begin with: the prompt's and its donors'; see `prefixes`."""
    donors = {id(each.donor): each.donor for each in divergences if each.donor is not None}
    return sum(_kept_run(model, each) for each in (prompt, *donors.values()))


def _kept_run(model: Model, prompt: Prompt) -> int:
    """Keys and values with room behind them, those of the text twice, and what every layer gave at the text."""
    spec, text = view_of(model).stage(), prompt.width - end_of_images(prompt)
    states = text * spec.layer_count * spec.width * spec.streams
    return cached_bytes(model, prompt.width + ROOM + text) + number_bytes(model, states)


def captured_bytes(model: Model, cases: Iterable[Intervention]) -> int:
    """What the states take that patches were given by other runs: as they are read, and stacked."""
    wanted = {id(part): want for case in cases for part in case.parts if (want := part.capture()) is not None}
    shapes = (
        captured_shape(resolver(model, one_case_per_row(want.prompt).placements[0]), want) for want in wanted.values()
    )
    return 2 * number_bytes(model, sum(shape.numel() for shape in shapes))


def _prefix_run(model: Model, prompt: Prompt, kept: int) -> Footprint:
    """What the run takes that is kept, beside all that will be: it fills some of that itself."""
    own = cached_bytes(model, prompt.width + ROOM)
    return footprint_of(model, prompt).beside(Footprint(kept=kept - own))


def _largest(pieces: Iterable[Footprint]) -> Footprint:
    return max(pieces, key=lambda piece: piece.total)


# sweeps -------------------------------------------------------------------------------------------


class AnswersBehind(NamedTuple):
    """What is asked of each variant, as far as it takes memory.

    Attributes:
        tokens: of answers that run behind the prompt.
        reads: how many numbers are read.
    """

    tokens: int = 0
    reads: int = 0


ONE_TOKEN = AnswersBehind()


def forward_of_variants(
    model: Model, prompt: Prompt, batch: Batch, cases: int, *, cuts: Cuts, answers: AnswersBehind = ONE_TOKEN
) -> Footprint:
    """What one forward of so many variants of a batch takes."""
    forward = _forward_of_variants(model, prompt, batch, cases, answers.tokens, cuts=cuts)
    return forward.beside(Footprint(answers=2 * 4 * cases * answers.reads))


def _forward_of_variants(
    model: Model, prompt: Prompt, batch: Batch, cases: int, answers: int, *, cuts: Cuts
) -> Footprint:
    own = prompt.rows[0].stop - batch.position + answers
    if batch.way == "packed":
        tokens = cases * own if batch.shares_prefix else cases * own + batch.position
        stored = cases * own if batch.shares_prefix else None
        keys = batch.position + cases * own
        passing = Passing(
            rows=1,
            tokens=tokens,
            keys=keys,
            stored=stored,
            logits=cases * (1 + answers),
            masks=max(1, cuts.masks(cases)),
            heads=cuts.heads,
        )
        return footprint(model, passing, None if batch.shares_prefix else prompt.inputs)
    if batch.shares_prefix:
        room = min(ROOM, own)
        return _rows_behind_prefix(model, prompt, batch.position, cases, room, cuts=cuts, answers=answers)
    grown = prompt.grown(prompt.rows[0].tokens[-1:] * answers) if answers else prompt
    masks = max(cuts.masks(cases), int(answers > 0))
    whole = footprint_of(model, grown, logits=1 + answers, masks=masks, heads=cuts.heads).times(cases)
    return whole._replace(pictures=0 if batch.shares_image else pictures_of(model, prompt, cases))


def _rows_behind_prefix(
    model: Model, prompt: Prompt, position: int, rows: int, room: int, *, cuts: Cuts, answers: int = 0
) -> Footprint:
    """What rows take that all begin with a copy of the keys before a position."""
    stop = prompt.rows[0].stop + answers
    return footprint(
        model,
        Passing(
            rows=rows,
            tokens=stop - position,
            keys=stop,
            stored=position + room,
            logits=rows * (1 + answers),
            masks=cuts.masks(rows),
            heads=cuts.heads,
        ),
    )


def refuse_large_sweep(
    model: Model,
    prompt: Prompt,
    schedule: Schedule,
    remote: Remote,
    memory: int | None,
    answers: Callable[[Batch], AnswersBehind],
) -> None:
    """Refuse a sweep of which the prompt's own run, or one variant at a time, would not fit.

    `answers` says what is asked of each variant of a batch.

    Raises:
        SpecError: see `execution.memory`.
    """
    divergences = schedule.divergences
    kept = captured_bytes(model, (each.case for each in divergences))
    pieces = []
    if any(batch.shares_prefix for batch in schedule.batches):
        kept += kept_bytes(model, prompt, divergences)
        pieces.append(_prefix_run(model, prompt, kept))
    for batch in schedule.batches:
        cuts = Cuts.of(divergences[number].case for number in batch.numbers)
        forward = forward_of_variants(model, prompt, batch, 1, cuts=cuts, answers=answers(batch))
        pieces.append(forward.beside(Footprint(kept=kept)))
    refuse_what_cannot_fit(model, _largest(pieces), remote, memory, "this sweep, one variant at a time,")


# answers ------------------------------------------------------------------------------------------


def batch_of_answers(
    model: Model, cases: Sequence[tuple[Prompt, Intervention]], position: int | None, rows: int, new_tokens: int
) -> Footprint:
    """What one batch of answers takes.

    Args:
        model: an nnsight model.
        cases: that may be in it.
        position: where the prefix ends that all of them share; None where each runs its whole prompt.
        rows: how many are.
        new_tokens: most tokens of an answer.
    """
    cuts, prompts = Cuts.of(case for _, case in cases), {id(prompt): prompt for prompt, _ in cases}
    if position is not None:
        (prompt,) = prompts.values()
        room = _room(prompt.width - position + new_tokens)
        return _rows_behind_prefix(model, prompt, position, rows, room, cuts=cuts)
    masks, room = cuts.masks(rows), _room(new_tokens)
    widest = max(prompts.values(), key=lambda prompt: prompt.width)
    pictures = max(pictures_of(model, prompt, rows) for prompt in prompts.values())
    padded = footprint_of(model, widest, room=room, masks=max(masks, int(len(prompts) > 1)), heads=cuts.heads)
    return padded.times(rows)._replace(pictures=pictures)


def _room(tokens: int) -> int:
    """How many keys a cache has memory for that grows by so many tokens; see `caches.GrowingLayer`."""
    return ceil(tokens / ROOM) * ROOM if tokens > ROOM else tokens


@dataclass(frozen=True, kw_only=True, eq=False)
class AnswersPerBatch:
    """Says of a group of cases how many of them share a batch.

    Attributes:
        cases: of the call.
        most: how many at most.
        new_tokens: most tokens of an answer.
        memory: bytes that a batch may take; None for a share of what is free.
    """

    model: Model
    cases: Sequence[tuple[Prompt, Intervention]]
    most: int
    new_tokens: int
    remote: Remote
    memory: int | None

    def __call__(self, numbers: Sequence[int], divergences: Sequence[Divergence] = ()) -> int:
        """How many of these cases share a batch.

        Args:
            numbers: of the cases.
            divergences: of cases that share the prefix of one prompt, where it ends; empty where they run all of it.

        Raises:
            SpecError: not even one fits.
        """
        if self.remote is not False and self.memory is None:
            return self.most
        some = [self.cases[number] for number in numbers]
        kept = captured_bytes(self.model, (case for _, case in some))
        widest = max(numbers, key=lambda number: self.cases[number][0].width)
        position, pieces = min((each.position for each in divergences), default=None), []
        if position is not None:
            kept += kept_bytes(self.model, some[0][0], divergences)
            pieces.append(_prefix_run(self.model, some[0][0], kept))

        def needed(rows: int) -> Footprint:
            batch = batch_of_answers(self.model, some, position, rows, self.new_tokens)
            return batch.beside(Footprint(kept=kept))

        largest = _largest([*pieces, needed(1)])
        refuse_what_cannot_fit(self.model, largest, self.remote, self.memory, f"case {widest} by itself")
        return most_that_fit(min(self.most, len(numbers)), needed, self.model, self.memory)
