"""The hidden states that patches take from other runs: one forward of each source serves all patches that need it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch

from ..errors import SpecError
from ..families import Model
from ..lowering.head_choice import side_by_side
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.plan import Plan
from ..lowering.resolve import resolver
from ..lowering.state_values import RemoteStates, StateValues
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Capture, Intervention
from ..specs.measurements import Residual
from .checking import as_intervention, captured_shape, check
from .determinism import refuse_chance
from .emptiness import Call
from .preparing import prepare
from .requests import defer_forward, read_states, read_steps

Shortcut: TypeAlias = Callable[[Any, Sequence[Capture]], list[torch.Tensor] | None]
"""A function that returns the states of several captures from one run without a new forward, or None."""


def capture(
    model: Model,
    cases: Sequence[Intervention],
    remote: Remote = False,
    *,
    shortcut: Shortcut | None = None,
    stay_remote: bool = False,
) -> StateValues:
    """The hidden states `[layer, position, width]` that patches take from other runs, by `id` of the patch.

    Args:
        model: an nnsight model.
        cases: interventions, whose patches may share a source.
        remote: see `nv.run`.
        shortcut: asked first for runs on this machine.
        stay_remote: leave the states on the server; the run that uses them must be part of the same job.
    """
    wanted = {id(part): want for case in cases for part in case.parts if (want := part.capture()) is not None}
    by_run: dict[tuple[int, int], list[tuple[int, Capture]]] = {}
    for key, want in wanted.items():
        by_run.setdefault((id(want.prompt), id(want.under)), []).append((key, want))
    values: StateValues = {}
    for group in by_run.values():
        captures = [want for _, want in group]
        states: Sequence[torch.Tensor | RemoteStates] | None = None
        if shortcut is not None and remote is False:
            states = shortcut(model, captures)
        elif stay_remote and remote is not False:
            states = _deferred(model, captures, remote)
        if states is None:
            states = _captured(model, captures, remote)
        values |= {key: value for (key, _), value in zip(group, states, strict=True)}
    return values


class _SourceRun(NamedTuple):
    """The run from which states are taken."""

    layout: Layout
    plan: Plan


def _source_run(model: Model, want: Capture, remote: Remote) -> _SourceRun:
    """The run that a capture asks for; `check` has looked at it with the case whose patch asks."""
    under, layout = as_intervention(want.under), one_case_per_row(want.prompt)
    values = capture(model, [under], remote, stay_remote=True)
    return _SourceRun(layout, prepare(model, layout, [under], values))


def _captured(model: Model, captures: Sequence[Capture], remote: Remote) -> list[torch.Tensor]:
    """States of one run, brought here."""
    layout, plan = _source_run(model, captures[0], remote)
    states = read_states(model, layout, plan, [_state_read(each) for each in captures], remote)
    states = [side_by_side(value) if value.dim() == 4 else value for value in states]
    return [value if value.dim() == 3 else value[None] for value in states]


def _state_read(want: Capture) -> Residual:
    return Residual(want.where, layers=want.layers, site=want.site, stage=want.stage, heads=want.heads)


def _deferred(model: Model, captures: Sequence[Capture], remote: Remote) -> list[RemoteStates]:
    """States of one run that stays where the model is; it fills the slots of what is returned."""
    layout, plan = _source_run(model, captures[0], remote)
    source = resolver(model, layout.placements[0])
    steps = [list(read_steps(model, layout, _state_read(each))) for each in captures]
    deferred = defer_forward(model, layout, plan, steps)
    return [
        RemoteStates(like=captured_shape(source, want), slots=tuple(slots), call=deferred.call)
        for want, slots in zip(captures, deferred.slots, strict=True)
    ]


def checked_cases(
    model: Model, prompt: Prompt, given: Any, remote: Remote, call: Call, *, stay_remote: bool = True
) -> tuple[list[Intervention], StateValues]:
    """Expand one intervention, or a list of one per row, to one checked intervention per row, with its patches' states.

    `to_come` tokens may be decoded, see `check`.

    Raises:
        SpecError: anything wrong with them; not as many as the prompt has rows.
    """
    refuse_chance(model, remote)
    listed = list(given) if isinstance(given, (list, tuple)) else [given] * len(prompt)
    if len(listed) != len(prompt):
        raise SpecError(f"{len(listed)} interventions for a prompt of {len(prompt)} row(s); compose several with |")
    cases = [as_intervention(case) for case in listed]
    check(model, prompt, cases, call)
    return cases, capture(model, cases, remote, stay_remote=stay_remote)
