"""Proof that hidden states equal the planned values, and that their neighbours are untouched."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from ..errors import InterventionError
from ..families import Model, view_of
from ..lowering.layouts import Layout
from ..lowering.plan import ReadStep, compile_plan, read_step
from ..lowering.read_requests import StateRequest
from ..lowering.sites import BEFORE_LAYERS, SITES, STATES, order_of
from ..lowering.writes import PlannedWrite, StateWrite
from ..prompts.ranges import Ranges
from ..remote.batching import together
from ..remote.model_call import Remote
from .requests import LogitRead, run_forward


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
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], remote: Remote, *, rounding: float
) -> int:
    """Compare every written site with a run in which only what comes before it is written; returns how many sites.

    Raises:
        InterventionError: naming site, row and position.
    """
    order = order_of(view_of(model).family)
    by_write = [_StateSite.of(planned, order) for planned in writes]
    sites = sorted({site for site in by_write if site.name in STATES})
    asked = [partial(_states_everywhere, model, layout, writes, sites, remote)]
    for site in sites:
        earlier = [planned for planned, at in zip(writes, by_write, strict=True) if at.when < site.when]
        asked.append(partial(_states_everywhere, model, layout, earlier, [site], remote))
    after, *befores = together(asked, remote)
    for site, states, [before] in zip(sites, after, befores, strict=True):
        here = [planned.write for planned, at in zip(writes, by_write, strict=True) if at == site]
        _compare(site, before, states, here, rounding)
    return len(sites)


def _states_everywhere(
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], sites: Sequence[_StateSite], remote: Remote
) -> list[torch.Tensor]:
    """What sites hold at every place, one `[row, place, width]` each."""
    if not sites:
        return []
    steps = [[_state_everywhere(model, layout, site)] for site in sites]
    result = run_forward(model, layout, compile_plan(model, layout, writes), steps, LogitRead.none(layout), remote)
    return [torch.stack(rows) for [rows] in result.readouts]


def _state_everywhere(model: Model, layout: Layout, site: _StateSite) -> ReadStep:
    rows = 1 if site.name == "features" else len(layout.placements)
    if site.stage in dict(view_of(model).family.stages) and site.stage != "decoder":
        rows = layout.stage_tokens(site.stage).rows
    requests = (StateRequest(row, Ranges(((0, None),))) for row in range(rows))
    return read_step(model, layout, site.stage, site.layer, site.name, SITES[site.name].read, requests)


def _compare(
    site: _StateSite, before: torch.Tensor, after: torch.Tensor, writes: Sequence[Any], rounding: float
) -> None:
    """Written values must be there to the bit; means and neighbours up to the rounding of their own size."""
    expected, exact = before.clone(), torch.zeros(before.shape[:2], dtype=torch.bool)
    for write in writes:
        assert isinstance(write, StateWrite)
        end = before.shape[1]
        places = [place for start, stop in write.targets for place in range(start, end if stop is None else stop)]
        if write.how == "mean":
            expected[write.row, places] = expected[write.row, places].mean(0)
        else:
            expected[write.row, places] = 0 if write.how == "zero" else write.values.to(expected)
        exact[write.row, places] = write.how != "mean"
    gap = (expected.double() - after.double()).abs().amax(-1)
    allowed = torch.where(exact, 0.0, rounding * expected.double().abs().amax(-1))
    wrong = (~(gap <= allowed)).nonzero()
    if len(wrong):
        row, place = (int(n) for n in wrong[0])
        raise InterventionError(
            f"{site.label}, row {row}: position {place} does not hold what was to be written "
            f"(off by {float(gap[row, place]):.3g})"
        )
