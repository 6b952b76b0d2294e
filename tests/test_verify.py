"""`verify` proves interventions that work and catches faults: every test below the line plants one."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.device import kernels, runner, states
from nnsight_vlm.families import FAMILIES, AttentionSpec
from nnsight_vlm.lowering import plan, sites
from nnsight_vlm.specs.interventions import CLEAN

KNOCKOUT = nv.Knockout("image", "query", layers=[1, 2])


def cases(prompt, twin):
    return {
        "nothing": CLEAN,
        "knockout": KNOCKOUT,
        "heads": nv.Knockout("image", "last", heads=[(0, 1), (3, 2)]),
        "text": nv.Knockout("image", "text"),
        "allow": nv.Allow("image", "text", layers=nv.depth(0.25, 0.5)),
        "generated": nv.Knockout("image", "generated", layers=[1, 2]),
        "overlap": nv.Knockout("image", "query", layers=1) | nv.Knockout("image.0", "last", layers=[1, 3]),
        "patch": nv.Patch("query", source=twin, layers=[0, 2]),
        "patch of all": nv.Patch("all", source=twin, layers=3),
        "under": nv.Patch("image", source=prompt, under=nv.Knockout("system", "image"), layers=2),
        "attention": nv.Patch("image", source=twin, layers=1, site="attention"),
        "mlp": nv.Ablate("last", layers="all", site="mlp"),
        "zero": nv.Ablate("generated", layers=1),
        "mean": nv.Ablate("image", how="mean", layers=[1, 2]),
        "resample": nv.Ablate("query", how="resample", source=twin, layers=3),
        "embedding": nv.Ablate("image", how="mean", site="embedding"),
        "features": nv.Patch("image", source=twin, site="features"),
        "both": KNOCKOUT | nv.Patch("query", source=twin, layers=1) | nv.Ablate("image", how="mean", site="features"),
        "twice": nv.Patch("query", source=twin, layers=1) | nv.Ablate("last", layers=1),
        "mean of written states": nv.Patch("image", source=twin, layers=1)
        | nv.Ablate(["image", "last"], how="mean", layers=1),
    }


CASES = (
    "nothing", "knockout", "heads", "text", "allow", "generated", "overlap", "patch", "patch of all", "under",
    "attention", "mlp", "zero", "mean", "resample", "embedding", "features", "both", "twice", "mean of written states",
)  # fmt: skip


def test_every_case_is_proven_below(prompt, twin):
    assert set(CASES) == set(cases(prompt, twin))


@pytest.mark.parametrize("name", CASES)
def test_an_intervention_that_works_is_proven(model, prompt, twin, name):
    case = cases(prompt, twin)[name]
    proof = nv.verify(model, prompt, case)
    assert proof.layers == tiny.LAYERS
    assert (proof.tokens > 0) == (name in ("text", "allow", "generated", "zero"))
    assert (proof.writes > 0) == any(not isinstance(part, nv.Knockout) for part in case.parts)
    assert (proof.edges > 0) == any(isinstance(part, nv.Knockout) for part in case.parts)


def test_the_edges_that_were_closed_are_counted(model, prompt):
    queries, keys = len(prompt["query"]), len(prompt["image"])
    assert nv.verify(model, prompt, KNOCKOUT).edges == 2 * tiny.HEADS * queries * keys
    assert nv.verify(model, prompt, nv.Knockout("image", "query", heads=[(1, 0), (2, 3)])).edges == 2 * queries * keys
    assert nv.verify(model, prompt, nv.Ablate("image", layers=[0, 3]) | nv.Ablate("last", layers=3)).writes == 2
    # these positions come before the image and never see it
    assert nv.verify(model, prompt, nv.Knockout("image", "system"), empty="ignore").edges == 0


@pytest.mark.parametrize(
    ("proof", "words"),
    [
        (
            nv.Proof(layers=10, edges=4000, writes=0, tokens=0, moved=7.08),
            "Proof(holds: 4,000 edges closed, nothing else changed in 10 layers; logits moved by at most 7.08; "
            "not checked: generated tokens, other pixels)",
        ),
        (
            nv.Proof(layers=1, edges=0, writes=1, tokens=4, moved=0.0, pixels=24),
            "Proof(holds: states written at 1 site, nothing else changed in 1 layer, 4 generated tokens as in one "
            "forward, 24 predictions the same with other pixels; no logit moved)",
        ),
    ],
)
def test_a_proof_says_in_words_what_holds_and_what_was_not_checked(proof, words):
    assert repr(proof) == str(proof) == words


@pytest.mark.parametrize("name", ["knockout", "heads", "mean", "features", "attention"])
def test_a_padded_batch_is_proven(model, twin, name):
    prompt = tiny.several(model)
    case = {
        "knockout": nv.Knockout("image", "query", layers=[1, 2]),
        "heads": nv.Knockout("image.0", "last", heads=[(1, 1)]),
        "mean": nv.Ablate("image", how="mean", layers=2),
        "features": nv.Ablate("image", how="mean", site="features"),
        "attention": nv.Patch("image.0", source=twin, source_where="image", layers=1, site="attention"),
    }[name]
    assert nv.verify(model, prompt, case).layers == tiny.LAYERS


@pytest.mark.parametrize(
    "case", [KNOCKOUT, nv.Knockout("image", "generated"), nv.Ablate("query", how="mean", layers=1)]
)
def test_other_decoders_are_proven(other, case):
    assert nv.verify(other, nv.encode(other, "what is the red square ?", tiny.picture(0)), case).layers == tiny.LAYERS


def test_half_precision_is_proven(prompt, twin):
    model = nv.load(tiny.build_module().to(torch.bfloat16), processor=tiny.build_processor())
    assert nv.verify(model, prompt, KNOCKOUT | nv.Patch("query", source=twin, layers=2)).writes == 1


# planted faults -------------------------------------------------------------------------------


def expect_caught(model, prompt, case, match):
    with pytest.raises(nv.InterventionError, match=match):
        nv.verify(model, prompt, case)


@pytest.fixture
def swap(monkeypatch):
    """A function that replaces the kernel of a site."""

    def replace_kernel(site, kernel):
        monkeypatch.setitem(sites.SITES, site, dataclasses.replace(sites.SITES[site], kernel=kernel))

    return replace_kernel


def padded(model):
    """A prompt whose mask is a real tensor in every layer, shared by all of them."""
    return tiny.several(model)


def in_place(inputs, cuts, window, mask_spec, memo):
    """`close_edges` without the clone, so that it changes the mask that all decoder layers share."""
    args, kwargs = inputs
    mask = kwargs["attention_mask"]
    for row, targets, sources, _ in cuts:
        query = kernels.index(targets, window[0], window[1], mask.device)
        key = kernels.index(sources, window[2], window[3], mask.device)
        mask[row, :, query[:, None], key[None, :]] = False if mask.dtype == torch.bool else float("-inf")
    return args, {**kwargs, "attention_mask": mask}


def test_a_kernel_that_forgets_to_clone_is_caught(model, swap):
    swap("mask", in_place)
    expect_caught(model, padded(model), nv.Knockout("image", "query", layers=0), "layer 1")


def test_edges_of_a_float_mask_closed_with_zero_are_caught(model, prompt, swap):
    def close_with_zero(inputs, cuts, window, mask_spec, memo):
        args, kwargs = kernels.close_edges(inputs, cuts, window, mask_spec, memo)
        mask = kwargs["attention_mask"]
        return args, {**kwargs, "attention_mask": torch.where(torch.isneginf(mask), torch.zeros_like(mask), mask)}

    swap("mask", close_with_zero)
    expect_caught(model, prompt, KNOCKOUT, "still gives|is open and should be closed")


def test_a_mask_that_is_none_and_stays_none_is_caught(prompt, swap):
    def close_where_there_is_a_mask(inputs, cuts, window, mask_spec, memo):
        if inputs[1]["attention_mask"] is None:
            return inputs
        return kernels.close_edges(inputs, cuts, window, mask_spec, memo)

    swap("mask", close_where_there_is_a_mask)
    expect_caught(tiny.load("sdpa"), prompt, KNOCKOUT, "layer 1, head 0: position")


def test_a_mask_that_is_not_causal_is_caught(prompt, swap):
    def close_in_an_open_mask(inputs, cuts, window, mask_spec, memo):
        hidden = inputs[1]["hidden_states"]
        mask = torch.zeros(1, 1, window[1], window[3], dtype=hidden.dtype)
        return inputs[0], {**inputs[1], "attention_mask": kernels.mask_edges(mask, cuts, window, len(hidden))}

    swap("mask", close_in_an_open_mask)
    expect_caught(tiny.load("sdpa"), prompt, KNOCKOUT, "keys|open and should be closed")


def test_a_cut_of_the_wrong_heads_is_caught(model, prompt, swap):
    def next_head(inputs, cuts, window, mask_spec, memo):
        moved = []
        for row, targets, sources, (count, numbers) in cuts:
            moved.append((row, targets, sources, (count, tuple((head + 1) % count for head in numbers))))
        return kernels.close_edges(inputs, tuple(moved), window, mask_spec, memo)

    swap("mask", next_head)
    expect_caught(model, prompt, nv.Knockout("image", "query", layers=1, heads=[0]), "layer 1, head 0")


def test_a_cut_that_is_one_position_off_is_caught(model, prompt, swap):
    def shifted(inputs, cuts, window, mask_spec, memo):
        moved = tuple(
            (row, targets, tuple((start - 1, stop - 1) for start, stop in sources), heads)
            for row, targets, sources, heads in cuts
        )
        return kernels.close_edges(inputs, moved, window, mask_spec, memo)

    swap("mask", shifted)
    expect_caught(model, prompt, KNOCKOUT, "layer 1")


def test_a_cut_that_reaches_other_rows_is_caught(model, swap):
    def every_row(inputs, cuts, window, mask_spec, memo):
        args, kwargs = kernels.close_edges(inputs, cuts, window, mask_spec, memo)
        mask = kwargs["attention_mask"]
        return args, {
            **kwargs,
            "attention_mask": torch.minimum(mask, mask[:1]) if mask.dtype != torch.bool else mask & mask[:1],
        }

    swap("mask", every_row)
    expect_caught(model, padded(model), nv.Knockout("image", "query", layers=1), "row|layer 1")


def test_a_cut_in_the_wrong_layer_is_caught(model, prompt, monkeypatch):
    locate = plan.locate
    monkeypatch.setattr(plan, "locate", lambda family, stage, site, layer: locate(family, stage, site, layer - 1))
    expect_caught(model, prompt, nv.Knockout("image", "query", layers=2), "layer 2|layer 1")


@pytest.mark.parametrize(
    "fields, match",
    [
        ({"layers": "model.vision_tower.encoder.layers"}, "points at|calls itself"),
        ({"attention": AttentionSpec(module="mlp")}, "points at .* has no operation"),
        ({"attention": AttentionSpec(call="attention_interface_7")}, "points at .* has no operation"),
    ],
)
def test_a_family_that_names_the_wrong_module_is_caught(prompt, monkeypatch, fields, match):
    family = FAMILIES["llava"]
    stages = {"decoder": dataclasses.replace(family.decoder, **fields)}
    monkeypatch.setitem(FAMILIES, "llava", dataclasses.replace(family, stages=stages))
    model = tiny.build()  # a new one, because the view of a model is cached
    expect_caught(model, prompt, nv.Ablate("image", site="features"), match)


@pytest.mark.parametrize("site", ["residual", "attention", "mlp"])
def test_a_patch_that_writes_nothing_is_caught(model, prompt, twin, swap, site):
    swap(site, lambda output, *_: output)
    expect_caught(model, prompt, nv.Patch("query", source=twin, layers=2, site=site), f"site '{site}' of layer 2")


@pytest.mark.parametrize("site", ["embedding", "features"])
def test_an_ablation_that_writes_nothing_is_caught(model, prompt, swap, site):
    swap(site, lambda value, *_: value)
    expect_caught(model, prompt, nv.Ablate("image", site=site), f"site '{site}'")


@pytest.mark.parametrize("fault", ["one position off", "too many", "halved"])
def test_a_patch_that_writes_wrong_values_is_caught(model, prompt, twin, swap, fault):
    def faulty(output, writes, window, mask_spec, memo):
        written = states.write_output(output, writes, window, mask_spec, memo)
        if fault == "one position off":
            return torch.roll(written, 1, dims=1)
        if fault == "halved":
            return (written + output) / 2
        return torch.cat([written[:, :1] + 1, written[:, 1:]], dim=1)

    swap("residual", faulty)
    expect_caught(model, prompt, nv.Patch("image", source=twin, layers=2), "site 'residual' of layer 2")


def test_an_edit_that_only_acts_on_the_first_forward_is_caught(model, prompt, monkeypatch):
    def first_token_only(edited, extent, steps, rows, skipped):
        entry, _, causal, cache_layers = extent
        runner.perform(edited, steps, runner.windows(edited.get(entry).inputs, cache_layers, causal))

    monkeypatch.setattr(runner, "on_every_token", first_token_only)
    expect_caught(model, prompt, nv.Knockout("image", "generated"), "not the same in cached generation")
