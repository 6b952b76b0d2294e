"""Every image-text-to-text type of transformers has a family, or is refused in words with a draft of one to paste."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import zoo
from transformers import CONFIG_MAPPING, AutoModelForImageTextToText
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as TYPES

import nnsight_vlm as nv
from nnsight_vlm.families import FAMILIES, family_of
from nnsight_vlm.families.columns import Family, Stage
from nnsight_vlm.families.drafting import draft, source
from nnsight_vlm.families.part_columns import AttentionSpec

KNOWN = {family.model_type for family in FAMILIES.values()}
OTHERS = [name for name in TYPES if name not in KNOWN]
FEW = 4
DEPTHS = ("num_hidden_layers", "num_layers", "num_decoder_layers", "encoder_layers", "decoder_layers", "depth")
"""What configs call the number of layers."""
TURNED = {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}
QUERY_LAYERS = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 256}
SET: dict[str, dict[str, Any]] = {
    "cohere_compass": {"text_config": {"rope_parameters": TURNED}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", *["sparse"] * 3], "num_hidden_layers": FEW}},
    "diffusion_gemma": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
        "vision_config": {"model_type": "gemma4_vision"},
    },
    "emu3": {"vocabulary_map": {"<image>": 5, "<|extra_200|>": 6}},
    "granite4_vision": {
        "deepstack_layer_map": [[-1, 0]],
        "downsample_rate": "4/8",
        "text_config": {"model_type": "granite4_vision_text"},
    },
    "hunyuan_vl": {"text_config": {"head_dim": 128}},
    "vision-encoder-decoder": {"encoder": {"model_type": "vit"}, "decoder": {"model_type": "bert"}},
    "qwen4_exp": {"text_config": {**QUERY_LAYERS, "indexer_budget": 64, "indexer_compress_ratio": 4}},
}
"""What transformers' own default config of a type lacks for its model to be built; checkpoints have it."""
WHOLE = ("gemma4_unified",)
"""Types whose configs refuse to be changed: which layers share keys follows from their number."""
NO_DRAFT = {
    "evolla": "transformers builds no image-text-to-text model",  # it reads proteins
    "mistral4": "take no pixels",  # the text model alone
    "pi0": "have no output embeddings, so they say no words",  # it gives a robot's movements
}
"""Types of that mapping that are no models of text about images, and what is said of them."""


def config_of(name: str) -> Any:
    """The default config of a type, with few layers."""
    config = CONFIG_MAPPING[name](**SET.get(name, {}))
    for part in () if name in WHOLE else (config, *(getattr(config, inner, None) for inner in config.sub_configs)):
        for depth in DEPTHS:
            if isinstance(getattr(part, depth, None), int):
                setattr(part, depth, min(FEW, getattr(part, depth)))
    return config


@pytest.mark.parametrize("name", OTHERS)
def test_a_type_without_a_family_is_refused_with_a_draft_that_fits_its_model(name):
    config = config_of(name)
    with pytest.raises(nv.SpecError, match=f"no family for models of type '{config.model_type}'; the fam") as error:
        family_of(config)
    message = str(error.value)
    if name in NO_DRAFT:
        assert "No family can be drafted: " in message and "docs/adding-a-family.md" not in message
        with pytest.raises(nv.SpecError, match=NO_DRAFT[name]):
            draft(config)
        return
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(config)
    drafted = draft(module)
    assert source(drafted) in message and "docs/adding-a-family.md" in message
    names = {"Family": Family, "Stage": Stage, "AttentionSpec": AttentionSpec}
    assert eval(source(drafted).removesuffix(","), names) == drafted
    expect_parts(drafted, module)


def expect_parts(drafted: Family, module: Any) -> None:
    """What a draft names is in the model, and of the text decoder."""
    stage, parts = drafted.decoder, dict(module.named_modules())
    layers = parts[stage.layers]
    assert stage.entry in parts and "vision" not in stage.layers and "visual" not in stage.layers
    held = [layer for layer in layers if stage.attention.module in dict(layer.named_modules())]
    assert held and all(stage.attention.output in dict(layer.named_modules()) for layer in held)
    assert stage.mlp is None or any(stage.mlp in dict(layer.named_children()) for layer in layers)
    assert drafted.projector is None or drafted.projector in parts
    accepted = (inspect.signature(part.forward).parameters for part in module.modules())
    assert any(drafted.pixels in named for named in accepted)


def test_a_folder_of_such_a_type_is_refused_before_its_weights_are_read(tmp_path):
    config = config_of("glm_ocr")
    config.save_pretrained(tmp_path)
    with pytest.raises(nv.SpecError, match="no family for models of type 'glm_ocr'") as error:
        nv.load(tmp_path, dispatch=False, processor=zoo.ZOO["glm4v"].processor())
    assert source(draft(config)) in str(error.value)


def test_the_draft_of_a_model_in_memory_is_made_of_it_and_no_second_one_is_built(monkeypatch):
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(config_of("glm_ocr"))
    drafted = source(draft(module))
    monkeypatch.setattr(AutoModelForImageTextToText, "from_config", None)
    with pytest.raises(nv.SpecError, match="no family for models of type 'glm_ocr'") as error:
        nv.load(module)
    assert drafted in str(error.value)


def test_a_model_whose_parts_cannot_be_looked_at_is_refused_in_words(monkeypatch):
    with torch.device("meta"):
        module = AutoModelForImageTextToText.from_config(config_of("glm_ocr"))
    monkeypatch.setattr(type(module), "get_decoder", None)
    with pytest.raises(nv.SpecError, match="No family can be drafted: its parts cannot be looked at"):
        nv.load(module)
