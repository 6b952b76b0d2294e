"""Proof that an intervention did what it says, from what the model really used.

The attention call of every layer is read from outside: the query, key and value it was handed, the
mask it was handed, and what it returned. From these the rows concerned are recomputed and compared
with the clean run. What a cut names is taken from the lowered intervention; the kernels that carry
it out, and the runner, have no part in the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from . import readouts
from .engine import as_intervention, capture, check, lower
from .errors import InterventionError
from .families import family, shape
from .interventions import Intervention
from .layouts import Layout, Seat, as_it_is
from .plan import Written, compile_plan, read_outside
from .prompts import Prompt
from .remote import waits
from .rows import to_positions
from .scope import holds
from .sites import ATTENDS, OUTSIDE, SITES, STATES, located, order_of
from .traces import UNREACHED, ReadStep, decode_logits, forward, no_logits
from .wire import Remote, together

ANSWER = 4
"""How many tokens are decoded to prove cached generation."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was checked, and held.

    Attributes:
        layers: attention layers whose mask and output were recomputed.
        edges: attention edges (head by head) found closed that the clean run has open.
        writes: sites whose hidden states are what was to be written.
        tokens: decoded tokens whose logits a forward over the whole sequence gives too.
    """

    layers: int
    edges: int
    writes: int
    tokens: int


@waits
def verify(model: Any, prompt: Prompt, intervention: Intervention | None, *, remote: Remote = False) -> Proof:
    """Prove that an intervention did what it says in this model, on this prompt.

    Every planned edge must have probability exactly 0; no other edge, row or layer may differ from
    the clean run's mask; the recomputed rows must be what the attention returned; every patched or
    ablated state must be what was to be written, and its neighbours untouched. Where tokens to come
    are concerned, a few are decoded with the cache, and their logits compared with one forward.

    Raises:
        InterventionError: naming layer, head and positions.
        SpecError: see `run`.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> verify(model, prompt, nv.Knockout("image", "last", layers=[2, 3], heads=[1])).edges
    200
    """
    intervention = as_intervention(intervention)
    check(model, prompt, intervention)
    values = capture(model, [intervention], remote)
    layout = as_it_is(prompt)
    writes = lower(model, layout, [intervention] * len(prompt), values)
    tokens = 0
    if any(stop is None for *_, write in writes for _, stop in write[1]):
        layout, tokens = _with_answers(model, layout, writes, remote)
    spots = _spots(model, writes)
    proofs = [
        partial(_verify_attention, model, layout, spots, writes, remote),
        partial(_verify_states, model, layout, writes, remote),
    ]
    edges, states = together(proofs, remote)
    return Proof(layers=len(spots), edges=edges, writes=states, tokens=tokens)


def _coarseness(model: Any) -> float:
    """How far apart two ways of computing one number may lie, relative to what it is made of."""
    return 16 * float(torch.finfo(model._module.dtype).eps)


def _with_answers(model: Any, layout: Layout, writes: Sequence[Written], remote: Remote) -> tuple[Layout, int]:
    """Decode a few tokens with the cache; one forward over all of them must give the same logits."""
    prompt, plan = layout.prompt, compile_plan(model, layout, writes)
    chosen, decoded = decode_logits(model, prompt, plan, ANSWER, remote)
    grown = as_it_is(prompt.grown_rows(chosen.tolist()))
    kept = list(range(prompt.width - 1, prompt.width - 1 + ANSWER))
    picks = tuple((row, tuple(range(ANSWER))) for row in range(len(prompt)))
    replayed = forward(model, grown, plan, [], (readouts.logit_rows, picks), kept, remote)[0]
    gap = (decoded - torch.stack(replayed)).abs().amax(-1)
    worst = gap / decoded.abs().amax(-1).clamp(min=1e-3)
    if not float(worst.max()) <= 64 * _coarseness(model):
        row, step = (int(n) for n in (worst == worst.max()).nonzero()[0])
        raise InterventionError(
            f"row {row}: the logits of decoded token {step} are off by {float(gap[row, step]):.3g} from one forward "
            "over the whole sequence: the intervention is not the same in cached generation"
        )
    return grown, int(chosen.numel())


# attention ------------------------------------------------------------------------------------


Spot = tuple[str, str, int]
"""`(stage, site of the mask, layer)` of one attention."""


def _spots(model: Any, writes: Sequence[Written]) -> list[Spot]:
    """Every attention of the decoder, and of the stages in which something is cut."""
    stages = {"decoder"} | {stage for stage, site, _, _ in writes if site in ATTENDS}
    found = []
    for stage in (name for name in family(model).stages if name in stages):
        here = shape(model, stage)
        found += [(stage, "mask", layer) for layer in here.attention]
        found += [(stage, "cross mask", layer) for layer in here.cross]
    return found


def _verify_attention(
    model: Any, layout: Layout, spots: Sequence[Spot], writes: Sequence[Written], remote: Remote
) -> int:
    cuts = [(at, write) for *at, write in writes if at[1] in ATTENDS]
    rows = {spot[:2]: [_rows_concerned(seat, cuts, spot) for seat in _seats(layout, spot[0])] for spot in spots}
    plans = compile_plan(model, layout, []), compile_plan(model, layout, writes)
    before, after = together([partial(_read_edges, model, layout, spots, rows, plan, remote) for plan in plans], remote)
    edges = 0
    for spot, (clean, _), (cut, returned) in zip(spots, before, after, strict=True):
        for number, seat in enumerate(_seats(layout, spot[0])):
            here = [write for at, write in cuts if tuple(at) == spot and write[0] == seat.row]
            _expect_module(model, spot, cut[number])
            edges += _compare(model, spot, seat, rows[spot[:2]][number], here, clean[number], cut[number])
            _expect_output(spot, cut[number], returned[number], _coarseness(model))
    return edges


def _seats(layout: Layout, stage: str) -> list[Seat]:
    return [seat if stage == "decoder" else seat.at(stage) for seat in layout.seats]


def _rows_concerned(seat: Seat, cuts: Sequence[tuple[Any, Any]], spot: Spot) -> tuple[int, ...]:
    """The queries that anything is cut for in a stage; the last one where nothing is."""
    targets: list[Any] = [pair for at, write in cuts if at[0] == spot[0] and write[0] == seat.row for pair in write[1]]
    readers = seat.tokens.readers if spot[1] == "cross mask" else None
    end = seat.place(seat.tokens.stop if readers is None else readers)
    return to_positions(tuple(targets), end) or (end - 1,)


def _read_edges(
    model: Any, layout: Layout, spots: Sequence[Spot], rows: Any, plan: Any, remote: Remote
) -> list[tuple[Any, Any]]:
    """Per attention `(what each row's call was given, what it returned)`."""
    asked = [list(_edge_reads(model, layout, spot, rows[spot[:2]])) for spot in spots]
    try:
        _, *found = forward(model, layout, plan, asked, *no_logits(layout), remote)
    except UNREACHED as error:
        raise InterventionError(
            f"the family row of {family(model).name!r} points at {asked[0][0][3]!r}, whose "
            f"attention is not called in the order of the layers: {error}"
        ) from error
    return [(given, returned) for given, returned in found]


def _edge_reads(model: Any, layout: Layout, spot: Spot, rows: Sequence[tuple[int, ...]]) -> list[ReadStep]:
    row, (stage, site, layer) = family(model), spot
    attends = getattr(row.stages[stage], ATTENDS[site])
    outside = read_outside(layout, stage, site)
    requests = tuple((number, tuple((p, p + 1) for p in wanted), (), None) for number, wanted in enumerate(rows))
    path, _ = located(row, stage, site, layer)
    ends = ((attends.call, readouts.edges_used), (f"{attends.call}.output", readouts.mixed_rows))
    return [(stage, layer, SITES[site].rank, path, place, read, requests, outside) for place, read in ends]


def _expect_module(model: Any, spot: Spot, found: dict[str, Any]) -> None:
    if found["layer"] not in (None, spot[2]):
        row = family(model)
        raise InterventionError(
            f"the family row of {row.name!r} points at the wrong module for layer {spot[2]}: the attention at "
            f"{located(row, *spot)[0]!r} calls itself layer {found['layer']}"
        )


def _named(spot: Spot) -> str:
    """An attention as messages call it: `layer 3`, `qformer layer 2 (cross)`."""
    stage, site, layer = spot
    return f"{'' if stage == 'decoder' else stage + ' '}layer {layer}{' (cross)' if site == 'cross mask' else ''}"


def _compare(model: Any, spot: Spot, seat: Seat, rows: Sequence[int], cuts: Sequence[Any], clean: Any, cut: Any) -> int:
    """Edges of one attention and row against the plan; returns how many were closed."""
    heads, keys = shape(model, spot[0]).head_count, clean["open"].shape[-1]
    first = -keys if spot[1] == "cross mask" else 0
    planned = _planned(cuts, rows, range(first, first + keys), heads)
    was_open, is_open = (seen["open"].expand(heads, -1, -1) for seen in (clean, cut))
    mass = cut["weights"] * planned
    if bool(mass.any()):
        head, query, key = (int(n) for n in mass.nonzero()[0])
        raise InterventionError(
            f"{_named(spot)}, head {head}: position {rows[query]} still gives "
            f"{float(mass[head, query, key]):.3g} of its attention to position {first + key}, an edge that is cut"
        )
    closed = planned & was_open
    _expect_same(spot, rows, first, was_open & ~planned, is_open)
    seen = (found["keys_seen"].expand(heads, -1) for found in (clean, cut))
    _expect_counts(spot, seat, rows, closed, *seen)
    return int(closed.sum())


def _planned(cuts: Sequence[Any], rows: Sequence[int], keys: range, heads: int) -> torch.Tensor:
    """`[head, query, key]`: which edges the intervention names, from its positions alone."""
    planned = torch.zeros(heads, len(rows), len(keys), dtype=torch.bool)
    for _, targets, sources, some in cuts:
        query = torch.tensor([holds(targets, row) for row in rows])
        key = torch.tensor([holds(sources, position) for position in keys])
        chosen = torch.tensor([some is None or head in some[1] for head in range(heads)])
        planned |= chosen[:, None, None] & query[None, :, None] & key[None, None, :]
    return planned


def _expect_same(spot: Spot, rows: Sequence[int], first: int, expected: torch.Tensor, found: torch.Tensor) -> None:
    wrong = (expected != found).nonzero()
    if len(wrong):
        head, query, key = (int(n) for n in wrong[0])
        state = "closed and no cut names it" if bool(expected[head, query, key]) else "open and should be closed"
        raise InterventionError(
            f"{_named(spot)}, head {head}: the edge from position {rows[query]} to {first + key} is {state}"
        )


def _expect_counts(
    spot: Spot, seat: Seat, rows: Sequence[int], closed: torch.Tensor, clean: torch.Tensor, cut: torch.Tensor
) -> None:
    expected = clean.clone()
    expected[:, list(rows)] -= closed.sum(-1)
    wrong = (expected != cut).nonzero()
    if len(wrong):
        head, query = (int(n) for n in wrong[0])
        raise InterventionError(
            f"{_named(spot)}, head {head}, row {seat.row}: position {query} may attend to {int(cut[head, query])} "
            f"keys and {int(expected[head, query])} were expected; a cut has reached what it does not name"
        )


def _expect_output(spot: Spot, given: dict[str, Any], returned: torch.Tensor, coarseness: float) -> None:
    """A score is off by its own size times the rounding, and so is each weight; the mix is made of values."""
    gap = float((given["mixed"] - returned.float()).abs().max())
    if not gap <= coarseness * max(1.0, given["score"]) * given["value"]:
        raise InterventionError(
            f"{_named(spot)}: the attention returned what its own query, key, value and mask do not give "
            f"(off by {gap:.3g})"
        )


# hidden states --------------------------------------------------------------------------------


def _verify_states(model: Any, layout: Layout, writes: Sequence[Written], remote: Remote) -> int:
    order = order_of(family(model))
    when = [(order.index(stage), layer, SITES[name].rank) for stage, name, layer, _ in writes]
    sites = sorted({(at, stage, name) for at, (stage, name, _, _) in zip(when, writes, strict=True) if name in STATES})
    wanted = [(stage, name, at[1]) for at, stage, name in sites]
    asked = [partial(_whole_states, model, layout, writes, wanted, remote)]
    for (at, *_), spot in zip(sites, wanted, strict=True):
        earlier = [write for place, write in zip(when, writes, strict=True) if place < at]
        asked.append(partial(_whole_states, model, layout, earlier, [spot], remote))
    after, *befores = together(asked, remote)
    for spot, found, [before] in zip(wanted, after, befores, strict=True):
        here = [write for *place, write in writes if tuple(place) == spot]
        _compare_states(spot, before, found, here, _coarseness(model))
    return len(sites)


def _whole_states(
    model: Any, layout: Layout, writes: Sequence[Written], sites: Sequence[Spot], remote: Remote
) -> list[torch.Tensor]:
    """What sites hold at every place, one `[row, place, width]` each."""
    if not sites:
        return []
    asked = [[_whole_state(model, layout, *spot)] for spot in sites]
    _, *found = forward(model, layout, compile_plan(model, layout, writes), asked, *no_logits(layout), remote)
    return [torch.stack(rows) for [rows] in found]


def _whole_state(model: Any, layout: Layout, stage: str, name: str, layer: int) -> ReadStep:
    site = SITES[name]
    rows = 1 if name == "features" else len(layout.seats)
    requests = tuple((number, ((0, None),)) for number in range(rows))
    return stage, layer, site.rank, *located(family(model), stage, name, layer), site.read, requests, None


def _compare_states(
    spot: Spot, before: torch.Tensor, after: torch.Tensor, writes: Sequence[Any], coarseness: float
) -> None:
    """Written values must be there to the bit; means and neighbours up to the rounding of their own size."""
    expected, exact = before.clone(), torch.zeros(before.shape[:2], dtype=torch.bool)
    for row, targets, how, values in writes:
        places = [place for start, stop in targets for place in range(start, before.shape[1] if stop is None else stop)]
        if how == "mean":
            expected[row, places] = expected[row, places].mean(0)
        else:
            expected[row, places] = 0 if how == "zero" else values.to(expected)
        exact[row, places] = how != "mean"
    gap = (expected.float() - after.float()).abs().amax(-1)
    allowed = torch.where(exact, 0.0, coarseness * expected.float().abs().amax(-1))
    wrong = (~(gap <= allowed)).nonzero()
    if len(wrong):
        row, place = (int(n) for n in wrong[0])
        stage, name, layer = spot
        where = f"site {name!r}" if layer == OUTSIDE else f"site {name!r} of {_named((stage, name, layer))}"
        raise InterventionError(
            f"{where}, row {row}: position {place} does not hold what was to be written "
            f"(off by {float(gap[row, place]):.3g})"
        )
