"""Models with PEFT adapters: wrapped, merged, or in a folder of their own; adapters switched off and on are seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForImageTextToText

import nnsight_vlm as nv
from nnsight_vlm import loading
from nnsight_vlm.opening import adapters
from nnsight_vlm.shapes.embedded import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # PEFT asks for it
FOLDER = Path(checkpoint("shapes"))
CUT = nv.Knockout("image", "last")
CUTS = [nv.Knockout("image", "last", layers=layer) for layer in (3, 4)]
LORA = LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj"], init_lora_weights=False)


def wrapped():
    """A model with an adapter of random weights, wrapped by PEFT."""
    torch.manual_seed(0)
    return get_peft_model(AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32), LORA).eval()


def prompt_of(model):
    return nv.encode(model, "describe the image .", nv.shapes.scene(3).image)


def load(module):
    return nv.load(module, processor=nv.load("shapes").processor)


def logits(model, intervention=None):
    return nv.run(model, prompt_of(model), intervention).logits


def scores(model):
    return list(nv.sweep(model, prompt_of(model), CUTS, answer="a")["logit"])


def one_by_one(model):
    number = model.tokenizer.convert_tokens_to_ids("a")
    return [float(logits(model, cut)[number]) for cut in CUTS]


@pytest.fixture
def folder(tmp_path):
    """An adapter in a folder of its own."""
    wrapped().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(FOLDER)}))
    return tmp_path


def test_a_wrapped_model_gives_the_numbers_of_its_wrapper():
    outer = wrapped()
    model, plain = load(outer), nv.load("shapes")
    with torch.no_grad():
        expected = outer(**prompt_of(plain).inputs).logits[0, -1]
    torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=0)
    assert float((logits(model) - logits(plain)).abs().max()) > 1
    assert nv.verify(model, prompt_of(model), CUT).edges > 0
    assert scores(model) == pytest.approx(one_by_one(model), abs=1e-4)


def test_an_adapter_that_is_switched_off_is_off_in_every_call():
    outer = wrapped()
    model, plain = load(outer), nv.load("shapes")
    on = scores(model)
    with outer.disable_adapter():
        assert torch.equal(logits(model, CUT), logits(plain, CUT))
        assert scores(model) == pytest.approx(one_by_one(plain), abs=1e-4)
    assert scores(model) == on


def test_a_merged_model_opens():
    outer = wrapped()
    before = logits(load(outer), CUT)
    torch.testing.assert_close(logits(load(outer.merge_and_unload()), CUT), before, atol=1e-3, rtol=0)


def test_a_folder_with_an_adapter_only_opens_with_its_base(folder):
    model = nv.load(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(model, CUT), logits(load(wrapped()), CUT), atol=1e-4, rtol=0)
    assert scores(model) == pytest.approx(one_by_one(model), abs=1e-4)


def test_an_adapter_of_another_model_is_refused(folder):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("language_model", "text_model"): value for name, value in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(nv.SpecError, match=r"does not fit the model .* have other names"):
        nv.load(folder, dtype=torch.float32)


def test_an_adapter_without_the_package_or_without_weights_to_change_is_refused(folder, monkeypatch):
    with pytest.raises(nv.SpecError, match="leave dispatch=False out"):
        nv.load(folder, dispatch=False)
    monkeypatch.setattr(adapters, "can_import", lambda _: False)
    with pytest.raises(nv.SpecError, match=r"holds an adapter of the model .* pip install peft"):
        nv.load(folder)


def test_an_adapter_that_does_not_say_what_it_changes_is_refused(folder):
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(nv.SpecError, match="names no base_model_name_or_path"):
        nv.load(folder)


def test_tuned_prompts_are_refused():
    module = AutoModelForImageTextToText.from_pretrained(FOLDER, dtype=torch.float32)
    sizes = {"num_layers": 1, "token_dim": 8, "num_attention_heads": 1, "num_transformer_submodules": 1}
    tuned = get_peft_model(module, PromptTuningConfig(num_virtual_tokens=2, task_type="FEATURE_EXTRACTION", **sizes))
    with pytest.raises(nv.SpecError, match="puts tuned prompts in front of the text"):
        load(tuned)


def test_a_revision_is_the_adapters_and_not_its_bases(folder, monkeypatch):
    asked, right, read = {}, loading._from_name, PeftConfig.from_pretrained

    def opened(name, processor, dispatch, options):
        asked[name] = options.get("revision")
        return right(name, processor, dispatch, options)

    def read_config(name, **where):
        asked["config"] = where.get("revision")
        return read(name, **where)

    monkeypatch.setattr(loading, "_from_name", opened)
    monkeypatch.setattr(PeftConfig, "from_pretrained", read_config)
    nv.load(folder, dtype=torch.float32, revision="v2")
    assert asked == {str(folder): "v2", str(FOLDER): None, "config": "v2"}
