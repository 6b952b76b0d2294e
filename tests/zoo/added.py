"""Families whose rows were added by following docs/adding-a-family.md."""

from __future__ import annotations

from typing import Any

from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    PixtralImageProcessorPil,
    Qwen3Config,
)

from .parts import Member, tokenizer
from .plain import HEADS, PIXTRAL_LONGEST, PIXTRAL_PATCH, WIDTH, build, decoder, pixtral_tower, silence, specials

NAMED = {"image_token": "<|image_pad|>", "image_break_token": "<|vision_pad|>", "image_end_token": "<|vision_end|>"}


def lighton_ocr_processor() -> LightOnOcrProcessor:
    """Every picture keeps its shape; all its tokens stand in one run, without breaks."""
    images = PixtralImageProcessorPil(
        size={"longest_edge": PIXTRAL_LONGEST}, patch_size={"height": 2 * PIXTRAL_PATCH, "width": 2 * PIXTRAL_PATCH}
    )
    return LightOnOcrProcessor(
        image_processor=images, tokenizer=tokenizer(NAMED), patch_size=PIXTRAL_PATCH, spatial_merge_size=2
    )


def lighton_ocr(attention: str) -> Any:
    """Pixtral, 2 x 2 patches merged to a token, Qwen3."""
    words = tokenizer(NAMED)
    config = LightOnOcrConfig(
        vision_config=pixtral_tower(),
        text_config=decoder(Qwen3Config, words, head_dim=WIDTH // HEADS),
        image_token_id=words.convert_tokens_to_ids(NAMED["image_token"]),
        spatial_merge_size=2,
        tie_word_embeddings=False,
        **specials(words),
    )
    return build(LightOnOcrForConditionalGeneration, config, attention)


def lighton_ocr_local(module: Any) -> None:
    """No attention between patches."""
    for layer in module.model.vision_encoder.transformer.layers:
        silence(layer.attention.o_proj)


MEMBERS = (
    Member(
        name="lighton_ocr",
        module=lighton_ocr,
        processor=lighton_ocr_processor,
        text="<s>user : <|image_pad|> what is red ? assistant :",
        sizes=((24, 20), (20, 33), (40, 16)),
        local=lighton_ocr_local,
    ),
)
