"""Proof that an intervention did what it says, from what the model really used.

The attention call of every layer is read from outside: the query, key and value it was handed, the
mask it was handed, and what it returned. From these the rows concerned are recomputed and compared
with the clean run. What a cut names is taken from the lowered intervention; the kernels that carry
it out, and the runner, have no part in the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import readouts
from .engine import as_intervention, capture, check, lower
from .errors import InterventionError
from .families import family, head_count, layer_count
from .interventions import Intervention, Written
from .layouts import Layout, Seat, as_it_is
from .plan import OUTSIDE, SITES, compile_plan, holds, path_of
from .prompts import Prompt
from .rows import to_positions
from .traces import UNREACHED, ReadStep, Remote, decode_logits, forward

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
    if any(stop is None for _, _, write in writes for _, stop in write[1]):
        layout, tokens = _with_answers(model, layout, writes, remote)
    edges = _verify_attention(model, layout, writes, remote)
    states = _verify_states(model, layout, writes, remote)
    return Proof(layers=layer_count(model), edges=edges, writes=states, tokens=tokens)


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


def _verify_attention(model: Any, layout: Layout, writes: Sequence[Written], remote: Remote) -> int:
    cuts = [(layer, write) for site, layer, write in writes if site == "mask"]
    rows = [_rows_concerned(seat, cuts) for seat in layout.seats]
    plans = compile_plan(model, layout, []), compile_plan(model, layout, writes)
    before, after = (_read_edges(model, layout, rows, plan, remote) for plan in plans)
    edges = 0
    for layer, ((clean, _), (cut, returned)) in enumerate(zip(before, after, strict=True)):
        for number, seat in enumerate(layout.seats):
            here = [write for at, write in cuts if at == layer and write[0] == seat.row]
            _expect_module(model, layer, cut[number])
            edges += _compare(layer, seat, rows[number], here, clean[number], cut[number], head_count(model))
            _expect_output(layer, cut[number], returned[number], _coarseness(model))
    return edges


def _rows_concerned(seat: Seat, cuts: Sequence[tuple[int, Any]]) -> tuple[int, ...]:
    targets: list[Any] = [pair for _, write in cuts if write[0] == seat.row for pair in write[1]]
    end = seat.place(seat.tokens.stop)
    return to_positions(tuple(targets), end) or (end - 1,)


def _read_edges(
    model: Any, layout: Layout, rows: Sequence[tuple[int, ...]], plan: Any, remote: Remote
) -> list[tuple[Any, Any]]:
    """Per layer `(what each row's attention was given, what it returned)`."""
    row, site = family(model), SITES["mask"]
    requests = tuple(
        (seat.row, tuple((p, p + 1) for p in wanted), (), None, "rows")
        for seat, wanted in zip(layout.seats, rows, strict=True)
    )
    ends = ((row.attention_call, readouts.edges_used), (f"{row.attention_call}.output", readouts.mixed_rows))
    asked: list[list[ReadStep]] = [
        [(layer, site.stage, path_of(row, site.module, layer), place, read, requests) for place, read in ends]
        for layer in range(layer_count(model))
    ]
    try:
        _, *found = forward(model, layout, plan, asked, *_no_logits(layout), remote)
    except UNREACHED as error:
        raise InterventionError(
            f"the family row of {row.model_type!r} points at {asked[0][0][2]!r}, whose "
            f"attention is not called in the order of the layers: {error}"
        ) from error
    return [(given, returned) for given, returned in found]


def _no_logits(layout: Layout) -> tuple[Any, list[int]]:
    """The smallest piece of logits that a forward can be asked for."""
    return (readouts.logit_rows, ((0, (0,)),)), [layout.prompt.width - 1]


def _expect_module(model: Any, layer: int, found: dict[str, Any]) -> None:
    if found["layer"] != layer:
        row = family(model)
        raise InterventionError(
            f"the family row of {row.model_type!r} points at the wrong module for layer {layer}: the attention at "
            f"{path_of(row, SITES['mask'].module, layer)!r} calls itself layer {found['layer']}"
        )


def _compare(layer: int, seat: Seat, rows: Sequence[int], cuts: Sequence[Any], clean: Any, cut: Any, heads: int) -> int:
    """Edges of one layer and row against the plan; returns how many were closed."""
    planned = _planned(cuts, rows, clean["open"].shape[-1], heads)
    was_open, is_open = (seen["open"].expand(heads, -1, -1) for seen in (clean, cut))
    mass = cut["weights"] * planned
    if bool(mass.any()):
        head, query, key = (int(n) for n in mass.nonzero()[0])
        raise InterventionError(
            f"layer {layer}, head {head}: position {rows[query]} still gives "
            f"{float(mass[head, query, key]):.3g} of its attention to position {key}, an edge that is cut"
        )
    closed = planned & was_open
    _expect_same(layer, rows, was_open & ~planned, is_open)
    seen = (found["keys_seen"].expand(heads, -1) for found in (clean, cut))
    _expect_counts(layer, seat, rows, closed, *seen)
    return int(closed.sum())


def _planned(cuts: Sequence[Any], rows: Sequence[int], keys: int, heads: int) -> torch.Tensor:
    """`[head, query, key]`: which edges the intervention names, from its positions alone."""
    planned = torch.zeros(heads, len(rows), keys, dtype=torch.bool)
    for _, targets, sources, some in cuts:
        query = torch.tensor([holds(targets, row) for row in rows])
        key = torch.tensor([holds(sources, position) for position in range(keys)])
        chosen = torch.tensor([some is None or head in some[1] for head in range(heads)])
        planned |= chosen[:, None, None] & query[None, :, None] & key[None, None, :]
    return planned


def _expect_same(layer: int, rows: Sequence[int], expected: torch.Tensor, found: torch.Tensor) -> None:
    wrong = (expected != found).nonzero()
    if len(wrong):
        head, query, key = (int(n) for n in wrong[0])
        state = "closed and no cut names it" if bool(expected[head, query, key]) else "open and should be closed"
        raise InterventionError(f"layer {layer}, head {head}: the edge from position {rows[query]} to {key} is {state}")


def _expect_counts(
    layer: int, seat: Seat, rows: Sequence[int], closed: torch.Tensor, clean: torch.Tensor, cut: torch.Tensor
) -> None:
    expected = clean.clone()
    expected[:, list(rows)] -= closed.sum(-1)
    wrong = (expected != cut).nonzero()
    if len(wrong):
        head, query = (int(n) for n in wrong[0])
        raise InterventionError(
            f"layer {layer}, head {head}, row {seat.row}: position {query} may attend to {int(cut[head, query])} "
            f"keys and {int(expected[head, query])} were expected; a cut has reached what it does not name"
        )


def _expect_output(layer: int, given: dict[str, Any], returned: torch.Tensor, coarseness: float) -> None:
    """A score is off by its own size times the rounding, and so is each weight; the mix is made of values."""
    gap = float((given["mixed"] - returned.float()).abs().max())
    if not gap <= coarseness * max(1.0, given["score"]) * given["value"]:
        raise InterventionError(
            f"layer {layer}: the attention returned what its own query, key, value and mask do not give "
            f"(off by {gap:.3g})"
        )


# hidden states --------------------------------------------------------------------------------


def _verify_states(model: Any, layout: Layout, writes: Sequence[Written], remote: Remote) -> int:
    sites = sorted({(layer, SITES[name].stage, name) for name, layer, _ in writes if name != "mask"})
    after = _whole_states(model, layout, writes, [(name, layer) for layer, _, name in sites], remote)
    for (layer, stage, name), found in zip(sites, after, strict=True):
        earlier = [write for write in writes if (write[1], SITES[write[0]].stage) < (layer, stage)]
        here = [write for at, number, write in writes if (at, number) == (name, layer)]
        [before] = _whole_states(model, layout, earlier, [(name, layer)], remote)
        _compare_states(name, layer, before, found, here, _coarseness(model))
    return len(sites)


def _whole_states(
    model: Any, layout: Layout, writes: Sequence[Written], sites: Sequence[tuple[str, int]], remote: Remote
) -> list[torch.Tensor]:
    """What sites hold at every place, one `[row, place, width]` each."""
    if not sites:
        return []
    asked = [[_whole_state(model, layout, name, layer)] for name, layer in sites]
    _, *found = forward(model, layout, compile_plan(model, layout, writes), asked, *_no_logits(layout), remote)
    return [torch.stack(rows) for [rows] in found]


def _whole_state(model: Any, layout: Layout, name: str, layer: int) -> ReadStep:
    site = SITES[name]
    rows = 1 if name == "features" else len(layout.seats)
    requests = tuple((number, ((0, None),)) for number in range(rows))
    return layer, site.stage, path_of(family(model), site.module, layer), site.read_at, site.read, requests


def _compare_states(
    name: str, layer: int, before: torch.Tensor, after: torch.Tensor, writes: Sequence[Any], coarseness: float
) -> None:
    """Written values must be there to the bit; means and neighbours up to the rounding of their own size."""
    expected, exact = before.clone(), torch.zeros(before.shape[:2], dtype=torch.bool)
    for row, targets, how, values in writes:
        places = list(to_positions(targets, before.shape[1]))
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
        where = f"site {name!r}" if layer == OUTSIDE else f"site {name!r} of layer {layer}"
        raise InterventionError(
            f"{where}, row {row}: position {place} does not hold what was to be written "
            f"(off by {float(gap[row, place]):.3g})"
        )
