"""Tiny models whose images are one tile: fixed squares, rows with breaks, convolutions and codebooks."""

from __future__ import annotations

import importlib
import sys
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from tokenizers import Regex, models, normalizers, pre_tokenizers
from torch import nn
from transformers import (
    ChameleonConfig,
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLImageProcessorPil,
    DeepseekVLProcessor,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    FuyuConfig,
    FuyuForCausalLM,
    FuyuImageProcessorPil,
    FuyuProcessor,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PersimmonConfig,
    PixtralImageProcessorPil,
    PixtralVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    ResNetConfig,
    SiglipVisionConfig,
)
from transformers.models.chameleon.configuration_chameleon import ChameleonVQVAEConfig
from transformers.models.janus.configuration_janus import JanusVisionConfig, JanusVQVAEConfig
from transformers.models.pixtral import image_processing_pil_pixtral
from transformers.utils import is_torchvision_available

from .parts import Member, draw, tokenizer

LAYERS, HEADS, KEY_VALUE_HEADS, WIDTH, VISION = 4, 4, 2, 32, 32
WINDOW = 12
"""The sliding attention of the Mistral: shorter than any prompt with an image."""

TEXT = "<s>user : <image> what is red ? assistant :"
IMAGE = {"image_token": "<image>"}
MARKS = {"image_break_token": "[IMG_BREAK]", "image_end_token": "[IMG_END]"}
ENDS = {"boi_token": "<boi>", "eoi_token": "<eoi>"}
CODES = 64


def build(kind: Any, config: Any, attention: str | dict[str, str], spread: float = 1.5) -> Any:
    """A model of random weights; equal configs give equal weights under every attention."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind._from_config(config, attn_implementation=attention)
    return draw(module, spread=spread)


def specials(words: PreTrainedTokenizerFast) -> dict[str, int]:
    """The ids that configs want, inside the vocabulary."""
    return {"pad_token_id": words.pad_token_id, "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id}


def sizes(words: PreTrainedTokenizerFast) -> dict[str, Any]:
    """What every decoder of this file is given."""
    return {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 512,
        **specials(words),
    }


def decoder(kind: Any, words: PreTrainedTokenizerFast, **extra: Any) -> Any:
    """A decoder with grouped key-value heads."""
    return kind(num_key_value_heads=KEY_VALUE_HEADS, **sizes(words), **extra)


def tower(kind: Any, side: int, patch: int, **extra: Any) -> Any:
    """A vision tower of two layers and square patches."""
    return kind(
        hidden_size=VISION,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side,
        patch_size=patch,
        **extra,
    )


def silence(*layers: Any) -> None:
    """The given linear or convolutional layers answer nought."""
    for layer in layers:
        layer.weight.zero_()
        if layer.bias is not None:
            layer.bias.zero_()


def own_taps(module: Any) -> None:
    """Convolutions keep the taps that lie in the block of pixels an output stands for."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            low, high = layer.padding[0], layer.padding[0] + layer.stride[0]
            keep = torch.zeros_like(layer.weight)
            keep[..., low:high, low:high] = 1
            layer.weight.mul_(keep / keep.mean() ** 0.5)  # as loud as before


# ------------------------------------------------------------------ llava: a CLIP tower, a square of patches

LLAVA_SIDE, LLAVA_PATCH = 16, 4


def llava_processor() -> LlavaProcessor:
    """Shorter edge resized, centre cropped."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": LLAVA_SIDE}, crop_size={"height": LLAVA_SIDE, "width": LLAVA_SIDE}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(IMAGE),
        patch_size=LLAVA_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def llava(attention: str, text: Any = LlamaConfig, **extra: Any) -> Any:
    """CLIP, two linear layers, a decoder."""
    words = tokenizer(IMAGE)
    config = LlavaConfig(
        vision_config=tower(CLIPVisionConfig, LLAVA_SIDE, LLAVA_PATCH, intermediate_size=48, projection_dim=24),
        text_config=decoder(text, words, **extra),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(LLAVA_SIDE // LLAVA_PATCH) ** 2,
        **specials(words),
    )
    return build(LlavaForConditionalGeneration, config, attention)


def llava_mistral(attention: str) -> Any:
    """A decoder whose every layer slides."""
    return llava(attention, MistralConfig, sliding_window=WINDOW, head_dim=WIDTH // HEADS)


def clip_local(module: Any) -> None:
    """No attention between patches."""
    for layer in module.model.vision_tower.encoder.layers:
        silence(layer.self_attn.out_proj)


# ------------------------------------------------------------------ Pixtral towers: rows with breaks

PIXTRAL_PATCH, PIXTRAL_LONGEST = 4, 32


def pixtral_class() -> Any:
    """The family's own processor, whose module takes one function from torchvision's side; the Pil side has it too."""
    home = "transformers.models.pixtral"
    stand_in = {} if is_torchvision_available() else {f"{home}.image_processing_pixtral": image_processing_pil_pixtral}
    with patch.dict(sys.modules, stand_in):
        return importlib.import_module(f"{home}.processing_pixtral").PixtralProcessor


def pixtral_processor(merge: int) -> Any:
    """Every picture keeps its shape; each row of tokens ends in a break, the last in an end."""
    images = PixtralImageProcessorPil(
        size={"longest_edge": PIXTRAL_LONGEST // 2 * merge},
        patch_size={"height": PIXTRAL_PATCH, "width": PIXTRAL_PATCH},
    )
    return pixtral_class()(
        image_processor=images,
        tokenizer=tokenizer({"image_token": "[IMG]", **MARKS}),
        patch_size=PIXTRAL_PATCH,
        spatial_merge_size=merge,
    )


def pixtral_tower() -> PixtralVisionConfig:
    """Two layers with rotary places."""
    return tower(PixtralVisionConfig, PIXTRAL_LONGEST, PIXTRAL_PATCH, intermediate_size=48)


def mistral3(attention: str) -> Any:
    """Pixtral, 2 x 2 patches merged to a token, Mistral."""
    words = tokenizer({"image_token": "[IMG]", **MARKS})
    config = Mistral3Config(
        vision_config=pixtral_tower(),
        text_config=decoder(MistralConfig, words, head_dim=WIDTH // HEADS, sliding_window=None),
        image_token_index=words.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
        **specials(words),
    )
    return build(Mistral3ForConditionalGeneration, config, attention)


def llava_pixtral(attention: str) -> Any:
    """Pixtral as the tower of a LLaVA: one patch a token."""
    words = tokenizer({"image_token": "[IMG]", **MARKS})
    config = LlavaConfig(
        vision_config=pixtral_tower(),
        text_config=decoder(MistralConfig, words, head_dim=WIDTH // HEADS, sliding_window=None),
        image_token_id=words.convert_tokens_to_ids("[IMG]"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        **specials(words),
    )
    return build(LlavaForConditionalGeneration, config, attention)


def pixtral_local(module: Any) -> None:
    """No attention between patches."""
    for layer in module.model.vision_tower.transformer.layers:
        silence(layer.attention.o_proj)


# ------------------------------------------------------------------ fast_vlm: a map of convolutions

FAST_SIDE, FAST_STRIDE = 32, 8


def fast_processor() -> LlavaProcessor:
    """As LLaVA's, without a class token; a token stands for `FAST_STRIDE` pixels."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": FAST_SIDE}, crop_size={"height": FAST_SIDE, "width": FAST_SIDE}
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(IMAGE),
        patch_size=FAST_STRIDE,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
    )


def fast_vlm(attention: str) -> Any:
    """A ResNet stands in for the FastViT, which needs timm: both hand on a map `[image, channel, row, column]`."""
    words = tokenizer(IMAGE)
    vision = ResNetConfig(embedding_size=16, hidden_sizes=[16, VISION], depths=[1, 1], layer_type="basic")
    vision.hidden_size = VISION
    config = FastVlmConfig(
        vision_config=vision,
        text_config=decoder(Qwen2Config, words),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=(FAST_SIDE // FAST_STRIDE) ** 2,
        **specials(words),
    )
    return build(FastVlmForConditionalGeneration, config, {"text_config": attention, "vision_config": "eager"})


def fast_local(module: Any) -> None:
    """Every convolution and the pooling see one block."""
    own_taps(module.model.vision_tower)
    module.model.vision_tower.embedder.pooler = nn.MaxPool2d(2, 2)


# ------------------------------------------------------------------ janus, deepseek_vl: padded squares

SQUARE_SIDE, SQUARE_PATCH = 32, 8


def janus_processor() -> JanusProcessor:
    """Longer edge resized, padded to a square; the image stands between two marks."""
    return JanusProcessor(
        image_processor=JanusImageProcessorPil(size={"height": SQUARE_SIDE, "width": SQUARE_SIDE}, min_size=4),
        tokenizer=tokenizer({**IMAGE, **ENDS}),
        num_image_tokens=(SQUARE_SIDE // SQUARE_PATCH) ** 2,
    )


def janus(attention: str) -> Any:
    """Understanding uses tower and aligner; the codebook that paints is there and idle."""
    words = tokenizer({**IMAGE, **ENDS})
    codes = JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=16,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1],
        num_res_blocks=1,
        projection_dim=WIDTH,
        image_token_embed_dim=WIDTH,
    )
    tokens = (SQUARE_SIDE // SQUARE_PATCH) ** 2
    config = JanusConfig(
        vision_config=tower(
            JanusVisionConfig, SQUARE_SIDE, SQUARE_PATCH, mlp_ratio=1.5, projection_dim=WIDTH, num_image_tokens=tokens
        ),
        text_config=decoder(LlamaConfig, words),
        vq_config=codes,
        image_token_id=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        **specials(words),
    )
    return build(JanusForConditionalGeneration, config, attention)


def janus_local(module: Any) -> None:
    """No attention between patches."""
    for layer in module.model.vision_model.encoder.layers:
        silence(layer.self_attn.projection_layer)


def deepseek_processor() -> DeepseekVLProcessor:
    """Longer edge resized, padded to a square."""
    return DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessorPil(size={"height": SQUARE_SIDE, "width": SQUARE_SIDE}, min_size=4),
        tokenizer=tokenizer(IMAGE),
        num_image_tokens=(SQUARE_SIDE // SQUARE_PATCH) ** 2,
    )


def deepseek_vl(attention: str) -> Any:
    """SigLIP, two linear layers, Llama."""
    words = tokenizer(IMAGE)
    config = DeepseekVLConfig(
        vision_config=tower(SiglipVisionConfig, SQUARE_SIDE, SQUARE_PATCH, intermediate_size=48),
        text_config=decoder(LlamaConfig, words),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
        **specials(words),
    )
    return build(DeepseekVLForConditionalGeneration, config, attention)


def siglip_local(module: Any) -> None:
    """No attention between patches."""
    for layer in module.model.vision_model.encoder.layers:
        silence(layer.self_attn.out_proj)


# ------------------------------------------------------------------ chameleon: codes of a codebook

CHAMELEON_SIDE = 16
CODE_NAMES = tuple("IMGIMG" + "".join(chr(ord("A") + int(digit)) for digit in str(code)) + "Z" for code in range(CODES))


def chameleon_tokenizer() -> PreTrainedTokenizerFast:
    """The vocabulary names every code of the codebook, in letters for digits."""
    words = tokenizer({**IMAGE, **ENDS}, extra=("<sep>", *CODE_NAMES))
    words.sep_token = "<sep>"
    return words


def chameleon_processor() -> ChameleonProcessor:
    """Shorter edge resized, centre cropped; the image stands between two marks."""
    side = CHAMELEON_SIDE
    images = ChameleonImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return ChameleonProcessor(
        image_processor=images, tokenizer=chameleon_tokenizer(), image_seq_length=(side // 4) ** 2
    )


def chameleon(attention: str, **extra: Any) -> Any:
    """Images become codes, and codes words: there is no projector."""
    words = chameleon_tokenizer()
    codes = ChameleonVQVAEConfig(
        embed_dim=8,
        num_embeddings=CODES,
        latent_channels=32,
        resolution=CHAMELEON_SIDE,
        base_channels=32,
        channel_multiplier=[1, 1, 1],
        num_res_blocks=1,
    )
    vocabulary = {name: words.convert_tokens_to_ids(name) for name in ("<image>", *CODE_NAMES)}
    whole = {"vq_config": codes, "vocabulary_map": vocabulary, "tie_word_embeddings": False, **extra}
    return build(ChameleonForConditionalGeneration, decoder(ChameleonConfig, words, **whole), attention)


def chameleon_swin(attention: str) -> Any:
    """As the larger Chameleon: norms behind attention and feed-forward, not before."""
    return chameleon(attention, swin_norm=True)


class PlaceNorm(nn.Module):
    """A norm over the channels of each place by itself."""

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        away = maps - maps.mean(1, keepdim=True)
        return away / (away.square().mean(1, keepdim=True) + 1e-6).sqrt()


def chameleon_local(module: Any) -> None:
    """No norm over the picture, no attention, every convolution sees one block."""
    encoder = module.model.vqmodel.encoder
    own_taps(encoder)
    silence(encoder.mid.attn_1.proj_out)
    for part in list(encoder.modules()):
        for name, child in part.named_children():
            if isinstance(child, nn.GroupNorm):
                setattr(part, name, PlaceNorm())


# ------------------------------------------------------------------ fuyu: no tower, rows with newlines

FUYU_PATCH = 6


def fuyu_tokenizer() -> PreTrainedTokenizerFast:
    """As the real one it opens every text with an underscore, which the processor takes away again."""
    words = tokenizer(extra=("<0x00>", "<0x01>", "<0x02>", "<0x03>", "<0x04>"))
    inner = words.backend_tokenizer
    marks = {token: len(words) + number for number, token in enumerate(("|SPEAKER|", "|NEWLINE|", "▁"))}
    inner.model = models.WordPiece({**words.get_vocab(), **marks}, unk_token="<unk>")
    inner.normalizer = normalizers.Prepend("▁ ")
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\|[A-Z]+\|"), "isolated")]
    )
    return words


class FuyuPil(FuyuImageProcessorPil):
    """The Pil variant as it is, but taking the tensors that the processor hands it."""

    def patchify_image(self, image: Any, patch_size: Any = None) -> torch.Tensor:
        return torch.from_numpy(super().patchify_image(np.asarray(image), patch_size))


def fuyu_processor() -> FuyuProcessor:
    """Pictures keep their shape and are shrunk into the size; the image comes first, whatever the text."""
    images = FuyuPil(
        size={"height": 4 * FUYU_PATCH, "width": 5 * FUYU_PATCH}, patch_size={"height": FUYU_PATCH, "width": FUYU_PATCH}
    )
    return FuyuProcessor(image_processor=images, tokenizer=fuyu_tokenizer())


def fuyu(attention: str) -> Any:
    """A linear layer over patches, Persimmon."""
    words = fuyu_tokenizer()
    config = FuyuConfig(
        text_config=PersimmonConfig(**sizes(words)),
        patch_size=FUYU_PATCH,
        image_token_id=words.convert_tokens_to_ids("|SPEAKER|"),
        **specials(words),
    )
    return build(FuyuForCausalLM, config, attention)


def already_local(module: Any) -> None:
    """A patch is projected by itself."""


MARKED = TEXT.replace("<image>", "[IMG]")
SHAPES = ((24, 20), (20, 33))

MEMBERS = (
    Member(name="llava", module=llava, processor=llava_processor, text=TEXT, sizes=SHAPES, local=clip_local),
    Member(
        name="llava-mistral", module=llava_mistral, processor=llava_processor, text=TEXT, sizes=SHAPES, local=clip_local
    ),
    Member(
        name="mistral3",
        module=mistral3,
        processor=lambda: pixtral_processor(2),
        text=MARKED,
        sizes=((24, 20), (20, 33), (40, 16)),
        local=pixtral_local,
    ),
    Member(
        name="llava-pixtral",
        module=llava_pixtral,
        processor=lambda: pixtral_processor(1),
        text=MARKED,
        sizes=((12, 9), (10, 17), (40, 16)),
        local=pixtral_local,
    ),
    Member(name="fast_vlm", module=fast_vlm, processor=fast_processor, text=TEXT, sizes=SHAPES, local=fast_local),
    Member(name="janus", module=janus, processor=janus_processor, text=TEXT, sizes=SHAPES, local=janus_local),
    Member(
        name="deepseek_vl",
        module=deepseek_vl,
        processor=deepseek_processor,
        text=TEXT,
        sizes=SHAPES,
        local=siglip_local,
    ),
    Member(
        name="chameleon",
        module=chameleon,
        processor=chameleon_processor,
        text=TEXT,
        sizes=((24, 16), (16, 30)),
        local=chameleon_local,
    ),
    Member(
        name="chameleon-swin",
        module=chameleon_swin,
        processor=chameleon_processor,
        text=TEXT,
        sizes=((24, 16), (16, 30)),
        local=chameleon_local,
    ),
    Member(
        name="fuyu",
        module=fuyu,
        processor=fuyu_processor,
        text="user : what is red ? assistant :",
        sizes=((24, 20), (17, 23), (60, 36)),
        local=already_local,
    ),
)
