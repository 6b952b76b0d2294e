"""Proof that a row of a batch is what it is alone.

The other proofs look at the places that the plan names, so a plan that names another row's places could pass them.
Here each row is compared with a run that shares no position with the plan: the row as a prompt of its own, for which
the intervention is lowered again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from ..device import readouts
from ..errors import InterventionError
from ..families import Model, view_of
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.plan import Plan, compile_plan
from ..lowering.read_requests import LogitRequest
from ..lowering.resolve import StateValues
from ..lowering.writes import PlannedWrite
from ..prompts.token_map import TokenMap
from ..prompts.where import Where
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Composed, Intervention
from .preparing import prepare
from .requests import LogitRead, logit_columns, run_forward

COMPARED = 32
"""At most so many positions of a row have their logits compared; they are spread evenly, the last one among them."""
ROUNDING = 64
"""How far a row may lie from itself alone, in units of the dtype's precision, for as many layers as models have."""
GROWTH = 64
"""How many times more an intervention may round than the clean run, which makes the same additions of other values."""


def prove_rows(
    model: Model,
    layout: Layout,
    writes: Sequence[PlannedWrite],
    intervention: Intervention,
    values: StateValues,
    remote: Remote,
) -> int:
    """Compare the logits of every row of a batch with those of the same row alone, both under the intervention.

    Clean runs say how far apart rounding alone brings the two.

    Args:
        model: an nnsight model.
        layout: the batch, one case a row.
        writes: what the plan of the batch does.
        intervention: what it was made from.
        values: the states that its patches take from other runs.
        remote: see `nv.run`.

    Returns:
        How many rows were compared: none where the prompt is one row without padding.

    Raises:
        InterventionError: naming the first row that is not what it is alone.
    """
    batch = layout.prompt
    alone = [batch.row(number) for number in range(len(batch))]
    if alone == [batch]:
        return 0
    runs = [partial(_logits, model, layout, compile_plan(model, layout, some), remote) for some in ([], writes)]
    for lone, tokens in zip(alone, batch.rows, strict=True):
        own = one_case_per_row(lone)
        case, states = in_lone_row(intervention, tokens, lone.rows[0], values)
        plans = compile_plan(model, own, []), prepare(model, own, [case], states)
        runs += [partial(_logits, model, own, plan, remote) for plan in plans]
    clean, changed, *rest = together(runs, remote)
    clean_alone, changed_alone = ([one for [one] in rest[start::2]] for start in (0, 1))
    clean_gaps = [_gap(*pair) for pair in zip(clean, clean_alone, strict=True)]
    precision = max(torch.finfo(view_of(model).dtype).eps, torch.finfo(torch.float32).eps)
    if not max(clean_gaps) <= GROWTH * ROUNDING * precision:
        row = clean_gaps.index(max(clean_gaps))
        raise InterventionError(
            f"row {row}: even without an intervention its logits in the batch are off by {clean_gaps[row]:.3g} of "
            "their size from those of the same row alone, so nothing can be proved of this batch; run its rows alone"
        )
    allowed = ROUNDING * precision + GROWTH * max(clean_gaps)
    for row, pair in enumerate(zip(changed, changed_alone, strict=True)):
        gap = _gap(*pair)
        if not gap <= allowed:
            raise InterventionError(
                f"row {row}: under the intervention, its logits in the batch are off by {gap:.3g} of their size from "
                f"those of the same row alone, prompt.row({row}); without it by {clean_gaps[row]:.3g}. The batch does "
                "something else than was asked of this row"
            )
    return len(alone)


def _logits(model: Model, layout: Layout, plan: Plan, remote: Remote) -> list[torch.Tensor]:
    """Logits `[position, word]` of each row, at some of its positions."""
    places = [_compared(tokens) for tokens in layout.prompt.rows]
    kept = sorted(set().union(*places))
    columns = logit_columns(layout, kept)
    picks = tuple(LogitRequest(row, tuple(columns[place] for place in some)) for row, some in enumerate(places))
    return run_forward(model, layout, plan, [], LogitRead(readouts.logit_rows, picks, kept), remote).logits


def _compared(tokens: TokenMap) -> list[int]:
    """The positions of a row that are compared, counted back from its end, which a row alone and padded has alike."""
    step = -(-(tokens.stop - tokens.start) // COMPARED)
    return sorted(range(tokens.stop - 1, tokens.start - 1, -step))


def _gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The greatest difference as a share of the greatest logit; words that a model never says are as unsaid."""
    said = expected > torch.finfo(torch.float32).min
    if not torch.equal(said, found > torch.finfo(torch.float32).min):
        return float("inf")
    here, there = (value.double().where(said, 0.0) for value in (found, expected))
    return float((here - there).abs().max() / there.abs().max().clamp(min=1e-3))


# an intervention on a row alone -------------------------------------------------------------------


def in_lone_row(
    intervention: Intervention, tokens: TokenMap, lone: TokenMap, values: StateValues
) -> tuple[Intervention, StateValues]:
    """The intervention as one writes it for a row alone, and the states that its patches take from other runs.

    Names of groups stay. Positions of the decoder count the padding of the batch, which a row alone has not got; those
    of the stages before it are the same.
    """
    parts = [_moved(part, tokens, lone) for part in intervention.parts]
    pairs = zip(parts, intervention.parts, strict=True)
    return Composed(parts=tuple(parts)), {id(part): values[id(old)] for part, old in pairs if id(old) in values}


def _moved(part: Intervention, tokens: TokenMap, lone: TokenMap) -> Any:
    """A single intervention with its positions in the decoder as they are in the row alone."""
    if part.stage != "decoder":
        return part
    named: Mapping[str, Any] = {name: getattr(part, name, None) for name in ("source", "target", "where")}
    return replace(
        part,  # type: ignore[type-var]
        **{name: _alone(where, tokens, lone) for name, where in named.items() if isinstance(where, (str, int, tuple))},
    )


def _alone(where: Where, tokens: TokenMap, lone: TokenMap) -> Where:
    """Positions as they are in the row alone."""
    if isinstance(where, int):
        return where - tokens.start if where >= 0 else where + tokens.outside - lone.outside
    return where if isinstance(where, str) else tuple(_alone(each, tokens, lone) for each in where)  # type: ignore[misc]
