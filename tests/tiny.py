"""Tiny LLaVAs built from configs: random weights, large effects, nothing downloaded.

An image of 20 x 20 pixels is 5 x 5 = 25 image tokens; the decoder has 4 layers of 4 query and 2 key-value heads.
Weights are drawn wide, so that attention is far from uniform and every intervention moves the logits.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from float64 import computing_in
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

import nnsight_vlm as nv

SIDE, PATCH, IMAGE_TOKENS = 20, 4, 25
LAYERS, HEADS, KEY_VALUE_HEADS, WIDTH = 4, 4, 2, 32
WINDOW = 24
"""The sliding attention of the Mistral: shorter than any prompt with an image."""

SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
LEXICON = """
a an the is are was of on in and or not red green blue yellow black white square circle triangle star big small
left right above below foot hand bike dog what where which how many describe image picture objects see you yes no
one two three user assistant system helpful be please : . ? , ##s ##ball ##ing
"""
WORDS = LEXICON.split()
TEXT_MODELS = {
    "llama": (LlamaConfig, {}),
    "mistral": (MistralConfig, {"sliding_window": WINDOW, "head_dim": WIDTH // HEADS}),
    "qwen2": (Qwen2Config, {}),
}
CHAT_TEMPLATE = (
    "{{ bos_token }}system : be helpful . "
    "{% for message in messages %}user : "
    "{% for part in message['content'] if part['type'] == 'image' %}<image> {% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)


def vocabulary() -> dict[str, int]:
    return {token: number for number, token in enumerate((*SPECIAL, *WORDS))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, and word pieces: `football` is `foot`, `##ball`."""
    inner = Tokenizer(models.WordPiece(vocabulary(), unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
    )


def build_processor(size: dict[str, int] | None = None) -> LlavaProcessor:
    """Resize (by default the shorter edge), crop the centre; `size` as image processors write it."""
    crop = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(
        size=size or {"shortest_edge": SIDE}, crop_size=crop, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_config(text: str = "llama", tower: int = 2) -> LlavaConfig:
    """A decoder of this kind behind a vision tower of so many layers, of which the last but one is taken."""
    ids = vocabulary()
    special = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
    vision = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=tower,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=24,
    )
    kind, extra = TEXT_MODELS[text]
    decoder = kind(
        vocab_size=len(ids),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KEY_VALUE_HEADS,
        max_position_embeddings=1024,
        **special,
        **extra,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=decoder,
        image_token_id=ids["<image>"],
        image_seq_length=IMAGE_TOKENS,
        **special,
    )


def build_module(
    attention: str = "sdpa", text: str = "llama", seed: int = 0, tower: int = 2
) -> LlavaForConditionalGeneration:
    """A LLaVA in memory; equal `text` and `seed` give equal weights under either attention."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = LlavaForConditionalGeneration._from_config(
            build_config(text, tower), attn_implementation=attention
        ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.dim() > 1:
                spread = 1.0 if "embed" in name or "lm_head" in name else 1.5
                weight.copy_(torch.randn(weight.shape, generator=generator) * spread / weight[0].numel() ** 0.5)
            else:  # norms near one, biases near nought
                weight.add_(torch.randn(weight.shape, generator=generator) * 0.1)
        module.lm_head.weight[: len(SPECIAL)] = 0  # an answer is made of words
    module.generation_config.eos_token_id = None  # which do not end it
    module.requires_grad_(False)
    return module


def build(
    attention: str = "sdpa", text: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, tower: int = 2
) -> Any:
    """A tiny model as `nv.load` gives it.

    Weights are the same in every `dtype`; what computes with those of float64 must run within `float64.float64`.
    """
    return nv.load(build_module(attention, text, seed, tower).to(dtype), processor=build_processor())


def save(folder: Path) -> None:
    """Write the tiny model and its processor into a folder, as a user or a server loads them."""
    build_module().save_pretrained(folder)
    build_processor().save_pretrained(folder)


def load(attention: str = "sdpa", text: str = "llama", dtype: torch.dtype = torch.float32, tower: int = 2) -> Any:
    """The same model for every test that asks; nobody may change it."""
    return _loaded(attention, text, dtype, tower)


@functools.cache
def _loaded(attention: str, text: str, dtype: torch.dtype, tower: int) -> Any:
    with computing_in(dtype):
        return build(attention, text, dtype=dtype, tower=tower)


def picture(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Noise of `(width, height)` pixels."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def several(model: Any, padding_side: str = "left") -> nv.Prompt:
    """Three rows of different length in one encoding; the last has two pictures."""
    texts = ["see the dog", "describe the big red square left of the circle .", "<image> or <image> ?"]
    processor = model.processor
    spelled = [f"<s>system : user : {'' if '<image>' in text else '<image> '}{text} assistant :" for text in texts]
    pictures = [picture(number) for number in range(4)]
    encoding = processor(text=spelled, images=pictures, padding=True, padding_side=padding_side, return_tensors="pt")
    return nv.encode(model, inputs=dict(encoding))


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest difference as a share of the expected values' scale; NaN anywhere is infinitely far."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    away = (found.double() - expected.double()).abs().max()
    return float(away / expected.abs().max().clamp(min=1e-30)) if bool(away.isfinite()) else float("inf")
