"""`load` gives plain nnsight models: from memory, from a folder, and from inside the package."""

from __future__ import annotations

import pytest
import tiny
import torch
from float64 import LIMIT
from nnsight import TransformersModel
from transformers import GenerationConfig

import nnsight_vlm as nv
from nnsight_vlm.families import FAMILIES, view_of


def test_a_folder_gives_the_weights_that_were_saved_in_it(folder):
    weights, original = (view_of(model).module.state_dict() for model in (nv.load(str(folder)), tiny.load("sdpa")))
    assert weights.keys() == original.keys()
    assert all(torch.equal(weight, original[name]) for name, weight in weights.items())


@pytest.mark.float64
def test_a_folder_gives_the_model_that_was_saved_in_it(folder, dtype):
    saved, original = nv.load(str(folder), dtype=dtype), tiny.load("sdpa", dtype=dtype)
    prompts = [nv.encode(model, "what is the red square ?", tiny.picture(0)) for model in (saved, original)]
    assert type(saved) is TransformersModel
    assert prompts[0].rows == prompts[1].rows
    pixels = [prompt.inputs["pixel_values"] for prompt in prompts]
    torch.testing.assert_close(*pixels, rtol=0, atol=1e-6)  # torchvision rounds otherwise than Pillow
    cut, same = nv.Knockout("image", "query", layers=1), nv.encode(original, inputs=prompts[0].inputs)
    assert tiny.gap(nv.run(saved, prompts[0], cut).logits, nv.run(original, same, cut).logits) < LIMIT


def test_options_are_passed_to_transformers(folder):
    model = nv.load(str(folder), attn_implementation="eager", dtype=torch.bfloat16)
    assert view_of(model).attention_implementation == "eager"
    assert view_of(model).dtype == torch.bfloat16


def test_prompts_of_a_model_without_weights_equal_those_of_the_model(folder):
    empty = nv.load(str(folder), dispatch=False)
    assert {weight.device.type for weight in view_of(empty).module.parameters()} == {"meta"}
    assert nv.encode(empty, "red ?", tiny.picture(0)).rows == nv.encode(tiny.load(), "red ?", tiny.picture(0)).rows


def test_a_model_without_weights_has_the_checkpoints_end_of_sequence_tokens(tmp_path):
    tiny.save(tmp_path)
    GenerationConfig(eos_token_id=[7, 9]).save_pretrained(tmp_path)  # config.json has another
    for options in ({"dispatch": True}, {"dispatch": False}, {"dispatch": False, "trust_remote_code": True}):
        model = nv.load(str(tmp_path), **options)
        assert view_of(model).generation_config.eos_token_id == [7, 9]


@pytest.mark.parametrize("name", ["shapes"])
def test_the_model_inside_the_package_runs_and_can_be_verified(name):
    model = nv.load(name)
    prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    assert nv.verify(model, prompt, nv.Knockout("image", "last", layers=[2, 3])).edges > 0
    assert {weight.dtype for weight in view_of(model).module.parameters()} == {torch.float32}


def test_a_model_without_a_processor_says_what_it_needs():
    without, prompt = nv.load(tiny.build_module()), nv.encode(tiny.load(), "what is red ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match="processor="):
        nv.encode(without, "what is red ?")
    ready = nv.encode(without, inputs=prompt.inputs, images=[tiny.picture(0)])
    assert torch.equal(nv.run(without, ready).logits, nv.run(tiny.load(), prompt).logits)
    assert (
        nv.generate(without, ready, max_new_tokens=3).tokens
        == nv.generate(tiny.load(), prompt, max_new_tokens=3).tokens
    )
    for ask in (
        lambda: ready.find("red"),
        lambda: nv.sweep(without, ready, [nv.Knockout("image", "last")], answer="red"),
    ):
        with pytest.raises(nv.SpecError, match="processor="):
            ask()
    assert nv.sweep(without, ready, [nv.Knockout("image", "last")], answer=20).loc[0, "top_token"] is not None


def test_without_a_chat_template_the_error_says_how_to_encode_complete_text():
    processor = tiny.build_processor()
    processor.chat_template = None
    model = nv.load(tiny.build_module(), processor=processor)
    with pytest.raises(nv.SpecError, match=r"<image>.*chat=False"):
        nv.encode(model, "what is red ?", tiny.picture(0))


def test_a_model_of_an_unknown_family_is_refused_with_the_known_ones(monkeypatch):
    monkeypatch.delitem(FAMILIES, "llava")
    with pytest.raises(nv.SpecError, match=r"'llava'.*internvl.*adding-a-family"):
        nv.load(tiny.build_module(), processor=tiny.build_processor())


@pytest.mark.parametrize("implementation", ["flash_attention_2", "flex_attention"])
def test_attention_that_takes_no_mask_is_refused(implementation):
    module = tiny.build_module()
    model = nv.load(module, processor=tiny.build_processor())
    prompt = nv.encode(model, "what is red ?", tiny.picture(0))
    module.config.get_text_config()._attn_implementation = implementation
    for call in (
        lambda: nv.load(module, processor=tiny.build_processor()),
        lambda: nv.encode(model, "what is red ?"),
        lambda: nv.run(model, prompt, nv.Knockout("image", "last")),
    ):
        with pytest.raises(nv.SpecError, match=rf"'{implementation}'.*attn_implementation=\"sdpa\""):
            call()
