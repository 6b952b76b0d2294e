"""Proof that attention edges are closed where a cut names them, and nowhere else.

The attention call of every layer is read independently of our kernels: the query, key and value it was handed, the mask
it was handed, and what it returned. From these the rows concerned are recomputed and compared with the clean run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from nnsight.intervention.interleaver import OutOfOrderError

from ..device import readouts
from ..errors import InterventionError
from ..families import Model, view_of
from ..lowering.layouts import Layout
from ..lowering.placements import Placement
from ..lowering.plan import Plan, compile_plan, read_outside
from ..lowering.read_requests import AttentionRequest
from ..lowering.sites import ATTENTION_OF, CALL_PARTS, MASK_OF, SITES, locate
from ..lowering.steps import ReadStep
from ..lowering.towers import in_stage, is_line
from ..lowering.writes import EdgeCut, PlannedWrite
from ..prompts.ranges import Ranges
from ..remote.batching import together
from ..remote.model_call import Remote
from .proof_rounding import Rounding, no_numbers
from .proof_towers import by_sequence, placements_in
from .proof_weights import edges_named, first_key, take_changes
from .requests import LogitRead, run_forward

UNREACHED = (AttributeError, OutOfOrderError)
"""What nnsight raises where a path names nothing, or modules are passed in another order."""


class AttentionSite(NamedTuple):
    """One attention of a model: a stage, the site of its mask (`"mask"` or `"cross mask"`), and a layer."""

    stage: str
    site: str
    layer: int

    @property
    def kind(self) -> tuple[str, str]:
        """Stage and site: alike in all layers."""
        return self.stage, self.site

    @property
    def label(self) -> str:
        """As messages call it: `layer 3`, `qformer layer 2 (cross)`."""
        cross = " (cross)" * (self.site == "cross mask")
        return f"{self.stage.replace('decoder', '')} layer {self.layer}{cross}".lstrip()


Queries = Mapping[tuple[str, str], Sequence[tuple[int, ...]]]
"""By stage and site, for each placement, the queries whose attention is recomputed."""


class _Call(NamedTuple):
    """What one attention call was given, and what it returned, for each placement."""

    given: Sequence[dict[str, Any]]
    returned: Sequence[torch.Tensor]


class AttentionProof(NamedTuple):
    """What was found: how many edges were closed, and the largest change of a logit."""

    edges: int
    moved: float


def attentions_to_read(model: Model, layout: Layout, writes: Sequence[PlannedWrite]) -> list[AttentionSite]:
    """Every attention of the decoder, and of stages where one is cut or written; to an image only if there is one."""
    cut = {"decoder"} | {planned.stage for planned in writes if planned.site in ATTENTION_OF or _is_part(planned)}
    view = view_of(model)
    sites = []
    for stage in (name for name in view.family.stages if name in cut):
        spec = view.stage(stage)
        sites += [AttentionSite(stage, "mask", layer) for layer in spec.attention]
        if layout.stage_tokens(stage).outside:
            sites += [AttentionSite(stage, "cross mask", layer) for layer in spec.cross]
    return sites


def prove_attention(
    model: Model,
    layout: Layout,
    sites: Sequence[AttentionSite],
    writes: Sequence[PlannedWrite],
    remote: Remote,
    *,
    rounding: Rounding,
    logits: LogitRead,
) -> AttentionProof:
    """Compare every attention with the clean run, and take logits of both runs.

    Raises:
        InterventionError: naming layer, head and positions.
    """
    apart = list(by_sequence(layout, writes))
    cuts = [planned for planned in apart if planned.site in ATTENTION_OF]
    asked = [*cuts, *(planned for planned in apart if _is_part(planned) and SITES[planned.site].part == "query")]
    queries = {
        site.kind: [queries_read(each, asked, site) for each in placements_in(layout, site.stage)] for site in sites
    }
    plans = compile_plan(model, layout, []), compile_plan(model, layout, writes)
    read = partial(_read_calls, model, layout, sites, queries, logits)
    runs = zip((set(), changed_sites(model, cuts)), plans, strict=True)
    clean, cut = together([partial(read, with_values, plan, remote) for with_values, plan in runs], remote)
    edges, [clean_calls, clean_logits], [cut_calls, cut_logits] = 0, clean, cut
    for row, logits_of_row in enumerate(clean_logits):
        if bool(logits_of_row.isnan().any()):
            raise no_numbers(row)
    allowed = _allowed_share(sites, clean_calls, rounding)
    for site, before, after in zip(sites, clean_calls, cut_calls, strict=True):
        for number, placement in enumerate(placements_in(layout, site.stage)):
            named = [_cut(each) for each in cuts if _site_of(each) == site and each.write.row == placement.row]
            has_mask = not is_line(view_of(model).family, site.stage)
            masked = [each for each in named if each.how == "mask" and has_mask]
            behind = sorted((each for each in named if each not in masked), key=lambda each: each.how != "mask")
            rows, given = queries[site.kind][number], after.given[number]
            _expect_module(model, site, given)
            edges += _compare(model, site, placement, rows, masked, before.given[number], given)
            edges += take_changes(behind, rows, first_key(site.site, given), given)
            _expect_output(site, given, after.returned[number], allowed)
    changes = [rounding.moved(*pair) for pair in zip(clean_logits, cut_logits, strict=True)]
    return AttentionProof(edges, max(changes))


def _is_part(planned: PlannedWrite) -> bool:
    """Whether a query, key or value is written: what the attention returns is then recomputed from it."""
    return planned.site in SITES and SITES[planned.site].part in CALL_PARTS


def changed_sites(model: Model, cuts: Sequence[PlannedWrite]) -> set[AttentionSite]:
    """The attentions whose weights are changed and no mask tells how: their values are evidence, too."""
    family = view_of(model).family
    return {_site_of(cut) for cut in cuts if _cut(cut).how != "mask" or is_line(family, cut.stage)}


def _site_of(planned: PlannedWrite) -> AttentionSite:
    return AttentionSite(planned.stage, MASK_OF[planned.site], planned.layer)


def _cut(planned: PlannedWrite) -> EdgeCut:
    assert isinstance(planned.write, EdgeCut)
    return planned.write


def queries_read(placement: Placement, cuts: Sequence[PlannedWrite], site: AttentionSite) -> tuple[int, ...]:
    """The queries that anything is cut for, or that are written, in a stage; the last one where nothing is."""
    here = [cut.write.targets for cut in cuts if cut.stage == site.stage and cut.write.row == placement.row]
    readers = placement.tokens.readers if site.site == "cross mask" else None
    end = placement.place(placement.tokens.stop if readers is None else readers)
    return Ranges.union(here).positions(end) or (end - 1,)


def _read_calls(
    model: Model,
    layout: Layout,
    sites: Sequence[AttentionSite],
    queries: Queries,
    logits: LogitRead,
    with_values: Collection[AttentionSite],
    plan: Plan,
    remote: Remote,
) -> tuple[list[_Call], list[torch.Tensor]]:
    """What each attention was given and returned in one run, and the run's logits."""
    steps = [list(_read_steps(model, layout, site, queries[site.kind], site in with_values)) for site in sites]
    try:
        result = run_forward(model, layout, plan, steps, logits, remote)
    except UNREACHED as error:
        first, *_ = steps[0]
        raise InterventionError(
            f"the family row of {view_of(model).family.name!r} points at {first.path!r}, whose "
            f"attention is not called in the order of the layers: {error}"
        ) from error
    return [_Call(*given_and_returned) for given_and_returned in result.readouts], result.logits


def _read_steps(
    model: Model, layout: Layout, site: AttentionSite, queries: Sequence[tuple[int, ...]], with_values: bool
) -> Iterator[ReadStep]:
    """Two reads of one attention call: what it is given, its values too where these are needed, and what it returns."""
    family = view_of(model).family
    call = getattr(family.stages[site.stage], ATTENTION_OF[site.site]).call
    path, _ = locate(family, *site)
    outside = read_outside(layout, site.stage, site.site)
    reduce = "values" if with_values else "rows"
    requests = tuple(
        AttentionRequest(placement.row, Ranges(tuple((p, p + 1) for p in wanted)), Ranges(), None, reduce, 0)
        for placement, wanted in zip(placements_in(layout, site.stage), queries, strict=True)
    )
    rank = SITES[site.site].rank
    line = family.stages[site.stage].attention.line
    places = (call, f"{call}.output") if line is None else (line.parts, f"{line.mixed}.output")
    for place, readout in zip(places, (readouts.edges_used, readouts.mixed_rows), strict=True):
        function = in_stage(family.stages[site.stage], readout)
        yield ReadStep(site.stage, site.layer, rank, path, place, function, requests, outside)


# what is expected of one attention ----------------------------------------------------------------


def _expect_module(model: Model, site: AttentionSite, given: dict[str, Any]) -> None:
    if given["layer"] not in (None, site.layer):
        family = view_of(model).family
        raise InterventionError(
            f"the family row of {family.name!r} points at the wrong module for layer {site.layer}: the attention at "
            f"{locate(family, *site)[0]!r} calls itself layer {given['layer']}"
        )


def _compare(
    model: Model,
    site: AttentionSite,
    placement: Placement,
    rows: Sequence[int],
    cuts: Sequence[EdgeCut],
    clean: dict[str, Any],
    cut: dict[str, Any],
) -> int:
    """Edges of one attention and placement against the intervention; returns how many were closed."""
    heads, keys = view_of(model).stage(site.stage).head_count, clean["open"].shape[-1]
    first = first_key(site.site, clean)
    planned = edges_named(cuts, rows, range(first, first + keys), heads)
    was_open, is_open = (seen["open"].expand(heads, -1, -1) for seen in (clean, cut))
    leaked = cut["weights"] * planned
    if bool(leaked.any()):
        head, query, key = (int(n) for n in leaked.nonzero()[0])
        raise InterventionError(
            f"{site.label}, head {head}: position {rows[query]} still gives "
            f"{float(leaked[head, query, key]):.3g} of its attention to position {first + key}, an edge that is cut"
        )
    closed = planned & was_open
    _expect_same(site, rows, first, was_open & ~planned, is_open)
    _expect_counts(site, placement, rows, closed, *(each["keys_seen"].expand(heads, -1) for each in (clean, cut)))
    return int(closed.sum())


def _expect_same(
    site: AttentionSite, rows: Sequence[int], first: int, expected: torch.Tensor, is_open: torch.Tensor
) -> None:
    wrong = (expected != is_open).nonzero()
    if len(wrong):
        head, query, key = (int(n) for n in wrong[0])
        state = "closed and no cut names it" if bool(expected[head, query, key]) else "open and should be closed"
        raise InterventionError(
            f"{site.label}, head {head}: the edge from position {rows[query]} to {first + key} is {state}"
        )


def _expect_counts(
    site: AttentionSite,
    placement: Placement,
    rows: Sequence[int],
    closed: torch.Tensor,
    clean: torch.Tensor,
    cut: torch.Tensor,
) -> None:
    """Rows that no cut names see as many keys as in the clean run."""
    expected = clean.clone()
    expected[:, list(rows)] -= closed.sum(-1)
    wrong = (expected != cut).nonzero()
    if len(wrong):
        head, query = (int(n) for n in wrong[0])
        raise InterventionError(
            f"{site.label}, head {head}, row {placement.row}: position {query} may attend to {int(cut[head, query])} "
            f"keys and {int(expected[head, query])} were expected; a cut has reached what it does not name"
        )


def _expect_output(site: AttentionSite, given: dict[str, Any], returned: torch.Tensor, allowed: float) -> None:
    """The attention must have returned what it mixes, up to a share of the size of its scores and values."""
    share = _share(given, returned)
    if not share <= allowed:
        raise InterventionError(
            f"{site.label}: the attention returned what its own query, key, value and mask do not give (off by "
            f"{share:.3g} of the size of its scores and values; at most {allowed:.3g} is rounding)"
        )


def _share(given: dict[str, Any], returned: torch.Tensor) -> float:
    """How far off it is: rounding errors grow with the size of the scores and of the values."""
    gap = (given["mixed"].double() - returned.double()).abs().max()
    return float(gap / max(1.0, given["score"]) / max(given["value"], torch.finfo(torch.float32).tiny))


def _allowed_share(sites: Sequence[AttentionSite], clean: Sequence[_Call], rounding: Rounding) -> float:
    """What the intervention may round, from what the clean run rounds in any layer."""
    shares = [0.0]
    for site, call in zip(sites, clean, strict=True):
        for given, returned in zip(call.given, call.returned, strict=True):
            _expect_output(site, given, returned, rounding.attention)
            shares.append(_share(given, returned))
    return min(rounding.attention, rounding.unit + rounding.growth * max(shares))
