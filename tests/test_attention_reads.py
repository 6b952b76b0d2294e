"""Attention is read as the rows that were asked for, and equals what the forward written by hand used."""

from __future__ import annotations

import pytest
import reference
import tiny
import torch
from float64 import FACTOR, LIMIT, float64

import nnsight_vlm as nv
from nnsight_vlm.device import readouts

CUT = nv.Knockout("image", "query", layers=[1, 2]) | nv.Knockout("system", "last", layers=3, heads=[0])


def cut_by_hand(model, prompt):
    ids = prompt.inputs["input_ids"]
    wide = reference.edges(model._module, ids, prompt["image"], prompt["query"], [1, 2])
    return wide | reference.edges(model._module, ids, prompt["system"], prompt["last"], [3], [0])


@pytest.fixture
def weights(model, prompt):
    """`[layer, head, query, key]` of the cut run, by hand."""
    return reference.forward(model._module, prompt.inputs, cut_by_hand(model, prompt)).weights[:, 0]


@pytest.mark.float64
def test_rows_mass_and_entropy_equal_the_ones_computed_by_hand(model, prompt, weights):
    reads = [nv.Attention("query", "system", reduce=how) for how in ("rows", "mass", "entropy")]
    rows, mass, entropy = nv.run(model, prompt, CUT, reads=reads).reads
    expected = weights[:, :, list(prompt["query"])][..., list(prompt["system"])]
    share = expected / expected.sum(-1, keepdim=True)
    by_hand = -(share * share.clamp(min=1e-30).log()).sum(-1)
    open_rows = expected.sum(-1) > 0
    assert tiny.gap(rows, expected) < LIMIT
    assert tiny.gap(mass, expected.sum(-1)) < LIMIT
    assert tiny.gap(entropy[open_rows], by_hand[open_rows]) < LIMIT
    assert not open_rows.all() and entropy[~open_rows].isnan().all()  # nothing is left to have an entropy


@pytest.mark.float64
@pytest.mark.parametrize("block", [1, 200, 2**24])
def test_blocks_of_queries_change_nothing_and_the_top_keys_are_those_of_the_rows(model, prompt, monkeypatch, block):
    monkeypatch.setattr(readouts, "SCORES_PER_BLOCK", block)
    asked = {"rows": {}, "mass": {}, "entropy": {}, "top": {"top": 3}}
    reads = [nv.Attention("query", "image", reduce=how, **more) for how, more in asked.items()]
    rows, mass, entropy, top = nv.run(model, prompt, reads=reads).reads
    clean = reference.forward(model._module, prompt.inputs).weights[:, 0]
    expected = clean[:, :, list(prompt["query"])][..., list(prompt["image"])]
    share = expected / expected.sum(-1, keepdim=True)
    assert tiny.gap(rows, expected) < LIMIT and tiny.gap(mass, expected.sum(-1)) < LIMIT
    assert tiny.gap(entropy, -(share * share.log()).sum(-1)) < LIMIT
    most = expected.topk(3, dim=-1)
    assert tiny.gap(top[..., 1], most.values) < LIMIT
    assert torch.equal(top[..., 0].long(), torch.tensor(prompt["image"])[most.indices])


@pytest.mark.float64
def test_blocked_weights_are_exactly_nought_and_rows_still_sum_to_one(model, prompt):
    seen, whole = nv.run(model, prompt, CUT, reads=[nv.Attention("query", "image"), nv.Attention("query", "all")]).reads
    assert (seen[[1, 2]] == 0).all()
    assert (seen[[0, 3]] > 0).all()
    assert tiny.gap(whole.sum(-1), torch.ones_like(whole[..., 0])) < LIMIT


@pytest.mark.float64
def test_layers_and_heads_choose_from_the_whole(model, prompt, weights):
    found = nv.run(model, prompt, CUT, reads=[nv.Attention("last", "image", layers=[0, 3], heads=[1, 3])]).reads[0]
    expected = weights[[0, 3]][:, [1, 3], -1:][..., list(prompt["image"])]
    assert tiny.gap(found, expected) < LIMIT


@pytest.mark.float64
def test_reads_come_in_the_order_in_which_they_were_asked_for(model, prompt, weights):
    reads = [
        nv.Residual("last", layers=2),
        nv.Attention("last", "all", layers=3),
        nv.Attention("last", "all", layers=0),
    ]
    late, third, first = nv.run(model, prompt, CUT, reads=reads).reads
    states = reference.forward(model._module, prompt.inputs, cut_by_hand(model, prompt)).states
    assert tiny.gap(late[0], states["residual", 2][0, -1:]) < LIMIT
    assert tiny.gap(third[0], weights[3, :, -1:]) < LIMIT
    assert tiny.gap(first[0], weights[0, :, -1:]) < LIMIT


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_in_float32_attention_is_as_far_from_float64_under_a_cut_as_without(attention):
    def read(model):
        prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
        reads = [nv.Attention("query", "all"), nv.Attention("query", "all", reduce="entropy", layers=0)]
        return [nv.run(model, prompt, case, reads=reads).reads for case in (None, CUT)]

    found = read(tiny.load(attention))
    with float64():
        expected = read(tiny.load(attention, dtype=torch.float64))
    for clean, cut in zip(*(zip(*pairs, strict=True) for pairs in zip(found, expected, strict=True)), strict=True):
        assert {values.dtype for values in (clean[0], cut[0])} == {torch.float32}
        assert tiny.gap(*cut) < FACTOR * tiny.gap(*clean)


def test_reading_changes_nothing(model, prompt):
    reads = [nv.Attention("all", "all"), nv.Residual("all"), nv.Residual("all", site="embedding")]
    assert torch.equal(nv.run(model, prompt, CUT, reads=reads).logits, nv.run(model, prompt, CUT).logits)


@pytest.mark.float64
def test_a_clean_run_equals_what_transformers_itself_reports(prompt):
    eager = tiny.load("eager", dtype=torch.float64)
    reported = torch.stack(eager._module(**prompt.inputs, output_attentions=True).attentions)[:, 0]
    for attention in ("eager", "sdpa"):
        found = nv.run(tiny.load(attention, dtype=torch.float64), prompt, reads=[nv.Attention("all", "all")]).reads[0]
        assert tiny.gap(found, reported) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("site", ["residual", "attention", "mlp", "embedding", "features"])
def test_states_of_every_site_equal_the_ones_computed_by_hand(model, prompt, site):
    states = reference.forward(model._module, prompt.inputs, cut_by_hand(model, prompt)).states
    found = nv.run(model, prompt, CUT, reads=[nv.Residual("image", site=site)]).reads[0]
    if site == "features":
        expected = states["features", -1]
    elif site == "embedding":
        expected = states["embedding", -1][0, list(prompt["image"])]
    else:
        expected = torch.stack([states[site, layer][0, list(prompt["image"])] for layer in range(tiny.LAYERS)])
    assert tiny.gap(found, expected) < LIMIT


@pytest.mark.parametrize(
    "order", [("features", "embedding", "mlp"), ("mlp", "embedding", "features"), ("embedding", "features", "mlp")]
)
def test_sites_may_be_read_together_in_any_order(model, prompt, order):
    together = nv.run(model, prompt, reads=[nv.Residual("image", site=site) for site in order]).reads
    for site, found in zip(order, together, strict=True):
        assert torch.equal(found, nv.run(model, prompt, reads=[nv.Residual("image", site=site)]).reads[0])


@pytest.mark.float64
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("keys", ["all", "text", "image"])
def test_reads_of_padded_rows_hold_the_rows_own_positions_and_no_padding(model, side, keys):
    prompt = tiny.several(model, side)
    weights = reference.forward(model._module, prompt.inputs).weights
    found, states = nv.run(model, prompt, reads=[nv.Attention("last", keys), nv.Residual(keys, layers=2)]).reads
    for number, row in enumerate(prompt.rows):
        here = [p for a, b in row.ranges(keys) for p in range(a, b or row.stop)]
        assert tiny.gap(found[number][:, :, 0], weights[:, number, :, row.stop - 1][..., here]) < LIMIT
        assert states[number].shape == (1, len(here), tiny.WIDTH)


@pytest.mark.float64
def test_a_sliding_window_leaves_keys_behind_it_at_nought(other):
    prompt = nv.encode(other, "what is the red square ?", tiny.picture(0))
    found = nv.run(other, prompt, reads=[nv.Attention("all", "all")]).reads[0]
    assert tiny.gap(found, reference.forward(other._module, prompt.inputs).weights[:, 0]) < LIMIT


@pytest.mark.float64
def test_logits_are_given_at_the_positions_asked_for(model, prompt):
    logits = reference.forward(model._module, prompt.inputs, cut_by_hand(model, prompt)).logits[0]
    assert tiny.gap(nv.run(model, prompt, CUT).logits, logits[-1]) < LIMIT
    assert tiny.gap(nv.run(model, prompt, CUT, positions="query").logits, logits[list(prompt["query"])]) < LIMIT
    assert tiny.gap(nv.run(model, prompt, CUT, positions=[5, 30]).logits, logits[[5, 30]]) < LIMIT
