"""Patches and ablations are what a forward written by hand gives when it writes the same states."""

from __future__ import annotations

import copy

import pytest
import reference
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv

LAYERED = ("residual", "attention", "mlp")
SITES = (*LAYERED, "embedding", "features")


def setter(places, values, row=0):
    """A write of `[place, width]` for the reference; features `[token, width]` have no rows."""

    def write(state):
        if state.dim() == 2:
            state[list(places)] = values.to(state)
        else:
            state[row, list(places)] = values.to(state)
        return state

    return write


def at(prompt, where, site):
    """Where a site holds positions: features count image tokens from nought."""
    return [prompt["image"].index(p) for p in prompt[where]] if site == "features" else list(prompt[where])


def layers_of(site, layers):
    return layers if site in LAYERED else [-1]


def taken(states, site, layer, places):
    state = states[site, layer]
    return state[places] if state.dim() == 2 else state[0, places]


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("where", ["image", "query", "all"])
def test_a_patch_from_another_prompt_equals_the_reference(model, prompt, twin, site, where):
    if site == "features" and where != "image":
        where = "image.0"
    source = reference.forward(model._module, twin.inputs).states
    places, layers = at(prompt, where, site), layers_of(site, [1, 2])
    writes = {(site, layer): setter(places, taken(source, site, layer, places)) for layer in layers}
    expected = reference.forward(model._module, prompt.inputs, writes=writes).logits[0]
    found = nv.run(model, prompt, nv.Patch(where, source=twin, layers=[1, 2], site=site), positions="all").logits
    assert tiny.gap(found, expected) < LIMIT
    assert tiny.gap(found, reference.forward(model._module, prompt.inputs).logits[0]) > 1e-2


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
def test_a_patch_from_a_run_under_an_intervention_equals_the_reference(model, prompt, site):
    cut = reference.edges(model._module, prompt.inputs["input_ids"], prompt["system"], prompt["image"], range(2))
    under = nv.Knockout("system", "image", layers=[0, 1])
    if site in ("embedding", "features"):  # nothing before the first layer sees a knockout
        under = nv.Ablate("image", site="features", how="mean")
        whole = reference.forward(model._module, prompt.inputs).states["features", -1]
        source = reference.forward(
            model._module, prompt.inputs, writes={("features", -1): lambda _: whole.mean(0).expand_as(whole)}
        ).states
    else:
        source = reference.forward(model._module, prompt.inputs, cut).states
    places, layers = at(prompt, "image", site), layers_of(site, [1])
    writes = {(site, layer): setter(places, taken(source, site, layer, places)) for layer in layers}
    expected = reference.forward(model._module, prompt.inputs, writes=writes).logits[0]
    patch = nv.Patch("image", source=prompt, under=under, layers=1, site=site)
    assert tiny.gap(nv.run(model, prompt, patch, positions="all").logits, expected) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("per_layer", [False, True])
def test_a_patch_of_a_tensor_equals_the_reference(model, prompt, site, per_layer):
    layers = layers_of(site, [0, 3])
    values = torch.randn(len(layers), tiny.IMAGE_TOKENS, tiny.WIDTH, generator=torch.Generator().manual_seed(1))
    values = values if per_layer else values[:1].expand(len(layers), -1, -1)
    places = at(prompt, "image", site)
    writes = {(site, layer): setter(places, value) for layer, value in zip(layers, values, strict=True)}
    expected = reference.forward(model._module, prompt.inputs, writes=writes).logits[0]
    given = values if per_layer else values[0]
    patch = nv.Patch("image", source=given, layers=[0, 3], site=site)
    assert tiny.gap(nv.run(model, prompt, patch, positions="all").logits, expected) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("how", ["zero", "mean", "resample"])
def test_an_ablation_equals_the_reference(model, prompt, twin, site, how):
    source = reference.forward(model._module, twin.inputs).states
    places, writes = at(prompt, "image", site), {}
    for layer in layers_of(site, [0, 2]):

        def write(state, layer=layer):
            rows = state[places] if state.dim() == 2 else state[0, places]
            values = {"zero": rows * 0, "mean": rows.mean(0), "resample": taken(source, site, layer, places)}[how]
            return setter(places, values)(state)

        writes[site, layer] = write
    expected = reference.forward(model._module, prompt.inputs, writes=writes).logits[0]
    ablation = nv.Ablate("image", how=how, layers=[0, 2], site=site, source=twin if how == "resample" else None)
    assert tiny.gap(nv.run(model, prompt, ablation, positions="all").logits, expected) < LIMIT


@pytest.mark.float64
def test_positions_that_correspond_are_named_by_source_where(model, prompt):
    longer = nv.encode(model, "see how many dog or bike objects are red ?", tiny.picture(3))
    source = reference.forward(model._module, longer.inputs).states["residual", 2]
    words, others = prompt.find("red square"), longer.find("dog or")
    writes = {("residual", 2): setter(words, source[0, list(others)])}
    expected = reference.forward(model._module, prompt.inputs, writes=writes).logits[0, -1]
    patch = nv.Patch(words, source=longer, source_where=others, layers=2)
    assert tiny.gap(nv.run(model, prompt, patch).logits, expected) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("how", ["zero", "mean"])
def test_an_ablation_of_padded_rows_equals_every_row_alone(model, side, site, how):
    prompt = tiny.several(model, side)
    ablation = nv.Ablate("image.0", how=how, layers=[1, 2], site=site)
    together = nv.run(model, prompt, ablation).logits
    for number in range(3):
        assert tiny.gap(together[number], nv.run(model, prompt.row(number), ablation).logits) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("where", ["text", "all"])
def test_the_mean_over_a_padded_row_leaves_its_padding_out(model, side, where):
    prompt = tiny.several(model, side)
    ablation = nv.Ablate(where, how="mean", layers=1, site="attention")
    together = nv.run(model, prompt, ablation).logits
    for number in range(3):
        assert tiny.gap(together[number], nv.run(model, prompt.row(number), ablation).logits) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("site", SITES)
def test_a_patch_of_several_rows_writes_every_row(model, twin, site):
    prompt = tiny.several(model)
    patch = nv.Patch("image.0", source=twin, source_where="image", layers=2, site=site)
    together = nv.run(model, prompt, patch).logits
    for number in range(3):
        assert tiny.gap(together[number], nv.run(model, prompt.row(number), patch).logits) < LIMIT


@pytest.mark.float64
def test_the_features_of_the_second_picture_are_written_where_it_is(model):
    prompt = nv.encode(model, "left or right ?", [tiny.picture(4), tiny.picture(5)])
    swapped = nv.encode(model, "left or right ?", [tiny.picture(4), tiny.picture(6)])
    patch = nv.Patch("image.1", source=swapped, site="features")
    assert tiny.gap(nv.run(model, prompt, patch).logits, nv.run(model, swapped).logits) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("site", LAYERED)
def test_other_decoders_are_patched_as_the_reference_is(other, site):
    prompt = nv.encode(other, "what is the red square ?", tiny.picture(0))
    source = nv.encode(other, "what is the red square ?", tiny.picture(1))
    states = reference.forward(other._module, source.inputs).states[site, 1]
    writes = {(site, 1): setter(prompt["image"], states[0, list(prompt["image"])])}
    expected = reference.forward(other._module, prompt.inputs, writes=writes).logits[0]
    found = nv.run(other, prompt, nv.Patch("image", source=source, layers=1, site=site), positions="all").logits
    assert tiny.gap(found, expected) < LIMIT


def test_a_patch_in_half_precision_keeps_the_models_own_dtype(prompt, twin):
    module = tiny.build_module("sdpa").to(torch.bfloat16)
    model = nv.load(module, processor=tiny.build_processor())
    reads = [nv.Residual("last", layers=3), nv.Attention("last", "image", layers=3)]
    seen = nv.run(model, prompt, nv.Patch("all", source=twin, layers=3), reads=reads)
    assert seen.reads[0].dtype == torch.bfloat16 and seen.reads[1].dtype == seen.logits.dtype == torch.float32
    assert torch.equal(seen.logits, nv.run(model, twin).logits)


def test_the_prompt_of_a_model_with_other_weights_is_no_source():
    models = [nv.load(tiny.load("sdpa")._module, processor=tiny.build_processor()) for _ in range(2)]
    other = nv.load(copy.deepcopy(models[0]._module), processor=tiny.build_processor())
    prompt, source = (nv.encode(model, "what is red ?", tiny.picture(n)) for n, model in enumerate([models[0], other]))
    patch = nv.Patch("query", source=source, layers=1)
    assert nv.run(models[0], prompt, patch).logits.isfinite().all()  # equal weights
    with torch.no_grad():
        next(other._module.model.language_model.parameters()).mul_(2)
    with pytest.raises(nv.SpecError, match="another model of the same kind"):
        nv.run(models[0], prompt, patch)
    states = nv.run(other, source, reads=nv.Residual("query", layers=1)).reads[0]
    assert nv.run(models[0], prompt, nv.Patch("query", source=states, layers=1)).logits.isfinite().all()
