"""Tiny models of M-RoPE families whose decoders send every token to a few of several experts, and of GLM-4.6V.

In ERNIE's, image tokens and the two marks around them have experts of their own.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import transformers as hf

from . import parts
from .flexible import (
    GLM,
    GLM_MARKS,
    GLM_TEXT,
    PATCHES,
    QWEN,
    QWEN3_TOWER,
    QWEN_TEXT,
    SIZES,
    TOWER,
    WIDTH,
    _assemble,
    _base,
    _build,
    _glm_words,
    _hybrid,
    _local_visual,
    _marks,
    _QuietGlm,
    _qwen_processor,
    _qwen_words,
    _rope,
    _silence,
)

GLM_IDS = {
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
ERNIE = {
    "image_token": "<|IMAGE_PLACEHOLDER|>",
    "image_start_token": "<|IMAGE_START|>",
    "image_end_token": "<|IMAGE_END|>",
    "video_token": "<|VIDEO_PLACEHOLDER|>",
    "video_start_token": "<|VIDEO_START|>",
    "video_end_token": "<|VIDEO_END|>",
}
ROUTING = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def _routed(owner: Any, config: Any, attention: str) -> Any:
    """The model with experts that matter: `parts.draw` takes the first of their dimensions for that of the outputs.

    The numbers that are added to an expert's score where experts are chosen, and nowhere else, are no noughts.
    """
    module = _build(owner, config, attention)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if ".experts." in name and weight.dim() == 3:
                weight.mul_(weight.shape[1] ** 0.5)
        for name, scores in (*module.named_parameters(), *module.named_buffers()):
            if name.endswith("e_score_correction_bias"):
                scores.copy_(torch.randn(scores.shape, generator=generator) * 0.1)
    return module


# ------------------------------------------------------------------------------------------------------- Qwen and GLM


def _qwen3_vl_moe(attention: str) -> Any:
    """The second layer has no experts."""
    words = _qwen_words()
    text = {
        **_base(words),
        **ROUTING,
        "intermediate_size": 48,
        "head_dim": 8,
        "mlp_only_layers": [1],
        "rope_parameters": _rope(mrope_interleaved=True),
    }
    config = hf.Qwen3VLMoeConfig(
        text_config=text,
        vision_config={**QWEN3_TOWER, "deepstack_visual_indexes": [0, 1]},
        **_marks(words, QWEN),
    )
    return _routed(hf.Qwen3VLMoeForConditionalGeneration, config, attention)


def _qwen3_5_moe(attention: str) -> Any:
    """Each layer also has an expert for all tokens, behind a gate."""
    words = _qwen_words()
    text = {
        **_base(words),
        **ROUTING,
        "shared_expert_intermediate_size": 16,
        **_hybrid(),
    }
    config = hf.Qwen3_5MoeConfig(text_config=text, vision_config=QWEN3_TOWER, **_marks(words, QWEN))
    return _routed(hf.Qwen3_5MoeForConditionalGeneration, config, attention)


def _glm_experts(words: Any) -> dict[str, Any]:
    """Experts in two groups, one of which a token is sent to; the first layer has none."""
    return {
        **_base(words),
        "intermediate_size": 48,
        "head_dim": 8,
        "moe_intermediate_size": 16,
        "n_routed_experts": 6,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "rope_parameters": _rope(partial_rotary_factor=1.0),
    }


GLM_TOWER = {**TOWER, "hidden_size": 16, "intermediate_size": 24, "out_hidden_size": WIDTH, "image_size": 24}


def _glm_config(owner: Any, text: dict[str, Any], tower: dict[str, Any]) -> Any:
    words = _glm_words()
    ids = {name: words.convert_tokens_to_ids(token) for name, token in GLM_IDS.items()}
    return owner(text_config=text, vision_config=tower, **_marks(words, GLM), **ids)


def _glm4v_moe(attention: str) -> Any:
    config = _glm_config(hf.Glm4vMoeConfig, _glm_experts(_glm_words()), GLM_TOWER)
    return _routed(hf.Glm4vMoeForConditionalGeneration, config, attention)


def _glm46v(attention: str) -> Any:
    """GLM-4V's decoder and tower."""
    text = {**_base(_glm_words()), "model_type": "glm4v_text", "intermediate_size": 48, "rope_parameters": _rope()}
    config = _glm_config(hf.Glm46VConfig, text, {**GLM_TOWER, "model_type": "glm4v_vision"})
    return _build(hf.Glm46VForConditionalGeneration, config, attention)


def _glm46v_moe(attention: str) -> Any:
    """GLM-4.5V's."""
    text = {**_glm_experts(_glm_words()), "model_type": "glm4v_moe_text"}
    config = _glm_config(hf.Glm46VConfig, text, {**GLM_TOWER, "model_type": "glm4v_moe_vision"})
    return _routed(hf.Glm46VForConditionalGeneration, config, attention)


class _QuietGlm46(hf.Glm46VProcessor):
    """GLM-4.6V's own processor, likewise."""

    def create_mm_token_type_ids(self, input_ids: Any) -> Any:
        return super().create_mm_token_type_ids([list(map(int, row)) for row in input_ids])


def _glm_processor(owner: Any, pictures: Any) -> Any:
    # the bounds count the two frames that a still picture is made into
    pictures = pictures(**{**PATCHES, "size": {"shortest_edge": 512, "longest_edge": 2 * 48 * 48}})
    return _assemble(owner, pictures, parts.tokenizer(GLM, GLM_MARKS), None)


# -------------------------------------------------------------------------------------------------------------- ERNIE


@functools.cache
def _ernie_words() -> Any:
    return parts.tokenizer(ERNIE)


def _ernie(attention: str) -> Any:
    """The first layer has no experts; those of pictures are narrower than those of words."""
    words = _ernie_words()
    text = {
        **_base(words),
        "intermediate_size": 48,
        "moe_intermediate_size": [16, 8],
        "moe_num_experts": 4,
        "moe_k": 2,
        "moe_num_shared_experts": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
    }
    tower = {"depth": 2, "num_heads": 2, "hidden_size": 16, "intermediate_size": 24, "patch_size": 4}
    config = hf.Ernie4_5_VLMoeConfig(
        text_config=text, vision_config=tower, tie_word_embeddings=False, **_marks(words, ERNIE)
    )
    return _routed(hf.Ernie4_5_VLMoeForConditionalGeneration, config, attention)


def _ernie_processor() -> Any:
    bounds = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    pictures = hf.Ernie4_5_VLMoeImageProcessorPil(patch_size=4, merge_size=2, size=bounds)
    return _assemble(hf.Ernie4_5_VLMoeProcessor, pictures, parts.tokenizer(ERNIE), None)


def _local_tower(module: Any) -> None:
    _silence(module, "attn.proj.weight", "attn.proj.bias")


def _member(name: str, module: Any, processor: Any, text: str, local: Any = _local_visual) -> parts.Member:
    return parts.Member(name=name, module=module, processor=processor, text=text, sizes=SIZES, local=local)


QWEN_PARTS = functools.partial(_qwen_processor, hf.Qwen3VLProcessor)
GLM_PARTS = functools.partial(_glm_processor, _QuietGlm, hf.Glm4vImageProcessorPil)
GLM46_PARTS = functools.partial(_glm_processor, _QuietGlm46, hf.Glm46VImageProcessorPil)
ERNIE_TEXT = "<s>user : <|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|> what is red ? assistant :"

MEMBERS = (
    _member("qwen3_vl_moe", _qwen3_vl_moe, QWEN_PARTS, QWEN_TEXT),
    _member("qwen3_5_moe", _qwen3_5_moe, QWEN_PARTS, QWEN_TEXT),
    _member("glm4v_moe", _glm4v_moe, GLM_PARTS, GLM_TEXT),
    _member("glm46v", _glm46v, GLM46_PARTS, GLM_TEXT),
    _member("glm46v-moe", _glm46v_moe, GLM46_PARTS, GLM_TEXT),
    _member("ernie4_5_vl_moe", _ernie, _ernie_processor, ERNIE_TEXT, _local_tower),
)
