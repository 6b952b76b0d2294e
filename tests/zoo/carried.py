"""Families whose image processors only torchvision can carry, on the few functions of it that are needed."""

from __future__ import annotations

import functools
from typing import Any

import transformers as hf

from . import parts
from .flexible import _assemble, _base, _build, _without_torchvision
from .parts import Member
from .plain import silence

PATCH, CROP = 4, 20
"""A crop has 5 x 5 patches, of which 2 x 2 are pooled into a token: the last row and column are pooled with padding."""

MOLMO2 = {"image_token": "<|image|>", "video_token": "<|video|>"}
MOLMO2_MARKS = (
    *("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>"),
    *("<frame_start>", "<im_end>", "<frame_end>", "<im_low>"),
)
"""What stands around a picture has an embedding and no logit."""


@functools.cache
def _molmo2_words() -> Any:
    return parts.tokenizer(MOLMO2, behind=MOLMO2_MARKS)


def _molmo2(attention: str, **text: Any) -> Any:
    """Two layers of the tower are pooled, and added to what the tokens embed; each marks tokens of the picture."""
    words = _molmo2_words()
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8}
    config = hf.Molmo2Config(
        text_config={
            **_base(words),
            "vocab_size": len(words) - len(MOLMO2_MARKS),
            "additional_vocab_size": len(MOLMO2_MARKS),
            "intermediate_size": 48,
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            **text,
        },
        vision_config={
            **heads,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "image_size": [CROP, CROP],
            "patch_size": PATCH,
        },
        adapter_config={
            **heads,
            "hidden_size": 16,
            "intermediate_size": 24,
            "text_hidden_size": 32,
            "vision_feature_layer": [1, 0],
        },
        image_start_token_id=words.convert_tokens_to_ids("<im_start>"),
        low_res_image_start_token_id=words.convert_tokens_to_ids("<low_res_im_start>"),
        image_end_token_id=words.convert_tokens_to_ids("<im_end>"),
        image_patch_id=words.convert_tokens_to_ids("<im_patch>"),
        frame_start_token_id=words.convert_tokens_to_ids("<frame_start>"),
        frame_end_token_id=words.convert_tokens_to_ids("<frame_end>"),
    )
    return _build(hf.Molmo2ForConditionalGeneration, config, attention)


def _molmo2_processor() -> Any:
    owner = _without_torchvision("molmo2.image_processing_molmo2", "Molmo2ImageProcessor")
    pictures = owner(
        size={"height": CROP, "width": CROP},
        patch_size=PATCH,
        max_crops=4,
        overlap_margins=[1, 1],
        pooling_size=[2, 2],
    )
    return _assemble(hf.Molmo2Processor, pictures, None, _molmo2_words())


def _molmo2_local(module: Any) -> None:
    """No attention between patches; those of a token are still pooled."""
    for layer in module.model.vision_tower.layers:
        silence(layer.self_attn.o_proj)


KIMI = {"image_token": "<|media_pad|>", "video_token": "<|kimi_k25_video_placeholder|>"}
KIMI_MARKS = ("<|media_begin|>", "<|media_content|>", "<|media_end|>")


@functools.cache
def _kimi_words() -> Any:
    return parts.tokenizer({"image_token": KIMI["image_token"]}, KIMI_MARKS, behind=(KIMI["video_token"],))


def _kimi_k25(attention: str) -> Any:
    """A decoder that caches keys and values compressed, with one plain layer and three of experts."""
    words = _kimi_words()
    config = hf.Kimi_K25Config(
        text_config={
            **_base(words),
            "model_type": "deepseek_v3",
            "vocab_size": len(words) - 1,
            "num_key_value_heads": 4,
            "intermediate_size": 48,
            "moe_intermediate_size": 24,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_group": 1,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "q_lora_rank": 16,
            "kv_lora_rank": 16,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "patch_size": PATCH,
            "pos_emb_height": 8,
            "pos_emb_width": 8,
            "merge_kernel_size": [2, 2],
        },
        projection_hidden_size=16,
        image_token_id=words.convert_tokens_to_ids(KIMI["image_token"]),
        video_token_id=words.convert_tokens_to_ids(KIMI["video_token"]),
        tie_word_embeddings=False,
    )
    return _build(hf.Kimi_K25ForConditionalGeneration, config, attention)


def _kimi_processor() -> Any:
    owner = _without_torchvision("kimi_k25.image_processing_kimi_k25", "Kimi_K25ImageProcessor")
    pictures = owner(patch_size=PATCH, merge_size=2, max_patches=64, size={"max_height": 16, "max_width": 16})
    return _assemble(hf.Kimi_K25Processor, pictures, _kimi_words(), None)


def _kimi_local(module: Any) -> None:
    """No attention between patches."""
    for layer in module.model.vision_tower.layers:
        silence(_projection(layer))


def _projection(layer: Any) -> Any:
    """What a layer's attention ends with."""
    return next(part for name, part in layer.named_modules() if name.endswith(".proj"))


MEMBERS = tuple(
    Member(
        name=name,
        module=functools.partial(_molmo2, **text),
        processor=_molmo2_processor,
        text="<s>user : <|image|> what is red ? assistant :",
        sizes=((20, 18), (33, 21), (30, 50)),
        local=_molmo2_local,
    )
    for name, text in (
        ("molmo2", {"norm_after": False, "qk_norm_type": "qwen3"}),
        ("molmo2-norms-after", {"norm_after": True, "qk_norm_type": "olmo", "rope_scaling_layers": [0, 2]}),
    )
)
MEMBERS += (
    Member(
        name="kimi_k25",
        module=_kimi_k25,
        processor=_kimi_processor,
        text="<s>user : <|media_begin|> image <|media_content|><|media_pad|><|media_end|> what is red ? assistant :",
        sizes=((48, 24), (21, 33), (75, 50)),
        local=_kimi_local,
    ),
)
