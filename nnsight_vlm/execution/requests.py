"""What is asked of a model: a plan and reads become a `ModelCall`, which `device.runner` carries out.

A plan is installed as nnsight edits: one nnsight worker for stages that run once per prompt, and one for the decoder,
which runs once per token. Reads are the body of the trace, so they see what every edit left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from ..device import readouts, runner
from ..families import Model, view_of
from ..lowering.layouts import Layout
from ..lowering.plan import Plan, read_step, stage_extent
from ..lowering.read_requests import LogitRequest, ScoreRequest
from ..lowering.resolve import resolver
from ..lowering.sites import order_of
from ..lowering.steps import ReadStep
from ..prompts.position_ids import padded_positions
from ..remote.batching import ask
from ..remote.model_call import ModelCall, Remote
from ..specs.measurements import Readout
from .graph_runs import forward_with_graph

Steps = Sequence[Sequence[ReadStep]]
"""For each readout its steps, one a layer."""


class LogitRead(NamedTuple):
    """What is taken from the logits of a forward.

    Attributes:
        readout: a function of `device.readouts`.
        requests: one for each row, or for each case.
        kept: the places of the sequence at which logits are computed.
    """

    readout: Callable[..., Any]
    requests: tuple[LogitRequest | ScoreRequest, ...]
    kept: Sequence[int]

    @classmethod
    def none(cls, layout: Layout) -> LogitRead:
        """For a forward whose logits are not needed: the smallest piece that a model can be asked for."""
        return cls(readouts.logit_rows, (LogitRequest(0, (0,)),), [layout.prompt.width - 1])

    @classmethod
    def at(cls, layout: Layout, places: Sequence[Sequence[int]]) -> LogitRead:
        """The logits at some places of each row, `[place, word]` a row."""
        kept = sorted(set().union(*places))
        columns = logit_columns(layout, kept)
        picks = (LogitRequest(row, tuple(columns[place] for place in some)) for row, some in enumerate(places))
        return cls(readouts.logit_rows, tuple(picks), kept)

    def plain(self) -> tuple[Any, ...]:
        """As `device.runner.collect` takes it: the last of its reads, of no stage or layer."""
        requests = tuple(request.plain() for request in self.requests)
        return None, None, "", "logits", self.readout, requests, None, (), None


class ForwardResult(NamedTuple):
    """What one forward gave.

    Attributes:
        logits: what was read from the logits, one for each request.
        readouts: for each readout and layer one tensor a row.
    """

    logits: list[torch.Tensor]
    readouts: list[list[Any]]


class DeferredForward(NamedTuple):
    """A forward whose results stay where the model is: its call, and for each readout and layer a slot to fill."""

    call: ModelCall
    slots: list[list[list[Any]]]


class _ReadOrder(NamedTuple):
    """Sort key of a read step, and which readout it belongs to."""

    stage: int
    layer: int
    rank: int
    readout: int
    step: int


def read_steps(model: Model, layout: Layout, readout: Readout) -> Iterator[ReadStep]:
    """The steps of a readout, one a layer, each with the requests of all placements.

    Raises:
        SpecError: it asks for what the model or prompt has not got.
    """
    by_placement = [list(readout.lower(resolver(model, placement))) for placement in layout.placements]
    for same in zip(*by_placement, strict=True):
        stage, layer, site, function, _ = same[0]
        yield read_step(model, layout, stage, layer, site, function, (each.request for each in same))


def run_forward(
    model: Model,
    layout: Layout,
    plan: Plan,
    steps: Steps,
    logits: LogitRead,
    remote: Remote,
    *,
    numbers: int = 0,
    grad: bool = False,
) -> ForwardResult:
    """One traced forward.

    Args:
        model: an nnsight model.
        layout: what the model is given.
        plan: what is changed.
        steps: of each readout.
        logits: what is taken from the logits.
        remote: see `nv.run`.
        numbers: how many numbers come back at most.
        grad: whether it keeps its graph, here.
    """
    order = _read_order(model, steps)
    call = _forward_call(model, layout, plan, steps, logits, order, numbers=numbers)
    if grad:
        call = replace(call, task=forward_with_graph, rest=(*call.rest, plan.decoder.entry))
    *answers, logits_read = ask(model, call, remote)
    by_readout: list[list[Any]] = [[None] * len(some) for some in steps]
    for key, answer in zip(order, answers, strict=True):
        by_readout[key.readout][key.step] = answer
    return ForwardResult(logits_read, by_readout)


def read_states(
    model: Model, layout: Layout, plan: Plan, reads: Sequence[Readout], remote: Remote
) -> list[torch.Tensor]:
    """What readouts give of a layout of one row, without logits."""
    steps = [list(read_steps(model, layout, read)) for read in reads]
    result = run_forward(model, layout, plan, steps, LogitRead.none(layout), remote)
    return [read.assemble([row for [row] in layers]) for read, layers in zip(reads, result.readouts, strict=True)]


def defer_forward(model: Model, layout: Layout, plan: Plan, steps: Steps) -> DeferredForward:
    """A forward that is asked later, together with the one that uses what it gives."""
    slots: list[list[list[Any]]] = [[[] for _ in some] for some in steps]
    order = _read_order(model, steps)
    call = _forward_call(model, layout, plan, steps, LogitRead.none(layout), order, slots=slots)
    return DeferredForward(call, slots)


def _read_order(model: Model, steps: Steps) -> list[_ReadOrder]:
    """Read steps in the order in which the model reaches them."""
    stages = order_of(view_of(model).family)
    return sorted(
        _ReadOrder(stages.index(step.stage), step.layer, step.rank, readout, at)
        for readout, some in enumerate(steps)
        for at, step in enumerate(some)
    )


def _forward_call(
    model: Model,
    layout: Layout,
    plan: Plan,
    steps: Steps,
    logits: LogitRead,
    order: Sequence[_ReadOrder],
    *,
    slots: Sequence[Sequence[list[Any]]] = (),
    numbers: int = 0,
) -> ModelCall:
    """The call of a forward, whose reads come in this order."""
    stages = order_of(view_of(model).family)
    changes = plan.changes
    reads = [steps[key.readout][key.step].plain(key.stage, changes) for key in order]
    extents = tuple(_extent(model, layout, name, number, order) for number, name in enumerate(stages))
    filled = tuple((at, slots[key.readout][key.step]) for at, key in enumerate(order)) if slots else ()
    return ModelCall(
        task=runner.forward,
        inputs=forward_inputs(layout, logits.kept),
        rest=(plan.edits, extents, (*reads, logits.plain()), filled),
        needs=plan.needs,
        numbers=numbers,
    )


def _extent(
    model: Model, layout: Layout, name: str, number: int, order: Iterable[_ReadOrder]
) -> tuple[Any, ...] | None:
    """Where a stage's queries and keys lie, in the layers that are read; None where none is."""
    layers = {key.layer for key in order if key.stage == number}
    return tuple(stage_extent(model, layout, name, layers)) if layers else None


def forward_inputs(layout: Layout, kept: Sequence[int]) -> dict[str, Any]:
    """What a plain forward is given: the encoding, position ids where there is padding, and which logits to keep."""
    prompt, wanted = layout.prompt, torch.tensor([place - layout.start for place in kept])
    some_logits = {"logits_to_keep": wanted} if view_of(prompt.model).family.logits_to_keep else {}
    return {**prompt.inputs, **padded_positions(prompt), **some_logits}


def logit_columns(layout: Layout, kept: Sequence[int]) -> dict[int, int]:
    """For each place `kept` of the sequence, its row in the logits that a forward gives."""
    some_logits = view_of(layout.prompt.model).family.logits_to_keep
    return {place: at if some_logits else place - layout.start for at, place in enumerate(kept)}
