"""Tiny models of families that came to transformers in 2026.

MiniCPM-V cuts a large picture into slices and puts the pixels of all of them side by side.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import transformers as hf

from . import parts
from .flexible import (
    LAYERS,
    MERGE,
    PATCH,
    PATCHES,
    QWEN,
    TOWER,
    WIDTH,
    _assemble,
    _base,
    _build,
    _hybrid,
    _local_visual,
    _marks,
    _rope,
)

TEXT = "<s>user : {} what is red ? assistant :"


def silence(module: Any, *endings: str) -> None:
    """Nought in the weights whose names end so."""
    found = [weight for name, weight in module.named_parameters() if name.endswith(endings)]
    assert found, endings
    for weight in found:
        weight.zero_()


# --------------------------------------------------------------------------------------------------------- MiniCPM-V

MINICPM = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "image_start_token": "<image>",
    "image_end_token": "</image>",
    "slice_start_token": "<slice>",
    "slice_end_token": "</slice>",
    "image_id_start_token": "<image_id>",
    "image_id_end_token": "</image_id>",
}


def _minicpm(attention: str) -> Any:
    words = parts.tokenizer(MINICPM)
    text = {
        **_base(words),
        "model_type": "qwen3_5_text",
        "intermediate_size": 48,
        **_hybrid(),
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": PATCH,
        "image_size": 64,
    }
    config = hf.MiniCPMV4_6Config(
        text_config=text,
        vision_config=vision,
        insert_layer_id=0,
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    return _build(hf.MiniCPMV4_6ForConditionalGeneration, config, attention)


def _minicpm_processor() -> Any:
    pictures = hf.MiniCPMV4_6ImageProcessorPil(max_slice_nums=4, scale_resolution=64, patch_size=PATCH)
    no_videos = SimpleNamespace(slice_mode=True, downsample_mode="16x")  # what the processor asks its video part
    return _assemble(hf.MiniCPMV4_6Processor, pictures, no_videos, parts.tokenizer(MINICPM))


def _local_minicpm(module: Any) -> None:
    silence(module.model.vision_tower, "self_attn.out_proj.weight", "self_attn.out_proj.bias")


# --------------------------------------------------------------------------------------------------- Granite 4 Vision

TILE = 16
PINPOINTS = [[TILE * down, TILE * across] for down, across in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
HALVED = "2/4"
"""4 x 4 patches are a window, which a Q-Former makes 2 x 2 tokens of."""


def _granite(attention: str) -> Any:
    words = parts.tokenizer({"image_token": "<image>"})
    multiplied = {"attention_multiplier": 0.35, "residual_multiplier": 0.5, "logits_scaling": 2.0}
    config = hf.Granite4VisionConfig(
        text_config={**_base(words), **multiplied, "intermediate_size": 48, "embedding_multiplier": 2.0},
        vision_config=hf.SiglipVisionConfig(
            hidden_size=64,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=TILE,
            patch_size=2,
            vision_use_head=False,
        ),
        qformer_config={
            "model_type": "blip_2_qformer",
            "hidden_size": 64,
            "encoder_hidden_size": 64,
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "intermediate_size": 24,
            "cross_attention_frequency": 1,
            "use_qformer_text_input": False,
        },
        image_token_index=words.image_token_id,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=PINPOINTS,
        downsample_rate=HALVED,
        deepstack_layer_map=[[-2, 0], [-1, 2]],
        spatial_target_layers=[1, 3],
    )
    return _build(hf.Granite4VisionForConditionalGeneration, config, attention)


def _granite_processor() -> Any:
    square = {"height": TILE, "width": TILE}
    pictures = hf.LlavaNextImageProcessorPil(
        size={"shortest_edge": TILE}, crop_size=square, image_grid_pinpoints=PINPOINTS
    )
    return hf.Granite4VisionProcessor(
        image_processor=pictures,
        tokenizer=parts.tokenizer({"image_token": "<image>"}),
        patch_size=2,
        vision_feature_select_strategy="full",
        downsample_rate=HALVED,
    )


def _local_granite(module: Any) -> None:
    silence(module.model.vision_tower, "self_attn.out_proj.weight", "self_attn.out_proj.bias")
    silence(module.model.layerwise_projectors, "attention.output.dense.weight", "attention.output.dense.bias")


# ------------------------------------------------------------------------------------------------------ PaddleOCR-VL

BOUNDS = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
QWEN_TEXT = TEXT.format("<|vision_start|><|image_pad|><|vision_end|>")
SIZES = ((40, 24), (21, 33))


def _paddle(attention: str) -> Any:
    words = parts.tokenizer(QWEN)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": PATCH,
        "image_size": 24,
    }
    config = hf.PaddleOCRVLConfig(
        text_config={**_base(words), "intermediate_size": 48, "head_dim": 8, "rope_parameters": _rope()},
        vision_config=vision,
        tie_word_embeddings=False,
        **_marks(words, QWEN),
    )
    return _build(hf.PaddleOCRVLForConditionalGeneration, config, attention)


def _paddle_processor() -> Any:
    pictures = hf.PaddleOCRVLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size=BOUNDS)
    return hf.PaddleOCRVLProcessor(pictures, parts.tokenizer(QWEN))


def _local_paddle(module: Any) -> None:
    silence(module.model.visual, "self_attn.out_proj.weight", "self_attn.out_proj.bias")


# --------------------------------------------------------------------------------------------------------- EXAONE 4.5


def _exaone(attention: str) -> Any:
    words = parts.tokenizer(QWEN)
    text = {
        **_base(words),
        "model_type": "exaone4",
        "intermediate_size": 48,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"] * (LAYERS // 2),
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    }
    tower = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": WIDTH, "num_key_value_heads": 1}
    config = hf.Exaone4_5_Config(
        text_config=text,
        vision_config={**TOWER, **tower, "window_size": 16, "fullatt_block_indexes": [1]},
        image_token_id=words.image_token_id,
        video_token_id=words.video_token_id,
    )
    return _build(hf.Exaone4_5_ForConditionalGeneration, config, attention)


def _exaone_processor() -> Any:
    return _assemble(hf.Exaone4_5_Processor, hf.Qwen2VLImageProcessorPil(**PATCHES), parts.tokenizer(QWEN), None)


# --------------------------------------------------------------------------------------------------------- HunYuan-VL

HUNYUAN = {"image_token": "<|image|>", "image_start_token": "<|begin|>", "image_end_token": "<|end|>"}


def _hunyuan(attention: str) -> Any:
    words = parts.tokenizer(HUNYUAN)
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 10.0, "factor": 1.0, "mrope_section": [1, 1, 1, 1]}
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "patch_size": PATCH,
        "max_image_size": 32,
    }
    config = hf.HunYuanVLConfig(
        text_config={**_base(words), "intermediate_size": 48, "head_dim": 8, "rope_parameters": rope},
        vision_config=vision,
        tie_word_embeddings=False,
        image_token_id=words.image_token_id,
        im_start_id=words.image_start_token_id,
        im_end_id=words.image_end_token_id,
    )
    return _build(hf.HunYuanVLForConditionalGeneration, config, attention, seed=2)


def _hunyuan_processor() -> Any:
    pictures = hf.HunYuanVLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, size=BOUNDS)
    return hf.HunYuanVLProcessor(pictures, parts.tokenizer(HUNYUAN))


def _local_hunyuan(module: Any) -> None:
    silence(module.model.vision_tower, "self_attn.o_proj.weight", "self_attn.o_proj.bias")


# ------------------------------------------------------------------------------------------------------------ LFM3-VL


def _lfm3(attention: str) -> Any:
    words = parts.tokenizer(QWEN)
    text = {
        **_base(words),
        "model_type": "lfm3",
        "intermediate_size": 48,
        "head_dim": 8,
        "sliding_window": 12,
        "conv_L_cache": 4,
        "layer_types": ["conv", "full_attention", "sliding_attention", "full_attention"],
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "layer_types": ["conv", "full_attention"],
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
    }
    config = hf.Lfm3VlConfig(
        text_config=text,
        vision_config=vision,
        projector_hidden_size=24,
        tie_word_embeddings=False,
        **_marks(words, QWEN),
    )
    return _build(hf.Lfm3VlForConditionalGeneration, config, attention)


def _lfm3_processor() -> Any:
    return _assemble(hf.Lfm3VlProcessor, hf.Qwen2VLImageProcessorPil(**PATCHES), parts.tokenizer(QWEN), None)


def _local_lfm3(module: Any) -> None:
    silence(module.model.vision_tower, "self_attn.out_proj.weight", "conv.out_proj.weight")


MEMBERS = (
    parts.Member(
        name="minicpmv4_6",
        module=_minicpm,
        processor=_minicpm_processor,
        text=TEXT.format("<|image_pad|>"),
        sizes=((40, 24), (90, 70)),
        local=_local_minicpm,
    ),
    parts.Member(
        name="granite4_vision",
        module=_granite,
        processor=_granite_processor,
        text=TEXT.format("<image>"),
        sizes=((14, 12), (40, 18), (36, 28)),
        local=_local_granite,
    ),
    parts.Member(
        name="paddleocr_vl",
        module=_paddle,
        processor=_paddle_processor,
        text=QWEN_TEXT,
        sizes=SIZES,
        local=_local_paddle,
    ),
    parts.Member(
        name="exaone4_5",
        module=_exaone,
        processor=_exaone_processor,
        text=QWEN_TEXT,
        sizes=SIZES,
        local=_local_visual,
    ),
    parts.Member(
        name="hunyuan_vl",
        module=_hunyuan,
        processor=_hunyuan_processor,
        text=TEXT.format("<|begin|><|image|><|end|>"),
        sizes=SIZES,
        local=_local_hunyuan,
    ),
    parts.Member(
        name="lfm3_vl",
        module=_lfm3,
        processor=_lfm3_processor,
        text=QWEN_TEXT,
        sizes=SIZES,
        local=_local_lfm3,
    ),
)
