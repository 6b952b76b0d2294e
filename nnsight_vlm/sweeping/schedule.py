"""Which cases run together, and how: one schedule for sweeps and for answers.

A case is a prompt under an intervention. Cases of one prompt that diverge after its start share its prefix; other cases
fill batches with whatever else is there.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, get_args

from ..errors import SpecError
from ..execution.determinism import refuse_chance
from ..families import Model
from ..prompts.carried import company, why_uncached
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .divergence import Divergence, divergence_of, unshared_divergence
from .sharing import (
    NO_READS,
    LookedAt,
    Sharing,
    batching_obstacle,
    prefix_can_be_cropped,
    prefix_sharers,
    sharing,
    sweeping_obstacle,
)

Way = Literal["packed", "rows", "single"]
Execution = Literal["auto", "packed", "rows", "single"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)
WAYS: tuple[Way, ...] = get_args(Way)
"""From the one that shares most to the one that shares nothing."""

FORWARD = 64
"""How many tokens cost as much as the fixed part of a forward."""

Case = tuple[Prompt, Intervention]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Cases that run the same way, behind the same prefix.

    Attributes:
        numbers: which cases.
        way: how they run.
        position: the first position that any of them changes.
        shares_prefix: whether what lies before is run by itself.
        shares_image: whether they can at least share what the vision tower made of the image.
    """

    numbers: tuple[int, ...]
    way: Way
    position: int = 0
    shares_prefix: bool = False
    shares_image: bool = False


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is left to do of each case, and the batches in which they run."""

    divergences: Sequence[Divergence]
    batches: Sequence[Batch]


# sweeps: variants of one prompt -------------------------------------------------------------------


def schedule_sweep(
    model: Model,
    prompt: Prompt,
    cases: Sequence[Intervention],
    execution: Execution,
    remote: Remote,
    reads: LookedAt = NO_READS,
) -> Schedule:
    """The schedule of variants of one prompt, of which `reads` are looked at.

    Raises:
        SpecError: packing asked for where it would not be exact; a model with edits, or one whose
            output depends on chance, see `refuse_chance`; a prompt with inputs that only a run of its own can carry.
    """
    refuse_chance(model, remote)
    numbers, obstacle = range(len(cases)), sweeping_obstacle(model, prompt)
    if obstacle and execution in ("packed", "rows"):
        raise SpecError(obstacle)
    if obstacle or execution == "single":
        divergences = [unshared_divergence(model, prompt, case) for case in cases]
        return Schedule(divergences=divergences, batches=[_batch(numbers, divergences, "single")])
    divergences, reasons = _diverging(model, prompt, cases, remote, reads, donors=execution != "packed")
    together = prefix_sharers(reasons)
    ways = [_way(reason, execution) for reason in reasons]
    alone = [number for number in numbers if number not in set(together)]
    batches = []
    if alone:
        way = max((ways[number] for number in alone), key=WAYS.index)
        image = way == "rows" and len(alone) > 1 and not any(reasons[number].image for number in alone)
        batches.append(_batch(alone, divergences, way, shares_image=image))
    for way in dict.fromkeys(ways):
        some = [number for number in together if ways[number] == way]
        batches += [
            _batch(group, divergences, way, shares_prefix=True)
            for group in _by_position(model, prompt, some, divergences)
        ]
    return Schedule(divergences=divergences, batches=batches)


def _way(reason: Sharing, execution: Execution) -> Way:
    """How a case runs; rows suit every case, also those that could be packed."""
    if execution == "packed" and reason.packed:
        raise SpecError(f'{reason.packed}; write execution="rows"')
    if execution == "auto":
        return "rows" if reason.packed else "packed"
    return execution


def _by_position(
    model: Model, prompt: Prompt, numbers: Sequence[int], divergences: Sequence[Divergence]
) -> list[list[int]]:
    """Groups behind a cached prefix: cases that change late positions only skip the earlier ones.

    A donor's cache ends where its case diverges, so such cases are grouped with equal positions only.
    """
    donated = [number for number in numbers if divergences[number].donor is not None]
    own = [number for number in numbers if divergences[number].donor is None]
    ends = dict.fromkeys(divergences[number].position for number in donated)
    groups = [[number for number in donated if divergences[number].position == end] for end in ends]
    stop = prompt.rows[0].stop
    another_prefix = 0 if prefix_can_be_cropped(model) else stop
    positions = [divergences[number].position for number in own]
    return groups + cheapest(own, positions, stop, tokens=1, fixed=FORWARD + another_prefix)


# answers to many prompts --------------------------------------------------------------------------

RowsOf = Callable[[Sequence[int], Sequence[Divergence]], int]
"""How many of some cases share a batch, given their numbers, and where they diverge if they share a prefix."""
OWN_BATCH = 3
"""With at least this many conditions a prompt gets batches of its own; fewer share them with other prompts."""


def schedule_answers(
    model: Model, cases: Sequence[Case], rows_of: RowsOf, remote: Remote, *, cached: bool = True
) -> Schedule:
    """The schedule of answers: cases of one prompt behind its prefix, all others in full batches.

    Args:
        model: an nnsight model.
        cases: of the call.
        rows_of: how many of some cases share a batch.
        remote: see `nv.run`.
        cached: False where all tokens of a batch run together: its cache is not this package's to fill, or a shared
            prefix does not give the numbers of single runs.

    Raises:
        SpecError: see `refuse_chance`.
    """
    refuse_chance(model, remote)
    divergences = dict[int, Divergence]()
    may_share = cached and remote is False and not batching_obstacle(model)
    of_prompt: dict[int, list[int]] = {}
    for number, (prompt, _) in enumerate(cases):
        of_prompt.setdefault(id(prompt), []).append(number)
    batches, alone = list[Batch](), list[int]()
    for numbers in of_prompt.values():
        enough = len(numbers) >= OWN_BATCH or len(of_prompt) == 1
        together = _answered_together(model, cases, numbers) if enough and may_share else {}
        divergences |= together
        alone += [number for number in numbers if number not in together]
        first = min((divergence.position for divergence in together.values()), default=0)
        for some in _of_size(list(together), rows_of(list(together), list(together.values()))) if together else ():
            batches.append(Batch(numbers=tuple(some), way="rows", position=first, shares_prefix=True))
    for numbers in _that_stack(cases, sorted(alone)):
        batches += [Batch(numbers=tuple(some), way="rows") for some in _of_size(numbers, rows_of(numbers, ()))]
    divergences |= {number: unshared_divergence(model, *cases[number]) for number in alone}
    in_order = [divergences[number] for number in range(len(cases))]
    return Schedule(divergences=in_order, batches=sorted(batches, key=lambda batch: batch.numbers))


def _answered_together(model: Model, cases: Sequence[Case], numbers: Sequence[int]) -> dict[int, Divergence]:
    """The cases of one prompt that begin behind the same prefix, by number, with their divergences.

    Rows of a batch begin at one position, and a donor's cache ends where its case diverges.
    """
    prompt = cases[numbers[0]][0]
    own, reasons = _diverging(model, prompt, [cases[number][1] for number in numbers], False, donors=True)
    able = prefix_sharers(reasons)
    first = min((own[at].position for at in able), default=0)
    return {numbers[at]: own[at] for at in able if own[at].donor is None or own[at].position == first}


def _that_stack(cases: Sequence[Case], numbers: Sequence[int]) -> list[list[int]]:
    """Groups of cases whose prompts may be rows of one batch."""
    groups: dict[Hashable, list[int]] = {}
    for number in numbers:
        kind = company(cases[number][0])
        groups.setdefault(number if kind is None else kind, []).append(number)
    return list(groups.values())


def _of_size(numbers: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    yield from (numbers[first : first + size] for first in range(0, len(numbers), size))


# what both have in common -------------------------------------------------------------------------


def _diverging(
    model: Model,
    prompt: Prompt,
    cases: Sequence[Intervention],
    remote: Remote,
    reads: LookedAt = NO_READS,
    *,
    donors: bool,
) -> tuple[list[Divergence], list[Sharing]]:
    """Where cases of one prompt diverge, and what each may share.

    Only a case that begins behind a prefix can have a donor.
    """
    diverging = (divergence_of(model, prompt, case, donors=donors and remote is False) for case in cases)
    divergences = [reads.reached(model, prompt, each) for each in diverging]
    uncached = why_uncached(prompt)
    reasons = [sharing(model, prompt, each, remote, reads, uncached) for each in divergences]
    for number in set(range(len(cases))) - set(prefix_sharers(reasons)):
        if divergences[number].donor is not None:
            unshared = unshared_divergence(model, prompt, cases[number])
            divergences[number] = reads.reached(model, prompt, unshared)
            reasons[number] = sharing(model, prompt, divergences[number], remote, reads, uncached)
    return divergences, reasons


def _batch(
    numbers: Sequence[int],
    divergences: Sequence[Divergence],
    way: Way,
    *,
    shares_prefix: bool = False,
    shares_image: bool = False,
) -> Batch:
    position = min(divergences[number].position for number in numbers)
    return Batch(
        numbers=tuple(numbers), way=way, position=position, shares_prefix=shares_prefix, shares_image=shares_image
    )


def cheapest(
    numbers: Sequence[int], begins: Sequence[int], stop: int, *, tokens: float, fixed: float
) -> list[list[int]]:
    """Group cases so that running them costs least; a group runs from its earliest member's start to `stop`.

    `begins` are the starts. A step costs `tokens` for each member of a group, and a group costs `fixed`.
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
