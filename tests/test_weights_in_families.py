"""Every family: attention weights that are changed behind the softmax equal the reference without nnsight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from float64 import LIMIT, float64
from test_families import ONE_OF_ALIKE, Case, Edges, built, gap, stages, under_one
from zoo import reference

import nnsight_vlm as nv
from nnsight_vlm.execution.decoding import decode_logits
from nnsight_vlm.execution.preparing import prepare
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering.layouts import one_case_per_row

STEPS = 3


@pytest.fixture(params=ONE_OF_ALIKE, ids="-".join)
def case(request):
    with float64():
        yield built(*request.param)


def zeroed(queries: Sequence[int], keys: Sequence[int], heads: Sequence[int] | None = None) -> Any:
    """Probabilities `[row, head, query, key]` without those of edges of row 0."""

    def change(weights: torch.Tensor) -> torch.Tensor:
        every = range(weights.shape[1]) if heads is None else heads
        weights[0, torch.tensor(every)[:, None, None], torch.tensor(queries)[:, None], torch.tensor(keys)] = 0
        return weights

    return change


def limited(queries: Sequence[int], keys: Sequence[int], top: int) -> Any:
    """Probabilities with only the greatest of some keys, the rest renormalised; of row 0."""

    def change(weights: torch.Tensor) -> torch.Tensor:
        rows, columns = weights[0][:, list(queries)], torch.tensor(sorted(keys))
        total, chosen = rows.sum(-1, keepdim=True), rows[..., columns]
        lesser = chosen.argsort(dim=-1, descending=True, stable=True)[..., top:]
        rows[..., columns] = chosen.scatter(-1, lesser, 0.0)
        left = rows.sum(-1, keepdim=True)
        weights[0][:, list(queries)] = rows * torch.where(left > 0, total / left, 0.0)
        return weights

    return change


def both(*changes: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    def change(weights: torch.Tensor) -> torch.Tensor:
        for each in changes:
            weights = each(weights)
        return weights

    return change


def expect(case: Case, edges: Edges, layers: Sequence[int], intervention: Any, change: Any) -> float:
    """Logits everywhere and the weights that are read are the reference's; gives how far it moved them."""
    spots = {(edges.stage, edges.kind, layer): change for layer in layers}
    expected = reference.forward(case.module, case.family, case.prompt.inputs, changes=spots)
    there = case.layers(edges.stage, edges.kind)
    read = nv.Attention(edges.target, edges.every, layers=there, stage=edges.stage)
    run = nv.run(case.model, case.prompt, intervention, positions="all", reads=read, empty="ignore")
    assert gap(run.logits, expected.logits[0]) < LIMIT, intervention
    for found, layer in zip(run.reads[0], there, strict=True):
        assert float((found - edges.weights(expected, layer)).abs().max()) < LIMIT, (intervention, layer)
    return gap(expected.logits, case.clean.logits)


def test_edges_without_weight_and_the_greatest_sources_equal_the_reference(case):
    for stage in stages(case.prompt):
        moved = []
        for edges in {edges.kind: edges for edges in reversed(case.edges(stage))}.values():
            named, layers = (edges.source, edges.target), sorted({*case.layers(stage, edges.kind)})
            some, at = sorted({layers[0], layers[-1]}), (edges.queries, edges.columns)
            how = {"layers": some, "stage": stage}
            cut, limit = nv.Knockout(*named, how="zero", **how), nv.Limit(*named, top=1, **how)
            moved.append(expect(case, edges, some, cut, zeroed(*at)))
            moved.append(expect(case, edges, some, limit, limited(*at, 1)))
            one = nv.Knockout(*named, how="zero", heads=[1], **how)
            expect(case, edges, some, one | limit, both(zeroed(*at, [1]), limited(*at, 1)))
            if edges.kind == "cross":  # a query that a cut of the mask leaves without any key is emptied there too
                every = nv.Knockout(tuple(range(-edges.tokens.outside, 0)), edges.target, **how)
                expect(case, edges, some, every | cut | limit, zeroed(edges.queries, range(edges.tokens.outside)))
        assert not moved or max(moved) > 1e-4, stage


@under_one
def test_cached_generation_and_the_proof_see_the_same(case):
    stop, tokens = case.prompt.width, case.prompt.rows[0]
    for intervention, change in (
        (nv.Knockout("image", ["last", "generated"], how="zero", layers="attention"), zeroed),
        (nv.Limit("image", ["last", "generated"], top=2, layers="attention"), lambda *at: limited(*at, 2)),
    ):

        def planned(step, change=change):
            edges = Edges("decoder", "image", "last", tokens)
            spots = [("decoder", edges.kind, layer) for layer in case.layers("decoder", edges.kind)]
            return {}, {}, dict.fromkeys(spots, change(range(stop - 1, stop + step), edges.columns))

        chosen, logits = reference.greedy(
            case.module, case.family, STEPS, lambda more: case.prompt.grown(more).inputs, planned
        )
        plan = prepare(case.model, one_case_per_row(case.prompt), [intervention], {})
        found, given = decode_logits(case.model, case.prompt, plan, STEPS, False)
        assert found[0].tolist() == chosen and gap(given[0], logits) < LIMIT, intervention
        proof = nv.verify(case.model, case.prompt, intervention)
        assert proof.tokens == 4 and proof.edges > 0 and proof.layers >= len(view_of(case.model).stage().attention)
