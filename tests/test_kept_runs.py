"""Nothing is kept beyond one call, and inside `nv.reuse` whatever can be seen to change is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from float64 import FACTOR, LIMIT, float64
from torch.nn.modules import module as torch_modules

import nnsight_vlm as nv

ANSWER = 20
CUTS = [nv.Knockout("image", "last", layers=layer) for layer in range(4)]
QUESTION = "what is the big red square left of the dog ?"


@pytest.fixture
def model(dtype):
    """A model of its own for each test, which changes it."""
    return tiny.build(dtype=dtype)


@pytest.fixture
def prompt(model):
    return nv.encode(model, QUESTION, tiny.picture(3))


def block(model):
    return model._module.model.language_model.layers[1]


def one_by_one(model, prompt):
    return torch.stack([nv.run(model, prompt, cut).logits[ANSWER] for cut in CUTS]).double()


def swept(model, prompt):
    return torch.tensor(nv.sweep(model, prompt, CUTS, answer=ANSWER)["logit"].to_numpy())


def expect_right(model, prompt):
    """Sweeps, answers and a recipe give what single runs of this very moment give."""
    assert tiny.gap(swept(model, prompt), one_by_one(model, prompt)) < LIMIT
    answers = nv.generations(model, [(prompt, cut) for cut in CUTS], max_new_tokens=3)
    assert [answer.tokens for answer in answers] == [
        nv.generate(model, prompt, cut, max_new_tokens=3).tokens for cut in CUTS
    ]


class Strength:
    """State inside a hook, which nothing outside can see."""

    value = 0.0

    def __call__(self, _module, _inputs, output):
        return output + self.value


def black_picture(_model, prompt):
    prompt.inputs["pixel_values"].zero_()


def weight_data(model, _prompt):
    block(model).self_attn.o_proj.weight.data[:, :8] = 0


def weight_through_numpy(model, _prompt):
    block(model).mlp.up_proj.weight.detach().numpy()[:4] = 0


def scaling(model, _prompt):
    block(model).self_attn.scaling *= 0.1


def epsilon(model, _prompt):
    block(model).input_layernorm.variance_epsilon = 0.5


def activation(model, _prompt):
    block(model).mlp.act_fn = torch.nn.Tanh()


def replaced_forward(model, _prompt):
    mlp = block(model).mlp
    old = mlp.forward
    mlp.forward = lambda hidden: 0.5 * old(hidden)


def buffer(model, _prompt):
    model._module.model.language_model.rotary_emb.inv_freq.mul_(0.5)


def fused_optimizer(model, _prompt):
    weight = block(model).mlp.down_proj.weight
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.05, fused=True).step()
    weight.grad = None


UNSEEN = [weight_data, weight_through_numpy, scaling, epsilon, activation, fused_optimizer]
SEEN = [black_picture, replaced_forward, buffer]


@pytest.mark.float64
@pytest.mark.parametrize("change", [*UNSEEN, *SEEN])
def test_whatever_changes_between_two_calls_the_second_is_right(model, prompt, change):
    before = swept(model, prompt)
    change(model, prompt)
    expect_right(model, prompt)
    assert tiny.gap(swept(model, prompt), before) > 1e-6, "the change changes nothing, so this test shows nothing"


@pytest.mark.float64
@pytest.mark.parametrize("change", SEEN)
def test_what_can_be_seen_is_seen_inside_reuse(model, prompt, change):
    with nv.reuse(model):
        before = swept(model, prompt)
        change(model, prompt)
        assert tiny.gap(swept(model, prompt), one_by_one(model, prompt)) < LIMIT
        assert tiny.gap(swept(model, prompt), before) > 1e-6


@pytest.mark.float64
@pytest.mark.parametrize("change", UNSEEN)
def test_what_cannot_be_seen_is_documented_and_told_by_forget(model, prompt, change):
    words = {
        "weight_data": "`.data`",
        "weight_through_numpy": "numpy",
        "scaling": "`scaling`",
        "epsilon": "epsilon",
        "activation": "activation function",
        "fused_optimizer": "fused optimizers",
    }
    assert words[change.__name__] in " ".join(nv.reuse.__doc__.split())
    with nv.reuse(model):
        swept(model, prompt)
        change(model, prompt)
        nv.forget()
        assert tiny.gap(swept(model, prompt), one_by_one(model, prompt)) < LIMIT


@pytest.mark.float64
def test_the_state_inside_a_hook_is_that_of_the_call(model, prompt):
    strength = Strength()
    block(model).register_forward_hook(strength)
    weak = swept(model, prompt)
    strength.value = 2.0
    expect_right(model, prompt)
    assert tiny.gap(swept(model, prompt), weak) > 1e-3


@pytest.mark.float64
@pytest.mark.parametrize("reused", [True, False])
def test_a_hook_on_all_modules_is_seen(model, prompt, reused):
    mlp, handles = block(model).mlp, []
    with nv.reuse(model if reused else tiny.build()):
        before = swept(model, prompt)
        double = torch_modules.register_module_forward_hook(lambda part, _, out: out * 2 if part is mlp else None)
        handles.append(double)
        try:
            changed = swept(model, prompt)
            assert tiny.gap(changed, one_by_one(model, prompt)) < LIMIT and tiny.gap(changed, before) > 1e-6
        finally:
            double.remove()
        assert tiny.gap(swept(model, prompt), before) < LIMIT


@pytest.mark.float64
@pytest.mark.parametrize("reused", [True, False])
def test_inference_mode_does_not_break_the_next_call(model, prompt, reused):
    with nv.reuse(model if reused else tiny.build(dtype=torch.float64)):
        plain = swept(model, prompt)
        with torch.inference_mode():
            assert tiny.gap(swept(model, prompt), plain) < LIMIT
        assert tiny.gap(swept(model, prompt), plain) < LIMIT


@pytest.mark.parametrize("reused", [True, False])
def test_autocast_is_seen_and_does_not_break_the_next_call(model, prompt, reused):
    """In half precision a sweep is as far from float64 as single runs are, and before and after as the clean run is."""
    with float64():
        wide = tiny.build(dtype=torch.float64)
        of_wide = nv.encode(wide, QUESTION, tiny.picture(3))
        clean, exact = nv.run(wide, of_wide).logits, one_by_one(wide, of_wide)
    allowed = FACTOR * tiny.gap(nv.run(model, prompt).logits, clean)
    with nv.reuse(model if reused else tiny.build()):
        assert tiny.gap(swept(model, prompt), exact) < allowed
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, alone = swept(model, prompt), one_by_one(model, prompt)
        assert allowed < tiny.gap(half, exact) < FACTOR * tiny.gap(alone, exact)
        assert tiny.gap(swept(model, prompt), exact) < allowed


def test_only_the_model_that_is_reused_keeps_runs_and_only_inside_the_block(model, forwards_of):
    prompt, other = nv.encode(model, QUESTION, tiny.picture(3)), tiny.build()
    with nv.reuse(other):
        assert [forwards_of(lambda: swept(model, prompt)) for _ in range(2)] == [2, 2]
    with nv.reuse(model):
        assert [forwards_of(lambda: swept(model, prompt)) for _ in range(2)] == [2, 1]
    assert forwards_of(lambda: swept(model, prompt)) == 2


def test_a_recipe_reuses_inside_one_call_and_not_beyond(model, forwards_of):
    prompt = nv.encode(model, "what is red ?", tiny.picture(3))

    def recipe():
        work = nv.recipes.Work(progress=False)
        nv.recipes.knockout_windows(model, [prompt], answers=[ANSWER], windows=2, work=work)

    first, second = forwards_of(recipe), forwards_of(recipe)
    assert first == second
    with nv.reuse(model):
        assert forwards_of(recipe) == first and forwards_of(recipe) < first


@pytest.fixture
def forwards_of(model):
    """How many forwards of the model something takes; counted by one hook, since another hook is another state."""
    calls = []
    model._module.register_forward_pre_hook(lambda *_: calls.append(1))

    def count(action):
        before = len(calls)
        action()
        return len(calls) - before

    return count


def test_the_manual_says_where_reuse_ends():
    page = (Path(nv.__file__).parent.parent / "docs" / "scale.md").read_text()
    assert "nv.reuse(model)" in page


def test_a_setting_of_the_model_that_every_forward_reads_is_seen(model, prompt):
    case, config = nv.Knockout("image", "last", layers=1), model._module.config
    kept = config.vision_feature_layer
    with nv.reuse(model):
        before = nv.sweep(model, prompt, [case], answer=7)
        config.vision_feature_layer = -1 if kept != -1 else -2
        try:
            after = nv.sweep(model, prompt, [case], answer=7)
            assert after.logit[0] == pytest.approx(float(nv.run(model, prompt, case).logits[7]))
            assert after.clean_logit[0] != before.clean_logit[0]
        finally:
            config.vision_feature_layer = kept


def test_a_forward_that_lies_where_another_has_lain_is_seen(model, prompt):
    case, part = nv.Knockout("image", "last", layers=1), model._module.model.language_model.layers[1].mlp
    plain = type(part).forward
    with nv.reuse(model):
        for scale in (0.5, 2.0, 3.0, -1.0):
            part.forward = scaled(plain, part, scale)
            try:
                found = nv.sweep(model, prompt, [case], answer=7).clean_logit[0]
                assert found == pytest.approx(float(nv.run(model, prompt).logits[7]))
            finally:
                del part.forward


def scaled(forward, part, scale):
    return lambda hidden: forward(part, hidden) * scale
