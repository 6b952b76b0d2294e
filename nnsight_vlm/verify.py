"""Proof that an intervention did what it says, from what the model really used.

The attention call of every layer is read from outside: the query, key and value it was handed, the
mask it was handed, and what it returned. From these the rows concerned are recomputed and compared
with the clean run. The kernels that made the cut have no part in the proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from . import readouts
from .engine import Remote, Values, capture, check, forward, generate, lower
from .errors import InterventionError
from .families import family, head_count, layer_count
from .interventions import CLEAN, Intervention, Written
from .layouts import Layout, Seat, as_it_is
from .plan import SITES, compile_plan, path_of, scope
from .prompts import Prompt
from .rows import Ranges, to_positions

TOLERANCE = 1e-4
"""Of the scale of the values compared, in float32; half precision gets 100 times that."""


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was checked, and held.

    Attributes:
        layers: attention layers whose mask and output were recomputed.
        edges: attention edges (head by head) found closed that the clean run has open.
        writes: sites whose hidden states are what was to be written.
        tokens: decoded tokens that a forward over the whole sequence gives too.
    """

    layers: int
    edges: int
    writes: int
    tokens: int


def verify(model: Any, prompt: Prompt, intervention: Intervention, *, remote: Remote = False) -> Proof:
    """Prove that an intervention did what it says in this model, on this prompt.

    Every planned edge must have probability exactly 0; no other edge, row or layer may differ from
    the clean run's mask; the recomputed rows must be what the attention returned; every patched or
    ablated state must be what was to be written, and its neighbours untouched. Where generated
    tokens are concerned, a few are decoded with the cache and compared with one forward.

    Raises:
        InterventionError: naming layer, head and positions.
        SpecError: see `run`.

    >>> import nnsight_vlm as nv
    >>> model = nv.load("shapes")
    >>> prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    >>> verify(model, prompt, nv.Knockout("image", "last", layers=[2, 3], heads=[1])).edges
    200
    """
    intervention = CLEAN if intervention is None else intervention
    values = capture(model, [intervention], remote)
    check(model, prompt, intervention, values)
    tokens = 0
    if len(prompt) == 1 and _touches_answers(model, prompt, intervention, values):
        prompt, tokens = _grow(model, prompt, intervention, remote)
    layout = as_it_is(prompt)
    writes = lower(model, layout, [intervention] * len(prompt), values)
    edges = _verify_attention(model, layout, writes, remote)
    states = _verify_states(model, layout, writes, remote)
    return Proof(layers=layer_count(model), edges=edges, writes=states, tokens=tokens)


def _touches_answers(model: Any, prompt: Prompt, intervention: Intervention, values: Values) -> bool:
    writes = intervention.lower(scope(model, as_it_is(prompt).seats[0], values))
    return any(stop is None for _, _, write in writes for _, stop in write[1])


def _grow(model: Any, prompt: Prompt, intervention: Intervention, remote: Remote) -> tuple[Prompt, int]:
    """Decode a few tokens with the cache; one forward over all of them must choose the same."""
    out = generate(model, prompt, intervention, max_new_tokens=4, remote=remote)
    layout = as_it_is(out.prompt)
    values = capture(model, [intervention], remote)
    plan = compile_plan(model, layout, lower(model, layout, [intervention], values))
    kept = list(range(prompt.width - 1, out.prompt.width - 1))
    picks = ((0, tuple(range(len(kept)))),)
    logits = forward(model, layout, plan, [], (readouts.logit_rows, picks), kept, remote)[0][0]
    for number, (token, row) in enumerate(zip(out.tokens, logits, strict=True)):
        if float(row.max() - row[token]) > _tolerance(row):
            raise InterventionError(
                f"decoded token {number} is {token} with the cache and {int(row.argmax())} in one forward over the "
                "whole sequence: the intervention is not the same in cached generation"
            )
    return out.prompt, len(out.tokens)


def _tolerance(values: torch.Tensor) -> float:
    coarse = 1.0 if values.dtype in (torch.float32, torch.float64) else 100.0
    return TOLERANCE * coarse * max(1.0, float(values.float().abs().max()))


# attention ------------------------------------------------------------------------------------


def _verify_attention(model: Any, layout: Layout, writes: Sequence[Written], remote: Remote) -> int:
    cuts = [(layer, write) for site, layer, write in writes if site == "mask"]
    rows = [_rows_concerned(seat, cuts) for seat in layout.seats]
    plans = compile_plan(model, layout, []), compile_plan(model, layout, writes)
    before, after = (_read_edges(model, layout, rows, plan, remote) for plan in plans)
    edges = 0
    for layer, (clean, cut) in enumerate(zip(before, after, strict=True)):
        for number, seat in enumerate(layout.seats):
            here = [write for at, write in cuts if at == layer and write[0] == seat.row]
            _expect_module(model, layer, cut[0][number])
            edges += _compare(layer, seat, rows[number], here, clean[0][number], cut[0][number], head_count(model))
            _expect_output(layer, cut[0][number]["mixed"], cut[1][number])
    return edges


def _rows_concerned(seat: Seat, cuts: Sequence[tuple[int, Any]]) -> tuple[int, ...]:
    targets: list[Any] = [pair for _, write in cuts if write[0] == seat.row for pair in write[1]]
    end = seat.place(seat.tokens.stop)
    return to_positions(tuple(targets), end) or (end - 1,)


def _read_edges(model: Any, layout: Layout, rows: Sequence[tuple[int, ...]], plan: Any, remote: Remote) -> list[Any]:
    """Per layer `(what each row's attention was given, what it returned)`."""
    row, site = family(model), SITES["mask"]
    requests = tuple(
        (seat.row, tuple((p, p + 1) for p in wanted), (), None, "rows")
        for seat, wanted in zip(layout.seats, rows, strict=True)
    )
    ends = ((row.attention_call, readouts.edges_used), (f"{row.attention_call}.output", readouts.mixed_rows))
    asked = [
        [(layer, site.stage, path_of(row, site.module, layer), place, read, requests) for place, read in ends]
        for layer in range(layer_count(model))
    ]
    try:
        _, *found = forward(
            model, layout, plan, asked, (readouts.logit_rows, ((0, (0,)),)), [layout.prompt.width - 1], remote
        )
    except AttributeError as error:
        path = asked[0][0][2]
        raise InterventionError(
            f"the family row of {row.model_type!r} points at {path!r}, which calls no attention: {error}"
        ) from error
    return found


def _expect_module(model: Any, layer: int, found: dict[str, Any]) -> None:
    if found["layer"] != layer:
        row = family(model)
        raise InterventionError(
            f"the family row of {row.model_type!r} points at the wrong module for layer {layer}: the attention at "
            f"{path_of(row, SITES['mask'].module, layer)!r} calls itself layer {found['layer']}"
        )


def _compare(layer: int, seat: Seat, rows: Sequence[int], cuts: Sequence[Any], clean: Any, cut: Any, heads: int) -> int:
    """Edges of one layer and row against the plan; returns how many were closed."""
    keys = clean["open"].shape[-1]
    planned = _planned(cuts, rows, keys, heads)
    was_open, is_open = clean["open"].expand(heads, -1, -1), cut["open"].expand(heads, -1, -1)
    mass = cut["weights"] * planned
    if bool(mass.any()):
        head, query, key = (int(n) for n in mass.nonzero()[0])
        raise InterventionError(
            f"layer {layer}, head {head}: position {rows[query]} still gives "
            f"{float(mass[head, query, key]):.3g} of its attention to position {key}, an edge that is cut"
        )
    _expect_same(layer, rows, was_open & ~planned, is_open)
    _expect_counts(
        layer, seat, rows, planned & was_open, clean["keys_seen"].expand(heads, -1), cut["keys_seen"].expand(heads, -1)
    )
    return int((planned & was_open).sum())


def _planned(cuts: Sequence[Any], rows: Sequence[int], keys: int, heads: int) -> torch.Tensor:
    """`[head, query, key]`: which edges the intervention names, from its positions alone."""
    planned = torch.zeros(heads, len(rows), keys, dtype=torch.bool)
    for _, targets, sources, some in cuts:
        query = torch.tensor([_inside(targets, row) for row in rows])
        key = torch.tensor([_inside(sources, position) for position in range(keys)])
        chosen = torch.tensor([some is None or head in some[1] for head in range(heads)])
        planned |= chosen[:, None, None] & query[None, :, None] & key[None, None, :]
    return planned


def _inside(ranges: Ranges, position: int) -> bool:
    return any(start <= position and (stop is None or position < stop) for start, stop in ranges)


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


def _expect_output(layer: int, recomputed: torch.Tensor, returned: torch.Tensor) -> None:
    gap = float((recomputed.float() - returned.float()).abs().max())
    if not gap <= _tolerance(returned):
        raise InterventionError(
            f"layer {layer}: the attention returned what its own query, key, value and mask do not give "
            f"(off by {gap:.3g})"
        )


# hidden states --------------------------------------------------------------------------------


def _verify_states(model: Any, layout: Layout, writes: Sequence[Written], remote: Remote) -> int:
    sites = sorted({(layer, SITES[name].stage, name) for name, layer, _ in writes if name != "mask"})
    for layer, stage, name in sites:
        earlier = [write for write in writes if (write[1], SITES[write[0]].stage) < (layer, stage)]
        here = [write for at, number, write in writes if (at, number) == (name, layer)]
        before = _whole_state(model, layout, earlier, name, layer, remote)
        after = _whole_state(model, layout, writes, name, layer, remote)
        _compare_states(name, layer, before, after, here)
    return len(sites)


def _whole_state(
    model: Any, layout: Layout, writes: Sequence[Written], name: str, layer: int, remote: Remote
) -> torch.Tensor:
    """What a site holds at every place, `[row, place, width]`."""
    site, row = SITES[name], family(model)
    everything = ((0, None),)
    rows = 1 if name == "features" else len(layout.seats)
    reads = {"features": readouts.feature_rows, "embedding": readouts.embedding_rows}
    place = {"features": "features", "embedding": "inputs"}.get(name, "output")
    requests = tuple((number, everything) for number in range(rows))
    step = (layer, site.stage, path_of(row, site.module, layer), place, reads.get(name, readouts.hidden_rows), requests)
    plan = compile_plan(model, layout, writes)
    _, [found] = forward(
        model, layout, plan, [[step]], (readouts.logit_rows, ((0, (0,)),)), [layout.prompt.width - 1], remote
    )
    return torch.stack(found)


def _compare_states(name: str, layer: int, before: torch.Tensor, after: torch.Tensor, writes: Sequence[Any]) -> None:
    expected = before.clone()
    for row, targets, how, values in writes:
        places = list(to_positions(targets, before.shape[1]))
        if how == "zero":
            expected[row, places] = 0
        elif how == "mean":
            expected[row, places] = expected[row, places].mean(0)
        else:
            expected[row, places] = values[: len(places)].to(expected)
    gap = (expected.float() - after.float()).abs().amax(-1)
    if float(gap.max()) > _tolerance(expected):
        row, place = (int(n) for n in (gap == gap.max()).nonzero()[0])
        raise InterventionError(
            f"site {name!r} of layer {layer}, row {row}: position {place} does not hold what was to be written "
            f"(off by {float(gap.max()):.3g})"
        )
