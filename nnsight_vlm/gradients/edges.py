"""What heads read: the effect of reading some tokens as another run has them, to first order behind the head.

An *edge* leads from a group of tokens to another, through one head: the target's tokens attend to the source's keys and
take up its values. Interchanged, the head reads the source's keys and values of another run, with the queries of this
one, and all other keys and values of this one; nothing else changes before its output. What comes of that inside the
attention is computed and not estimated, softmax included. The gradient says what it does behind the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

import pandas as pd

from ..device import gradients
from ..execution.capturing import capture
from ..execution.checking import check
from ..execution.determinism import refuse_chance
from ..execution.memory import refuse_what_cannot_fit
from ..execution.preparing import prepare
from ..families import Model, view_of
from ..families.locks import one_thread
from ..lowering.layers import Layers
from ..lowering.layouts import one_case_per_row
from ..prompts.prompt import Prompt
from ..remote.batching import ask
from ..remote.model_call import ModelCall, Remote
from ..specs.interventions import CLEAN, Intervention
from ..specs.states import Patch
from .calls import graph_bytes, inputs_of, numbers_of, reads_of
from .metrics import metric_given, require_finite
from .places import Spot, spots_of


def readings_of(model: Model, prompt: Prompt, donor: Prompt, sources: Sequence[str]) -> dict[str, Intervention]:
    """For each source the run in which every head of every layer reads this source as the donor's run has it.

    What attention adds is held in all layers as it is in the prompt's own run, so that no layer sees what an earlier
    one has read: the output of each head, which is read before that, differs by its own reading alone.

    Args:
        model: an nnsight model.
        prompt: whose run is changed.
        donor: the same text about another picture.
        sources: group names.
    """
    layers = list(view_of(model).stage().attention)
    held = Patch("all", source=prompt, site="attention", layers=layers)  # one object, and so one run for all sources
    return {source: reduce(or_, [held, *_handed_over(donor, source, layers)]) for source in sources}


def _handed_over(donor: Prompt, source: str, layers: Sequence[int]) -> list[Patch]:
    return [Patch(source, source=donor, site=site, layers=layers) for site in ("key", "value")]


def edge_patch(prompt: Prompt, reading: Intervention, target: str, layer: int, head: int) -> Patch:
    """One head's output at the target as it is where this head reads the source of another run."""
    return Patch(target, source=prompt, under=reading, site="head", layers=layer, heads=[head])


def check_edges(model: Model, prompt: Prompt, group: str, layers: Layers) -> None:
    """Refuse a group that no head of these layers reads within the decoder, or at which none writes.

    Raises:
        SpecError: saying why.
    """
    spots_of(model, prompt, prompt, "head", (group,), "group", layers)
    check(model, prompt, readings_of(model, prompt, prompt, [group])[group])


def sees(prompt: Prompt, source: str, target: str) -> bool:
    """Whether any of the target's tokens can attend to any of the source's."""
    first = min(prompt[source])
    return any(prompt.rows[0].last_seen(position) >= first for position in prompt[target])


def estimate_edges(
    model: Model,
    prompt: Prompt,
    readings: Sequence[Intervention],
    targets: Sequence[str],
    *,
    layers: Layers,
    answer: int,
    against: int,
    memory: int | None,
    remote: Remote,
) -> list[pd.DataFrame]:
    """Estimate what each `edge_patch` would do to the logit difference of two answers, in all layers and heads.

    Args:
        model: an nnsight model.
        prompt: of one row.
        readings: of `readings_of`.
        targets: group names.
        layers: which layers.
        answer, against: tokens.
        memory: see `nv.attribute`.
        remote: see `nv.run`.

    Returns:
        For each reading `layer, head, group, estimate`.

    Raises:
        SpecError: a site that the model has not got, or what does not fit into memory.
        InterventionError: the logit difference is infinite or not a number.
    """
    refuse_chance(model, remote)
    metric = metric_given(model, answer, against, None, None, remote)
    spots = spots_of(model, prompt, prompt, "head", targets, "group", layers)
    for reading in readings:
        check(model, prompt, reading)
    layout, readouts = one_case_per_row(prompt), [spot.read(spot.where) for spot in spots]
    reads, places = reads_of(model, layout, readouts), metric.places(layout)
    needed = graph_bytes(model, prompt, numbers_of(model, prompt, readouts), logits=len(places))
    refuse_what_cannot_fit(model, needed, remote, memory, "this attribution", plain=memory is None)
    values = capture(model, readings, remote, stay_remote=True)
    slots = [list[Any]() for _ in readings]
    taken = reads.extents(model, layout), reads.plain(model), metric.plain(layout)
    inputs, own = inputs_of(layout, sorted(places)), prepare(model, layout, [CLEAN], {})
    plans = [prepare(model, layout, [reading], values) for reading in readings]
    first = tuple(
        ModelCall(task=gradients.keep_states, inputs=inputs, rest=(plan.edits, *taken, slot), needs=plan.needs)
        for plan, slot in zip(plans, slots, strict=True)
    )
    numbers = len(readings) * sum(spot.heads * len(spot.labels) for spot in spots)
    rest = (own.edits, *taken, slots)
    call = ModelCall(task=gradients.estimate_each, inputs=inputs, rest=rest, needs=first, numbers=numbers)
    with one_thread(model, here=remote is False):
        for each in call.needs if remote is False else ():
            ask(model, each, remote)
        value, effects = ask(model, call, remote)
    require_finite((value,), ("run",))
    return [_frame(spots, reads.by_readout(some)) for some in effects]


def _frame(spots: Sequence[Spot], effects: Sequence[Any]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"layer": spot.layer, "head": head, "group": spot.labels[0], "estimate": value}
            for spot, effect in zip(spots, effects, strict=True)
            for head, value in enumerate(effect.tolist())
        ]
    )
