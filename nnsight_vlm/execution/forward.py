"""One forward of a prompt under an intervention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any, Literal, overload

import torch

from ..arguments import flag, listed
from ..device.attention_parts import READERS
from ..errors import SpecError
from ..families import Model, view_of
from ..lowering.layers import layer_numbers
from ..lowering.layouts import one_case_per_row
from ..lowering.placements import Placement
from ..lowering.plan import Plan
from ..lowering.resolve import resolver
from ..lowering.sites import SITES
from ..lowering.steps import ReadStep
from ..prompts.given import prompt_given
from ..prompts.prompt import Prompt, PromptBatch
from ..prompts.where import Where, as_tuples, require_ascending
from ..remote.background import Job, can_run_in_background
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.measurements import Attention, Readout, Residual
from .capturing import checked_cases
from .checking import refuse_unseen_weights
from .emptiness import Call, Empty, check_empty, refuse_empty_read
from .memory import refuse_large_prompt
from .preparing import prepare
from .requests import LogitRead, read_steps, run_forward

LAYERED = tuple(name for name, site in SITES.items() if site.layered)
"""The sites that every layer has."""


def _shapes(value: Any) -> str:
    """Tensors by their shapes, as a result shows itself."""
    if isinstance(value, torch.Tensor):
        return str(list(value.shape))
    return f"({', '.join(map(_shapes, value))}{',' * (len(value) == 1)})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Run:
    """What one forward of a prompt of one row gave.

    Attributes:
        logits: `[vocab]` at the last position, or `[position, vocab]` at `positions=`; float32, or float64 where the
            model is.
        reads: what was asked for, in order.
    """

    logits: torch.Tensor
    reads: tuple[torch.Tensor, ...]

    def __repr__(self) -> str:
        return f"Run(logits={_shapes(self.logits)}, reads={_shapes(self.reads)})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchRun:
    """What one forward of a prompt of several rows gave.

    Attributes:
        logits: as in `Run`, `[row, vocab]` at each row's last position, or `[row, position, vocab]` at `positions=`; a
            tuple of one tensor a row where rows differ in how many positions they have.
        reads: what was asked for, in order; each a tuple of one tensor a row.
    """

    logits: torch.Tensor | tuple[torch.Tensor, ...]
    reads: tuple[tuple[torch.Tensor, ...], ...]

    def __repr__(self) -> str:
        return f"BatchRun(logits={_shapes(self.logits)}, reads={_shapes(self.reads)})"


@overload
def run(
    model: Model,
    prompt: PromptBatch,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    reads: Readout | Sequence[Readout] = (),
    positions: Where | None = None,
    empty: Empty = "error",
    grad: bool = False,
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> BatchRun: ...
@overload
def run(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    reads: Readout | Sequence[Readout] = (),
    positions: Where | None = None,
    empty: Empty = "error",
    grad: bool = False,
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> Run: ...
@overload
def run(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    reads: Readout | Sequence[Readout] = (),
    positions: Where | None = None,
    empty: Empty = "error",
    grad: bool = False,
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[Run | BatchRun]: ...
@can_run_in_background
def run(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | Sequence[Intervention | None] | None = None,
    *,
    reads: Readout | Sequence[Readout] = (),
    positions: Where | None = None,
    empty: Empty = "error",
    grad: bool = False,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> Run | BatchRun | Job[Any]:
    """One forward of a prompt under an intervention.

    Args:
        model: an nnsight model from `load`.
        prompt: from `encode`, of one row or several.
        intervention: what to change; None is the clean run. For a prompt of several rows also one for each row.
        reads: what to look at, see `Attention`, `Residual` and `Lens`.
        positions: where to take logits; default the last token of the sequence.
        empty: `"error"` refuses an intervention that can change nothing in this call, or a read of nothing: positions,
            layers or heads that name none, a group that the prompt has not got, edges that are closed already (a cut of
            later tokens in a causal model), `"generated"` where no token is generated. Each row, and each part of
            `a | b`, must do something. `"ignore"` runs them all the same, for programs that make many. Whether numbers
            move does not count: None, a patch from the same prompt and the like are not empty.
        grad: True keeps the graph, on this machine: logits and reads can be differentiated, with respect to
            parameters that require it and to states that are read (`torch.autograd.grad(run.logits[token],
            run.reads[0])`), because the model goes on with the very tensors that it gives home, of one layer each.
            Memory is then needed for every layer's states at once. By default nothing has a graph. A trace of the
            copy that `install` gives keeps its own.
        remote: nnsight's own meaning: here, on a server, or on the server at an address.
        blocking: False returns a `remote.Job` at once instead of waiting for the server.
        path: the folder in which that job is kept.

    Returns:
        A `Run` for a prompt of one row, a `BatchRun` for one of several.

    Raises:
        SpecError: anything wrong with the intervention or the reads, before the model runs; see also `empty`. A prompt
            of which one forward does not fit into what is free.
        RemoteError: a server that does not answer, or not as it should.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> seen = nv.run(model, prompt, nv.Knockout("image", "last"), reads=[nv.Attention("last", "image")])
    >>> float(seen.reads[0].sum())
    0.0
    """
    layout, readouts = one_case_per_row(prompt_given(prompt)), _reads_given(reads)
    check_empty(empty)
    grad = flag("grad", grad)
    if grad:
        _refuse_graph(model, remote, readouts)
    if any(isinstance(read, Attention) for read in readouts):
        refuse_unseen_weights(model)
    positions = as_tuples(positions)
    places = [_logit_places(model, placement, positions) for placement in layout.placements]
    steps = [list(read_steps(model, layout, read)) for read in readouts]
    for read, placement in product(readouts if empty != "ignore" else (), layout.placements):
        refuse_empty_read(resolver(model, placement), read)
    read_numbers = sum(read.numbers(resolver(model, placement)) for read in readouts for placement in layout.placements)
    refuse_large_prompt(model, prompt, remote, graph=grad, logits=sum(map(len, places)), numbers=read_numbers)
    cases, values = checked_cases(model, prompt, intervention, remote, Call(empty=empty))
    plan = prepare(model, layout, cases, values)
    if grad:
        _refuse_changed_parts(plan, steps)
    numbers = sum(map(len, places)) * view_of(model).vocab_size + read_numbers
    result = run_forward(model, layout, plan, steps, LogitRead.at(layout, places), remote, numbers=numbers, grad=grad)
    logits = [rows[0] if positions is None else rows for rows in result.logits]
    assembled = [
        _by_row(read, layers, len(prompt), grad) for read, layers in zip(readouts, result.readouts, strict=True)
    ]
    if len(prompt) == 1:
        return Run(logits=logits[0], reads=tuple(rows[0] for rows in assembled))
    same_shape = len({row.shape for row in logits}) == 1
    return BatchRun(logits=torch.stack(logits) if same_shape else tuple(logits), reads=tuple(assembled))


def _reads_given(reads: Any) -> tuple[Readout, ...]:
    """One readout or several, as a user gives them."""
    if isinstance(reads, Readout):
        return (reads,)
    return listed("reads", reads, '[nv.Attention("last", "image"), nv.Residual("last")]', kind=Readout)


def _refuse_graph(model: Model, remote: Remote, readouts: Sequence[Readout]) -> None:
    """Refuse a graph where there is none: on a server, and of states that no module holds.

    Raises:
        SpecError: naming what to write.
    """
    if remote is not False:
        raise SpecError(
            "grad=True keeps a graph, which does not come home from a server; nv.attribute and nv.saliency take "
            "gradients there"
        )
    spec = view_of(model).stage()
    for read in readouts:
        if read.stage != "decoder" or (isinstance(read, Residual) and read.site == "projector"):
            raise SpecError(
                f"with grad=True the decoder is read, and site 'features', and {read!r} was asked for; trace the copy "
                "that nv.install gives"
            )
        if not isinstance(read, Residual):
            continue
        if read.site in LAYERED and len(layer_numbers(read.layers, spec.layer_count)) > 1:
            raise SpecError(
                "with grad=True the model goes on with the states that come home, so these are of one layer each; "
                f"write [nv.Residual({read.where!r}, layers=layer) for layer in ...] in place of layers={read.layers!r}"
            )
        if any(spec.gate(read.site, layer) for layer in range(spec.layer_count)):
            raise SpecError(
                f"site {read.site!r} is behind a gate in this model, and with grad=True the model could not go on with "
                'what is read of it; read site="residual" or site="head"'
            )


def _refuse_changed_parts(plan: Plan, steps: Sequence[Sequence[ReadStep]]) -> None:
    """Refuse a graph through a query, key or value of an attention whose weights are changed behind the softmax.

    That change is computed of what the attention was handed before its part was read.

    Raises:
        SpecError: naming the layer.
    """
    changed = {path for path, _ in plan.changes}
    for step in chain.from_iterable(steps):
        if step.readout in READERS.values() and step.path in changed:
            raise SpecError(
                f"with grad=True no query, key or value is read in layer {step.layer}, where the intervention changes "
                'weights behind the softmax; read site="residual" of an earlier layer, or cut with how="mask"'
            )


def _logit_places(model: Model, placement: Placement, positions: Where | None) -> tuple[int, ...]:
    """Where logits are taken, in the sequence that runs."""
    if positions is None:
        return (placement.place(placement.tokens.stop - 1),)
    require_ascending(positions)
    ranges = resolver(model, placement).places(positions)
    places = ranges.positions(placement.place(placement.tokens.stop - 1) + 1)
    if not places:
        raise SpecError(f"there is no token at positions={positions!r} to take logits at")
    return places


def _by_row(read: Readout, layers: Sequence[Sequence[Any]], rows: int, grad: bool) -> tuple[torch.Tensor, ...]:
    """One tensor a row from what each layer gave of every row; with a graph, states are the very ones that run on."""
    if grad and isinstance(read, Residual):
        return tuple(layers[0])
    return tuple(read.assemble([layer[row] for layer in layers]) for row in range(rows))
