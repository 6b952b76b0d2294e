"""From checked interventions to the plan that a model is run under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..families import Model
from ..lowering.layouts import Layout
from ..lowering.plan import Plan, compile_plan
from ..lowering.resolve import resolver
from ..lowering.state_values import RemoteStates, StateValues
from ..lowering.writes import PlannedWrite
from ..specs.interventions import Intervention


def lower(model: Model, layout: Layout, cases: Sequence[Intervention], values: StateValues) -> list[PlannedWrite]:
    """The writes of all cases, each at its placement in the layout."""
    placed = zip(layout.placements, cases, strict=True)
    return [write for placement, case in placed for write in case.lower(resolver(model, placement, values))]


def prepare(model: Model, layout: Layout, cases: Sequence[Intervention], values: StateValues) -> Plan:
    """The plan of cases, which have been checked, in a layout.

    Args:
        model: an nnsight model.
        layout: where each case sits.
        cases: one intervention for each placement of the layout.
        values: what `capture` gave for their patches.
    """
    plan = compile_plan(model, layout, lower(model, layout, cases, values))
    used = [values[id(part)] for case in cases for part in case.parts if id(part) in values]
    calls = {id(each.call): each.call for each in used if isinstance(each, RemoteStates)}
    return replace(plan, needs=tuple(calls.values())) if calls else plan
