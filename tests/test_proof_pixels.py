"""The image cut off from all text leaves no logit that depends on the pixels: `verify(pixels=True)` proves it."""

from __future__ import annotations

import dataclasses

import pytest
import tiny
import torch
import zoo
from float64 import LIMIT, float64
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.execution import proof_pixels
from nnsight_vlm.families import view_of
from nnsight_vlm.families.support import unsupported

SEEN = 1e-3
PARAMETERS = [(name, attention) for name, member in zoo.ZOO.items() for attention in member.implementations]
TO_COME = 4
"""How many tokens `verify` decodes."""


def complete_cut(prompt: nv.Prompt) -> nv.Intervention:
    """The image cut off from all text: in the decoder, and in the encoder where there is one."""
    if "encoder" not in dict(prompt.rows[0].stages):
        return nv.Knockout("image", "text", layers="attention")
    decoder = nv.Knockout("image", ("all", "generated"), layers="attention")
    return decoder | nv.Knockout("image", "text", stage="encoder")


def text(prompt: nv.Prompt) -> tuple[int, ...]:
    """The tokens of the sequence that are no image tokens."""
    return tuple(position for position in prompt["all"] if position not in prompt["image"])


def said(logits: torch.Tensor) -> torch.Tensor:
    """Logits of the words that a model may say."""
    return logits.where(logits > torch.finfo(torch.float32).min, torch.zeros((), dtype=logits.dtype))


def gap(one: torch.Tensor, two: torch.Tensor) -> float:
    one, two = said(one), said(two)
    return float((one - two).abs().max() / one.abs().max())


@pytest.mark.parametrize("name, attention", PARAMETERS, ids=map("-".join, PARAMETERS))
def test_without_the_route_from_image_to_text_no_logit_depends_on_the_pixels(name, attention):
    last = len(zoo.ZOO[name].sizes) - 1
    with float64():
        model = zoo.load(name, attention, torch.float64)
        prompts = [zoo.prompt(name, attention, seed, last, torch.float64) for seed in (1, 2)]
        cut = complete_cut(prompts[0])
        clean = [nv.run(model, prompt, positions=text(prompt)).logits for prompt in prompts]
        blind = [nv.run(model, prompt, cut, positions=text(prompt)).logits for prompt in prompts]
        answers = [nv.generate(model, prompt, cut, max_new_tokens=4).tokens for prompt in prompts]
    assert gap(*clean) > SEEN
    reason = unsupported(view_of(model).family).get("complete cut")
    assert (reason is not None) == view_of(model).stage().recurrent
    if reason is None:
        assert gap(*blind) < LIMIT and answers[0] == answers[1]
    else:
        assert "takes the picture past every cut" in reason and gap(*blind) > SEEN


@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_complete_cut_is_proven_and_any_other_is_not(name):
    attention = zoo.ZOO[name].implementations[0]
    model, prompt = zoo.load(name, attention), zoo.prompt(name, attention)
    reason = unsupported(view_of(model).family).get("complete cut")
    if reason is None:
        assert nv.verify(model, prompt, complete_cut(prompt), pixels=True).pixels == len(text(prompt)) + TO_COME
    else:
        with pytest.raises(nv.InterventionError, match=f"move a logit by .*{reason[:20]}"):
            nv.verify(model, prompt, complete_cut(prompt), pixels=True)
    leaking = nv.Knockout("image", ("last", "generated"), layers="attention")
    if len(prompt["all"]) > 1 or name.startswith(("blip", "instructblip", "florence")):
        with pytest.raises(nv.InterventionError, match=r"row 0, position \d+: other pixels move a logit by \d"):
            nv.verify(model, prompt, leaking, pixels=True)
    assert nv.verify(model, prompt, leaking).pixels == 0


def test_a_token_of_the_image_that_nobody_counted_is_found():
    """Mllama's mark reads the image and is read by the text: a cut that leaves it out leaks."""
    model, prompt = zoo.load("mllama"), zoo.prompt("mllama")
    words = nv.Knockout("image", ("system", "query", "generated"))
    assert nv.verify(model, prompt, words).edges > 0
    with pytest.raises(nv.InterventionError, match="the image still reaches the text"):
        nv.verify(model, prompt, words, pixels=True)
    assert nv.verify(model, prompt, words | nv.Knockout("image", "markup"), pixels=True).pixels == 10 + TO_COME


def test_a_leak_in_generated_tokens_alone_is_found(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    half = nv.Knockout("image", "query") | nv.Knockout("image", "generated", layers=[0, 1, 2])
    with pytest.raises(nv.InterventionError, match=r"row 0, decoded token [123]: other pixels move a logit"):
        nv.verify(sdpa, prompt, half, pixels=True)
    assert nv.verify(sdpa, prompt, nv.Knockout("image", "query"), pixels=True).pixels == len(text(prompt))


@pytest.mark.parametrize("site", ["features", "embedding"])
def test_states_in_place_of_the_image_are_proven_too(sdpa, site):
    prompt, other = (nv.encode(sdpa, "what is the red square ?", tiny.picture(seed)) for seed in (0, 1))
    for change in (nv.Ablate("image", site=site), nv.Patch("image", source=other, site=site)):
        assert nv.verify(sdpa, prompt, change, pixels=True).pixels == len(text(prompt))
    with pytest.raises(nv.InterventionError, match="move a logit"):
        nv.verify(sdpa, prompt, nv.Ablate(prompt["image"][1:], site=site), pixels=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_every_row_of_a_batch_is_proven(model, side):
    prompt = tiny.several(model, side)
    texts = sum(len(tokens.group("text").positions(tokens.stop)) for tokens in prompt.rows)
    proof = nv.verify(model, prompt, nv.Knockout("image", "text"), pixels=True)
    assert proof.pixels == texts + (len(prompt) * TO_COME if side == "left" else 0)
    second = nv.Knockout("image.0", "text")  # the last row has two images
    with pytest.raises(nv.InterventionError, match="row 2, position"):
        nv.verify(model, prompt, second, pixels=True)


def test_a_prompt_with_its_answer_is_proven(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0)).grown([7, 8, 9])
    assert nv.verify(sdpa, prompt, nv.Knockout("image", "text"), pixels=True).pixels == len(text(prompt)) + TO_COME


def test_half_precision_is_proven_and_a_leak_in_it_is_found():
    model = nv.load(tiny.build_module().to(torch.bfloat16), processor=tiny.build_processor())
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    assert nv.verify(model, prompt, nv.Knockout("image", "text"), pixels=True).pixels
    with pytest.raises(nv.InterventionError, match="move a logit"):
        nv.verify(model, prompt, nv.Knockout("image", "text", layers=[0, 1, 2]), pixels=True)


def test_what_cannot_be_proven_is_refused_before_the_model_runs(model, prompt, forwards):
    text_only = nv.encode(model, inputs={"input_ids": torch.tensor([[7, 8, 9]])})
    with pytest.raises(nv.SpecError, match="no pixels that could change"):
        nv.verify(model, text_only, nv.Ablate("last"), pixels=True)
    for change in (None, nv.Knockout("system", "last"), nv.Knockout("text", "last") | nv.Knockout("system", "query")):
        with pytest.raises(nv.SpecError, match=r'write nv\.Knockout\("image", "text"'):
            nv.verify(model, prompt, change, pixels=True)
    assert forwards == []


def test_equal_logits_prove_nothing_where_the_model_does_not_look_at_the_pixels():
    module = tiny.build_module()
    with torch.no_grad():
        for weight in module.model.multi_modal_projector.parameters():
            weight.zero_()
    model = nv.load(module, processor=tiny.build_processor())
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    with pytest.raises(nv.InterventionError, match="equal logits prove nothing"):
        nv.verify(model, prompt, nv.Knockout("image", "text"), pixels=True)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_other_pixels_are_other_pixels_of_the_same_shape_and_padding_stays_padding(name):
    member = zoo.ZOO[name]
    model = zoo.load(name, member.implementations[0])
    prompt = nv.encode(model, member.text, picture(1, member.sizes[-1]))
    pixels, key = prompt.inputs[view_of(model).family.pixels], view_of(model).family.pixels
    other = proof_pixels.with_other_pixels(prompt)
    changed = other.inputs[key]
    assert changed.shape == pixels.shape and changed.dtype == pixels.dtype
    assert pixels.is_floating_point() and not torch.equal(changed, pixels)
    axes = (-3, -2, -1) if pixels.dim() > 3 else (-1,)
    assert torch.equal(empty(changed, axes), empty(pixels, axes))
    assert {name: value for name, value in other.inputs.items() if name != key}.keys() == prompt.inputs.keys() - {key}
    assert torch.equal(proof_pixels.with_other_pixels(prompt).inputs[key], changed)


def empty(pixels: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
    """Which tiles or patches are nothing but zeros."""
    return (pixels == 0).flatten(pixels.dim() - len(axes)).all(-1)


def test_black_pixels_that_a_processor_keeps_at_nought_are_changed(sdpa):
    prompt = nv.encode(sdpa, "what is the red square ?", tiny.picture(0))
    black = dataclasses.replace(
        prompt, inputs={**prompt.inputs, "pixel_values": torch.zeros_like(prompt.inputs["pixel_values"])}
    )
    assert nv.verify(sdpa, black, nv.Knockout("image", "text"), pixels=True).pixels
