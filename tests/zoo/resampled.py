"""Families whose image tokens are latents, or lie outside the decoder's sequence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from transformers import (
    AriaConfig,
    AriaForConditionalGeneration,
    AriaImageProcessorPil,
    AriaProcessor,
    AriaTextConfig,
    BartConfig,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    BlipImageProcessorPil,
    CLIPImageProcessorPil,
    Florence2Config,
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Florence2VisionConfig,
    Idefics2Config,
    Idefics2ForConditionalGeneration,
    Idefics2ImageProcessorPil,
    Idefics2Processor,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    Kosmos2Config,
    Kosmos2ForConditionalGeneration,
    Kosmos2Processor,
    LlamaConfig,
    MistralConfig,
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    OPTConfig,
    T5Config,
)
from transformers.models.idefics2.configuration_idefics2 import Idefics2PerceiverConfig, Idefics2VisionConfig
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.kosmos2.configuration_kosmos2 import Kosmos2TextConfig, Kosmos2VisionConfig
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

from .parts import BASIC, Member, draw, tokenizer

LAYERS, HEADS, KEY_VALUE_HEADS, WIDTH, QUERIES = 4, 4, 2, 32, 4
PIXELS, PATCH = 12, 4
WINDOW = 12
"""The sliding attention of Idefics2's Mistral: shorter than any prompt with an image."""

IDS = {name: BASIC.index(token) for name, token in (("pad", "<pad>"), ("bos", "<s>"), ("eos", "</s>"))}
SPECIAL = {f"{name}_token_id": number for name, number in IDS.items()}
EVEN = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}


def built(
    kind: Any, config: Any, attention: str, spread: float = 1.0, finish: Callable[[Any], None] | None = None
) -> Any:
    """The model of a config, equal weights under every attention; `finish` sets what must not be drawn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = kind._from_config(config, attn_implementation=attention).float()
    draw(module, spread=spread)
    for part in module.modules():  # an inner language model generates by a config of its own
        if getattr(part, "generation_config", None) is not None:
            part.generation_config.eos_token_id = None
    if finish is not None:
        finish(module)
    return module


def silenced(module: Any, *ends: str) -> None:
    """Nought in every parameter below a module whose path ends in one of `ends`."""
    with torch.no_grad():
        for name, part in module.named_modules():
            if name.endswith(ends):
                for weight in part.parameters():
                    weight.zero_()


def decoder_config(kind: Any, words: int, **more: Any) -> Any:
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    return kind(vocab_size=words, max_position_embeddings=256, **sizes, **SPECIAL, **more)


# BLIP-2 and InstructBLIP: 4 query tokens that read 1 + 3 x 3 patches through a Q-Former


def blip_tokenizer() -> Any:
    """Its processors want no `image_token` of the tokenizer: they take one to be an `AddedToken`."""
    return tokenizer(extra=["<image>"])


def blip_images() -> Any:
    return BlipImageProcessorPil(size={"height": PIXELS, "width": PIXELS}, **EVEN)


def blip_text(name: str, words: int) -> Any:
    if name == "opt":
        return decoder_config(OPTConfig, words, ffn_dim=64, word_embed_proj_dim=WIDTH)
    if name == "llama":
        return decoder_config(LlamaConfig, words, intermediate_size=64, num_key_value_heads=KEY_VALUE_HEADS)
    return T5Config(
        vocab_size=words,
        d_model=WIDTH,
        d_kv=WIDTH // HEADS,
        d_ff=64,
        num_layers=LAYERS,
        num_decoder_layers=LAYERS,
        num_heads=HEADS,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=IDS["pad"],
        **SPECIAL,
    )


def blip_config(kinds: tuple[Any, Any, Any], text: str) -> Any:
    config, vision, qformer = kinds
    words = blip_tokenizer()
    return config(
        vision_config=vision(
            hidden_size=24,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=PIXELS,
            patch_size=PATCH,
        ),
        qformer_config=qformer(
            vocab_size=len(words),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            max_position_embeddings=64,
            cross_attention_frequency=2,
            pad_token_id=IDS["pad"],
        ),
        text_config=blip_text(text, len(words)),
        num_query_tokens=QUERIES,
        image_token_index=words.convert_tokens_to_ids("<image>"),
    )


BLIP2 = (Blip2Config, Blip2VisionConfig, Blip2QFormerConfig)
INSTRUCT = (InstructBlipConfig, InstructBlipVisionConfig, InstructBlipQFormerConfig)


def blip_module(attention: str, text: str) -> Any:
    return built(Blip2ForConditionalGeneration, blip_config(BLIP2, text), attention)


def instruct_module(attention: str, text: str) -> Any:
    return built(InstructBlipForConditionalGeneration, blip_config(INSTRUCT, text), attention)


def blip_processor() -> Any:
    return Blip2Processor(blip_images(), blip_tokenizer(), num_query_tokens=QUERIES)


def instruct_processor() -> Any:
    return InstructBlipProcessor(blip_images(), blip_tokenizer(), blip_tokenizer(), num_query_tokens=QUERIES)


def blip_local(module: Any) -> None:
    silenced(module.vision_model, "self_attn.projection")


# Mllama: layers 1 and 3 read up to 4 tiles of 1 + 2 x 2 patches


def mllama_processor() -> Any:
    side = {"height": 8, "width": 8}
    words = tokenizer({"image_token": "<|image|>"}, extra=["<|python_tag|>"])
    return MllamaProcessor(MllamaImageProcessorPil(size=side, max_image_tiles=4, **EVEN), words)


def mllama_opened(module: Any) -> None:
    """Gates that let the image in: they begin at nought."""
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith(("gate", "gate_attn", "gate_ffn")):
                weight.fill_(0.9 if "cross" in name else 0.4)


def mllama_module(attention: str) -> Any:
    words = mllama_processor().tokenizer
    vision = MllamaVisionConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_global_layers=1,
        attention_heads=2,
        vision_output_dim=16 * 3,
        image_size=8,
        patch_size=PATCH,
        intermediate_layers_indices=[0, 1],
    )
    text = decoder_config(
        MllamaTextConfig,
        len(words),
        intermediate_size=64,
        num_key_value_heads=KEY_VALUE_HEADS,
        cross_attention_layers=[1, 3],
    )
    config = MllamaConfig(vision_config=vision, text_config=text, image_token_index=words.image_token_id)
    return built(MllamaForConditionalGeneration, config, attention, finish=mllama_opened)


def mllama_local(module: Any) -> None:
    silenced(module.model.vision_model, "self_attn.o_proj")


# Florence-2: 1 pooled token and 3 x 3 in the sequence of a Bart encoder


def florence_processor() -> Any:
    side = {"height": 24, "width": 24}
    images = CLIPImageProcessorPil(size=side, crop_size=side, **EVEN)
    images.image_seq_length = 10
    return Florence2Processor(images, tokenizer({"image_token": "<image>"}))


def florence_module(attention: str) -> Any:
    words = florence_processor().tokenizer
    vision = Florence2VisionConfig(
        depths=(1, 1),
        patch_size=(7, 3),
        patch_stride=(4, 2),
        patch_padding=(3, 1),
        patch_prenorm=(False, True),
        embed_dim=(16, 32),
        num_heads=(2, 2),
        num_groups=(2, 2),
        window_size=2,
        drop_path_rate=0.0,
        projection_dim=WIDTH,
    )
    text = BartConfig(
        vocab_size=len(words),
        d_model=WIDTH,
        encoder_layers=3,
        decoder_layers=LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=256,
        decoder_start_token_id=IDS["eos"],
        forced_eos_token_id=None,
        **SPECIAL,
    )
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=words.image_token_id)
    return built(Florence2ForConditionalGeneration, config, attention)


def florence_local(module: Any) -> None:
    silenced(module.model.vision_tower, "window_attn.proj", "channel_attn.proj", "conv1", "conv2")


# Kosmos-2: 4 latents that read 1 + 3 x 3 patches and themselves


def kosmos_processor() -> Any:
    side = {"height": PIXELS, "width": PIXELS}
    images = CLIPImageProcessorPil(size=side, crop_size=side, **EVEN)
    words = tokenizer(extra=[f"<latent_{number}>" for number in range(QUERIES)])
    processor = Kosmos2Processor(images, words, num_patch_index_tokens=4)
    processor.num_image_tokens = QUERIES
    processor.first_image_token_id = words.convert_tokens_to_ids("<latent_0>")
    return processor


def kosmos_module(attention: str) -> Any:
    vision = Kosmos2VisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=PIXELS,
        patch_size=PATCH,
    )
    text = Kosmos2TextConfig(
        vocab_size=len(kosmos_processor().tokenizer),
        embed_dim=WIDTH,
        layers=LAYERS,
        ffn_dim=64,
        attention_heads=HEADS,
        max_position_embeddings=256,
        **SPECIAL,
    )
    config = Kosmos2Config(vision_config=vision, text_config=text, latent_query_num=QUERIES)
    return built(Kosmos2ForConditionalGeneration, config, attention)


def kosmos_local(module: Any) -> None:
    silenced(module.vision_model, "self_attn.out_proj")


# Idefics2: 4 latents an image (or crop) that read its patches and themselves


def idefics_processor(split: bool) -> Any:
    images = Idefics2ImageProcessorPil(size={"shortest_edge": 8, "longest_edge": 16}, do_image_splitting=split, **EVEN)
    words = tokenizer(
        {"image_token": "<image>", "image_boundary_token": "<fake_token_around_image>"}, extra=["<end_of_utterance>"]
    )
    return Idefics2Processor(images, words, image_seq_len=QUERIES)


def idefics_module(attention: str, split: bool) -> Any:
    words = idefics_processor(split).tokenizer
    vision = Idefics2VisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=16,
        patch_size=PATCH,
    )
    perceiver = Idefics2PerceiverConfig(
        hidden_size=WIDTH,
        resampler_n_latents=QUERIES,
        resampler_depth=2,
        resampler_n_heads=4,
        resampler_head_dim=8,
        num_key_value_heads=2,
    )
    text = decoder_config(
        MistralConfig,
        len(words),
        intermediate_size=64,
        num_key_value_heads=KEY_VALUE_HEADS,
        sliding_window=WINDOW,
        head_dim=WIDTH // HEADS,
    )
    config = Idefics2Config(
        vision_config=vision, perceiver_config=perceiver, text_config=text, image_token_id=words.image_token_id
    )
    return built(Idefics2ForConditionalGeneration, config, attention)


def idefics_local(module: Any) -> None:
    silenced(module.model.vision_model, "self_attn.out_proj")


# Aria: 4 queries a tile of 490 pixels that read 5 x 5 patches; a mixture of experts behind


def aria_processor(split: bool) -> Any:
    words, chosen = tokenizer({"image_token": "<image>"}), {"max_image_size": 490, "split_image": split}
    images = AriaImageProcessorPil(**chosen)
    processor = AriaProcessor(images, words, size_conversion={490: QUERIES, 980: 2 * QUERIES})
    processor.images_kwargs = chosen  # they go before the image processor's own
    return processor


def aria_module(attention: str, split: bool) -> Any:
    words = aria_processor(split).tokenizer
    vision = Idefics3VisionConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=490,
        patch_size=98,
    )
    text = decoder_config(
        AriaTextConfig,
        len(words),
        intermediate_size=32,
        num_key_value_heads=KEY_VALUE_HEADS,
        moe_num_experts=4,
        moe_topk=2,
        moe_num_shared_experts=1,
    )
    config = AriaConfig(
        vision_config=vision,
        text_config=text,
        projector_patch_to_query_dict={25: QUERIES, 100: 2 * QUERIES},
        image_token_index=words.image_token_id,
    )
    return built(AriaForConditionalGeneration, config, attention)


def aria_local(module: Any) -> None:
    silenced(module.model.vision_tower, "self_attn.out_proj")


QUESTION = "user : what is red ? assistant :"


def member(name: str, module: Any, processor: Any, local: Any, text: str, sizes: Sequence[tuple[int, int]]) -> Member:
    return Member(name=name, module=module, processor=processor, text=text, sizes=tuple(sizes), local=local)


BLIP_TEXTS: Mapping[str, tuple[str, ...]] = {"blip-2": ("opt", "t5"), "instructblip": ("llama", "t5")}
SMALL = ((18, 12), (16, 30))

MEMBERS = (
    *(
        member(f"blip-2-{text}", partial(blip_module, text=text), blip_processor, blip_local, f"<s>{QUESTION}", SMALL)
        for text in BLIP_TEXTS["blip-2"]
    ),
    *(
        member(
            f"instructblip-{text}",
            partial(instruct_module, text=text),
            instruct_processor,
            blip_local,
            f"<s>{QUESTION}",
            SMALL,
        )
        for text in BLIP_TEXTS["instructblip"]
    ),
    member(
        "mllama",
        mllama_module,
        mllama_processor,
        mllama_local,
        "<s>user : <|image|> what is red ? assistant :",
        ((7, 6), (24, 10), (14, 16)),
    ),
    member("florence2", florence_module, florence_processor, florence_local, "what is red ?", ((30, 24), (20, 26))),
    member("kosmos-2", kosmos_module, kosmos_processor, kosmos_local, QUESTION, SMALL),
    *(
        member(
            "idefics2-split" if split else "idefics2",
            partial(idefics_module, split=split),
            partial(idefics_processor, split=split),
            idefics_local,
            "<s>user : <image> what is red ? assistant :",
            ((16, 9), (20, 40)),
        )
        for split in (False, True)
    ),
    *(
        member(
            "aria-split" if split else "aria",
            partial(aria_module, split=split),
            partial(aria_processor, split=split),
            aria_local,
            "<s>user : <image> what is red ? assistant :",
            ((60, 40), (30, 64)),
        )
        for split in (False, True)
    ),
)
