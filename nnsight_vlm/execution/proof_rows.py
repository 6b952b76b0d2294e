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

from ..errors import InterventionError
from ..families import VISION, Model
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.placements import tower_places
from ..lowering.plan import Plan, compile_plan
from ..lowering.state_values import StateValues
from ..lowering.writes import PlannedWrite
from ..prompts.token_map import TokenMap
from ..prompts.where import MaskedPositions, Where
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Composed, Intervention
from .preparing import prepare
from .proof_rounding import Rounding, worst
from .requests import LogitRead, run_forward

COMPARED = 32
"""At most so many positions of a row have their logits compared; they are spread evenly, the last one among them."""


def prove_rows(
    model: Model,
    layout: Layout,
    writes: Sequence[PlannedWrite],
    intervention: Intervention,
    values: StateValues,
    remote: Remote,
    rounding: Rounding,
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
        rounding: what it may do.

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
    clean_gaps = worst(rounding.gap(*pair) for pair in zip(clean, clean_alone, strict=True))
    allowed = rounding.allowed(clean_gaps, "its logits in the batch are off by {} from those of the same row alone")
    for row, gap in enumerate(worst(rounding.gap(*pair) for pair in zip(changed, changed_alone, strict=True))):
        if not gap <= allowed:
            raise InterventionError(
                f"row {row}: under the intervention, its logits in the batch are off by {gap:.3g} of their size from "
                f"those of the same row alone, prompt.row({row}); without it by {clean_gaps[row]:.3g}. The batch does "
                "something else than was asked of this row"
            )
    return len(alone)


def _logits(model: Model, layout: Layout, plan: Plan, remote: Remote) -> list[torch.Tensor]:
    """Logits `[position, word]` of each row, at some of its positions."""
    read = LogitRead.at(layout, [_compared(tokens) for tokens in layout.prompt.rows])
    return run_forward(model, layout, plan, [], read, remote).logits


def _compared(tokens: TokenMap) -> list[int]:
    """The positions of a row that are compared, counted back from its end, which a row alone and padded has alike."""
    step = -(-(tokens.stop - tokens.start) // COMPARED)
    return sorted(range(tokens.stop - 1, tokens.start - 1, -step))


# an intervention on a row alone -------------------------------------------------------------------


def in_lone_row(
    intervention: Intervention, tokens: TokenMap, lone: TokenMap, values: StateValues
) -> tuple[Intervention, StateValues]:
    """The intervention as one writes it for a row alone, and the states that its patches take from other runs.

    Names of groups stay. Positions of the decoder count the padding of the batch, which a row alone has not got; those
    of the stages before it are the same. A mask becomes the positions that it says, because a row alone is shorter.
    """
    parts = [_moved(part, tokens, lone) for part in intervention.parts]
    pairs = zip(parts, intervention.parts, strict=True)
    return Composed(parts=tuple(parts)), {id(part): values[id(old)] for part, old in pairs if id(old) in values}


def _moved(part: Intervention, tokens: TokenMap, lone: TokenMap) -> Any:
    """A single intervention with its positions as they are in the row alone."""
    start, outside = (tokens.start, tokens.outside - lone.outside) if part.stage == "decoder" else (0, 0)
    if part.stage == VISION:  # padded otherwise beside other pictures
        places = tower_places(tokens.stage(VISION), lone.stage(VISION), 0)
        moved = {name: _renumbered(where, places) for name, where in part.named().items()}
    else:
        moved = {name: _alone(where, start, outside) for name, where in part.named().items()}
    return replace(part, **moved) if moved != part.named() else part  # type: ignore[type-var]


def _alone(where: Where, start: int, outside: int) -> Where:
    """Positions in a row that begins `start` tokens earlier, with so many fewer keys outside the sequence."""
    if isinstance(where, int):
        return where - start if where >= 0 else where + outside
    if isinstance(where, MaskedPositions):
        return tuple(position - start for position in where.positions)
    return where if isinstance(where, str) else tuple(_alone(each, start, outside) for each in where)  # type: ignore[misc]


def _renumbered(where: Where, places: Mapping[int, int]) -> Where:
    """Positions of which some are another number in the row alone."""
    if isinstance(where, int):
        return places.get(where, where)
    if isinstance(where, MaskedPositions):
        return tuple(places.get(position, position) for position in where.positions)
    return where if isinstance(where, str) else tuple(_renumbered(each, places) for each in where)  # type: ignore[misc]
