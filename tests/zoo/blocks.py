"""Tiny models of the families whose image is one square or several square tiles, many with masks of their own.

PaliGemma's prompt sees itself both ways; Gemma 3's images do; Gemma 3n, Cohere 2 and Llama 4 look back a short way.
The image processors of Cohere 2 Vision and Llama 4 need torchvision, the tower of Gemma 3n needs timm, and SmolVLM's
processor needs num2words: what stands in for the image processors gives their tensors, to one grey level.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
import transformers as tf
from torch import nn
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import PILImageResampling, SizeDict
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nVisionConfig
from transformers.models.smolvlm import processing_smolvlm

from .parts import Member, draw, picture_settings, tokenizer

WIDTH, HEADS, KEY_VALUE_HEADS, LAYERS = 32, 4, 2, 4
WINDOW = 12
"""Sliding windows and chunks: shorter than any prompt with an image."""

TOKENS: dict[str, tuple[Mapping[str, str], tuple[str, ...]]] = {
    "paligemma": ({"image_token": "<image>"}, ()),
    "gemma3": (
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        (),
    ),
    "gemma3n": (
        {
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
            "boa_token": "<start_of_audio>",
            "eoa_token": "<end_of_audio>",
            "audio_token": "<audio_soft_token>",
        },
        (),
    ),
    "idefics3": (
        {"image_token": "<image>"},
        (
            "<fake_token_around_image>",
            "<end_of_utterance>",
            "<global-img>",
            *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
        ),
    ),
    "aya_vision": (
        {},
        (
            "<image>",
            "<|START_OF_IMG|>",
            "<|END_OF_IMG|>",
            "<|IMG_PATCH|>",
            "<|IMG_LINE_BREAK|>",
            "TILE_GLOBAL",
            *(f"TILE_{n}" for n in range(1, 13)),
        ),
    ),
    "cohere2_vision": (
        {
            "image_token": "<|IMG_PATCH|>",
            "boi_token": "<|START_OF_IMG|>",
            "eoi_token": "<|END_OF_IMG|>",
            "img_line_break_token": "<|IMG_LINE_BREAK|>",
        },
        (),
    ),
    "llama4": (
        {},
        ("<|image_start|>", "<|image_end|>", "<|image|>", "<|patch|>", "<|tile_x_separator|>", "<|tile_y_separator|>"),
    ),
}


def words(kind: str) -> Any:
    """The tokenizer of a family."""
    named, extra = TOKENS[kind]
    return tokenizer(named, extra)


def identity(kind: str, token: str) -> int:
    """The id of a special token."""
    return int(words(kind).convert_tokens_to_ids(token))


SPECIAL = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
"""`<pad>`, `<s>` and `</s>` in every tokenizer here."""


def text_options(kind: str, **more: Any) -> dict[str, Any]:
    """What all decoders share."""
    return {
        "vocab_size": len(words(kind)),
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": 1024,
        **SPECIAL,
        **more,
    }


def siglip(side: int, patch: int, kind: Any = tf.SiglipVisionConfig, **more: Any) -> Any:
    """A vision tower of `side` x `side` pixels."""
    sizes = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    head = {"vision_use_head": False} if kind is tf.SiglipVisionConfig else {}
    return kind(**sizes, **head, image_size=side, patch_size=patch, **more)


def build(config: Any, model: Any, spread: float = 1.5) -> Callable[[str], Any]:
    """From an attention implementation to a new model with drawn weights."""

    def module(attention: str) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return draw(model._from_config(config(), attn_implementation=attention), spread=spread)

    return module


def no_vision_attention(module: Any) -> None:
    """An image feature sees its own pixels only: attention in the tower adds nothing."""
    for name, part in module.named_modules():
        if "vision" in name and name.endswith(("self_attn.out_proj", "self_attn.o_proj")):
            part.weight.zero_()
            if part.bias is not None:
                part.bias.zero_()


# -- PaliGemma: one square, first in the prompt; the prompt sees itself both ways ------------------------------------

PALI_SIDE, PALI_PATCH = 16, 4


def paligemma_config() -> Any:
    """PaliGemma over Gemma."""
    text = tf.GemmaConfig(**text_options("paligemma"), head_dim=8)
    return _paligemma(text)


def paligemma2_config() -> Any:
    """PaliGemma 2 over Gemma 2: every other layer slides."""
    text = tf.Gemma2Config(**text_options("paligemma"), head_dim=8, sliding_window=WINDOW, query_pre_attn_scalar=8)
    return _paligemma(text)


def _paligemma(text: Any) -> Any:
    return tf.PaliGemmaConfig(
        text_config=text,
        vision_config=siglip(PALI_SIDE, PALI_PATCH, projection_dim=WIDTH),
        image_token_index=identity("paligemma", "<image>"),
        projection_dim=WIDTH,
        hidden_size=WIDTH,
        **SPECIAL,
    )


def paligemma_processor() -> Any:
    """Stretched to a square."""
    images = tf.SiglipImageProcessorPil(size={"height": PALI_SIDE, "width": PALI_SIDE})
    images.image_seq_length = (PALI_SIDE // PALI_PATCH) ** 2
    return tf.PaliGemmaProcessor(image_processor=images, tokenizer=words("paligemma"))


# -- Gemma 3: one square, or the whole and crops of it (pan and scan); an image sees itself both ways ----------------

GEMMA_SIDE, GEMMA_PATCH, GEMMA_TOKENS = 16, 2, 16


def gemma3_config() -> Any:
    """Three sliding layers and a full one."""
    text = tf.Gemma3TextConfig(
        **text_options("gemma3"),
        head_dim=8,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    )
    return tf.Gemma3Config(
        text_config=text,
        vision_config=siglip(GEMMA_SIDE, GEMMA_PATCH),
        mm_tokens_per_image=GEMMA_TOKENS,
        boi_token_index=identity("gemma3", "<start_of_image>"),
        eoi_token_index=identity("gemma3", "<end_of_image>"),
        image_token_index=identity("gemma3", "<image_soft_token>"),
        **SPECIAL,
    )


def gemma3_processor(crops: bool = False) -> Any:
    """Stretched to a square; with `crops`, a picture that is wide or high is also cut up."""
    cut = {
        "do_pan_and_scan": crops,
        "pan_and_scan_min_crop_size": 8,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    images = tf.Gemma3ImageProcessorPil(size={"height": GEMMA_SIDE, "width": GEMMA_SIDE}, **cut)
    processor = tf.Gemma3Processor(image_processor=images, tokenizer=words("gemma3"), image_seq_length=GEMMA_TOKENS)
    return picture_settings(processor, **cut)  # the class's own would switch the crops off


# -- Gemma 3n: one square; layers that share keys and values, layer outputs stacked four deep ------------------------

GEMMA3N_SIDE, GEMMA3N_TOKENS = 16, 16


class Tower(tf.PreTrainedModel):
    """Stands in for the convolutional tower of Gemma 3n, which needs timm: `[image, channel, row, column]`."""

    config_class = Gemma3nVisionConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        patch = GEMMA3N_SIDE // math.isqrt(GEMMA3N_TOKENS)
        self.stem = nn.Conv2d(3, config.hidden_size, patch, patch)
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **_: Any) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=self.stem(pixel_values).tanh())


def gemma3n_config() -> Any:
    """Six layers, the last two of which take keys and values from earlier ones."""
    kinds = ["sliding_attention", "full_attention"] * 3
    vocabulary = len(words("gemma3n"))
    text = tf.Gemma3nTextConfig(
        **text_options("gemma3n", num_hidden_layers=len(kinds)),
        head_dim=8,
        vocab_size_per_layer_input=vocabulary,
        hidden_size_per_layer_input=8,
        layer_types=kinds,
        num_kv_shared_layers=2,
        sliding_window=WINDOW,
        laurel_rank=8,
        activation_sparsity_pattern=[0.0] * len(kinds),
    )
    audio = tf.Gemma3nAudioConfig(
        vocab_offset=vocabulary,
        vocab_size=4,
        hidden_size=16,
        input_feat_size=32,
        conf_num_attention_heads=2,
        conf_num_hidden_layers=1,
        sscp_conv_channel_size=(8, 8),
    )
    return tf.Gemma3nConfig(
        text_config=text,
        vision_config=Gemma3nVisionConfig(hidden_size=24, vocab_size=4, vocab_offset=vocabulary),
        audio_config=audio,
        vision_soft_tokens_per_image=GEMMA3N_TOKENS,
        image_token_id=identity("gemma3n", "<image_soft_token>"),
        boi_token_id=identity("gemma3n", "<start_of_image>"),
        eoi_token_id=identity("gemma3n", "<end_of_image>"),
        audio_token_id=identity("gemma3n", "<audio_soft_token>"),
        boa_token_id=identity("gemma3n", "<start_of_audio>"),
        eoa_token_id=identity("gemma3n", "<end_of_audio>"),
        **SPECIAL,
    )


def gemma3n_module(attention: str) -> Any:
    """Gemma 3n with the tower that stands in."""
    tf.AutoModel.register(Gemma3nVisionConfig, Tower, exist_ok=True)
    return build(gemma3n_config, tf.Gemma3nForConditionalGeneration)(attention)


def already_local(_: Any) -> None:
    """The tower that stands in is a convolution whose strides do not overlap."""


def gemma3n_processor() -> Any:
    """Stretched to a square."""
    return tf.Gemma3nProcessor(
        feature_extractor=tf.Gemma3nAudioFeatureExtractor(feature_size=32),
        image_processor=tf.SiglipImageProcessorPil(size={"height": GEMMA3N_SIDE, "width": GEMMA3N_SIDE}),
        tokenizer=words("gemma3n"),
        image_seq_length=GEMMA3N_TOKENS,
    )


# -- Idefics 3 and SmolVLM: tiles row by row, then the whole ----------------------------------------------------------

IDEFICS_SIDE, IDEFICS_PATCH, IDEFICS_FACTOR = 16, 4, 2
IDEFICS_TOKENS = (IDEFICS_SIDE // IDEFICS_PATCH // IDEFICS_FACTOR) ** 2


def _idefics3(config: Any, vision: Any) -> Any:
    return config(
        text_config=tf.LlamaConfig(**text_options("idefics3")),
        vision_config=siglip(IDEFICS_SIDE, IDEFICS_PATCH, vision),
        scale_factor=IDEFICS_FACTOR,
        image_token_id=identity("idefics3", "<image>"),
        **SPECIAL,
    )


def idefics3_config() -> Any:
    """Idefics 3 over Llama."""
    return _idefics3(tf.Idefics3Config, tf.Idefics3VisionConfig)


def smolvlm_config() -> Any:
    """SmolVLM over Llama."""
    return _idefics3(tf.SmolVLMConfig, tf.SmolVLMVisionConfig)


def _idefics3_images(kind: Any, split: bool) -> Any:
    return kind(
        size={"longest_edge": 2 * IDEFICS_SIDE},
        max_image_size={"longest_edge": IDEFICS_SIDE},
        do_image_splitting=split,
    )


def idefics3_processor(split: bool = True) -> Any:
    """Up to two tiles a side, or the whole alone."""
    images = _idefics3_images(tf.Idefics3ImageProcessorPil, split)
    return tf.Idefics3Processor(image_processor=images, tokenizer=words("idefics3"), image_seq_len=IDEFICS_TOKENS)


class NoVideos:
    """Stands in for SmolVLM's video processor, which needs torchvision: takes no videos."""

    model_input_names: tuple[str, ...] = ()
    num_frames, fps = 2, 1


def smolvlm_processor(split: bool = True) -> Any:
    """As Idefics 3. The package num2words spells the number of a video's frames: `str` does, without it."""
    vocab_size = processing_smolvlm.num2words or str
    images = _idefics3_images(tf.SmolVLMImageProcessorPil, split)
    unchecked = mock.patch.object(tf.SmolVLMProcessor, "check_argument_for_proper_class")
    with mock.patch.object(processing_smolvlm, "num2words", vocab_size), unchecked:
        return tf.SmolVLMProcessor(
            image_processor=images,
            tokenizer=words("idefics3"),
            video_processor=NoVideos(),
            image_seq_len=IDEFICS_TOKENS,
        )


# -- Aya Vision and Cohere 2 Vision: tiles row by row, then a thumbnail ------------------------------------------------

COHERE_SIDE, COHERE_PATCH, COHERE_FACTOR = 16, 4, 2


def _cohere2(kind: str) -> Any:
    return tf.Cohere2Config(
        **text_options(kind),
        sliding_window=WINDOW,
        layer_types=["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
        logit_scale=1.0,
    )


def aya_config() -> Any:
    """Three sliding layers and a full one."""
    return tf.AyaVisionConfig(
        text_config=_cohere2("aya_vision"),
        vision_config=siglip(COHERE_SIDE, COHERE_PATCH),
        downsample_factor=COHERE_FACTOR,
        adapter_layer_norm_eps=1e-6,
        image_token_index=identity("aya_vision", "<|IMG_PATCH|>"),
        **SPECIAL,
    )


def aya_processor() -> Any:
    """Stretched to up to four tiles."""
    images = tf.GotOcr2ImageProcessorPil(
        size={"height": COHERE_SIDE, "width": COHERE_SIDE}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    return tf.AyaVisionProcessor(
        image_processor=images,
        tokenizer=words("aya_vision"),
        patch_size=COHERE_PATCH,
        img_size=COHERE_SIDE,
        downsample_factor=COHERE_FACTOR,
    )


def cohere2_vision_config() -> Any:
    """Three sliding layers and a full one."""
    return tf.Cohere2VisionConfig(
        text_config=_cohere2("cohere2_vision"),
        vision_config=siglip(COHERE_SIDE, COHERE_PATCH),
        downsample_factor=COHERE_FACTOR,
        alignment_intermediate_size=48,
        image_token_id=identity("cohere2_vision", "<|IMG_PATCH|>"),
        **SPECIAL,
    )


class TilesPil(PilBackend):
    """Stands in for a tiling image processor that needs torchvision; a tile is `size`, `tiled` cuts the picture."""

    size: ClassVar = {"height": 16, "width": 16}
    resample = PILImageResampling.BILINEAR
    image_mean = image_std = (0.5, 0.5, 0.5)
    do_resize = do_rescale = do_normalize = do_convert_rgb = True
    counts = "num_patches"
    most = 4

    def _preprocess(
        self, images: Any, size: Any, do_rescale: bool, do_normalize: bool, return_tensors: Any, **kwargs: Any
    ) -> BatchFeature:
        tiles, counts = [], []
        for image in images:
            cut, count = self.tiled(image, size, kwargs["resample"])
            counts.append(count)
            for tile in cut:
                scaled = self.rescale(tile, kwargs["rescale_factor"]) if do_rescale else tile
                mean, std = kwargs["image_mean"], kwargs["image_std"]
                tiles.append(self.normalize(scaled, mean, std) if do_normalize else scaled)
        return BatchFeature({"pixel_values": tiles, self.counts: counts}, tensor_type=return_tensors)

    def tiled(self, image: np.ndarray, size: Any, resample: Any) -> tuple[list[np.ndarray], Any]:
        """The tiles of a picture and what counts them."""
        raise NotImplementedError

    def cut(self, canvas: np.ndarray, whole: np.ndarray, size: Any) -> list[np.ndarray]:
        """Tiles of the canvas row by row, then the whole unless it is the only one."""
        rows, columns = canvas.shape[1] // size.height, canvas.shape[2] // size.width
        places = itertools.product(range(rows), range(columns))
        high, wide = size.height, size.width
        tiles = [canvas[:, r * high : (r + 1) * high, c * wide : (c + 1) * wide] for r, c in places]
        return [*tiles, whole] if len(tiles) > 1 else tiles

    def canvas(self, image: np.ndarray, size: Any) -> tuple[int, int]:
        """`(height, width)` of the few tiles that enlarge the picture least, or, if none do, shrink it least."""
        counts = range(1, self.most + 1)
        grids = sorted(((r, c) for r in counts for c in counts if r * c <= self.most), key=math.prod)
        shapes = [(rows * size.height, columns * size.width) for rows, columns in grids]
        scales = {shape: min(shape[0] / image.shape[1], shape[1] / image.shape[2]) for shape in shapes}
        large = [shape for shape in shapes if scales[shape] >= 1]
        return min(large, key=scales.__getitem__) if large else max(shapes, key=scales.__getitem__)


class Cohere2Pil(TilesPil):
    """Cohere 2 Vision: stretched to the canvas."""

    patch_size = COHERE_SIDE // COHERE_PATCH // COHERE_FACTOR

    def tiled(self, image: np.ndarray, size: Any, resample: Any) -> tuple[list[np.ndarray], int]:
        height, width = self.canvas(image, size)
        canvas = self.resize(image, SizeDict(height=height, width=width), resample=resample)
        tiles = self.cut(canvas, self.resize(image, size, resample=resample), size)
        return tiles, len(tiles)


def cohere2_vision_processor() -> Any:
    """Up to four tiles."""
    return tf.Cohere2VisionProcessor(image_processor=Cohere2Pil(), tokenizer=words("cohere2_vision"))


# -- Llama 4: tiles row by row, then the whole; chunked attention -----------------------------------------------------

LLAMA4_SIDE, LLAMA4_PATCH = 16, 4


def llama4_config() -> Any:
    """Three chunked layers and a full one without positions; every other feed-forward is a mixture of experts."""
    text = tf.Llama4TextConfig(
        **text_options("llama4"),
        head_dim=8,
        intermediate_size_mlp=48,
        attention_chunk_size=WINDOW,
        no_rope_layers=[1, 1, 1, 0],
        num_local_experts=2,
        interleave_moe_layer_step=2,
    )
    vision = tf.Llama4VisionConfig(
        hidden_size=24,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=LLAMA4_SIDE,
        patch_size=LLAMA4_PATCH,
        vision_output_dim=24,
        projector_input_dim=24,
        projector_output_dim=24,
    )
    return tf.Llama4Config(
        text_config=text,
        vision_config=vision,
        boi_token_index=identity("llama4", "<|image_start|>"),
        eoi_token_index=identity("llama4", "<|image_end|>"),
        image_token_index=identity("llama4", "<|patch|>"),
    )


class Llama4Pil(TilesPil):
    """Llama 4: kept in shape, at the top left of the canvas; the real one gives bfloat16, which needs such a model."""

    counts = "aspect_ratios"

    def tiled(self, image: np.ndarray, size: Any, resample: Any) -> tuple[list[np.ndarray], list[int]]:
        height, width = self.canvas(image, size)
        high, wide = image.shape[1:]
        scale = min(min(max(high, size.height), height) / high, min(max(wide, size.width), width) / wide)
        inner = SizeDict(height=max(1, int(high * scale)), width=max(1, int(wide * scale)))
        canvas = np.zeros((3, height, width), dtype=image.dtype)
        canvas[:, : inner.height, : inner.width] = self.resize(image, inner, resample=resample)
        tiles = self.cut(canvas, self.resize(image, size, resample=resample), size)
        return tiles, [height // size.height, width // size.width]


def llama4_processor() -> Any:
    """Up to four tiles."""
    return tf.Llama4Processor(image_processor=Llama4Pil(), tokenizer=words("llama4"), patch_size=LLAMA4_PATCH)


def prompt(image: str) -> str:
    """A question about an image."""
    return f"<s>user : {image} what is red ? assistant :"


SIZES = ((24, 20), (13, 11), (40, 18))

MEMBERS = (
    Member(
        name="paligemma",
        module=build(paligemma_config, tf.PaliGemmaForConditionalGeneration),
        processor=paligemma_processor,
        text="<image> what is red ? describe the big dog",
        sizes=SIZES[:2],
        local=no_vision_attention,
    ),
    Member(
        name="paligemma2",
        implementations=("eager",),
        module=build(paligemma2_config, tf.PaliGemmaForConditionalGeneration),
        processor=paligemma_processor,
        text="<image> what is red ? describe the big dog",
        sizes=SIZES[:2],
        local=no_vision_attention,
    ),
    Member(
        name="gemma3",
        module=build(gemma3_config, tf.Gemma3ForConditionalGeneration),
        processor=gemma3_processor,
        text=prompt("<start_of_image>"),
        sizes=SIZES[:2],
        local=no_vision_attention,
    ),
    Member(
        name="gemma3-crops",
        module=build(gemma3_config, tf.Gemma3ForConditionalGeneration),
        processor=lambda: gemma3_processor(crops=True),
        text=prompt("<start_of_image>"),
        sizes=((24, 22), (40, 18), (18, 60)),
        local=no_vision_attention,
    ),
    Member(
        name="gemma3n",
        module=gemma3n_module,
        processor=gemma3n_processor,
        text=prompt("<image_soft_token>"),
        sizes=SIZES[:2],
        local=already_local,
    ),
    Member(
        name="idefics3",
        module=build(idefics3_config, tf.Idefics3ForConditionalGeneration),
        processor=idefics3_processor,
        text=prompt("<image>"),
        sizes=((24, 20), (40, 18)),
        local=no_vision_attention,
    ),
    Member(
        name="idefics3-whole",
        module=build(idefics3_config, tf.Idefics3ForConditionalGeneration),
        processor=lambda: idefics3_processor(split=False),
        text=prompt("<image>"),
        sizes=((24, 20), (18, 40)),
        local=no_vision_attention,
    ),
    Member(
        name="smolvlm",
        module=build(smolvlm_config, tf.SmolVLMForConditionalGeneration),
        processor=smolvlm_processor,
        text=prompt("<image>"),
        sizes=((24, 20), (40, 18)),
        local=no_vision_attention,
    ),
    Member(
        name="aya_vision",
        module=build(aya_config, tf.AyaVisionForConditionalGeneration),
        processor=aya_processor,
        text=prompt("<image>"),
        sizes=SIZES,
        local=no_vision_attention,
    ),
    Member(
        name="cohere2_vision",
        module=build(cohere2_vision_config, tf.Cohere2VisionForConditionalGeneration),
        processor=cohere2_vision_processor,
        text=prompt("<|IMG_PATCH|>"),
        sizes=SIZES,
        local=no_vision_attention,
    ),
    Member(
        name="llama4",
        module=build(llama4_config, tf.Llama4ForConditionalGeneration),
        processor=llama4_processor,
        text=prompt("<|image|>"),
        sizes=SIZES,
        local=no_vision_attention,
    ),
)
