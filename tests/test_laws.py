"""The laws that interventions obey: order, composition, emptiness, and models that stay as they are."""

from __future__ import annotations

import itertools

import pytest
import tiny
import torch
from float64 import LIMIT

import nnsight_vlm as nv
from nnsight_vlm.specs.interventions import CLEAN, Composed


def singles(twin):
    """One intervention at each site and of each kind."""
    return {
        "knockout": nv.Knockout("image", "query", layers=[1, 2]),
        "heads": nv.Knockout("system", "last", layers=2, heads=[1]),
        "allow": nv.Allow("image", "text", layers=nv.depth(0.25, 0.75)),
        "residual": nv.Patch("query", source=twin, layers=1),
        "attention": nv.Ablate("image", how="mean", layers=2, site="attention"),
        "mlp": nv.Ablate("last", layers=3, site="mlp"),
        "embedding": nv.Ablate("image.0", how="mean", site="embedding"),
        "features": nv.Patch("image", source=twin, site="features"),
    }


NAMES = ("knockout", "heads", "allow", "residual", "attention", "mlp", "embedding", "features")


@pytest.mark.parametrize("one, two", list(itertools.combinations(NAMES, 2)))
def test_at_different_sites_the_order_makes_no_difference(sdpa, one, two):
    prompt, twin = pair_of(sdpa)
    a, b = singles(twin)[one], singles(twin)[two]
    assert torch.equal(nv.run(sdpa, prompt, a | b).logits, nv.run(sdpa, prompt, b | a).logits)


def pair_of(model):
    return (
        nv.encode(model, "what is the red square ?", tiny.picture(0)),
        nv.encode(model, "where is a blue circle ?", tiny.picture(1)),
    )


@pytest.mark.parametrize("site", ["residual", "attention", "mlp", "embedding", "features"])
def test_at_one_site_the_left_one_acts_first(model, prompt, twin, site):
    write, wipe = nv.Patch("image", source=twin, layers=2, site=site), nv.Ablate("image", layers=2, site=site)
    read = [nv.Residual("image", layers=2, site=site)]
    wiped, written = (nv.run(model, prompt, case, reads=read).reads[0] for case in (write | wipe, wipe | write))
    assert (wiped == 0).all() and (written != 0).any()
    assert torch.equal(nv.run(model, prompt, wipe | write).logits, nv.run(model, prompt, write).logits)


def test_a_mean_is_taken_of_what_the_left_one_wrote(model, prompt):
    ones = torch.ones(tiny.IMAGE_TOKENS, tiny.WIDTH)
    case = nv.Patch("image", source=ones, layers=1) | nv.Ablate("image", how="mean", layers=1)
    seen = nv.run(model, prompt, case, reads=[nv.Residual("image", layers=1)]).reads[0]
    assert torch.equal(seen[0], ones)


def test_composition_is_associative(model, prompt, twin):
    a, b, c = (singles(twin)[name] for name in ("knockout", "residual", "features"))
    assert ((a | b) | c).parts == (a | (b | c)).parts == (a, b, c)
    assert torch.equal(nv.run(model, prompt, (a | b) | c).logits, nv.run(model, prompt, a | (b | c)).logits)


@pytest.mark.float64
@pytest.mark.parametrize(
    "names", [("residual", "knockout"), ("features", "attention", "heads"), ("mlp", "embedding", "allow")]
)
def test_one_plan_equals_stacked_edits(model, prompt, twin, names):
    cases = [singles(twin)[name] for name in names]
    together, stacked = cases[0], nv.install(model, prompt, cases[0])
    for case in cases[1:]:
        together, stacked = together | case, nv.install(stacked, prompt, case)
    with torch.no_grad(), stacked.trace(**prompt.inputs):
        logits = stacked.output.logits[0, -1].save()
    assert tiny.gap(logits, nv.run(model, prompt, together).logits) < LIMIT


@pytest.mark.float64
def test_a_patch_installed_on_an_edited_model_takes_its_values_from_the_edited_model(model, prompt, twin):
    cut, patch = nv.Knockout("image", "query", layers=[0, 1]), nv.Patch("query", source=twin, layers=1)
    stacked = nv.install(nv.install(model, prompt, cut), prompt, patch)
    with torch.no_grad(), stacked.trace(**prompt.inputs):
        logits = stacked.output.logits[0, -1].save()
    meant = cut | nv.Patch("query", source=twin, under=cut, layers=1)
    assert tiny.gap(logits, nv.run(model, prompt, meant).logits) < LIMIT


@pytest.mark.parametrize(
    "empty", [None, CLEAN, Composed(), nv.Knockout("generated", "image"), nv.Knockout("image", "system")]
)
def test_an_empty_intervention_is_bit_identical_to_the_model_itself(model, prompt, empty):
    clean = model._module(**prompt.inputs).logits[0]
    found = nv.run(model, prompt, empty, positions="all", empty="ignore").logits
    assert torch.equal(found, clean)
    assert (
        nv.generate(model, prompt, empty, max_new_tokens=5, empty="ignore").tokens
        == nv.generate(model, prompt, max_new_tokens=5).tokens
    )


def test_an_intervention_on_tokens_to_come_leaves_the_prompt_bit_identical(model, prompt):
    for case in (
        nv.Knockout("image", "generated"),
        nv.Ablate("generated", layers=2),
        nv.Allow("image", "generated", layers=0),
    ):
        assert torch.equal(nv.run(model, prompt, case, empty="ignore").logits, nv.run(model, prompt).logits)


@pytest.mark.parametrize("name", NAMES)
def test_the_original_model_stays_as_it_is(model, prompt, twin, name):
    weights = {key: value.clone() for key, value in model._module.state_dict().items()}
    before, edits = model._module(**prompt.inputs).logits, list(model._edits)
    case = singles(twin)[name]
    nv.run(model, prompt, case)
    nv.generate(model, prompt, case, max_new_tokens=3)
    edited = nv.install(model, prompt, case)
    assert edited is not model and edited._edits and model._edits == edits == []
    assert torch.equal(model._module(**prompt.inputs).logits, before)
    assert torch.equal(nv.run(model, prompt, positions="all").logits, before[0])
    assert all(torch.equal(value, weights[key]) for key, value in model._module.state_dict().items())


def test_what_a_user_gave_is_not_written_to(model, prompt, twin):
    values = torch.randn(1, tiny.IMAGE_TOKENS, tiny.WIDTH)
    given, inputs = values.clone(), {name: tensor.clone() for name, tensor in prompt.inputs.items()}
    case = (
        nv.Patch("image", source=values, layers=1)
        | nv.Ablate("image", layers=1)
        | nv.Ablate("last", how="mean", layers=2)
    )
    nv.run(model, prompt, case)
    assert torch.equal(values, given)
    assert all(torch.equal(prompt.inputs[name], tensor) for name, tensor in inputs.items())


def test_without_the_route_from_image_to_text_the_pixels_make_no_difference(model):
    cut = nv.Knockout("image", "text")
    prompts = [nv.encode(model, "what is the red square ?", tiny.picture(seed)) for seed in (0, 1)]
    one, two = (nv.run(model, prompt, cut).logits for prompt in prompts)
    assert torch.equal(one, two)
    clean = [nv.run(model, prompt).logits for prompt in prompts]
    assert tiny.gap(*clean) > 0.1
    answers = [nv.generate(model, prompt, cut, max_new_tokens=5).tokens for prompt in prompts]
    assert answers[0] == answers[1]


def test_without_the_route_from_text_to_image_the_words_before_it_do_not_reach_the_image(model):
    cut = nv.Knockout("text", "image")
    states = []
    for words in ("red", "blue"):
        prompt = nv.encode(model, f"<s> {words} <image> what is this ?", tiny.picture(0), chat=False)
        states.append(nv.run(model, prompt, cut, reads=[nv.Residual("image")]).reads[0])
    assert torch.equal(*states)


@pytest.mark.parametrize("layers", [0, 2, "all"])
def test_patching_everything_from_another_run_reproduces_that_run(model, prompt, twin, layers):
    patched = nv.run(model, prompt, nv.Patch("all", source=twin, layers=layers), positions="all").logits
    assert torch.equal(patched, nv.run(model, twin, positions="all").logits)
    assert tiny.gap(patched, nv.run(model, prompt, positions="all").logits) > 0.1


@pytest.mark.parametrize("site", ["residual", "attention", "mlp", "embedding", "features"])
def test_patching_a_run_into_itself_changes_nothing(model, prompt, site):
    where = "image" if site == "features" else "all"
    patched = nv.run(model, prompt, nv.Patch(where, source=prompt, site=site), positions="all").logits
    assert torch.equal(patched, nv.run(model, prompt, positions="all").logits)


def test_lists_and_tuples_and_ranges_make_equal_values():
    assert nv.Knockout([1, 2], "last", layers=[3], heads=[(3, 1)]) == nv.Knockout(
        (1, 2), "last", layers=(3,), heads=((3, 1),)
    )
    assert hash(nv.Knockout(range(3), "last", layers=range(2))) == hash(nv.Knockout([0, 1, 2], "last", layers=[0, 1]))
    assert nv.Knockout("image", "last") != nv.Allow("image", "last")
