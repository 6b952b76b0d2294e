"""Attention weights that are changed behind the softmax (`how="zero"`, `Limit`), against a forward written by hand."""

from __future__ import annotations

import dataclasses

import pytest
import reference
import tiny
import torch
from float64 import LIMIT, float64

import nnsight_vlm as nv
from nnsight_vlm.device import mixtures
from nnsight_vlm.lowering import sites

STEPS = 4
HEADS = range(tiny.HEADS)


def zeroed(keys, queries, heads=HEADS, row=0):
    """Probabilities `[row, head, query, key]` without those of some edges."""

    def change(weights):
        weights = weights.clone()
        for head in heads:
            for query in queries:
                weights[row, head, query, list(keys)] = 0
        return weights

    return change


def limited(keys, queries, top, heads=HEADS, row=0):
    """Probabilities with the `top` greatest of some keys only, by hand: a loop over heads and queries."""

    def change(weights):
        weights = weights.clone()
        for head in heads:
            for query in queries:
                line = weights[row, head, query]
                total = line.sum()
                line[sorted(keys, key=lambda key, line=line: -float(line[key]))[top:]] = 0
                line *= total / line.sum()
        return weights

    return change


def in_turn(*changes):
    def change(weights):
        for each in changes:
            weights = each(weights)
        return weights

    return change


def expected(model, prompt, layers, change):
    return reference.forward(model._module, prompt.inputs, changes=dict.fromkeys(layers, change))


def cases(prompt):
    """Interventions, the layers in which they act, and the same by hand."""
    image, query, last = (prompt[name] for name in ("image", "query", "last"))
    part, some = image[:9], {"layers": 1}
    cut = nv.Knockout("image.0", "query", how="zero", heads=[3], **some)
    few = nv.Limit("image", "query", top=5, **some)
    return {
        "zero": (nv.Knockout("image", "query", layers=[1, 2], how="zero"), [1, 2], zeroed(image, query)),
        "heads": (
            nv.Knockout("system", "image", layers=[0], heads=[1, 2], how="zero"),
            [0],
            zeroed(prompt["system"], image, [1, 2]),
        ),
        "nothing left": (nv.Knockout("all", "last", layers=[2], how="zero"), [2], zeroed(prompt["all"], last)),
        "limit": (nv.Limit("image", "query", top=3, layers=[1, 3]), [1, 3], limited(image, query, 3)),
        "limit of all": (nv.Limit("all", "last", top=1, heads=0), range(4), limited(prompt["all"], last, 1, [0])),
        "limit, then zero": (few | cut, [1], in_turn(limited(image, query, 5), zeroed(image, query, [3]))),
        "zero, then limit": (
            nv.Knockout(part, "query", how="zero", **some) | few,
            [1],
            in_turn(zeroed(part, query), limited(image, query, 5)),
        ),
    }


CASES = ("zero", "heads", "nothing left", "limit", "limit of all", "limit, then zero", "zero, then limit")


@pytest.mark.float64
@pytest.mark.parametrize("name", CASES)
def test_changed_weights_equal_the_forward_written_by_hand(model, prompt, name):
    case, layers, change = cases(prompt)[name]
    run = nv.run(model, prompt, case, positions="all", reads=nv.Attention("all", "all"))
    right = expected(model, prompt, layers, change)
    assert tiny.gap(run.logits, right.logits[0]) < LIMIT
    assert tiny.gap(run.reads[0], right.weights[:, 0]) < LIMIT
    assert tiny.gap(run.logits, nv.run(model, prompt, positions="all").logits) > 1e-3
    reduced = nv.run(model, prompt, case, reads=nv.Attention("last", "image", reduce="mass", heads=[0, 2])).reads[0]
    assert tiny.gap(reduced, right.weights[:, 0, [0, 2]][:, :, -1:, list(prompt["image"])].sum(-1)) < LIMIT
    assert nv.verify(model, prompt, case).layers == tiny.LAYERS


@pytest.mark.float64
@pytest.mark.parametrize("name", ["zero", "limit"])
def test_other_decoders_equal_the_forward_written_by_hand(other, name):
    prompt = nv.encode(other, "what is the red square ?", tiny.picture(0))
    case, layers, change = cases(prompt)[name]
    run = nv.run(other, prompt, case, positions="all", reads=nv.Attention("all", "all"))
    right = expected(other, prompt, layers, change)
    assert tiny.gap(run.logits, right.logits[0]) < LIMIT and tiny.gap(run.reads[0], right.weights[:, 0]) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["zero", "limit"])
def test_padded_rows_equal_the_forward_written_by_hand(model, side, kind):
    prompt, changes = tiny.several(model, side), []
    for number, row in enumerate(prompt.rows):
        image, query = (row.ranges(name).positions(row.stop) for name in ("image.0", "query"))
        changes.append(zeroed(image, query, row=number) if kind == "zero" else limited(image, query, 2, row=number))
    how = {"layers": [0, 2]}
    case = (
        nv.Knockout("image.0", "query", how="zero", **how)
        if kind == "zero"
        else nv.Limit("image.0", "query", top=2, **how)
    )
    right = expected(model, prompt, [0, 2], in_turn(*changes)).logits
    found = nv.run(model, prompt, case).logits
    for number, row in enumerate(prompt.rows):
        assert tiny.gap(found[number], right[number, row.stop - 1]) < LIMIT
    assert nv.verify(model, prompt, case).edges > 0


GENERATED = {
    "zero": nv.Knockout("image", ["last", "generated"], layers=[1, 2], how="zero"),
    "limit": nv.Limit(["image", "generated"], ["last", "generated"], top=3),
    "heads": nv.Limit("all", "generated", top=2, heads=[(1, 0), (3, 2)]),
    "with a mask": nv.Knockout("image", "generated", layers=1) | nv.Knockout("system", "generated", how="zero"),
}


@pytest.mark.float64
@pytest.mark.parametrize("name", GENERATED)
def test_decoded_tokens_equal_one_forward_over_all_of_them(model, prompt, name):
    case, rows = GENERATED[name], tiny.several(model)
    out = nv.generate(model, prompt, case, max_new_tokens=STEPS)
    whole = nv.run(model, out.prompt, case, positions=list(range(prompt.width - 1, prompt.width - 1 + STEPS))).logits
    assert tuple(whole.argmax(-1).tolist()) == out.tokens
    assert nv.verify(model, prompt, case).tokens == 4  # their logits were compared
    static = nv.generate(model, prompt, case, max_new_tokens=STEPS, cache_implementation="static")
    assert static.tokens == out.tokens
    padded = nv.generate(model, rows, case, max_new_tokens=STEPS)
    for number in range(3):
        assert padded.tokens[number] == nv.generate(model, rows.row(number), case, max_new_tokens=STEPS).tokens


@pytest.mark.float64
@pytest.mark.parametrize("execution", ["packed", "rows", "single"])
def test_a_sweep_gives_what_single_runs_give(model, prompt, execution):
    variants = [
        *(nv.Knockout("image", "query", layers=layer, how="zero") for layer in range(tiny.LAYERS)),
        nv.Limit("image", "last", top=2, layers=[0, 2]),
        nv.Limit("all", "query", top=4, layers=1, heads=[1]) | nv.Knockout("system", "last", layers=1),
    ]
    frame = nv.sweep(model, prompt, variants, answer=20, execution=execution)
    alone = [float(nv.run(model, prompt, each).logits[20]) for each in variants]
    assert frame["logit"].sub(alone).abs().max() < LIMIT * 10
    assert len({round(logit, 6) for logit in alone}) == len(variants)


# identities ---------------------------------------------------------------------------------------------


@pytest.mark.float64
def test_an_edge_without_weight_is_its_value_subtracted_by_hand(model, prompt):
    """From what the output projection is handed: weight times value, by query head."""
    source, where = prompt["image"][7], {"layers": 2}
    reads = [nv.Attention("last", (source,), **where), nv.Residual((source,), site="value", **where)]
    clean = nv.run(model, prompt, reads=[*reads, nv.Residual("last", site="head", **where)])
    weight, value, heads = clean.reads[0][0, :, 0], clean.reads[1][0], clean.reads[2][0, :, 0]
    by_hand = heads - weight * value.repeat_interleave(tiny.HEADS // tiny.KEY_VALUE_HEADS, 0)[:, 0]
    cut = nv.Knockout(source, "last", how="zero", **where)
    found = nv.run(model, prompt, cut, reads=nv.Residual("last", site="head", **where)).reads[0][0, :, 0]
    assert tiny.gap(found, by_hand) < LIMIT
    patched = nv.Patch("last", source=by_hand[:, None], site="head", **where)
    assert tiny.gap(nv.run(model, prompt, patched).logits, nv.run(model, prompt, cut).logits) < LIMIT


def test_the_other_weights_are_left_to_the_bit(model, prompt):
    cut, read = nv.Knockout("image", "query", layers=1, how="zero"), nv.Attention("query", "all", layers=[0, 1])
    clean, run = (nv.run(model, prompt, case, reads=read).reads[0] for case in (None, cut))
    others = [place for place in range(prompt.width) if place not in prompt["image"]]
    assert torch.equal(run[..., others], clean[..., others]) and torch.equal(run[0], clean[0])
    assert not run[1][..., list(prompt["image"])].any()


@pytest.mark.float64
def test_all_sources_without_weight_are_no_attention_at_all(model, prompt):
    nothing = nv.Knockout("all", "last", layers=[1, 2], how="zero")
    ablated = nv.Ablate("last", site="head", layers=[1, 2])
    assert tiny.gap(nv.run(model, prompt, nothing).logits, nv.run(model, prompt, ablated).logits) < LIMIT


@pytest.mark.float64
def test_a_limit_is_the_knockout_of_all_other_sources(model, prompt):
    """In one layer, where the weights of the clean run say which these are."""
    weights = nv.run(model, prompt, reads=nv.Attention("last", "image", layers=1)).reads[0][0, :, 0]
    image = torch.tensor(prompt["image"])
    cut = None
    for head in HEADS:
        others = image[weights[head].argsort(descending=True)[3:]].sort().values.tolist()
        one = nv.Knockout(others, "last", layers=1, heads=[head])
        cut = one if cut is None else cut | one
    found, right = (nv.run(model, prompt, case).logits for case in (nv.Limit("image", "last", top=3, layers=1), cut))
    assert tiny.gap(found, right) < LIMIT


@pytest.mark.float64
def test_written_values_are_what_the_change_takes_away(model, prompt):
    """A value that is written before is the one that an edge without weight loses."""
    written = nv.Ablate("image", site="value", layers=1)  # what carries nothing has nothing to lose
    both = written | nv.Knockout("image", "query", layers=1, how="zero")
    assert tiny.gap(nv.run(model, prompt, both).logits, nv.run(model, prompt, written).logits) < LIMIT
    assert tiny.gap(nv.run(model, prompt, both).logits, nv.run(model, prompt, both.parts[1]).logits) > 1e-4
    assert nv.verify(model, prompt, both | nv.Limit("system", "query", top=1, layers=1)).writes == 1


def test_equally_great_weights_are_kept_from_the_first_on():
    weights = torch.tensor([[[0.2, 0.3, 0.2, 0.3, 0.0]]])
    change = (0, ((0, 1),), ((0, 5),), None, "limit", 3)
    window, places = (0, 1, 0, 5, True), torch.tensor([0])
    found = mixtures.changed(weights, places, 0, (change,), window)
    assert torch.allclose(found, torch.tensor([[[0.25, 0.375, 0.0, 0.375, 0.0]]]))
    assert torch.equal(mixtures.changed(weights, places, 1, (change,), window), weights)  # another row of the batch


# proofs and refusals ------------------------------------------------------------------------------------


def other_queries(changes):
    return tuple((row, tuple((a - 1, b) for a, b in targets), *rest) for row, targets, *rest in changes)


FAULTS = {
    "not at all": lambda _: (),
    "one more query": other_queries,
    "one more source": lambda changes: tuple(
        (r, t, tuple((a - 1, b) for a, b in s), *rest) for r, t, s, *rest in changes
    ),
    "one head": lambda changes: tuple((*change[:3], (4, (0, 1, 2)), *change[4:]) for change in changes),
    "another limit": lambda changes: tuple((*change[:4], "limit", 4) for change in changes),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    "case", [nv.Knockout("image", "query", layers=1, how="zero"), nv.Limit("image", "query", top=3)]
)
def test_a_planted_fault_is_seen(sdpa, monkeypatch, fault, case):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))

    def wrong(call, changes, *rest):
        return mixtures.change_weights(call, FAULTS[fault](changes), *rest)

    monkeypatch.setitem(sites.SITES, "weights", dataclasses.replace(sites.SITES["weights"], kernel=wrong))
    with pytest.raises(nv.InterventionError):
        nv.verify(sdpa, prompt, case)


def test_half_precision_is_proven(prompt):
    model = nv.load(tiny.build_module().to(torch.bfloat16), processor=tiny.build_processor())
    for case in (GENERATED["zero"], GENERATED["limit"]):
        assert nv.verify(model, prompt, case).tokens == 4


def test_what_changes_nothing_or_cannot_be_shown_is_refused(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    for case, words in (
        (nv.Limit("image", "last", top=25), "more than top=25 of the sources"),
        (nv.Limit("last", "image", top=1), "the other way round"),
        (nv.Knockout("last", "image", how="zero"), "the other way round"),
        (nv.Knockout("image", "generated", how="zero"), "no token is generated yet"),
    ):
        with pytest.raises(nv.SpecError, match=words):
            nv.run(sdpa, prompt, case)
        assert torch.equal(nv.run(sdpa, prompt, case, empty="ignore").logits, nv.run(sdpa, prompt).logits)
    among = nv.Limit("generated", "generated", top=2)
    assert nv.generate(sdpa, prompt, among, max_new_tokens=4).tokens  # the third that is run has three to read
    with pytest.raises(nv.SpecError, match="more than top=2"):
        nv.generate(sdpa, prompt, among, max_new_tokens=3)
    edited = nv.install(sdpa, prompt, nv.Knockout("image", "last", how="zero", layers=1))
    with pytest.raises(nv.SpecError, match=r"behind the softmax.*with the intervention in the call"):
        nv.run(edited, prompt, reads=nv.Attention("last", "image"))
    same = nv.run(sdpa, prompt, nv.Knockout("image", "last", how="zero", layers=1)).logits
    assert torch.equal(nv.run(edited, prompt).logits, same)


def test_sliding_windows_are_seen():
    with float64():
        model = tiny.load("sdpa", "mistral", torch.float64)
        prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
        assert nv.verify(model, prompt, GENERATED["limit"]).tokens == 4
