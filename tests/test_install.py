"""An installed model is plain nnsight: the user reads, writes and generates as ever."""

from __future__ import annotations

import pytest
import reference
import tiny
import torch
from float64 import LIMIT
from nnsight import TransformersModel, save

import nnsight_vlm as nv


@pytest.fixture
def case(twin):
    return (
        nv.Knockout("image", "query", layers=[1, 2])
        | nv.Patch("last", source=twin, layers=2)
        | nv.Ablate("image", how="mean", site="features")
    )


@pytest.fixture
def edited(model, prompt, case):
    return nv.install(model, prompt, case)


def test_an_installed_model_is_a_plain_nnsight_model(model, edited):
    assert type(edited) is type(model) is TransformersModel
    assert edited._module is model._module and edited.processor is model.processor


@pytest.mark.parametrize("layers", [[0], [3], [0, 1, 2, 3], [1, 3], [2]])
def test_layers_that_are_changed_or_not_are_read_as_the_run_left_them(model, prompt, case, edited, layers):
    expected = nv.run(model, prompt, case, reads=[nv.Residual("all", layers=layers)]).reads[0]
    with torch.no_grad(), edited.trace(**prompt.inputs):
        found = save([edited.model.language_model.layers[layer].output for layer in layers])
    assert all(torch.equal(one[0], two) for one, two in zip(found, expected, strict=True))


@pytest.mark.float64
def test_the_vision_side_and_inner_modules_are_read_beside_the_layers(model, prompt, case, edited):
    reads = [
        nv.Residual("image", site="features"),
        nv.Residual("all", layers=2, site="attention"),
        nv.Residual("all", layers=3, site="mlp"),
    ]
    features, mixed, added = nv.run(model, prompt, case, reads=reads).reads
    with torch.no_grad(), edited.trace(**prompt.inputs):
        projected = edited.model.multi_modal_projector.output.save()
        attended = edited.model.language_model.layers[2].self_attn.output[0].save()
        last = edited.model.language_model.layers[3].mlp.output.save()
        logits = edited.lm_head.output.save()
    assert torch.equal(projected[0], features)
    assert torch.equal(attended[0], mixed[0]) and torch.equal(last[0], added[0])
    assert tiny.gap(logits[0], nv.run(model, prompt, case, positions="all").logits) < LIMIT


def test_operations_inside_a_cut_attention_are_read_by_source(model, prompt, edited):
    with torch.no_grad(), edited.trace(**prompt.inputs):
        call = edited.model.language_model.layers[1].self_attn.source.attention_interface_1
        mask = call.inputs[0][4].save()
        mixed = call.output[0].save()
        state = edited.model.language_model.layers[1].output.save()
    assert torch.isneginf(mask[0, :, list(prompt["query"])][..., list(prompt["image"])]).all()
    assert mixed.shape == (1, prompt.width, tiny.HEADS, tiny.WIDTH // tiny.HEADS) and state.shape == (
        1,
        prompt.width,
        tiny.WIDTH,
    )


def test_writes_of_the_users_own_come_on_top(model, prompt, case, edited):
    with torch.no_grad(), edited.trace(**prompt.inputs):
        edited.model.language_model.layers[3].output[:] = 0
        logits = edited.output.logits.save()
    assert (logits == 0).all() and (nv.run(model, prompt, case).logits != 0).any()


@pytest.mark.float64
def test_the_cut_stays_from_trace_to_trace(model, prompt, case, edited):
    for _ in range(3):
        with torch.no_grad(), edited.trace(**prompt.inputs):
            logits = edited.output.logits.save()
        assert tiny.gap(logits[0], nv.run(model, prompt, case, positions="all").logits) < LIMIT


@pytest.mark.float64
def test_generation_runs_under_the_intervention_and_is_read_step_by_step(model, prompt, case, edited):
    case = case | nv.Knockout("image", "generated", layers=3)
    out = nv.generate(model, prompt, case, max_new_tokens=4)
    edited = nv.install(model, prompt, case)
    with torch.no_grad(), edited.generate(**prompt.inputs, max_new_tokens=4, do_sample=False) as tracer:
        states = save([])
        for _ in tracer.iter[0:4]:
            states.append(edited.model.language_model.layers[2].output[:, -1])
        tokens = tracer.result.save()
    assert tuple(tokens[0, prompt.width :].tolist()) == out.tokens
    places = list(range(prompt.width - 1, prompt.width + 3))
    whole = nv.run(model, out.prompt, case, reads=[nv.Residual(places, layers=2)]).reads[0][0]
    assert tiny.gap(torch.cat(list(states)), whole) < LIMIT


@pytest.mark.float64
def test_a_cut_made_for_one_prompt_serves_another_of_the_same_shape(model, prompt, twin):
    edited = nv.install(model, prompt, nv.Knockout("image", "query", layers=1))
    with torch.no_grad(), edited.trace(**twin.inputs):
        logits = edited.output.logits[0, -1].save()
    assert tiny.gap(logits, nv.run(model, twin, nv.Knockout("image", "query", layers=1)).logits) < LIMIT


def test_nothing_installed_is_the_model_itself(model, prompt):
    edited = nv.install(model, prompt)
    with torch.no_grad(), edited.trace(**prompt.inputs):
        logits = edited.output.logits.save()
    assert torch.equal(logits, model._module(**prompt.inputs).logits)
    assert edited is not model


def test_no_gradient_comes_back_along_a_cut_route(model, prompt):
    values = reference.forward(model._module, prompt.inputs).states["residual", 0].clone().requires_grad_()
    edited = nv.install(model, prompt, nv.Knockout("image", "text"))
    with edited.trace(**prompt.inputs):
        edited.model.language_model.layers[0].output = values
        logits = edited.output.logits.save()
    (gradient,) = torch.autograd.grad(logits[0, -1, 20], values)
    assert (gradient[0, list(prompt["image"])] == 0).all()
    assert (gradient[0, list(prompt["text"])].abs().sum(-1) > 0).all()


def test_a_copy_is_not_run_with_a_prompt_whose_groups_lie_elsewhere():
    model = tiny.load("sdpa")
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    other = nv.encode(model, "what is red ?", tiny.picture(0))
    alike = nv.encode(model, "what is the red square ?", tiny.picture(1))
    edited = nv.install(model, prompt, nv.Knockout("image", "last"))
    for call in (nv.run, nv.generate):
        with pytest.raises(nv.SpecError, match="at the positions of another prompt"):
            call(edited, other)
    expected = nv.run(model, alike, nv.Knockout("image", "last")).logits
    torch.testing.assert_close(nv.run(edited, alike).logits, expected)
    answer = nv.generate(edited, prompt, max_new_tokens=2)
    assert nv.run(edited, answer.prompt).logits.isfinite().all()
