"""Interventions and reads that concern nothing in a call: refused, because they would pass for a result.

A cut of edges that are closed anyway leaves every number as it is, and looks like a route that the model does not use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from ..arguments import spelled
from ..errors import SpecError
from ..lowering.emptiness import Reachable
from ..lowering.layers import label
from ..lowering.resolve import Resolver
from ..lowering.sites import ATTENTION_OF
from ..lowering.writes import EdgeCut, PlannedWrite
from ..prompts.where import Where, as_tuples, names_in, shown
from ..specs.interventions import Intervention
from ..specs.measurements import Readout

Empty = Literal["error", "ignore"]
"""What is done with an intervention that can change nothing in a call: refuse it, or run it all the same."""
EMPTY: tuple[Empty, ...] = get_args(Empty)
OR_IGNORE = 'Where a program makes many, empty="ignore" runs them all the same'


def check_empty(empty: str) -> None:
    """Refuse another word than those of `Empty`.

    Raises:
        SpecError: naming them.
    """
    if not isinstance(empty, str) or empty not in EMPTY:
        raise SpecError(f'no empty={spelled(empty)}; write empty="error", which is the default, or empty="ignore"')


class Call(NamedTuple):
    """What is asked of a model, as far as it decides which tokens are there.

    Attributes:
        name: as messages call it: which variant of a sweep, say; mostly empty.
        decoded: how many generated tokens the model is run on at most; None in a call that generates none.
        empty: what is done with an intervention that can change nothing.
    """

    name: str = ""
    decoded: int | None = None
    empty: Empty = "error"


def generating(max_new_tokens: int, empty: Empty, name: str = "") -> Call:
    """A call that generates at most so many tokens: the model is run on all of them but the last."""
    return Call(name=name, decoded=max(0, max_new_tokens - 1), empty=empty)


def refuse_empty_part(
    here: Resolver, reachable: Reachable, call: Call, part: Intervention, writes: Sequence[PlannedWrite], whose: str
) -> None:
    """Refuse a single intervention that changes nothing in one row.

    Args:
        here: the case.
        reachable: what the call reaches of its row.
        call: what is asked.
        part: the intervention.
        writes: what it was lowered to.
        whose: where it stands, for the message: which row and part.

    Raises:
        SpecError: it has no position, no layer or head, or no edge that is open.
    """
    named = part.named()
    spelled = f"{whose}{type(part).__name__}({', '.join(f'{name}={shown(where)}' for name, where in named.items())})"
    stage = here.at(part.stage)
    if not any(map(reachable.is_changed, writes)):
        raise SpecError(
            f"{spelled} changes nothing in this call: {_why(stage, reachable, call, part, writes)}. {OR_IGNORE}"
        )
    for name, where in named.items():
        missing = _missing_group(stage, where)
        if missing:
            raise SpecError(f"{spelled}: {missing}; leave it out of {name}=. {OR_IGNORE}")


def refuse_empty_read(here: Resolver, read: Readout) -> None:
    """Refuse a read without positions.

    Raises:
        SpecError: naming the argument.
    """
    stage = here.at(read.stage)
    for name, where in read.named().items():
        ranges, missing = stage.ranges(where), _missing_group(stage, where)
        if missing or not (ranges.outside or ranges.positions(stage.placement.tokens.stop)):
            why = missing or _nothing_there(stage, Call(), name, where)
            raise SpecError(f"{type(read).__name__} has nothing to read: {why}. {OR_IGNORE}")


def _missing_group(stage: Resolver, where: Where) -> str:
    """What to say of a group among these positions that the prompt has not got; `generated` may be to come."""
    for name in names_in(as_tuples(where)):
        if name != "generated" and not stage.ranges(name):
            return f"the group {name!r} is empty in this prompt: {stage.placement.tokens.why_empty(name)}"
    return ""


def _nothing_there(stage: Resolver, call: Call, name: str, where: Where) -> str:
    """Why positions name none, and what to write."""
    given = f"{name}={shown(where)}"
    if "generated" not in names_in(as_tuples(where)):
        return _missing_group(stage, where) or f"{given} names no position"
    if call.decoded is None:
        return (
            f"{given}: no token is generated yet, and this call generates none. Call nv.generate, or give the prompt "
            "that a generation has grown (nv.generate(...).prompt)"
        )
    if call.decoded:
        return f"{given}: this row is padded on the right, and no token can be generated behind the padding"
    return (
        f"{given}: the model is never run on the last token of an answer, so with max_new_tokens=1 on none; write "
        "max_new_tokens=2 or more"
    )


def _why(stage: Resolver, reachable: Reachable, call: Call, part: Intervention, writes: Sequence[PlannedWrite]) -> str:
    """Why a single intervention changes nothing, and what to write."""
    for name, where in part.named().items():
        if not reachable.holds(stage.stage, stage.ranges(where)):
            return _nothing_there(stage, call, name, where)
    last = reachable.last_taken(stage.stage)
    if writes and all(planned.layer > last for planned in writes if planned.stage == stage.stage):
        return f"of the vision tower {_taken(stage.spec.taken)} taken, and these layers are behind"
    cuts = [(planned, planned.write) for planned in writes if isinstance(planned.write, EdgeCut)]
    if not cuts:
        return part.why_without_writes(stage)
    turned = [
        planned._replace(write=cut._replace(targets=cut.sources, sources=cut.targets))
        for planned, cut in cuts
        if ATTENTION_OF[planned.site] == "attention"
    ]
    layers = label(tuple(sorted({planned.layer for planned, _ in cuts})))
    top = max(cut.top for _, cut in cuts)
    if top and any(reachable.is_changed(planned._replace(write=cut._replace(top=0))) for planned, cut in cuts):
        return f"no target can attend to more than top={top} of the sources in layers {layers}, so all of them are kept"
    why = f"no target can attend to any source in layers {layers}, cut or not, so no edge is open there"
    if any(map(reachable.is_changed, turned)):
        why += "; the other way round, with source and target exchanged, there are open edges"
    return why


def _taken(layers: Sequence[int]) -> str:
    """What is taken from a vision tower, in words."""
    given = [layer for layer in layers if layer >= 0]
    if not given:
        return "only what enters its first layer is"
    return f"the output of layer{'s' * (len(given) > 1)} {label(tuple(given))} is"
