"""Plans: what an intervention becomes before it meets the model.

An intervention names *what*; lowering it at a `Scope` (one case at its seat) gives *writes* at the
*sites* of the model. `compile_plan` gathers the writes of all cases, merges those that meet at one
site, and sorts the sites in the order in which the model reaches them. The result is plain tuples:
a plan can be read, compared and shipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from .families import Family, family, reach, shape
from .kernels import close_edges, drop_edges
from .layouts import Layout
from .sites import ATTENDS, SITES, located, order_of

Step = tuple[Any, ...]
Write = tuple[Any, ...]
Written = tuple[str, str, int, Write]
"""`(stage, site, layer, write)`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sorted steps `(layer, path, place, kernel, writes, form)`, one list a clock.

    Attributes:
        rows: how many rows the batch has that the steps were made for.
        once: `(stage, steps)` of what the model passes once a prompt.
        stage: the decoder as a stage, see `runner`.
        every_token: steps of the decoder.
        skipped: the paths of its first layers, if they do not run, and what the last of them is said to give.
        needs: the requests that fill the boxes of its writes, where these are not filled yet.
    """

    rows: int
    once: tuple[tuple[Any, tuple[Step, ...]], ...]
    stage: tuple[Any, ...]
    every_token: tuple[Step, ...]
    skipped: tuple[tuple[str, ...], Any] = ((), None)
    needs: tuple[Any, ...] = ()

    @property
    def edits(self) -> tuple[Any, ...]:
        """What `runner.installed` takes: groups that run once a prompt, and what runs on every token, if anything."""
        acts = self.every_token or self.skipped[0]
        return self.once, (self.stage, self.every_token, self.rows, self.skipped) if acts else None


def read_outside(layout: Layout, stage: str, name: str) -> tuple[int, int | None] | None:
    """`(keys outside the sequence, queries that read them)` for a site of cross-attention; see `kernels.crossing`."""
    if ATTENDS.get(name) != "cross":
        return None
    tokens = layout.prompt.rows[0].stage(stage)
    return tokens.outside, tokens.readers


def stage_of(model: Any, layout: Layout, name: str, layers: Iterable[int]) -> tuple[Any, ...]:
    """`(entry, length, causal, asks)` of a stage, for its windows in some layers; see `runner`."""
    asked = sorted(set(layers))
    if name == "features":
        rows = sum(tokens.feature_rows for tokens in layout.prompt.rows)
        return "", rows, False, tuple((layer, layer) for layer in asked)
    here, length = shape(model, name), len(layout.prompt.rows[0].stage(name).tokens)
    asks = tuple((layer, here.asks[max(layer, 0)]) for layer in asked)
    return here.stage.entry, length, here.stage.causal, asks


def layer_paths(model: Any, layers: int) -> tuple[str, ...]:
    """The module paths of the decoder's first layers."""
    row = family(model)
    return tuple(located(row, "decoder", "residual", layer)[0] for layer in range(layers))


def compile_plan(model: Any, layout: Layout, writes: Iterable[Written]) -> Plan:
    """The plan of a layout: merge writes by site, in the order given, and sort the sites.

    A packed sequence needs its own mask in every layer, so every layer gets a step.
    """
    row = family(model)
    order = order_of(row)
    gathered: dict[tuple[int, int, int, str], list[Write]] = {}
    if layout.packing is not None:
        at, rank = order.index("decoder"), SITES["mask"].rank
        gathered = {(at, layer, rank, "mask"): [] for layer in shape(model).attention if layer >= layout.depth}
    for stage, name, layer, write in writes:
        names = (name, "silence") if name == "cross mask" else (name,)
        for each in names:
            gathered.setdefault((order.index(stage), layer, SITES[each].rank, each), []).append(write)
    shared: dict[tuple[Write, ...], tuple[Write, ...]] = {}
    steps: dict[str, list[Step]] = {}
    for (at, layer, _, name), found in sorted(gathered.items(), key=lambda item: item[0]):
        # equal cuts are one object: layers that share a cut share a mask
        merged = shared.setdefault(tuple(found), tuple(found)) if name in ATTENDS else tuple(found)
        steps.setdefault(order[at], []).append(_step(model, row, layout, order[at], name, layer, merged))
    groups = {
        name: (stage_of(model, layout, name, (step[0] for step in found)), tuple(found))
        for name, found in steps.items()
    }
    decoder = groups.pop("decoder", (stage_of(model, layout, "decoder", ()), ()))
    return Plan(
        rows=len(layout.prompt),
        once=tuple(groups.values()),
        stage=decoder[0],
        every_token=decoder[1],
        skipped=(layer_paths(model, layout.depth), layout.entering),
    )


def for_decoding(model: Any, plan: Plan) -> Plan:
    """The same plan for cached generation: what a decoded token may not look at is left out of its attention.

    Where layers read the keys of others, edges are closed only.
    """
    here = shape(model)
    if any(here.asks[layer] != layer for layer in here.attention):
        return plan
    acts = {close_edges: drop_edges}
    steps = tuple((*step[:3], acts.get(step[3], step[3]), *step[4:]) for step in plan.every_token)
    return replace(plan, every_token=steps)


def _step(
    model: Any, row: Family, layout: Layout, stage: str, name: str, layer: int, writes: tuple[Write, ...]
) -> Step:
    path, place = located(row, stage, name, layer)
    form = None
    if name in ATTENDS:
        outside = read_outside(layout, stage, name)
        packing = _packing(model, layout, layer) if name == "mask" else None
        form = (getattr(row.stages[stage], ATTENDS[name]).mask, outside, packing)
    return layer, path, place, SITES[name].act, writes, form


def _packing(model: Any, layout: Layout, layer: int) -> tuple[Any, ...] | None:
    if layout.packing is None:
        return None
    sees = reach(model, "decoder", layer)
    return (*layout.packing, sees.span, sees.chunk, layout.prompt.rows[0].blocks if sees.blocks else ())
