"""Attribution patching: the effect of every patch at once, to first order, from two forwards and one backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, overload

import pandas as pd
import torch

from ..arguments import whole_number
from ..device import gradients
from ..errors import SpecError
from ..execution.determinism import refuse_chance
from ..execution.memory import check_memory, refuse_what_cannot_fit
from ..execution.preparing import prepare
from ..families import Model, view_of
from ..families.locks import one_thread
from ..lowering.layers import Layers
from ..lowering.layouts import Layout, one_case_per_row
from ..lowering.plan import compile_plan
from ..lowering.resolve import resolver
from ..lowering.sites import BEFORE_LAYERS, StateSite
from ..lowering.writes import PlannedWrite, StateWrite
from ..prompts.given import single_prompt
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..remote.background import Job, can_run_in_background
from ..remote.batching import ask
from ..remote.model_call import ModelCall, Remote, check_remote
from ..specs.interventions import CLEAN
from ..specs.measurements import Residual
from .calls import Reads, graph_bytes, inputs_of, numbers_of, reads_of, refuse_other_masks
from .exact import add_exact
from .metrics import Metric, metric_given, require_finite
from .places import By, Spot, spots_of

RUNS = ("clean run", "corrupt run")


@overload
def attribute(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    *,
    answer: str | int | None = None,
    against: str | int | None = None,
    metric: Callable[[torch.Tensor], torch.Tensor] | None = None,
    at: StateSite | Sequence[StateSite] = ("residual", "head"),
    where: Where | None = None,
    by: By = "group",
    layers: Layers = "all",
    steps: int = 1,
    exact: int = 0,
    positions: Where | None = None,
    memory: int | None = None,
    remote: Remote = False,
    blocking: Literal[True] = True,
    path: None = None,
) -> pd.DataFrame: ...
@overload
def attribute(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    *,
    answer: str | int | None = None,
    against: str | int | None = None,
    metric: Callable[[torch.Tensor], torch.Tensor] | None = None,
    at: StateSite | Sequence[StateSite] = ("residual", "head"),
    where: Where | None = None,
    by: By = "group",
    layers: Layers = "all",
    steps: int = 1,
    exact: int = 0,
    positions: Where | None = None,
    memory: int | None = None,
    remote: Remote,
    blocking: Literal[False],
    path: str | Path | None = None,
) -> Job[pd.DataFrame]: ...
@can_run_in_background
def attribute(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    *,
    answer: str | int | None = None,
    against: str | int | None = None,
    metric: Callable[[torch.Tensor], torch.Tensor] | None = None,
    at: StateSite | Sequence[StateSite] = ("residual", "head"),
    where: Where | None = None,
    by: By = "group",
    layers: Layers = "all",
    steps: int = 1,
    exact: int = 0,
    positions: Where | None = None,
    memory: int | None = None,
    remote: Remote = False,
    blocking: bool = True,  # noqa: ARG001
    path: str | Path | None = None,  # noqa: ARG001
) -> pd.DataFrame | Job[pd.DataFrame]:
    """Estimate what each patch of the clean run's states into the corrupt run would do, all at once.

    Attribution patching (Nanda 2023; Syed et al., arXiv 2310.10348): the difference of the two runs' states times the
    gradient of the metric in the corrupt run. It costs two forwards and one backward, however many patches it stands
    for. It is exact where the model is linear, and fails where it is not: where a patch moves attention far, or where
    an attention is saturated, so check the largest with `exact=`.

    Args:
        model: an nnsight model from `load`.
        clean, corrupt: prompts of one row each, whose positions correspond as those of a `Patch` do.
        answer: one token, as text or id: the metric is its logit at the prompt's last token.
        against: another token, whose logit is taken off.
        metric: in their place a function of the logits `[position, word]` that gives a number with a gradient; only
            on this machine.
        at: sites, see `StateIntervention`: `residual`, `attention`, `mlp`, `head`, `query`, `key`, `value`,
            `embedding`, `features`, ...
        where: groups, each of which is patched as a whole; by default those that part the prompt (`system`, `image`,
            `query`, ...) and have states at the site, and `last`, which is part of `query`. With `by="position"`
            positions, each patched by itself; by default all of the sequence.
        by: `"group"` or `"position"`.
        layers: which layers; `"all"` is all that have the site.
        steps: integrated steps (Hanna et al., arXiv 2403.17806): the gradient is the mean over so many runs whose
            embeddings lie between those of the two runs, the corrupt run the first. One more forward and backward each.
        exact: so many of the largest estimates are patched, by `sweep`, and the effect stands beside the estimate.
        positions: where the logits are taken that `metric` is handed; default the last token.
        memory: bytes that this may take beside the weights: a forward with a graph keeps every layer's states. Default
            what is free.
        remote, blocking, path: see `run`. The states stay where the model is, and the sums come back. A server that
            runs requests in a sandbox, apart from the model, has no gradients, and says so before it runs the model.

    Returns:
        One row for each site, layer, head and group (or `position`): `site`, `layer` and `head` (missing where there is
        none), `group`, `estimate` in the metric's unit, and `exact` where it was patched. `frame.attrs` has the
        `metric`, its value in the `clean` and `corrupt` run, `steps`, and with `exact=` the `correlation` of estimate
        and exact, over all that were patched and by site.

    Raises:
        SpecError: what `Patch` refuses, before the model runs; see `sweep`.
        InterventionError: the metric is infinite or not a number.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> clean, corrupt = (nv.encode(model, "what is at center ?", nv.shapes.scene(seed).image) for seed in (3, 4))
    >>> frame = nv.attribute(model, clean, corrupt, answer=20, at="residual", layers=[2, 5])
    >>> frame[["layer", "group"]].values.tolist()[:4]
    [[2, 'system'], [5, 'system'], [2, 'image'], [5, 'image']]
    """
    clean, corrupt = single_prompt(clean, "clean"), single_prompt(corrupt, "corrupt")
    check_remote(remote)
    memory, steps = check_memory(memory), whole_number("steps", steps, least=1, kind="number of steps")
    exact = whole_number("exact", exact, least=0, kind="number of patches")
    measured = metric_given(model, answer, against, metric, positions, remote)
    refuse_chance(model, remote)
    spots = spots_of(model, clean, corrupt, at, where, by, layers)
    call, reads = _prepared(model, clean, corrupt, spots, measured, steps, by, remote, memory)
    with one_thread(model, here=remote is False):
        for needed in call.needs if remote is False else ():
            ask(model, needed, remote)
        reached, begun, effects = ask(model, call, remote)
    require_finite((reached, begun), RUNS)
    frame = _frame(spots, reads.by_readout(effects)[: len(spots)], by)
    frame.attrs.update(metric=measured.words(), clean=float(reached), corrupt=float(begun), steps=steps)
    return add_exact(model, clean, corrupt, frame, spots, measured, exact, memory, remote) if exact else frame


class _Mixing(NamedTuple):
    """Edits that write embeddings, the list that will hold what they write, and which read and request gives them."""

    edits: Any
    slot: list[Any]
    at: tuple[int, int] | None


def _prepared(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    spots: Sequence[Spot],
    metric: Metric,
    steps: int,
    by: By,
    remote: Remote,
    memory: int | None,
) -> tuple[ModelCall, Reads]:
    """The corrupt run's call, which needs the clean run's, and its reads.

    Raises:
        SpecError: embeddings that do not correspond; what does not fit into memory.
    """
    layouts = [one_case_per_row(prompt) for prompt in (clean, corrupt)]
    places = [metric.places(layout) for layout in layouts]
    if steps > 1:
        _refuse_steps(model, clean, corrupt, spots)
    theirs, mine = _reads(model, clean, spots, steps, source=True), _reads(model, corrupt, spots, steps)
    refuse_other_masks(clean, corrupt, mine)
    alike = Counter((spot.site, spot.where) for spot in spots)  # layers, which are mostly of one width
    first_of = {(spot.site, spot.where): spot.read(spot.where) for spot in spots}
    numbers = sum(numbers_of(model, corrupt, [first_of[each]]) * layers for each, layers in alike.items())
    needed = graph_bytes(model, corrupt, numbers, logits=len(places[1]))
    refuse_what_cannot_fit(model, needed, remote, memory, "this attribution", plain=memory is None)
    slot: list[Any] = []
    plans = [prepare(model, layout, [CLEAN], {}) for layout in layouts]
    mixing = _mixing(model, layouts[1], mine, len(spots)) if steps > 1 else _Mixing(None, [], None)
    first = ModelCall(
        task=gradients.keep_states,
        inputs=inputs_of(layouts[0], sorted(places[0])),
        rest=(plans[0].edits, theirs.extents(model, layouts[0]), theirs.plain(model), metric.plain(layouts[0]), slot),
    )
    reads = mine.extents(model, layouts[1]), mine.plain(model), metric.plain(layouts[1])
    call = ModelCall(
        task=gradients.estimate,
        inputs=inputs_of(layouts[1], sorted(places[1])),
        rest=(plans[1].edits, *reads, slot, (steps, *mixing), by == "position"),
        needs=(first,),
        numbers=sum(max(1, spot.heads) * len(spot.labels) for spot in spots),
    )
    return call, mine


def _reads(model: Model, prompt: Prompt, spots: Sequence[Spot], steps: int, *, source: bool = False) -> Reads:
    """The reads of a run; of several steps also of all embeddings, which are the first that the model reaches."""
    readouts = [spot.read(spot.source if source else spot.where) for spot in spots]
    mixed = [Residual("all", site="embedding")] if steps > 1 else []
    return reads_of(model, one_case_per_row(prompt), [*readouts, *mixed])


def _refuse_steps(model: Model, clean: Prompt, corrupt: Prompt, spots: Sequence[Spot]) -> None:
    """Refuse steps between runs whose embeddings do not correspond, or do not hold the image; and of what is before.

    Raises:
        SpecError: naming what differs.
    """
    if view_of(model).family.image_at != "decoder":
        raise SpecError(
            f"steps= are taken between the embeddings of the two runs, and {view_of(model).family.name!r} models do "
            "not read the image from there; leave steps= out"
        )
    if any(spot.site == "features" for spot in spots):
        raise SpecError(
            'steps= are taken between embeddings, behind site "features"; write at="embedding", where="image", or '
            "leave steps= out"
        )
    rows = [prompt.rows[0] for prompt in (clean, corrupt)]
    lengths = [row.stop - row.start for row in rows]
    if lengths[0] != lengths[1]:
        raise SpecError(
            f"steps= are taken between the embeddings of all tokens, and clean has {lengths[0]} and corrupt "
            f"{lengths[1]}; give prompts of one length, or leave steps= out"
        )


def _mixing(model: Model, layout: Layout, reads: Reads, number: int) -> _Mixing:
    """Edits that write all embeddings of a run, which a readout of this number reads."""
    slot: list[Any] = []
    [placement] = layout.placements
    row, places, _ = resolver(model, placement).closed_places("embedding", "all")
    write = PlannedWrite("decoder", "embedding", BEFORE_LAYERS, StateWrite(row, places, "set", slot))
    [at] = [(read, some.index(number)) for read, some in enumerate(reads.members) if number in some]
    return _Mixing(compile_plan(model, layout, [write]).edits, slot, at)


def _frame(spots: Sequence[Spot], effects: Sequence[torch.Tensor], by: By) -> pd.DataFrame:
    """The table, in the order of the spots: `effects` are `[head]` of each, or `[head, position]`."""
    rows = [
        {
            "site": spot.site,
            "layer": None if spot.layer == BEFORE_LAYERS else spot.layer,
            "head": head if spot.heads else None,
            by: label,
            "estimate": value,
        }
        for spot, effect in zip(spots, effects, strict=True)
        for head, values in enumerate(effect.reshape(max(1, spot.heads), -1).tolist())
        for label, value in zip(spot.labels, values, strict=True)
    ]
    return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})
