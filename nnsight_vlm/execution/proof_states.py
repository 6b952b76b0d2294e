"""Proof that hidden states equal the planned values, and that their neighbours are untouched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from ..errors import InterventionError
from ..families import Family, Model, view_of
from ..lowering.head_choice import side_by_side
from ..lowering.layouts import Layout
from ..lowering.plan import compile_plan, read_step
from ..lowering.read_requests import StateRequest
from ..lowering.resolve import resolver
from ..lowering.sites import AT_PROJECTOR, ATTENTION_OF, BEFORE_LAYERS, SITES, STATES, locate, order_of
from ..lowering.steps import ReadStep
from ..lowering.towers import is_line
from ..lowering.writes import HeadChoice, PlannedWrite, StateWrite
from ..prompts.ranges import Ranges
from ..remote.batching import together
from ..remote.model_call import Remote
from .proof_rounding import SINGLE, Rounding
from .requests import LogitRead, run_forward

CHANGED = ("weights", "cross weights")
"""The sites of attention weights that are changed behind the softmax."""
AT_THE_END = (float("inf"),)
"""Behind every site, see `_StateSite.when`."""


class _StateSite(NamedTuple):
    """A site of hidden states; sorts in the order in which the model reaches it."""

    stage_number: int
    layer: int
    rank: int
    stage: str
    name: str

    @classmethod
    def of(cls, planned: PlannedWrite, order: Sequence[str]) -> _StateSite:
        number, rank = order.index(planned.stage), SITES[planned.site].rank
        return cls(number, planned.layer, rank, planned.stage, planned.site)

    @property
    def when(self) -> tuple[int, int, int]:
        """When the model reaches it."""
        return self.stage_number, self.layer, self.rank

    @property
    def label(self) -> str:
        """As messages call it."""
        if self.layer == BEFORE_LAYERS:
            return f"site {self.name!r}"
        stage = "" if self.stage == "decoder" else f"{self.stage} "
        return f"site {self.name!r} of {stage}layer {self.layer}"


def prove_states(
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], remote: Remote, *, rounding: Rounding
) -> int:
    """Compare every written site with a run in which only what comes before it is written; returns how many sites.

    Raises:
        InterventionError: naming site, row and position.
    """
    family = view_of(model).family
    by_write = [_StateSite.of(planned, order_of(family)) for planned in writes]
    sites = sorted({site for site in by_write if site.name in STATES or SITES[site.name].part})
    places = [locate(family, site.stage, site.name, site.layer) for site in sites]

    def read(some: Sequence[_StateSite], until: tuple[float, ...], *, through: bool) -> partial[list[torch.Tensor]]:
        """Sites in a run in which only the writes before a moment act, or also those at it."""
        pairs = zip(writes, by_write, strict=True)
        acting = [planned for planned, at in pairs if at.when < until or (through and at.when == until)]
        return partial(_states_everywhere, model, layout, acting, some, remote)

    asked = [read(sites, AT_THE_END, through=True)]
    for site, place in zip(sites, places, strict=True):
        asked.append(read([site], site.when, through=False))
        if places.count(place) > 1:  # one module's output is two sites: what one wrote is changed at the other
            asked.append(read([site], site.when, through=True))
    after, *single = together(asked, remote)
    rest = iter(single)
    for site, place, states in zip(sites, places, after, strict=True):
        [before] = next(rest)
        [written] = next(rest) if places.count(place) > 1 else [states]
        here = [planned.write for planned, at in zip(writes, by_write, strict=True) if at == site]
        here = [_from_nought(write, site, before.shape[1]) for write in here]
        _compare(site, before, written, here, rounding)
    return len(sites)


def prove_other_queries(
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], remote: Remote, *, rounding: Rounding
) -> int:
    """Where weights are changed and no mask shows it, what other queries get of that attention must be as without it.

    Returns:
        How many attentions were looked at.

    Raises:
        InterventionError: naming site, row and position.
    """
    family = view_of(model).family
    by_write = [_StateSite.of(planned, order_of(family)) for planned in writes]
    changed = sorted({site for site in by_write if site.name in CHANGED or _is_cut_line(family, site)})
    runs = []
    for site in changed:
        read = site._replace(name=ATTENTION_OF[site.name], rank=SITES[ATTENTION_OF[site.name]].rank)
        for through in (False, True):
            pairs = zip(writes, by_write, strict=True)
            acting = [planned for planned, at in pairs if at.when < site.when or (through and at == site)]
            runs.append(partial(_states_everywhere, model, layout, acting, [read], remote))
    found = iter(together(runs, remote))
    for site, [before], [after] in zip(changed, found, found, strict=True):
        for planned, at in zip(writes, by_write, strict=True):
            if at == site:
                places = _places(planned.write.targets, before.shape[1])
                after[planned.write.row, places] = before[planned.write.row, places]
        read = site._replace(name=ATTENTION_OF[site.name])
        _compare(read, before, after, [], rounding, "is changed by weights that an intervention changes for others")
    return len(changed)


def _is_cut_line(family: Family, site: _StateSite) -> bool:
    """Whether edges are cut there in an attention that is handed no mask."""
    return site.name == "mask" and is_line(family, site.stage)


def _places(targets: Ranges, end: int) -> list[int]:
    """Targets before `end` one by one."""
    return [place for start, stop in targets for place in range(start, end if stop is None else stop)]


def _states_everywhere(
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], sites: Sequence[_StateSite], remote: Remote
) -> list[torch.Tensor]:
    """What sites hold at every place, one `[row, place, width]` each."""
    if not sites:
        return []
    steps = [[_state_everywhere(model, layout, site)] for site in sites]
    result = run_forward(model, layout, compile_plan(model, layout, writes), steps, LogitRead.none(layout), remote)
    states = [torch.stack(rows) for [rows] in result.readouts]
    return [side_by_side(some) if SITES[site.name].part else some for site, some in zip(sites, states, strict=True)]


def states_everywhere(
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], sites: Sequence[tuple[str, str]], remote: Remote
) -> list[torch.Tensor]:
    """What sites before the layers, `(stage, name)`, hold under some writes, one `[row, place, width]` each."""
    order = order_of(view_of(model).family)
    named = [_StateSite(order.index(stage), BEFORE_LAYERS, SITES[name].rank, stage, name) for stage, name in sites]
    return _states_everywhere(model, layout, writes, named, remote)


def _state_everywhere(model: Model, layout: Layout, site: _StateSite) -> ReadStep:
    rows = 1 if site.name in AT_PROJECTOR else len(layout.placements)
    if site.stage in dict(view_of(model).family.stages) and site.stage != "decoder":
        rows = layout.stage_tokens(site.stage).rows
    every, heads = Ranges(((0, None),)), None
    if SITES[site.name].part:
        here = resolver(model, layout.placements[0]).at(site.stage)
        heads = here.read_heads(None, site.layer, site.name)
        if SITES[site.name].holds_keys and SITES[site.name].needs == "cross":
            every = Ranges(((-layout.stage_tokens(site.stage).outside, 0),))
    requests = (StateRequest(row, every, heads) for row in range(rows))
    return read_step(model, layout, site.stage, site.layer, site.name, SITES[site.name].read, requests)


def _compare(
    site: _StateSite,
    before: torch.Tensor,
    after: torch.Tensor,
    writes: Sequence[Any],
    rounding: Rounding,
    wrong_how: str = "does not hold what was to be written",
) -> None:
    """Written values must be there to the bit, what is computed and neighbours up to the last digit of every number.

    Neighbours, and what is added to or scaled, come from a run of the same shape that does the same up to this site.
    """
    expected, exact = before.clone(), torch.zeros(before.shape, dtype=torch.bool)
    size = before.double().abs()  # of what is added up: rounding is relative to it, not to what may be left
    for write in writes:
        assert isinstance(write, StateWrite)
        places = _places(write.targets, before.shape[1])
        at = write.row, torch.tensor(places)[:, None], _columns(write.heads, before.shape[2])
        expected[at], exact[at] = _written(expected[at], write), write.how in ("set", "zero")
        size = torch.maximum(size, expected.double().abs())
    gap = (expected.double() - after.double()).abs()
    allowed = rounding.unit * size + 16 * SINGLE * size.amax(-1, keepdim=True)
    wrong = (~(gap <= allowed.masked_fill(exact, 0.0))).nonzero()
    if len(wrong):
        row, place, _ = (int(n) for n in wrong[0])
        raise InterventionError(
            f"{site.label}, row {row}: position {place} {wrong_how} (off by {float(gap[row, place].max()):.3g})"
        )


def _from_nought(write: Any, site: _StateSite, length: int) -> Any:
    """The write with targets outside the sequence, `-length` to -1, counted from 0."""
    if not (SITES[site.name].holds_keys and SITES[site.name].needs == "cross"):
        return write
    return write._replace(
        targets=Ranges(tuple((start + length, (stop or 0) + length) for start, stop in write.targets))
    )


def _columns(heads: HeadChoice | None, width: int) -> torch.Tensor:
    """The columns of some heads among those of all, side by side; every column for None."""
    if heads is None:
        return torch.arange(width)
    each = width // heads.head_count
    return torch.tensor([head * each + column for head in heads.numbers for column in range(each)])


def _written(states: torch.Tensor, write: StateWrite) -> torch.Tensor:
    """What states `[target, column]` shall be after a write."""
    if write.how == "mean":
        return states.mean(0).expand_as(states)
    if write.how == "zero":
        return torch.zeros_like(states)
    if write.how == "scale":
        scaled: torch.Tensor = states * write.values
        return scaled
    values: torch.Tensor = write.values.to(states)
    if write.heads is not None and write.held is not None:
        held = HeadChoice(len(write.held), tuple(write.held.index(head) for head in write.heads.numbers))
        values = values[..., _columns(held, values.shape[-1])]
    return states + values if write.how == "add" else values.expand_as(states)
