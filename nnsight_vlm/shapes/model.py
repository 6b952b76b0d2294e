"""The model `shapes`: its configuration and its processor.

A `LlavaForConditionalGeneration` like any on the hub, only small: a CLIP vision tower of 4 layers, a projector of 2, a
Llama decoder of 10, all 128 wide. An image of 80 x 80 pixels becomes 10 x 10 image tokens of 8 x 8 pixels each.

torch and transformers are imported inside the functions that need them: `import nnsight_vlm` imports this module.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from .language import SYSTEM, words
from .world import PIXELS

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, LlavaForConditionalGeneration, LlavaProcessor, PreTrainedTokenizerFast

PATCH = 8
"""Pixels along each side of a patch; every patch becomes one image token."""
IMAGE_TOKENS = (PIXELS // PATCH) ** 2
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<image>")

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] != 'system' %}" + SYSTEM + " {% endif %}"
    "{% for message in messages %}"
    "{% set said = message['content'] %}"
    "{% set parts = [{'type': 'text', 'text': said}] if said is string else said %}"
    "{% for part in parts if part['type'] == 'image' %}<image> {% endfor %}"
    "{% if message['role'] == 'user' %}user: {% elif message['role'] == 'assistant' %}assistant: {% endif %}"
    "{% for part in parts if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def vocabulary() -> dict[str, int]:
    """Every token with its id: the special tokens, then the words in alphabetical order."""
    return {token: index for index, token in enumerate((*SPECIAL_TOKENS, *words()))}


def build_model(seed: int = 0) -> LlavaForConditionalGeneration:
    """The model with random weights, float32; the seed fixes them."""
    import torch
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    ids = vocabulary()
    special = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
    text = LlamaConfig(
        vocab_size=len(ids),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=10,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.06,
        tie_word_embeddings=True,
        **special,
    )
    config = LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_id=ids["<image>"],
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        **special,
    )
    torch.manual_seed(seed)
    return LlavaForConditionalGeneration(config)


def vision_config() -> CLIPVisionConfig:
    """The vision tower that all embedded models have."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=PIXELS,
        patch_size=PATCH,
        projection_dim=128,
        hidden_act="gelu",
    )


def build_processor() -> LlavaProcessor:
    """The processor: tokenizer, image processor and chat template."""
    return processor_with(_tokenizer(), CHAT_TEMPLATE)


def processor_with(tokenizer: PreTrainedTokenizerFast, chat_template: str) -> LlavaProcessor:
    """The processor of a model with this tokenizer and chat template; images are prepared alike for all."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    side = {"height": PIXELS, "width": PIXELS}
    images = CLIPImageProcessorPil(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, in lower case; punctuation marks are tokens of their own and are rejoined when decoding."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    punctuation = pre_tokenizers.Split(Regex("[.,?!]"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), punctuation])
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        model_max_length=1024,
        padding_side="left",
    )


def save(model: LlavaForConditionalGeneration, folder: Path) -> None:
    """Write weights (float16) and processor to a folder, replacing what is there.

    Everything is written to a folder beside it first, which is then renamed: a run that stops midway leaves no
    half-written checkpoint.
    """
    import torch

    folder = Path(folder)
    fresh, old = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    half = build_model()
    half.load_state_dict(model.state_dict())
    half.to(torch.float16).save_pretrained(fresh)
    build_processor().save_pretrained(fresh)
    for file in fresh.iterdir():
        file.chmod(0o644)
    if folder.exists():
        folder.replace(old)
    fresh.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
