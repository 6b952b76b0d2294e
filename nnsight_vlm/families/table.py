"""The table: one row per family.

Every row was established by running a tiny model of the family, and is held to it by `tests/test_families.py`.
"""

from __future__ import annotations

from dataclasses import replace

from .row import Attends, Family, Stage

# decoders that differ from the most common one ---------------------------------------------------

PLAIN = Stage()
NORMED = Stage(attention=Attends(output="post_attention_layernorm"), mlp="post_feedforward_layernorm")
"""Gemma: what attention and the feed-forward add is normed first."""
TEXT_MODEL = Stage(entry="model.text_model", layers="model.text_model.layers", embedding="model.text_model")
CHAMELEON = Stage(entry="model", layers="model.layers", embedding="model.layers.0", config="")

QFORMER = Stage(
    entry="",
    layers="qformer.encoder.layer",
    attention=Attends(module="attention.attention", output="attention.E_output.dense"),
    cross=Attends(
        module="crossattention.attention",
        output="crossattention.E_output.dense",
        mask="encoder_attention_mask",
        layers="at intervals",
    ),
    mlp="output_query.dense",
    embedding="qformer.encoder",
    causal=False,
    config="qformer_config",
    keys="patches",
)
INSTRUCTED = replace(QFORMER, text="qformer_input_ids")
"""A Q-Former that reads the question beside its queries."""
T5_SELF = Attends(module="layer.0.SelfAttention", output="layer.0.SelfAttention", mask="mask")
T5_ENCODER = Stage(
    entry="",
    layers="language_model.encoder.block",
    attention=T5_SELF,
    mlp="layer.1.DenseReluDense",
    embedding="language_model.encoder",
    causal=False,
)
T5_DECODER = Stage(
    entry="language_model.decoder",
    layers="language_model.decoder.block",
    attention=T5_SELF,
    cross=Attends(module="layer.1.EncDecAttention", output="layer.1.EncDecAttention", mask="mask"),
    mlp="layer.2.DenseReluDense",
    embedding="language_model.decoder.block.0",
    layer_count="num_decoder_layers",
)
OPT = Stage(
    entry="language_model.model.decoder",
    layers="language_model.model.decoder.layers",
    mlp="fc2",
    embedding="language_model.model.decoder",
)
INNER = Stage(entry="language_model.model", layers="language_model.model.layers", embedding="language_model.model")
MLLAMA = replace(
    PLAIN,
    attention=Attends(layers="not crossing"),
    cross=Attends(module="cross_attn", output="cross_attn", layers="crossing"),
    embedding="model.language_model.layers.0",
)
BART_ENCODER = Stage(
    entry="",
    layers="model.language_model.encoder.layers",
    mlp="fc2",
    embedding="model.language_model.encoder.layers.0",
    causal=False,
    layer_count="encoder_layers",
    head_count="encoder_attention_heads",
)
BART_DECODER = Stage(
    entry="model.language_model.decoder",
    layers="model.language_model.decoder.layers",
    cross=Attends(module="encoder_attn", output="encoder_attn"),
    mlp="fc2",
    embedding="model.language_model.decoder.layers.0",
    layer_count="decoder_layers",
    head_count="decoder_attention_heads",
)
KOSMOS = Stage(
    entry="text_model.model", layers="text_model.model.layers", mlp="ffn", embedding="text_model.model.layers.0"
)
KOSMOS_RESAMPLER = Stage(
    entry="",
    layers="image_to_text_projection",
    attention=Attends(layers="none"),
    cross=Attends(module="x_attn", output="x_attn"),
    mlp=None,
    embedding=None,
    causal=False,
    layer_count="",
    keys="patches and latents",
)
PERCEIVER = Stage(
    entry="",
    layers="model.connector.perceiver_resampler.layers",
    attention=Attends(layers="none"),
    cross=Attends(),
    embedding=None,
    causal=False,
    config="perceiver_config",
    layer_count="resampler_depth",
    head_count="resampler_n_heads",
    keys="crop patches",
)

# why something cannot work -----------------------------------------------------------------------

CODEBOOK = 'image tokens are words of a codebook; write site="residual"'
TWO_CALLS = 'the projector also runs on the text; write site="embedding"'

QUERIES = 'they are latent queries; their patches are prompt.grid(0, stage="qformer")'
LATENTS = 'they are latents; their patches are prompt.grid(0, stage="resampler")'
ONE_IMAGE = "its processor takes one image a text"
INSIDE = "positions are counted inside the model, so copies cannot be given theirs"
TWO_AXES = "the encoder's tokens are shared anyway; the decoder counts positions inside the model"

TRIED = {
    "text_config.model_type": (
        "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "starcoder2", "mixtral", "qwen2_moe", "qwen3_moe",
        "smollm3", "ministral", "ministral3", "olmo", "cohere", "cohere2", "glm", "helium", "hunyuan_v1_dense",
        "ernie4_5", "arcee", "seed_oss", "nemotron",
    )
}  # fmt: skip
"""Decoders in whose layers `self_attn` and `mlp` add exactly what they give, for families that take any."""

ROWS = (
    Family(
        model_type="llava",
        assumes={**TRIED, "vision_feature_select_strategy": ("default", "full")},
    ),
    Family(
        model_type="llava",
        name="llava-pixtral",
        when={"vision_config.model_type": "pixtral"},
        grid="sized",
        inputs={"pixel_values": "image", "image_sizes": "image"},
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
        lacks={"features": 'a token of a large picture is a mixture of several features; write site="embedding"'},
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
        projector="model.visual.merger",
        grid="merged",
        positions="mrope",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        needs=("mm_token_type_ids",),
        assumes={"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (2,)},
    ),
    Family(
        model_type="qwen2_5_vl",
        projector="model.visual.merger",
        grid="merged windows",
        positions="mrope",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        needs=("mm_token_type_ids",),
        assumes={"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (2,)},
    ),
    Family(
        model_type="qwen3_vl",
        projector="model.visual.merger",
        grid="merged",
        positions="mrope",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        needs=("mm_token_type_ids",),
        assumes={"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (2,)},
        lacks={
            "features": "the image enters the first layers again (DeepStack), so a write at the projector alone leaves "
            'it in; write site="residual" in a layer behind them'
        },
    ),
    Family(
        model_type="qwen3_5",
        stages={"decoder": Stage(attention=Attends(layers="typed"))},
        projector="model.visual.merger",
        grid="merged",
        positions="mrope",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        needs=("mm_token_type_ids",),
        assumes={"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (2,)},
    ),
    Family(
        model_type="glm4v",
        stages={"decoder": Stage(attention=Attends(output="post_self_attn_layernorm"), mlp="post_mlp_layernorm")},
        projector="model.visual.merger",
        grid="merged",
        positions="mrope",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        needs=("mm_token_type_ids",),
        assumes={"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (2,)},
    ),
    Family(
        model_type="paligemma",
        when={"text_config.model_type": "gemma"},
        blocks="prompt",
        writes_image=True,
        inputs={"pixel_values": "image"},
        needs=("token_type_ids",),
        grown={"token_type_ids": 1},
        assumes={"text_config.use_bidirectional_attention": (True,)},
        lacks={"packed": "the prompt is one block, in which every token sees all others"},
    ),
    Family(
        model_type="paligemma",
        name="paligemma2",
        when={"text_config.model_type": "gemma2"},
        stages={"decoder": NORMED},
        blocks="prompt",
        writes_image=True,
        inputs={"pixel_values": "image"},
        needs=("token_type_ids",),
        grown={"token_type_ids": 1},
        assumes={"text_config.use_bidirectional_attention": (True,)},
        lacks={
            "packed": "the prompt is one block, in which every token sees all others",
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
        lacks={"features": TWO_CALLS},
    ),
    Family(
        model_type="gemma4",
        when={"text_config.use_bidirectional_attention": "vision"},
        stages={"decoder": NORMED},
        projector="model.embed_vision",
        grid="pooled",
        blocks="images",
        block_layers=("sliding_attention",),
        inputs={"pixel_values": "image", "image_position_ids": "image"},
        needs=("mm_token_type_ids",),
        generate_with={"logits_to_keep": 0},
        assumes={"text_config.enable_moe_block": (False,)},
    ),
    Family(
        model_type="gemma4",
        name="gemma4-causal",
        when={"text_config.use_bidirectional_attention": None},
        stages={"decoder": NORMED},
        projector="model.embed_vision",
        grid="pooled",
        inputs={"pixel_values": "image", "image_position_ids": "image"},
        generate_with={"logits_to_keep": 0},
        assumes={"text_config.enable_moe_block": (False,)},
    ),
    Family(
        model_type="idefics3",
        stages={"decoder": TEXT_MODEL},
        projector="model.connector",
        grid="rows then whole",
        inputs={"pixel_values": "row", "pixel_attention_mask": "row"},
        assumes=TRIED,
    ),
    Family(
        model_type="smolvlm",
        stages={"decoder": TEXT_MODEL},
        projector="model.connector",
        grid="rows then whole",
        inputs={"pixel_values": "row", "pixel_attention_mask": "row"},
        assumes=TRIED,
    ),
    Family(
        model_type="idefics2",
        stages={"resampler": PERCEIVER, "decoder": TEXT_MODEL},
        projector="model.connector",
        projector_after="resampler",
        grid="crop latents",
        inputs={"pixel_values": "row", "pixel_attention_mask": "row"},
        needs=("pixel_attention_mask",),
        lacks={"grid": LATENTS},
        assumes=TRIED,
    ),
    Family(
        model_type="mistral3",
        grid="sized",
        inputs={"pixel_values": "image", "image_sizes": "image"},
        assumes=TRIED,
    ),
    Family(
        model_type="lighton_ocr",
        projector="model.vision_projection",
        grid="sized",
        inputs={"pixel_values": "image", "image_sizes": "image"},
    ),
    Family(model_type="aya_vision", grid="rows then thumbnail", inputs={"pixel_values": "piece"}, assumes=TRIED),
    Family(model_type="cohere2_vision", grid="rows then thumbnail", inputs={"pixel_values": "piece"}, assumes=TRIED),
    Family(
        model_type="blip-2",
        name="blip-2-opt",
        when={"use_decoder_only_language_model": True},
        stages={"qformer": QFORMER, "decoder": OPT},
        projector="language_projection",
        projector_after="qformer",
        grid="queries",
        writes_image=True,
        assumes={"text_config.model_type": ("opt",), "qformer_config.use_qformer_text_input": (False,)},
        lacks={"grid": QUERIES, "several images": ONE_IMAGE},
    ),
    Family(
        model_type="blip-2",
        name="blip-2-t5",
        when={"use_decoder_only_language_model": False},
        stages={"qformer": QFORMER, "encoder": T5_ENCODER, "decoder": T5_DECODER},
        projector="language_projection",
        projector_after="qformer",
        grid="queries",
        tokens="decoder_input_ids",
        image_at="encoder",
        writes_image=True,
        positions="own",
        logits_to_keep=False,
        assumes={"text_config.model_type": ("t5",), "qformer_config.use_qformer_text_input": (False,)},
        lacks={"grid": QUERIES, "several images": ONE_IMAGE, "packed": TWO_AXES},
    ),
    Family(
        model_type="instructblip",
        name="instructblip-llama",
        when={"use_decoder_only_language_model": True},
        stages={"qformer": INSTRUCTED, "decoder": INNER},
        projector="language_projection",
        projector_after="qformer",
        grid="queries",
        writes_image=True,
        inputs={"pixel_values": "image", "qformer_input_ids": "row", "qformer_attention_mask": "row"},
        needs=("qformer_input_ids", "qformer_attention_mask"),
        assumes={"text_config.model_type": ("llama",)},
        lacks={"grid": QUERIES, "several images": ONE_IMAGE},
    ),
    Family(
        model_type="instructblip",
        name="instructblip-t5",
        when={"use_decoder_only_language_model": False},
        stages={"qformer": INSTRUCTED, "encoder": T5_ENCODER, "decoder": T5_DECODER},
        projector="language_projection",
        projector_after="qformer",
        grid="queries",
        tokens="decoder_input_ids",
        image_at="encoder",
        writes_image=True,
        positions="own",
        logits_to_keep=False,
        inputs={"pixel_values": "image", "qformer_input_ids": "row", "qformer_attention_mask": "row"},
        needs=("qformer_input_ids", "qformer_attention_mask"),
        assumes={"text_config.model_type": ("t5",)},
        lacks={"grid": QUERIES, "several images": ONE_IMAGE, "packed": TWO_AXES},
    ),
    Family(
        model_type="mllama",
        stages={"decoder": MLLAMA},
        grid="tile keys",
        image_at="cross",
        inputs={"pixel_values": "row", "aspect_ratio_ids": "row", "aspect_ratio_mask": "row"},
        needs=("cross_attention_mask",),
    ),
    Family(
        model_type="florence2",
        stages={"encoder": BART_ENCODER, "decoder": BART_DECODER},
        grid="pooled square",
        tokens="decoder_input_ids",
        image_at="encoder",
        writes_image=True,
        positions="own",
        assumes={"text_config.model_type": ("bart", "florence2_language")},
        lacks={"several images": ONE_IMAGE, "packed": TWO_AXES},
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
        lacks={
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
        lacks={
            "grid": "they are latents, and the projector that makes them hides which patches they read "
            "(torch.nn.MultiheadAttention)"
        },
    ),
    Family(
        model_type="llama4",
        stages={
            "decoder": Stage(
                entry="language_model.model",
                layers="language_model.model.layers",
                embedding="language_model.model",
                mlp="feed_forward",
            )
        },
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
        lacks={"several images": "its processor takes one image a text"},
    ),
    Family(
        model_type="chameleon",
        when={"swin_norm": False},
        stages={"decoder": CHAMELEON},
        projector=None,
        lacks={"features": CODEBOOK},
    ),
    Family(
        model_type="chameleon",
        name="chameleon-swin",
        when={"swin_norm": True},
        stages={
            "decoder": replace(CHAMELEON, attention=Attends(output="input_layernorm"), mlp="post_attention_layernorm")
        },
        projector=None,
        lacks={"features": CODEBOOK},
    ),
    Family(model_type="got_ocr2", grid="tiles by run", inputs={"pixel_values": "piece"}, assumes=TRIED),
    Family(
        model_type="ovis2",
        projector="model.visual_embeddings_table",
        grid="tiles by mark",
        inputs={"pixel_values": "piece"},
        assumes={**TRIED, "vision_config.tokenize_function": ("softmax",)},
    ),
    Family(
        model_type="lfm2_vl",
        stages={"decoder": Stage(attention=Attends(layers="typed"), mlp="feed_forward")},
        grid="shaped",
        inputs={"pixel_values": "piece", "pixel_attention_mask": "piece", "spatial_shapes": "piece"},
        lacks={"features": 'the projector runs once for every tile; write site="embedding"'},
    ),
    Family(
        model_type="fast_vlm",
        assumes={**TRIED, "vision_feature_select_strategy": ("full",), "vision_feature_layer": (-1,)},
    ),
    Family(model_type="perception_lm", grid="equal tiles", assumes=TRIED),
)

FAMILIES: dict[str, Family] = {row.name: row for row in ROWS}
