"""Models come as plain nnsight models, from memory, from a folder, and from inside the package."""

from __future__ import annotations

import pytest
import tiny
import torch
from nnsight import TransformersModel
from transformers import GenerationConfig

import nnsight_vlm as nv
from nnsight_vlm.families import FAMILIES


def test_a_folder_gives_the_model_that_was_saved_in_it(folder):
    saved, kept = nv.load(str(folder)), tiny.load("sdpa")
    prompts = [nv.encode(model, "what is the red square ?", tiny.picture(0)) for model in (saved, kept)]
    assert type(saved) is TransformersModel
    assert prompts[0].rows == prompts[1].rows
    cut = nv.Knockout("image", "query", layers=1)
    assert tiny.gap(nv.run(saved, prompts[0], cut).logits, nv.run(kept, prompts[1], cut).logits) < 1e-5


def test_options_go_to_transformers(folder):
    model = nv.load(str(folder), attn_implementation="eager", dtype=torch.bfloat16)
    assert model._module.config.get_text_config()._attn_implementation == "eager"
    assert model._module.dtype == torch.bfloat16


def test_a_model_without_weights_is_lowered_and_encoded_for_as_the_real_one(folder):
    empty = nv.load(str(folder), dispatch=False)
    assert {weight.device.type for weight in empty._module.parameters()} == {"meta"}
    assert nv.encode(empty, "red ?", tiny.picture(0)).rows == nv.encode(tiny.load(), "red ?", tiny.picture(0)).rows


def test_a_model_without_weights_ends_answers_as_the_real_one(tmp_path):
    tiny.build_module().save_pretrained(tmp_path)
    tiny.build_processor().save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=[7, 9]).save_pretrained(tmp_path)  # not what config.json says
    for options in ({"dispatch": True}, {"dispatch": False}, {"dispatch": False, "trust_remote_code": True}):
        settled = nv.load(str(tmp_path), **options)._module.generation_config
        assert settled.eos_token_id == [7, 9]


@pytest.mark.parametrize("name", ["shapes"])
def test_the_model_inside_the_package_runs_and_is_proven(name):
    model = nv.load(name)
    prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    assert nv.verify(model, prompt, nv.Knockout("image", "last", layers=[2, 3])).edges > 0
    assert {weight.dtype for weight in model._module.parameters()} == {torch.float32}


def test_a_model_without_a_processor_says_what_it_needs():
    bare, prompt = nv.load(tiny.build_module()), nv.encode(tiny.load(), "what is red ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match="processor="):
        nv.encode(bare, "what is red ?")
    ready = nv.encode(bare, inputs=prompt.inputs, images=[tiny.picture(0)])
    assert torch.equal(nv.run(bare, ready).logits, nv.run(tiny.load(), prompt).logits)
    assert (
        nv.generate(bare, ready, max_new_tokens=3).tokens == nv.generate(tiny.load(), prompt, max_new_tokens=3).tokens
    )
    for ask in (lambda: ready.find("red"), lambda: nv.sweep(bare, ready, [nv.Knockout("image", "last")], answer="red")):
        with pytest.raises(nv.SpecError, match="processor="):
            ask()
    assert nv.sweep(bare, ready, [nv.Knockout("image", "last")], answer=20).loc[0, "top_token"] is not None


def test_a_processor_without_a_chat_template_says_how_to_go_without():
    processor = tiny.build_processor()
    processor.chat_template = None
    model = nv.load(tiny.build_module(), processor=processor)
    with pytest.raises(nv.SpecError, match=r"<image>.*chat=False"):
        nv.encode(model, "what is red ?", tiny.picture(0))


def test_a_model_without_a_row_names_the_rows_there_are(monkeypatch):
    monkeypatch.delitem(FAMILIES, "llava")
    with pytest.raises(nv.SpecError, match=r"'llava'.*internvl.*adding-a-family"):
        nv.load(tiny.build_module(), processor=tiny.build_processor())


@pytest.mark.parametrize("hidden", ["flash_attention_2", "flex_attention"])
def test_attention_that_hides_its_mask_is_refused(hidden):
    module = tiny.build_module()
    model = nv.load(module, processor=tiny.build_processor())
    prompt = nv.encode(model, "what is red ?", tiny.picture(0))
    module.config.get_text_config()._attn_implementation = hidden
    for call in (
        lambda: nv.load(module, processor=tiny.build_processor()),
        lambda: nv.encode(model, "what is red ?"),
        lambda: nv.run(model, prompt, nv.Knockout("image", "last")),
    ):
        with pytest.raises(nv.SpecError, match=rf"'{hidden}'.*attn_implementation=\"sdpa\""):
            call()
