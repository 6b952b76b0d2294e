"""The family table: one entry per family.

Every entry was established by running a tiny model of the family, and `tests/test_families.py` tests it on one.
transformers' own accessors do not answer for all families: `get_decoder` returns a complete language model in BLIP-2,
Kosmos-2 and Llama 4, and no accessor names the modules whose outputs attention and the feed-forward part add, or the
module whose input enters the first layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .columns import Family, Stage
from .options import Limitation
from .packed_towers import (
    BLOCKS,
    ERNIE_TOWER,
    EXAONE_TOWER,
    HUNYUAN_TOWER,
    KIMI_TOWER,
    LFM3_TOWER,
    LIGHTON_TOWER,
    PADDLE_TOWER,
    PIXTRAL_TOWER,
    QWEN2_TOWER,
    TAPPED_TOWER,
    WINDOWED_TOWER,
)
from .part_columns import AttentionSpec, Unembedding, VideoSpec
from .stages import (
    BART_DECODER,
    BART_ENCODER,
    CAUSAL_LM_DECODER,
    CHAMELEON_DECODER,
    GATED_DECODER,
    GEMMA_DECODER,
    GLM_DECODER,
    IDEFICS2_RESAMPLER,
    IDEFICS_DECODER,
    INSTRUCTBLIP_QFORMER,
    KOSMOS_DECODER,
    KOSMOS_RESAMPLER,
    LAYER_INPUTS_DECODER,
    MLLAMA_DECODER,
    OPT_DECODER,
    QFORMER,
    T5_DECODER,
    T5_ENCODER,
)
from .towers import (
    ARIA_TOWER,
    BLIP_TOWER,
    CHANNELS,
    CLIP_TOWER,
    CODEBOOK,
    CONVOLUTIONS,
    GEMMA4_TOWER,
    GRANITE_TOWER,
    IDEFICS2_TOWER,
    IDEFICS3_TOWER,
    IMAGE_CLIP_TOWER,
    INTERN_TOWER,
    JANUS_TOWER,
    KOSMOS_TOWER,
    LAST_CLIP_TOWER,
    LAST_SIGLIP_TOWER,
    LLAMA4_TOWER,
    MERGES_WITHIN,
    MLLAMA_TOWER,
    MOLMO_TOWER,
    NO_TOWER,
    OVIS_TOWER,
    SAM_TOWER,
    SIGLIP2_TOWER,
    SIGLIP_TOWER,
    VIP_TOWER,
    VISION_MODEL_TOWER,
)

# why something does not work in several families: `Family.limitations` --------------------------------

CODEBOOK_TOKENS = (
    'image tokens are entries of a codebook with embeddings like words, so there is no projector; write site="residual"'
)
QFORMER_QUERIES = (
    "image tokens are the Q-Former's learned queries, each of which reads the whole picture; for the patches that they "
    'read, write prompt.grid(0, stage="qformer")'
)
RESAMPLER_LATENTS = (
    "image tokens are the resampler's latents, each of which reads the whole picture; for the patches that they read, "
    'write prompt.grid(0, stage="resampler")'
)
ONCE_PER_TILE = 'the projector runs once per tile; write site="embedding"'
ONE_IMAGE_PER_TEXT = "the processor takes one image per text"
COMPUTES_POSITIONS = (
    "the model computes position ids itself, so variants cannot be given those that continue a shared prefix"
)
PROMPT_IN_ENCODER = (
    "the prompt is the encoder's input, and the decoder computes position ids itself, so the decoder has no prefix for "
    "variants to share"
)
TOKEN_IDS_IN_EVERY_LAYER = (
    "every layer also takes an embedding of its own for each token id, which is lost if only input embeddings are given"
)
FORWARD_NEEDS_PIXELS = "the model's forward does not run without pixel_values"
CHANNELS_FIRST = "the projector is handed a map of channels, not rows of tokens"
PROMPT_IS_ONE_BLOCK = (
    "all tokens of the prompt attend to each other in both directions, so none is the same in all variants"
)
STATIC_CACHE_FAILS = "transformers itself fails with a static cache, with or without interventions"

TESTED_DECODERS = {
    "text_config.model_type": (
        "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "phi3", "starcoder2", "mixtral", "qwen2_moe", "qwen3_moe",
        "smollm3", "ministral", "ministral3", "olmo", "cohere", "cohere2", "glm", "helium", "hunyuan_v1_dense",
        "ernie4_5", "arcee", "seed_oss", "nemotron",
    )
}  # fmt: skip
"""For families that take any decoder: those whose layers add the outputs of `self_attn` and `mlp` unchanged."""

# columns that related families share --------------------------------------------------------------------

MERGED_FOURS = {"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (2,)}
QWEN: dict[str, Any] = {
    "tower": BLOCKS,
    "projector": "model.visual.merger",
    "grid": "merged",
    "positions": "mrope",
    "inputs": {"pixel_values": "piece", "image_grid_thw": "image"},
    "needs": ("mm_token_type_ids",),
    "assumes": MERGED_FOURS,
}
DEEPSTACK: dict[Limitation, str] = {
    "features": "image features are also added to the first layers' output (DeepStack), so they remain after a "
    'write at the projector; write site="residual" in a later layer',
    "embedded": "image features are also added to the first layers' output (DeepStack)",
}
MERGED_FRAMES = VideoSpec(layout="merged frames", frames_per_token="temporal_patch_size")
QWEN_VIDEO: dict[str, Any] = {
    "video": MERGED_FRAMES,
    "inputs": {**QWEN["inputs"], "pixel_values_videos": "video piece", "video_grid_thw": "video"},
}
"""The Qwen-VLs of which videos are taken."""
CLIP: dict[str, Any] = {"tower": CLIP_TOWER, "towers": {"clip_vision_model": CLIP_TOWER}}
SIGLIP: dict[str, Any] = {"tower": LAST_SIGLIP_TOWER, "towers": {"siglip_vision_model": LAST_SIGLIP_TOWER}}
"""Families that take any tower, and of which these are known."""
CAPPED = Unembedding(cap="final_logit_softcapping")
PALIGEMMA: dict[str, Any] = {
    "model_type": "paligemma",
    "unembedding": replace(CAPPED, capped_in=">=5.23"),
    **SIGLIP,
    "blocks": "prompt",
    "positions": "sequence from one",
    "writes_image": True,
    "wants_placeholders": True,
    "needs": ("token_type_ids",),
    "new_token_values": {"token_type_ids": 1},
    "assumes": {"text_config.use_bidirectional_attention": (True,)},
}
GEMMA4: dict[str, Any] = {
    "model_type": "gemma4",
    "handed": "features",
    "tower": GEMMA4_TOWER,
    "stages": {"decoder": LAYER_INPUTS_DECODER},
    "transformers": ">=5.23",
    "projector": "model.embed_vision",
    "unembedding": CAPPED,
    "grid": "pooled",
    "inputs": {"pixel_values": "image", "image_position_ids": "image"},
    "generate_with": {"logits_to_keep": 0},
    "assumes": {"text_config.enable_moe_block": (False,)},
}
IDEFICS3: dict[str, Any] = {
    "tower": IDEFICS3_TOWER,
    "transformers": ">=5.18",
    "stages": {"decoder": IDEFICS_DECODER},
    "projector": "model.connector",
    "grid": "tile rows then whole picture",
    "inputs": {"pixel_values": "row", "pixel_attention_mask": "row"},
    "assumes": TESTED_DECODERS,
}
SIZED_IMAGES: dict[str, Any] = {
    "tower": PIXTRAL_TOWER,
    "grid": "sized",
    "inputs": {"pixel_values": "image", "image_sizes": "image"},
}
MOLMO2: dict[str, Any] = {
    "model_type": "molmo2",
    "tower": MOLMO_TOWER,
    "transformers": ">=5.23",  # before it, eager attention with a static cache gives other answers without nnsight too
    "projector": "model.multi_modal_projector.image_projector",
    "handed": "features",
    "grid": "whole picture then canvas",
    "blocks": "marked",
    "inputs": {
        "pixel_values": "piece",
        "image_token_pooling": "token",
        "image_grids": "image",
        "image_num_crops": "image",
    },
    "indices": {"image_token_pooling": "pixel_values"},
    "needs": ("mm_token_type_ids",),
}
BLIP: dict[str, Any] = {
    "tower": BLIP_TOWER,
    "projector": "language_projection",
    "handed": "features",
    "projector_after": "qformer",
    "grid": "queries",
    "generator": "language_model",
    "writes_image": True,
    "limitations": {
        "grid": QFORMER_QUERIES,
        "several images": ONE_IMAGE_PER_TEXT,
        "text alone": FORWARD_NEEDS_PIXELS,
        "prefix": FORWARD_NEEDS_PIXELS,
        "embedded": FORWARD_NEEDS_PIXELS,
    },
}
INSTRUCTBLIP_INPUTS = {"pixel_values": "image", "qformer_input_ids": "row", "qformer_attention_mask": "row"}
INSTRUCTBLIP: dict[str, Any] = {
    **BLIP,
    "model_type": "instructblip",
    "inputs": INSTRUCTBLIP_INPUTS,
    "needs": ("qformer_input_ids", "qformer_attention_mask"),
}
T5_UNEMBEDDING = Unembedding(norms=("final_layer_norm",), by_root="scale_decoder_outputs")
CODEBOOK_UNSAID = Unembedding(unsaid=("vocabulary_map", "IMGIMG"))
ENCODER_DECODER: dict[str, Any] = {
    "tokens": "decoder_input_ids",
    "image_at": "encoder",
    "positions": "own",
    "limitations": {
        "grid": QFORMER_QUERIES,
        "several images": ONE_IMAGE_PER_TEXT,
        "text alone": FORWARD_NEEDS_PIXELS,
        "packed": PROMPT_IN_ENCODER,
    },
}
"""An encoder reads image and question, and a decoder with cross-attention to it writes the answer."""

_TABLE = (
    Family(
        model_type="llava",
        tower=CLIP_TOWER,
        towers={"clip_vision_model": CLIP_TOWER, "siglip_vision_model": SIGLIP_TOWER},
        assumes={**TESTED_DECODERS, "vision_feature_select_strategy": ("default", "full")},
    ),
    Family(
        model_type="llava",
        name="llava-pixtral",
        when={"vision_config.model_type": "pixtral"},
        **SIZED_IMAGES,
        assumes={**TESTED_DECODERS, "vision_feature_select_strategy": ("full",), "vision_feature_layer": (-1,)},
    ),
    Family(
        model_type="llava_next",
        **CLIP,
        grid="anyres",
        inputs={"pixel_values": "image", "image_sizes": "image"},
        assumes={**TESTED_DECODERS, "vision_feature_select_strategy": ("default",)},
    ),
    Family(
        model_type="llava_onevision",
        tower=SIGLIP_TOWER,
        towers={"siglip_vision_model": SIGLIP_TOWER},
        grid="anyres",
        video=VideoSpec(layout="pooled frames", equal_frames=True),
        inputs={
            "pixel_values": "image",
            "image_sizes": "image",
            "batch_num_images": "group",
            "pixel_values_videos": "video",
        },
        assumes={**TESTED_DECODERS, "vision_feature_select_strategy": ("full",)},
        limitations={
            "features": "where a picture is shrunk, and in every video, each token is interpolated from several image "
            'features; write site="embedding"'
        },
    ),
    Family(
        model_type="llava_next_video",
        **CLIP,
        grid="anyres",
        inputs={"pixel_values": "image", "image_sizes": "image"},
        assumes={**TESTED_DECODERS, "vision_feature_select_strategy": ("default",)},
    ),
    Family(
        model_type="video_llava",
        tower=IMAGE_CLIP_TOWER,
        towers={"clip_vision_model": IMAGE_CLIP_TOWER},
        transformers=">=5.16",
        inputs={"pixel_values_images": "image"},
        renamed={"pixel_values": "pixel_values_images"},
        assumes={**TESTED_DECODERS, "vision_feature_select_strategy": ("default",)},
    ),
    Family(
        model_type="vipllava",
        tower=VIP_TOWER,
        towers={"clip_vision_model": VIP_TOWER},
        assumes=TESTED_DECODERS,
    ),
    Family(
        model_type="internvl",
        handed="features",
        tower=INTERN_TOWER,
        towers={"internvl_vision": INTERN_TOWER},
        transformers=">=5.18",
        grid="tiles by run",
        video=VideoSpec(
            layout="frames as images",
            pixels="pixel_values",
            token="",
            opening=r"Frame1:<img>$",
            between=r"^</img>Frame\d+:<img>$",
        ),
        inputs={"pixel_values": "shown piece"},
        assumes={**TESTED_DECODERS, "downsample_ratio": (0.5,), "vision_feature_select_strategy": ("default",)},
    ),
    Family(
        model_type="qwen2_vl",
        **{**QWEN, **QWEN_VIDEO, "tower": QWEN2_TOWER},
    ),
    Family(
        model_type="qwen2_5_vl",
        **{
            **QWEN,
            "tower": WINDOWED_TOWER,
            "grid": "merged windows",
            "video": replace(MERGED_FRAMES, layout="merged frame windows"),
            "inputs": {**QWEN_VIDEO["inputs"], "second_per_grid_ts": "video"},
        },
    ),
    Family(model_type="qwen3_vl", **{**QWEN, **QWEN_VIDEO, "tower": TAPPED_TOWER}, limitations=DEEPSTACK),
    Family(model_type="qwen3_vl_moe", **{**QWEN, "tower": TAPPED_TOWER}, limitations=DEEPSTACK),
    Family(
        model_type="qwen3_5",
        stages={"decoder": GATED_DECODER},
        **QWEN,
    ),
    Family(
        model_type="qwen3_5_moe",
        stages={"decoder": GATED_DECODER},
        **QWEN,
    ),
    Family(model_type="glm4v", handed="features", stages={"decoder": GLM_DECODER}, **QWEN),
    Family(model_type="glm4v_moe", handed="features", **QWEN),
    Family(
        model_type="glm46v",
        handed="features",
        when={"text_config.model_type": "glm4v_text"},
        stages={"decoder": GLM_DECODER},
        **QWEN,
    ),
    Family(
        model_type="glm46v",
        name="glm46v-moe",
        handed="features",
        when={"text_config.model_type": "glm4v_moe_text"},
        **QWEN,
    ),
    Family(
        **{
            **QWEN,
            "tower": ERNIE_TOWER,
            "projector": "model.resampler_model",
            "needs": ("mm_token_type_ids", "moe_mm_token_type_ids"),
            "assumes": {"vision_config.spatial_merge_size": (2,), "vision_config.temporal_merge_size": (2,)},
        },
        model_type="ernie4_5_vl_moe",
        transformers=">=5.23",  # before, it cannot go on behind a cache with position ids that it is given
        token_kinds=("moe_mm_token_type_ids",),
        limitations={
            "uncached generation": "without a cache each token runs the whole sequence, and transformers does not give "
            "generated tokens their entry of moe_mm_token_type_ids"
        },
    ),
    Family(
        **PALIGEMMA,
        when={"text_config.model_type": "gemma"},
        limitations={"packed": PROMPT_IS_ONE_BLOCK},
    ),
    Family(
        **PALIGEMMA,
        name="paligemma2",
        when={"text_config.model_type": "gemma2"},
        stages={"decoder": GEMMA_DECODER},
        limitations={
            "packed": PROMPT_IS_ONE_BLOCK,
            "sdpa": "attention scores are soft-capped, which transformers' sdpa does not do",
            "static cache": STATIC_CACHE_FAILS,
        },
    ),
    Family(
        model_type="gemma3",
        **SIGLIP,
        transformers=">=5.18",
        stages={"decoder": GEMMA_DECODER},
        grid="pan and scan",
        blocks="images",
        inputs={"pixel_values": "piece"},
        needs=("token_type_ids",),
        assumes={"text_config.use_bidirectional_attention": (False, None)},
    ),
    Family(
        model_type="gemma3n",
        transformers=">=5.20",
        stages={"decoder": replace(LAYER_INPUTS_DECODER, streams="altup_num_inputs")},
        projector="model.embed_vision",
        unembedding=Unembedding(merge="altup_unembed_projections", cap="final_logit_softcapping"),
        grid="soft tokens",
        assumes={"text_config.altup_active_idx": (0,)},
        limitations={
            "vision": CONVOLUTIONS,
            "projector": "the projector also runs on text tokens",
            "features": "the projector also runs on text tokens, so its output is not the image features alone, and "
            'what it gives enters every layer; write site="residual" in all of them',
            "embedded": TOKEN_IDS_IN_EVERY_LAYER,
        },
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
        limitations={"embedded": TOKEN_IDS_IN_EVERY_LAYER},
    ),
    Family(**IDEFICS3, model_type="idefics3"),
    Family(
        **IDEFICS3,
        model_type="smolvlm",
        video=VideoSpec(
            layout="frames as images",
            pixels="pixel_values",
            token="",
            opening=r"Framefrom\d\d:\d\d:<fake_token_around_image><global-img>$",
            between=r"^<fake_token_around_image>Framefrom\d\d:\d\d:<fake_token_around_image><global-img>$",
            own_template=True,
        ),
        limitations={
            "video beside images": "the processor puts the pixels of the video in the place of those of the images",
        },
    ),
    Family(
        model_type="idefics2",
        tower=IDEFICS2_TOWER,
        transformers=">=5.18",
        stages={"resampler": IDEFICS2_RESAMPLER, "decoder": IDEFICS_DECODER},
        projector="model.connector",
        projector_after="resampler",
        grid="crop latents",
        inputs={"pixel_values": "row", "pixel_attention_mask": "row"},
        needs=("pixel_attention_mask",),
        limitations={"grid": RESAMPLER_LATENTS},
        assumes=TESTED_DECODERS,
    ),
    Family(**SIZED_IMAGES, model_type="mistral3", assumes=TESTED_DECODERS),
    Family(
        **{**SIZED_IMAGES, "tower": LIGHTON_TOWER},
        model_type="lighton_ocr",
        projector="model.vision_projection",
        assumes={"text_config.model_type": ("qwen3",)},
    ),
    Family(
        model_type="aya_vision",
        tower=SIGLIP_TOWER,
        towers={"siglip_vision_model": SIGLIP_TOWER},
        grid="tile rows then thumbnail",
        inputs={"pixel_values": "piece"},
        assumes=TESTED_DECODERS,
    ),
    Family(
        model_type="cohere2_vision",
        **SIGLIP,
        grid="tile rows then thumbnail",
        inputs={"pixel_values": "piece"},
        assumes=TESTED_DECODERS,
    ),
    Family(
        **BLIP,
        model_type="blip-2",
        name="blip-2-opt",
        when={"use_decoder_only_language_model": True},
        stages={"qformer": QFORMER, "decoder": OPT_DECODER},
        unembedding=Unembedding(norms=("final_layer_norm", "project_out"), optional=True),
        assumes={"text_config.model_type": ("opt",), "qformer_config.use_qformer_text_input": (False,)},
    ),
    Family(
        **{**BLIP, **ENCODER_DECODER},
        model_type="blip-2",
        name="blip-2-t5",
        transformers=">=5.16",
        when={"use_decoder_only_language_model": False},
        stages={"qformer": QFORMER, "encoder": T5_ENCODER, "decoder": T5_DECODER},
        unembedding=T5_UNEMBEDDING,
        logits_to_keep=False,
        assumes={"text_config.model_type": ("t5",), "qformer_config.use_qformer_text_input": (False,)},
    ),
    Family(
        **INSTRUCTBLIP,
        name="instructblip-llama",
        when={"use_decoder_only_language_model": True},
        stages={"qformer": INSTRUCTBLIP_QFORMER, "decoder": CAUSAL_LM_DECODER},
        assumes={"text_config.model_type": ("llama",)},
    ),
    Family(
        **{**INSTRUCTBLIP, **ENCODER_DECODER},
        name="instructblip-t5",
        transformers=">=5.16",
        when={"use_decoder_only_language_model": False},
        stages={"qformer": INSTRUCTBLIP_QFORMER, "encoder": T5_ENCODER, "decoder": T5_DECODER},
        unembedding=T5_UNEMBEDDING,
        logits_to_keep=False,
        assumes={"text_config.model_type": ("t5",)},
    ),
    Family(
        model_type="mllama",
        handed="features",
        tower=MLLAMA_TOWER,
        transformers=">=5.20",
        stages={"decoder": MLLAMA_DECODER},
        grid="cross-attention tiles",
        image_at="cross",
        inputs={"pixel_values": "row", "aspect_ratio_ids": "row", "aspect_ratio_mask": "row"},
        needs=("cross_attention_mask",),
        limitations={"embedded": "the decoder reads the image through cross-attention, not from its input embeddings"},
    ),
    Family(
        model_type="florence2",
        stages={"encoder": BART_ENCODER, "decoder": BART_DECODER},
        unembedding=Unembedding(norms=()),
        **{
            **ENCODER_DECODER,
            "limitations": {
                "vision": CHANNELS,
                "projector": CHANNELS_FIRST,
                "several images": ONE_IMAGE_PER_TEXT,
                "packed": PROMPT_IN_ENCODER,
            },
        },
        grid="pooled square",
        writes_image=True,
        assumes={"text_config.model_type": ("bart",)},
    ),
    Family(
        model_type="kosmos-2",
        handed="tokens",
        tower=KOSMOS_TOWER,
        transformers=">=5.23",
        stages={"resampler": KOSMOS_RESAMPLER, "decoder": KOSMOS_DECODER},
        projector="image_to_text_projection",
        projector_after="resampler",
        unembedding=Unembedding(norms=("layer_norm",)),
        grid="masked latents",
        image_mask="image_embeds_position_mask",
        generator="text_model",
        writes_image=True,
        positions="own",
        assumes={"text_config.add_cross_attention": (False,)},
        limitations={
            "grid": RESAMPLER_LATENTS,
            "text alone": FORWARD_NEEDS_PIXELS,
            "several images": ONE_IMAGE_PER_TEXT,
            "packed": COMPUTES_POSITIONS,
            "static cache": STATIC_CACHE_FAILS,
            "padded generation": "transformers counts padding in the position ids of generated tokens",
        },
    ),
    Family(
        model_type="aria",
        tower=ARIA_TOWER,
        towers={"idefics3_vision": ARIA_TOWER},
        grid="tile latents",
        inputs={"pixel_values": "piece", "pixel_mask": "piece"},
        needs=("pixel_mask",),
        limitations={
            "grid": "image tokens are latents, each of which reads the whole picture, and the projector does not "
            "expose its attention to patches (torch.nn.MultiheadAttention)"
        },
    ),
    Family(
        model_type="kimi_k25",
        limitations={"projector": "the patches of a token are handed over side by side"},
        tower=KIMI_TOWER,
        stages={"decoder": Stage(head_dim="qk_head_dim", value_dim="v_head_dim")},
        projector="model.mm_projector",
        grid="merged kernel",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        assumes={"text_config.model_type": ("deepseek_v3",)},
    ),
    Family(**MOLMO2, when={"text_config.norm_after": False}),
    Family(
        **MOLMO2,
        name="molmo2-norms-after",
        when={"text_config.norm_after": True},
        stages={
            "decoder": Stage(attention=AttentionSpec(output="input_layernorm"), mlp="post_attention_layernorm"),
        },
    ),
    Family(
        model_type="llama4",
        handed="features",
        tower=LLAMA4_TOWER,
        transformers=">=5.20,!=5.24.0",  # whose own forward fails
        stages={"decoder": replace(CAUSAL_LM_DECODER, mlp="feed_forward")},
        projector="multi_modal_projector",
        grid="shuffled tiles",
        inputs={"pixel_values": "piece"},
    ),
    Family(
        model_type="deepseek_vl",
        tower=VISION_MODEL_TOWER,
        towers={"siglip_vision_model": VISION_MODEL_TOWER},
        projector="model.aligner",
        assumes=TESTED_DECODERS,
    ),
    Family(model_type="janus", tower=JANUS_TOWER, projector="model.aligner", assumes=TESTED_DECODERS),
    Family(
        model_type="fuyu",
        handed="features",
        stages={"decoder": Stage(attention=AttentionSpec(projection="self_attn.dense"))},
        unembedding=Unembedding(norms=("final_layernorm",)),
        transformers=">=5.20",
        projector="model.vision_embed_tokens",
        grid="rows with breaks",
        writes_image=True,
        inputs={"image_patches": "piece"},
        limitations={"vision": NO_TOWER, "several images": ONE_IMAGE_PER_TEXT},
    ),
    Family(
        model_type="chameleon",
        when={"swin_norm": False},
        stages={"decoder": CHAMELEON_DECODER},
        unembedding=CODEBOOK_UNSAID,
        projector=None,
        limitations={"vision": CODEBOOK, "projector": CODEBOOK_TOKENS, "features": CODEBOOK_TOKENS},
    ),
    Family(
        model_type="chameleon",
        name="chameleon-swin",
        when={"swin_norm": True},
        stages={
            "decoder": replace(
                CHAMELEON_DECODER, attention=AttentionSpec(output="input_layernorm"), mlp="post_attention_layernorm"
            )
        },
        unembedding=CODEBOOK_UNSAID,
        projector=None,
        limitations={"vision": CODEBOOK, "projector": CODEBOOK_TOKENS, "features": CODEBOOK_TOKENS},
    ),
    Family(
        model_type="got_ocr2",
        limitations={"projector": CHANNELS_FIRST},
        tower=SAM_TOWER,
        transformers=">=5.16",
        grid="tiles by run",
        inputs={"pixel_values": "piece"},
        flat_pictures=True,
        assumes=TESTED_DECODERS,
    ),
    Family(
        model_type="ovis2",
        handed="features",
        tower=OVIS_TOWER,
        transformers=">=5.18",
        projector="model.visual_embeddings_table",
        grid="tiles by mark",
        indicators="visual_indicator_token_ids",
        inputs={"pixel_values": "piece"},
        assumes={**TESTED_DECODERS, "vision_config.tokenize_function": ("softmax",)},
        limitations={"prefix": "the vision tower also computes the embedding of the token after each image"},
    ),
    Family(
        model_type="lfm2_vl",
        tower=SIGLIP2_TOWER,
        towers={"siglip2_vision_model": SIGLIP2_TOWER},
        transformers=">=5.21",
        stages={
            "decoder": Stage(
                attention=AttentionSpec(layers="typed", projection="self_attn.out_proj"), mlp="feed_forward"
            )
        },
        unembedding=Unembedding(norms=("embedding_norm",)),
        grid="shaped",
        inputs={"pixel_values": "piece", "pixel_attention_mask": "piece", "spatial_shapes": "piece"},
        limitations={"projector": ONCE_PER_TILE, "features": ONCE_PER_TILE},
    ),
    Family(
        model_type="minicpmv4_6",
        transformers=">=5.20",  # before, its own forward fails with slices of several sizes
        stages={"decoder": GATED_DECODER},
        projector="model.merger",
        grid="sliced",
        inputs={"pixel_values": "column", "target_sizes": "piece"},
        logits_to_keep=False,
        assumes={
            "text_config.model_type": ("qwen3_5_text",),
            "downsample_mode": ("16x",),
            "merger_times": (1,),
        },
        limitations={"vision": MERGES_WITHIN, "projector": ONCE_PER_TILE, "features": ONCE_PER_TILE},
    ),
    Family(
        model_type="granite4_vision",
        tower=GRANITE_TOWER,
        towers={"siglip_vision_model": GRANITE_TOWER},
        stages={"decoder": Stage(scale="residual_multiplier", embedding="model.language_model.layers.0")},
        unembedding=Unembedding(divisor="logits_scaling"),
        projector=None,
        grid="anyres",
        inputs={"pixel_values": "image", "image_sizes": "image"},
        assumes={"text_config.model_type": ("granite4_vision_text",), "vision_feature_select_strategy": ("full",)},
        limitations={
            "projector": "there are several projectors, each of which is handed other layers of the tower",
            "features": "each of several projectors gives features that are added before a layer of its own, so no "
            'output is the image features; write site="residual" in a later layer',
            "embedded": "image features are added before several layers, and none of them enters with the embeddings",
        },
    ),
    Family(
        model_type="paddleocr_vl",
        tower=PADDLE_TOWER,
        projector="model.projector",
        grid="merged raster",
        positions="mrope",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        needs=("mm_token_type_ids",),
        assumes={"vision_config.spatial_merge_size": (2,)},
    ),
    Family(
        model_type="exaone4_5",
        tower=EXAONE_TOWER,
        stages={"decoder": GEMMA_DECODER},
        projector="model.visual.merger",
        grid="merged windows",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        assumes={**MERGED_FOURS, "text_config.model_type": ("exaone4",)},
    ),
    Family(
        model_type="hunyuan_vl",
        tower=HUNYUAN_TOWER,
        transformers=">=5.22",
        projector="model.vision_tower.patch_merger",
        grid="merged raster with breaks",
        positions="mrope by row",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        needs=("mm_token_type_ids",),
        assumes={"vision_config.spatial_merge_size": (2,), "vision_config.temporal_patch_size": (1,)},
        limitations={
            "projector": "the projector runs once per image",
            "features": 'the projector runs once per image; write site="embedding"',
        },
    ),
    Family(
        model_type="lfm3_vl",
        tower=LFM3_TOWER,
        transformers=">=5.23",
        stages={
            "decoder": Stage(
                attention=AttentionSpec(
                    output="post_operator_norm",
                    gate="torch_sigmoid_0",
                    gate_when="use_attention_gate",
                    layers="typed",
                ),
                mlp="post_ffn_norm",
            )
        },
        unembedding=Unembedding(norms=("embedding_norm",)),
        grid="merged",
        inputs={"pixel_values": "piece", "image_grid_thw": "image"},
        assumes={**MERGED_FOURS, "text_config.model_type": ("lfm3",)},
    ),
    Family(
        model_type="fast_vlm",
        handed="features",
        assumes={**TESTED_DECODERS, "vision_feature_select_strategy": ("full",), "vision_feature_layer": (-1,)},
        limitations={"vision": CONVOLUTIONS},
    ),
    Family(
        model_type="perception_lm",
        tower=LAST_CLIP_TOWER,
        towers={"clip_vision_model": LAST_CLIP_TOWER},
        grid="equal tiles",
        assumes=TESTED_DECODERS,
    ),
)

FAMILIES: dict[str, Family] = {family.name: family for family in _TABLE}
"""The families, by name."""
