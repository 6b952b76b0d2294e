"""Decoders that send each token to a few experts: the choice and the products are the same in every layout."""

from __future__ import annotations

import pytest
import torch
import zoo
from float64 import LIMIT
from zoo import reference
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

ROUTED = ("qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe", "glm46v-moe", "ernie4_5_vl_moe")
SIZE = (18, 12)
pytestmark = pytest.mark.float64


def chosen(module, inputs):
    """The experts of every token in every router, `{path: [token, expert]}`."""
    found = {}
    routers = [(path, part) for path, part in module.named_modules() if path.endswith(".gate")]
    hooks = [
        part.register_forward_hook(lambda _, __, output, path=path: found.update({path: output[2]}))
        for path, part in routers
    ]
    with torch.no_grad():
        module(**inputs)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("name", ROUTED)
def test_every_router_sends_tokens_to_several_experts(name):
    model = zoo.load(name, dtype=torch.float64)
    prompt = nv.encode(model, zoo.ZOO[name].text, picture(1, SIZE))
    found = chosen(model._module, prompt.inputs)
    assert found and all(len(experts.unique()) > 2 for experts in found.values())
    text = model._module.config.get_text_config()
    assert {experts.shape[-1] for experts in found.values()} == {text.num_experts_per_tok}


@pytest.mark.parametrize("name", [name for name in ROUTED if name != "glm46v-moe"])  # which does not let it be set
def test_sweeps_and_answers_are_the_same_however_experts_are_multiplied(name):
    member = zoo.ZOO[name]
    module, family = reference.load(name, torch.float64)
    model = nv.load(member.module("sdpa").double(), processor=member.processor())
    prompt = nv.encode(model, member.text, picture(1, SIZE))
    tokens, layers = prompt.rows[0], view_of(model).stage().attention
    after = tuple(range(max(prompt["image"]) + 1, prompt.width))
    targets = {"all that follows": after, "last": after[-1:]}
    cases = [nv.Knockout("image", where, layers="attention") for where in targets.values()]
    expected = [
        reference.forward(module, family, prompt.inputs, reference.cuts(layers, where, prompt["image"])).logits[0, -1]
        for where in targets.values()
    ]
    token = int(expected[0].argmax())
    answer, logits = reference.greedy(module, family, 3, lambda more: prompt.grown(more).inputs, lambda _: ({}, {}))
    assert len(tokens.images) == 1 and len(answer) == 3
    for experts in ("eager", "batched_mm", "grouped_mm"):
        view_of(model).module.set_experts_implementation(experts)
        allowed = LIMIT * float(expected[0].abs().max())
        for execution in ("rows", "single") if view_of(model).stage().recurrent else ("packed", "rows", "single"):
            frame = nv.sweep(model, prompt, cases, answer=token, execution=execution)
            for found, reference_logits in zip(frame["logit"], expected, strict=True):
                assert abs(found - float(reference_logits[token])) < allowed, (experts, execution)
        given = nv.generate(model, prompt, max_new_tokens=3)
        assert list(given.tokens) == answer, experts
        whole = nv.run(model, prompt.grown(answer[:-1]), positions=range(prompt.width - 1, prompt.width + 2)).logits
        assert float((whole - logits).abs().max()) < allowed, experts


def test_marks_around_a_picture_have_the_experts_of_pictures():
    """ERNIE's: told nothing, it would send all tokens to those of words."""
    model = zoo.load("ernie4_5_vl_moe", dtype=torch.float64)
    prompt = nv.encode(model, zoo.ZOO["ernie4_5_vl_moe"].text, picture(1, SIZE))
    kinds = prompt.inputs["moe_mm_token_type_ids"][0].bool()
    image = list(prompt["image"])
    assert kinds.nonzero().flatten().tolist() == [image[0] - 1, *image, image[-1] + 1]
    found = chosen(model._module, prompt.inputs)
    words, pictures = ([value for path, value in found.items() if part in path] for part in ("text_moe", "vision_moe"))
    assert {len(value) for value in words} == {int((~kinds).sum())} and words
    assert {len(value) for value in pictures} == {int(kinds.sum())} and pictures
    untold = {name: value for name, value in prompt.inputs.items() if name != "moe_mm_token_type_ids"}
    with torch.no_grad():
        assert not torch.equal(model._module(**untold).logits, model._module(**prompt.inputs).logits)
    with pytest.raises(nv.SpecError, match=r"no moe_mm_token_type_ids, without which .* silently"):
        nv.encode(model, inputs=untold)
