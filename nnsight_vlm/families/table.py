"""The table: one row per family.

Every row was established by running a tiny model of the family, and is held to it by `tests/test_families.py`.
transformers' own accessors do not answer for all of them: `get_decoder` gives a whole language model in BLIP-2,
Kosmos-2 and Llama 4, and no accessor names what attention adds, or the module whose output enters the decoder.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .columns import AttentionSpec, Family, Stage
from .stages import (
    BART_DECODER,
    BART_ENCODER,
    CHAMELEON,
    INNER,
    INSTRUCTED,
    KOSMOS,
    KOSMOS_RESAMPLER,
    MLLAMA,
    NORMED,
    OPT,
    PERCEIVER,
    QFORMER,
    T5_DECODER,
    T5_ENCODER,
    TEXT_MODEL,
)

# why something cannot work -----------------------------------------------------------------------

CODEBOOK = 'image tokens are words of a codebook; write site="residual"'
TWO_CALLS = 'the projector also runs on the text; write site="embedding"'

QUERIES = 'they are latent queries; their patches are prompt.grid(0, stage="qformer")'
LATENTS = 'they are latents; their patches are prompt.grid(0, stage="resampler")'
ONE_IMAGE = "its processor takes one image a text"
INSIDE = "positions are counted inside the model, so copies cannot be given theirs"
TWO_AXES = "the encoder's tokens are shared anyway; the decoder counts positions inside the model"

PER_LAYER = "layers are handed something of every token's id besides"
NEEDS_PIXELS = "its forward takes no text without pixels"
ONE_BLOCK = "the prompt is one block, in which every token sees all others"

TRIED = {
    "text_config.model_type": (
        "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "starcoder2", "mixtral", "qwen2_moe", "qwen3_moe",
        "smollm3", "ministral", "ministral3", "olmo", "cohere", "cohere2", "glm", "helium", "hunyuan_v1_dense",
        "ernie4_5", "arcee", "seed_oss", "nemotron",
    )
}  # fmt: skip
"""Decoders in whose layers `self_attn` and `mlp` add exactly what they give, for families that take any."""

# what relatives have in common ---------------------------------------------------------------------

QWEN: dict[str, Any] = {
    "projector": "model.visual.merger",
    "grid": "merged",
    "positions": "mrope",
    "inputs": {"pixel_values": "piece", "image_grid_thw": "image"},
    "needs": ("mm_token_type_ids",),
    "assumes": {"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (2,)},
}
PALIGEMMA: dict[str, Any] = {
    "model_type": "paligemma",
    "blocks": "prompt",
    "writes_image": True,
    "needs": ("token_type_ids",),
    "grown": {"token_type_ids": 1},
    "assumes": {"text_config.use_bidirectional_attention": (True,)},
}
GEMMA4: dict[str, Any] = {
    "model_type": "gemma4",
    "stages": {"decoder": NORMED},
    "projector": "model.embed_vision",
    "grid": "pooled",
    "inputs": {"pixel_values": "image", "image_position_ids": "image"},
    "generate_with": {"logits_to_keep": 0},
    "assumes": {"text_config.enable_moe_block": (False,)},
}
IDEFICS3: dict[str, Any] = {
    "stages": {"decoder": TEXT_MODEL},
    "projector": "model.connector",
    "grid": "rows then whole",
    "inputs": {"pixel_values": "row", "pixel_attention_mask": "row"},
    "assumes": TRIED,
}
SIZED: dict[str, Any] = {"grid": "sized", "inputs": {"pixel_values": "image", "image_sizes": "image"}}
BLIP: dict[str, Any] = {
    "projector": "language_projection",
    "projector_after": "qformer",
    "grid": "queries",
    "writes_image": True,
    "limitations": {
        "grid": QUERIES,
        "several images": ONE_IMAGE,
        "prefix": NEEDS_PIXELS,
        "embedded": NEEDS_PIXELS,
    },
}
INSTRUCTED_INPUTS = {"pixel_values": "image", "qformer_input_ids": "row", "qformer_attention_mask": "row"}
INSTRUCTBLIP: dict[str, Any] = {
    **BLIP,
    "model_type": "instructblip",
    "inputs": INSTRUCTED_INPUTS,
    "needs": ("qformer_input_ids", "qformer_attention_mask"),
}
TRANSLATES: dict[str, Any] = {
    "tokens": "decoder_input_ids",
    "image_at": "encoder",
    "positions": "own",
    "limitations": {"grid": QUERIES, "several images": ONE_IMAGE, "packed": TWO_AXES},
}
"""A decoder with an encoder of its own, behind a Q-Former."""

ROWS = (
    Family(
        model_type="llava",
        assumes={**TRIED, "vision_feature_select_strategy": ("default", "full")},
    ),
    Family(
        model_type="llava",
        name="llava-pixtral",
        when={"vision_config.model_type": "pixtral"},
        **SIZED,
        assumes={**TRIED, "vision_feature_select_strategy": ("full",), "vision_feature_layer": (-1,)},
    ),
    Family(
        model_type="llava_next",
        grid="anyres",
        inputs={"pixel_values": "image", "image_sizes": "image"},
        assumes={**TRIED, "vision_feature_select_strategy": ("default",)},
    ),
    Family(
        model_type="llava_onevision",
        grid="anyres",
        inputs={"pixel_values": "image", "image_sizes": "image", "batch_num_images": "image"},
        assumes={**TRIED, "vision_feature_select_strategy": ("full",)},
        limitations={"features": 'a token of a large picture is a mixture of several features; write site="embedding"'},
    ),
    Family(model_type="vipllava", assumes=TRIED),
    Family(
        model_type="internvl",
        grid="tiles by run",
        inputs={"pixel_values": "piece"},
        assumes={**TRIED, "downsample_ratio": (0.5,), "vision_feature_select_strategy": ("default",)},
    ),
    Family(
        model_type="qwen2_vl",
        **QWEN,
    ),
    Family(
        model_type="qwen2_5_vl",
        **{**QWEN, "grid": "merged windows"},
    ),
    Family(
        model_type="qwen3_vl",
        **QWEN,
        limitations={
            "features": "the image enters the first layers again (DeepStack), so a write at the projector alone leaves "
            'it in; write site="residual" in a layer behind them',
            "embedded": "the image enters the first layers again (DeepStack)",
        },
    ),
    Family(
        model_type="qwen3_5",
        stages={"decoder": Stage(attention=AttentionSpec(layers="typed"))},
        **QWEN,
    ),
    Family(
        model_type="glm4v",
        stages={"decoder": Stage(attention=AttentionSpec(output="post_self_attn_layernorm"), mlp="post_mlp_layernorm")},
        **QWEN,
    ),
    Family(
        **PALIGEMMA,
        when={"text_config.model_type": "gemma"},
        limitations={"packed": ONE_BLOCK},
    ),
    Family(
        **PALIGEMMA,
        name="paligemma2",
        when={"text_config.model_type": "gemma2"},
        stages={"decoder": NORMED},
        limitations={
            "packed": ONE_BLOCK,
            "sdpa": "its scores are soft-capped, which transformers' sdpa cannot do",
            "static cache": "transformers fails itself",
        },
    ),
    Family(
        model_type="gemma3",
        stages={"decoder": NORMED},
        grid="pan and scan",
        blocks="images",
        inputs={"pixel_values": "piece"},
        needs=("token_type_ids",),
        assumes={"text_config.use_bidirectional_attention": (False, None)},
    ),
    Family(
        model_type="gemma3n",
        stages={"decoder": replace(NORMED, streams="altup_num_inputs")},
        projector="model.embed_vision",
        grid="soft tokens",
        assumes={"text_config.altup_active_idx": (0,)},
        limitations={"features": TWO_CALLS, "embedded": PER_LAYER},
    ),
    Family(
        **GEMMA4,
        when={"text_config.use_bidirectional_attention": "vision"},
        blocks="images",
        block_layers=("sliding_attention",),
        needs=("mm_token_type_ids",),
    ),
    Family(
        **GEMMA4,
        name="gemma4-causal",
        when={"text_config.use_bidirectional_attention": None},
        limitations={"embedded": PER_LAYER},
    ),
    Family(**IDEFICS3, model_type="idefics3"),
    Family(**IDEFICS3, model_type="smolvlm"),
    Family(
        model_type="idefics2",
        stages={"resampler": PERCEIVER, "decoder": TEXT_MODEL},
        projector="model.connector",
        projector_after="resampler",
        grid="crop latents",
        inputs={"pixel_values": "row", "pixel_attention_mask": "row"},
        needs=("pixel_attention_mask",),
        limitations={"grid": LATENTS},
        assumes=TRIED,
    ),
    Family(**SIZED, model_type="mistral3", assumes=TRIED),
    Family(
        **SIZED,
        model_type="lighton_ocr",
        projector="model.vision_projection",
        assumes={"text_config.model_type": ("qwen3",)},
    ),
    Family(model_type="aya_vision", grid="rows then thumbnail", inputs={"pixel_values": "piece"}, assumes=TRIED),
    Family(model_type="cohere2_vision", grid="rows then thumbnail", inputs={"pixel_values": "piece"}, assumes=TRIED),
    Family(
        **BLIP,
        model_type="blip-2",
        name="blip-2-opt",
        when={"use_decoder_only_language_model": True},
        stages={"qformer": QFORMER, "decoder": OPT},
        assumes={"text_config.model_type": ("opt",), "qformer_config.use_qformer_text_input": (False,)},
    ),
    Family(
        **{**BLIP, **TRANSLATES},
        model_type="blip-2",
        name="blip-2-t5",
        when={"use_decoder_only_language_model": False},
        stages={"qformer": QFORMER, "encoder": T5_ENCODER, "decoder": T5_DECODER},
        logits_to_keep=False,
        assumes={"text_config.model_type": ("t5",), "qformer_config.use_qformer_text_input": (False,)},
    ),
    Family(
        **INSTRUCTBLIP,
        name="instructblip-llama",
        when={"use_decoder_only_language_model": True},
        stages={"qformer": INSTRUCTED, "decoder": INNER},
        assumes={"text_config.model_type": ("llama",)},
    ),
    Family(
        **{**INSTRUCTBLIP, **TRANSLATES},
        name="instructblip-t5",
        when={"use_decoder_only_language_model": False},
        stages={"qformer": INSTRUCTED, "encoder": T5_ENCODER, "decoder": T5_DECODER},
        logits_to_keep=False,
        assumes={"text_config.model_type": ("t5",)},
    ),
    Family(
        model_type="mllama",
        stages={"decoder": MLLAMA},
        grid="tile keys",
        image_at="cross",
        inputs={"pixel_values": "row", "aspect_ratio_ids": "row", "aspect_ratio_mask": "row"},
        needs=("cross_attention_mask",),
        limitations={"embedded": "the image does not enter with the text"},
    ),
    Family(
        model_type="florence2",
        stages={"encoder": BART_ENCODER, "decoder": BART_DECODER},
        **{**TRANSLATES, "limitations": {"several images": ONE_IMAGE, "packed": TWO_AXES}},
        grid="pooled square",
        writes_image=True,
        assumes={"text_config.model_type": ("bart",)},
    ),
    Family(
        model_type="kosmos-2",
        stages={"resampler": KOSMOS_RESAMPLER, "decoder": KOSMOS},
        projector="image_to_text_projection",
        projector_after="resampler",
        grid="masked latents",
        marker="image_embeds_position_mask",
        writes_image=True,
        positions="own",
        assumes={"text_config.add_cross_attention": (False,)},
        limitations={
            "grid": LATENTS,
            "several images": ONE_IMAGE,
            "packed": INSIDE,
            "static cache": "transformers fails itself",
            "padded generation": "transformers counts padding into the positions of decoded tokens",
        },
    ),
    Family(
        model_type="aria",
        grid="tile latents",
        inputs={"pixel_values": "piece", "pixel_mask": "piece"},
        needs=("pixel_mask",),
        limitations={
            "grid": "they are latents, and the projector that makes them hides which patches they read "
            "(torch.nn.MultiheadAttention)"
        },
    ),
    Family(
        model_type="llama4",
        stages={"decoder": replace(INNER, mlp="feed_forward")},
        projector="multi_modal_projector",
        grid="shuffled tiles",
        inputs={"pixel_values": "piece"},
    ),
    Family(model_type="deepseek_vl", projector="model.aligner", assumes=TRIED),
    Family(model_type="janus", projector="model.aligner", assumes=TRIED),
    Family(
        model_type="fuyu",
        projector="model.vision_embed_tokens",
        grid="broken rows",
        writes_image=True,
        inputs={"image_patches": "piece"},
        limitations={"several images": ONE_IMAGE},
    ),
    Family(
        model_type="chameleon",
        when={"swin_norm": False},
        stages={"decoder": CHAMELEON},
        projector=None,
        limitations={"features": CODEBOOK},
    ),
    Family(
        model_type="chameleon",
        name="chameleon-swin",
        when={"swin_norm": True},
        stages={
            "decoder": replace(
                CHAMELEON, attention=AttentionSpec(output="input_layernorm"), mlp="post_attention_layernorm"
            )
        },
        projector=None,
        limitations={"features": CODEBOOK},
    ),
    Family(model_type="got_ocr2", grid="tiles by run", inputs={"pixel_values": "piece"}, assumes=TRIED),
    Family(
        model_type="ovis2",
        projector="model.visual_embeddings_table",
        grid="tiles by mark",
        inputs={"pixel_values": "piece"},
        assumes={**TRIED, "vision_config.tokenize_function": ("softmax",)},
        limitations={"prefix": "the tower makes the token behind an image too"},
    ),
    Family(
        model_type="lfm2_vl",
        stages={"decoder": Stage(attention=AttentionSpec(layers="typed"), mlp="feed_forward")},
        grid="shaped",
        inputs={"pixel_values": "piece", "pixel_attention_mask": "piece", "spatial_shapes": "piece"},
        limitations={"features": 'the projector runs once for every tile; write site="embedding"'},
    ),
    Family(
        model_type="fast_vlm",
        assumes={**TRIED, "vision_feature_select_strategy": ("full",), "vision_feature_layer": (-1,)},
    ),
    Family(model_type="perception_lm", grid="equal tiles", assumes=TRIED),
)

FAMILIES: dict[str, Family] = {row.name: row for row in ROWS}
