"""Families that take any text decoder are held to those that the table names."""

from __future__ import annotations

import pytest
import tiny
import torch
from float64 import LIMIT
from transformers import CONFIG_MAPPING, LlavaConfig, LlavaForConditionalGeneration
from zoo.parts import draw

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.families.table import TESTED_DECODERS

SIZES = {
    "hidden_size": tiny.WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": tiny.HEADS,
    "num_key_value_heads": tiny.KEY_VALUE_HEADS,
    "head_dim": tiny.WIDTH // tiny.HEADS,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}


def build(decoder):
    kind = CONFIG_MAPPING[decoder]
    known = {name: size for name, size in {**SIZES, **EXPERTS}.items() if name in kind.__dataclass_fields__}
    base = tiny.build_config()
    config = LlavaConfig(
        vision_config=base.vision_config,
        text_config=kind(vocab_size=len(tiny.vocabulary()), **known),
        image_token_id=base.image_token_id,
        image_seq_length=tiny.IMAGE_TOKENS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return draw(LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa"))


@pytest.mark.float64
@pytest.mark.parametrize("decoder", TESTED_DECODERS["text_config.model_type"])
def test_a_decoder_adds_what_its_attention_and_feed_forward_give_and_its_cuts_are_proven(decoder):
    model = nv.load(build(decoder).double(), processor=tiny.build_processor())
    prompt = nv.encode(model, "what is red ?", tiny.picture(0))
    sites = [nv.Residual("all", site=site) for site in ("residual", "attention", "mlp")]
    added = nv.Attention("all", "all", reduce="contribution", over=["heads", "keys"])
    residual, attention, mlp, keys = nv.run(model, prompt, reads=[*sites, added]).reads
    assert tiny.gap(residual[1], residual[0] + attention[1] + mlp[1]) < LIMIT
    layer = model._module.model.language_model.layers[1]
    bias = layer.get_submodule(view_of(model).family.decoder.attention.projection).bias
    assert tiny.gap(keys[1], (attention[1] - (0 if bias is None else bias)).norm(dim=-1)) < LIMIT
    proof = nv.verify(model, prompt, nv.Knockout("image", "query") | nv.Knockout("image", "generated"))
    assert proof.edges > 0 and proof.tokens > 0
    heads, whole = (
        nv.run(model, prompt, nv.Ablate("query", site=site, layers=1)).logits for site in ("head", "attention")
    )
    if not any("bias" in name for name, _ in model._module.model.language_model.layers[1].self_attn.named_parameters()):
        assert tiny.gap(heads, whole) < LIMIT  # a bias of the output projection is no head's
    keys = nv.Ablate("image", site="key", layers=1, heads=1) | nv.Ablate("query", site="head", layers=1, heads=1)
    assert nv.verify(model, prompt, keys).writes == 2


def test_a_decoder_that_nobody_tried_is_refused():
    with pytest.raises(nv.SpecError, match=r"text_config.model_type='olmo2'.*'llama'"):
        nv.load(build("olmo2"), processor=tiny.build_processor())
