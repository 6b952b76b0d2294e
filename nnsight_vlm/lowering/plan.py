"""Plans: what interventions become before they meet the model.

An intervention names *what*; lowering it (one case at its placement, `resolve`) gives *writes* at the *sites* of the
model. `compile_plan` gathers the writes of all cases, merges those that meet at one site, and sorts the sites in the
order in which the model reaches them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..device.gates import take_output
from ..device.kernels import close_edges, drop_edges
from ..device.lines import change_line
from ..device.mixtures import change_weights, is_change
from ..device.towers import change_tower_weights
from ..families import VISION, Family, Model, view_of
from .layouts import Layout
from .projected import rows_handed
from .sites import ATTENTION_OF, CALL_PARTS, KEY_PARTS, SITES, gate_of, locate, order_of, refuse_two_projections
from .steps import LINE, MaskSpec, ReadStep, Skipped, StageExtent, StageSteps, Step
from .towers import ends_of_pieces, in_stage, is_line, parts_of_line
from .writes import PlannedWrite


def read_step(
    model: Model, layout: Layout, stage: str, layer: int, site: str, readout: Callable[..., Any], requests: Any
) -> ReadStep:
    """The step that reads one site in one layer."""
    family = view_of(model).family
    path, place = locate(family, stage, site, layer)
    if site in ATTENTION_OF:
        place = getattr(family.stages[stage], ATTENTION_OF[site]).call
    if (site in ATTENTION_OF or SITES[site].part in CALL_PARTS) and is_line(family, stage):
        place = parts_of_line(family, stage)
    return ReadStep(
        stage=stage,
        layer=layer,
        rank=SITES[site].rank,
        path=path,
        place=place,
        readout=in_stage(family.stages.get(stage), readout),
        requests=tuple(requests),
        outside=read_outside(layout, stage, site),
        gate=None if stage == "features" else gate_of(view_of(model), stage, layer, site),
    )


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is done in a run, in the order in which the model reaches it.

    Attributes:
        rows: how many rows the batch has that the steps were made for.
        once: the steps of each stage that runs once per prompt.
        decoder: where the decoder's queries and keys lie.
        every_token: steps of the decoder.
        skipped: its first layers, if they do not run.
        needs: calls that must run first, in the same job, because the writes use their results.
    """

    rows: int
    once: tuple[StageSteps, ...]
    decoder: StageExtent
    every_token: tuple[Step, ...]
    skipped: Skipped
    needs: tuple[Any, ...] = ()

    @property
    def changes(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        """What is done to attention behind the softmax, by path of the module and name of the call.

        What is done to a line, whose cuts no call shows, has the name `LINE`.
        """
        steps = (step for part in (*(stage.steps for stage in self.once), self.every_token) for step in part)
        changed = [step for step in steps if step.kernel in (change_weights, change_tower_weights)]
        found = {(step.path, step.place): tuple(filter(is_change, step.writes)) for step in changed}
        steps = (step for stage in self.once for step in stage.steps if step.kernel is change_line)
        return found | {(step.path, LINE): step.writes for step in steps}

    @property
    def edits(self) -> tuple[Any, ...]:
        """Plain tuples for `device.runner.installed`: what runs once per prompt, and what runs on every token."""
        once = tuple((tuple(stage.extent), tuple(step.plain() for step in stage.steps)) for stage in self.once)
        if not self.every_token and not self.skipped.paths:
            return once, None
        steps = tuple(step.plain() for step in self.every_token)
        return once, (tuple(self.decoder), steps, self.rows, tuple(self.skipped))


def read_outside(layout: Layout, stage: str, site: str) -> tuple[int, int | None] | None:
    """`MaskSpec.outside` of a site; None for self-attention, and for states of queries alone."""
    is_part = SITES[site].part in CALL_PARTS and SITES[site].needs == "cross"
    if ATTENTION_OF.get(site) != "cross" and not is_part:
        return None
    tokens = layout.stage_tokens(stage)
    return tokens.outside, tokens.readers


def stage_extent(model: Model, layout: Layout, name: str, layers: Iterable[int]) -> StageExtent:
    """Where the queries and keys of a stage lie in some layers; of `"features"`, the rows of the projector's output."""
    wanted = sorted(set(layers))
    if name == "features":
        refuse_two_projections(view_of(model).family, layout.prompt.rows)
        rows = sum(tokens.feature_rows for tokens in layout.prompt.rows)
        return StageExtent("", rows, False, tuple((layer, layer) for layer in wanted))
    spec, length = view_of(model).stage(name), _length(layout, name)
    cache_layers = tuple((layer, spec.cache_layer[max(layer, 0)]) for layer in wanted)
    if is_line(view_of(model).family, name):
        return StageExtent("", length, ends_of_pieces(view_of(model), layout, wanted), cache_layers)
    return StageExtent(spec.stage.entry, length, spec.stage.causal, cache_layers)


def _length(layout: Layout, stage: str) -> int:
    """How many positions the sequence of a stage has; of the vision tower, those of all rows."""
    own = layout.stage_tokens(stage)
    return sum(tokens.stop for tokens in layout.tower_maps) if stage == VISION else len(own.tokens)


def layer_paths(model: Model, layers: int) -> tuple[str, ...]:
    """The module paths of the decoder's first layers."""
    family = view_of(model).family
    return tuple(locate(family, "decoder", "residual", layer)[0] for layer in range(layers))


class _Site(NamedTuple):
    """A site's place in the order in which the model reaches them."""

    stage: int
    layer: int
    rank: int
    name: str


def compile_plan(model: Model, layout: Layout, writes: Iterable[PlannedWrite]) -> Plan:
    """The plan of a layout: merge writes by site, in the order given, and sort the sites."""
    family = view_of(model).family
    order = order_of(family)
    shared: dict[Any, Any] = {}
    steps: dict[str, list[Step]] = {}
    for site, gathered in sorted(_gathered(model, layout, writes, order).items()):
        merged = tuple(write.plain() for write in gathered)
        if site.name in ATTENTION_OF:  # equal cuts become one object: layers that share a cut share a mask
            merged = shared.setdefault(merged, merged)
        stage = order[site.stage]
        steps.setdefault(stage, []).append(_step(model, family, layout, stage, site, merged))
    stages = {
        name: StageSteps(stage_extent(model, layout, name, (step.layer for step in some)), tuple(some))
        for name, some in steps.items()
    }
    decoder = stages.pop("decoder", StageSteps(stage_extent(model, layout, "decoder", ()), ()))
    return Plan(
        rows=len(layout.prompt),
        once=tuple(stages.values()),
        decoder=decoder.extent,
        every_token=decoder.steps,
        skipped=Skipped(layer_paths(model, layout.depth), layout.entering),
    )


def _gathered(
    model: Model, layout: Layout, writes: Iterable[PlannedWrite], order: tuple[str, ...]
) -> dict[_Site, list[Any]]:
    """Writes by site. In a packed sequence every attention layer gets a step, if only for the packed mask."""
    gathered: dict[_Site, list[Any]] = {}
    if layout.packing is not None:
        decoder, rank = order.index("decoder"), SITES["mask"].rank
        attending = (layer for layer in view_of(model).stage().attention if layer >= layout.depth)
        gathered = {_Site(decoder, layer, rank, "mask"): [] for layer in attending}
    for stage, site, layer, write in writes:
        for name in sites_written(model, stage, site, layer):
            gathered.setdefault(_Site(order.index(stage), layer, SITES[name].rank, name), []).append(write)
    for at in [at for at in gathered if at.name == "empty rows"]:
        other = at._replace(rank=SITES["cross weights"].rank, name="cross weights")
        if other in gathered:  # one call is visited once
            gathered[other] = [*gathered.pop(at), *gathered[other]]
    return gathered


def sites_written(model: Model, stage: str, site: str, layer: int) -> tuple[str, ...]:
    """Where a model is written for one site: there, and at the places that go with it."""
    if site in ("mask", "weights") and is_line(view_of(model).family, stage):
        return "pieces", "query kept", "key kept", "value kept", "line"
    if site == "cross mask":
        return site, "empty rows"
    gate = view_of(model).stage(stage).gate(site, layer) if site in ("cross", "mlp") else None
    if gate is None:
        return (site,)
    return (*(("row factors",) if gate.rows else ()), site, f"{site} gate")


def for_decoding(model: Model, plan: Plan) -> Plan:
    """The same plan for cached generation: what a decoded token may not look at is left out of its attention.

    Where layers read the keys of others, keys are written or weights changed, edges are closed only.
    """
    spec = view_of(model).stage()
    if any(spec.cache_layer[layer] != layer for layer in spec.attention):
        return plan
    written = {step.layer for step in plan.every_token if step.mask is not None and step.mask.keyword in KEY_PARTS}
    written |= {step.layer for step in plan.every_token if step.kernel is change_weights}
    steps = tuple(
        step._replace(kernel=drop_edges) if step.kernel is close_edges and step.layer not in written else step
        for step in plan.every_token
    )
    return replace(plan, every_token=steps)


def _step(
    model: Model, family: Family, layout: Layout, stage: str, site: _Site, writes: tuple[tuple[Any, ...], ...]
) -> Step:
    path, place = locate(family, stage, site.name, site.layer)
    mask, kernel = None, SITES[site.name].kernel
    if site.name == "row factors":
        mask = MaskSpec(next(gate.rows for gate in family.stages[stage].gates.values() if gate.rows), None, None)
    written = sites_written(model, stage, site.name, site.layer)
    if f"{site.name} gate" in written:
        kernel = take_output
        mask = MaskSpec("", None, None) if "row factors" in written else None  # only then are they its own
    factor = 1.0 if stage == "features" else view_of(model).stage(stage).factor(site.name)
    if factor != 1:
        mask = MaskSpec(factor, None, None)
    if SITES[site.name].part in CALL_PARTS:
        mask = MaskSpec(SITES[site.name].part, read_outside(layout, stage, site.name), None)
    if site.name == "pieces":
        mask = MaskSpec(parts_of_line(family, stage).split()[0], None, None)
    if site.name == "projector":
        mask = MaskSpec(rows_handed(family, layout), None, None)
    if site.name in ATTENTION_OF:
        packing = _packing(model, layout, site.layer) if site.name == "mask" else None
        keyword = getattr(family.stages[stage], ATTENTION_OF[site.name]).mask
        mask = MaskSpec(keyword, read_outside(layout, stage, site.name), packing)
    return Step(site.layer, path, place, in_stage(family.stages.get(stage), kernel), writes, mask)


def _packing(model: Model, layout: Layout, layer: int) -> tuple[Any, ...] | None:
    """`(prefix, length, span, chunk, blocks)`, see `device.kernels.packed_mask`."""
    if layout.packing is None:
        return None
    reach = view_of(model).reach("decoder", layer)
    blocks = tuple(block.pairs for block in layout.prompt.rows[0].blocks) if reach.blocks else ()
    return (*layout.packing, reach.span, reach.chunk, blocks)
