"""Families that see square tiles: the LLaVAs behind the first, InternVL, GOT-OCR2, Ovis2, PerceptionLM."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import (
    BatchFeature,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GotOcr2Config,
    GotOcr2ForConditionalGeneration,
    GotOcr2ImageProcessorPil,
    GotOcr2Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaOnevisionProcessor,
    LlavaProcessor,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessorPil,
    Ovis2Processor,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PerceptionLMProcessor,
    Qwen2Config,
    SiglipVisionConfig,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaImageProcessor,
    VideoLlavaProcessor,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)
from transformers.image_utils import SizeDict
from transformers.models.got_ocr2.configuration_got_ocr2 import GotOcr2VisionConfig
from transformers.models.ovis2.configuration_ovis2 import Ovis2VisionConfig

from . import parts
from .parts import Member

SIDE, PATCH, WIDTH = 16, 4, 32
"""A tile has 16 x 16 pixels and, where patches are not merged, 4 x 4 = 16 tokens."""

GOT_SIDE = 64
"""GOT-OCR2 merges 4 x 4 patches: 4 x 4 = 16 tokens of 64 x 64 pixels."""

TEXT = "<s>user : {} what is red ? assistant :"
SQUARE = {"height": SIDE, "width": SIDE}
COLOURS = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
TOWER = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {"image_size": SIDE, "patch_size": PATCH}


def _decoder(kind: type, tokenizer: Any) -> Any:
    """The config of 4 layers with 4 query and 2 key-value heads."""
    return kind(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        **_special(tokenizer),
    )


def _special(tokenizer: Any) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}


def _built(kind: type, config: Any, attention: str | dict[str, str]) -> Any:
    """A model of the config, weights drawn; equal weights under either attention."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return parts.draw(kind._from_config(config, attn_implementation=attention))


def _processor(kind: type, **named: Any) -> Any:
    """A processor without its video part, which needs torchvision."""
    with mock.patch.object(kind, "check_argument_for_proper_class", lambda *_: object):
        return kind(**named, video_processor=None)


def _wipe(linears: Iterable[Any]) -> None:
    """Nought for weights and biases."""
    for linear in linears:
        for weight in linear.parameters():
            weight.zero_()


def _wiper(path: str, output: str) -> Callable[[Any], None]:
    """Wipes what the attention of a vision tower adds: `path` leads to its layers, `output` to their projection."""

    def local(module: Any) -> None:
        _wipe(layer.get_submodule(output) for layer in module.get_submodule(path))

    return local


def _tokens(image: str = "<image>", video: str | None = None, extra: Sequence[str] = ()) -> Any:
    named = {"image_token": image} | ({"video_token": video} if video else {})
    return parts.tokenizer(named, extra)


VIPLLAVA_LAYERS = next(name for name in vars(VipLlavaConfig()) if name.startswith("vision_feature_layer"))
"""Which is called `vision_feature_layers` before transformers 5.23."""


def _vipllava(attention: str) -> Any:
    tokenizer = _tokens()
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, **PATCHES, projection_dim=24),
        text_config=_decoder(LlamaConfig, tokenizer),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
        **{VIPLLAVA_LAYERS: [-1, -2]},
        **_special(tokenizer),
    )
    return _built(VipLlavaForConditionalGeneration, config, attention)


def _vipllava_processor() -> Any:
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=SQUARE, **COLOURS),
        tokenizer=_tokens(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _pinpoints(side: int) -> list[list[int]]:
    """`[height, width]` of the canvases that pictures are fitted into, of tiles of so many pixels."""
    return [[side * down, side * across] for down, across in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]


def _llava_next(attention: str) -> Any:
    tokenizer = _tokens()
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**TOWER, **PATCHES, projection_dim=24),
        text_config=_decoder(LlamaConfig, tokenizer),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
        image_grid_pinpoints=_pinpoints(SIDE),
        **_special(tokenizer),
    )
    return _built(LlavaNextForConditionalGeneration, config, attention)


def _llava_next_pictures() -> Any:
    return LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=_pinpoints(SIDE), **COLOURS
    )


def _llava_next_processor() -> Any:
    return LlavaNextProcessor(
        image_processor=_llava_next_pictures(),
        tokenizer=_tokens(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _llava_next_video(attention: str) -> Any:
    """As LLaVA-NeXT, with a pooling that only videos go through."""
    tokenizer = _tokens(video="<video>")
    config = LlavaNextVideoConfig(
        vision_config=CLIPVisionConfig(**TOWER, **PATCHES, projection_dim=24),
        text_config=_decoder(LlamaConfig, tokenizer),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_seq_length=16,
        image_grid_pinpoints=_pinpoints(SIDE),
        **_special(tokenizer),
    )
    return _built(LlavaNextVideoForConditionalGeneration, config, attention)


def _llava_next_video_processor() -> Any:
    return _processor(
        LlavaNextVideoProcessor,
        image_processor=_llava_next_pictures(),
        tokenizer=_tokens(video="<video>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _video_llava(attention: str) -> Any:
    """Two towers, of which pictures go through one and videos through the other."""
    tokenizer = _tokens(video="<video>")
    config = VideoLlavaConfig(
        vision_config=CLIPVisionConfig(**TOWER, **PATCHES, projection_dim=24),
        text_config=_decoder(LlamaConfig, tokenizer),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_seq_length=16,
        **_special(tokenizer),
    )
    return _built(VideoLlavaForConditionalGeneration, config, attention)


def _video_llava_processor() -> Any:
    return _processor(
        VideoLlavaProcessor,
        image_processor=VideoLlavaImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, **COLOURS),
        tokenizer=_tokens(video="<video>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


ODD = SIDE + 1
"""SigLIP's patches leave a margin of the tile unseen, as they do in the real one (27 x 14 of 384 pixels)."""

SHRINKING = "anyres_max_2"
"""More than two tiles' worth of tokens are shrunk (by the factor that the real ones reach above nine)."""


def _onevision(attention: str) -> Any:
    tokenizer = _tokens(video="<video>")
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**TOWER, image_size=ODD, patch_size=PATCH, vision_use_head=False),
        text_config=_decoder(Qwen2Config, tokenizer),
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=_pinpoints(ODD),
        vision_aspect_ratio=SHRINKING,
        **_special(tokenizer),
    )
    return _built(LlavaOnevisionForConditionalGeneration, config, attention)


def _onevision_processor() -> Any:
    images = LlavaOnevisionImageProcessorPil(
        size={"height": ODD, "width": ODD}, image_grid_pinpoints=_pinpoints(ODD), **COLOURS
    )
    return _processor(
        LlavaOnevisionProcessor,
        image_processor=images,
        tokenizer=_tokens(video="<video>"),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        vision_aspect_ratio=SHRINKING,
    )


def _internvl_tokens() -> Any:
    return parts.tokenizer(
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    )


def _internvl(attention: str) -> Any:
    tokenizer = _internvl_tokens()
    vision = InternVLVisionConfig(**TOWER, image_size=[32, 32], patch_size=[PATCH, PATCH])
    config = InternVLConfig(
        vision_config=vision,
        text_config=_decoder(Qwen2Config, tokenizer),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=16,
        tie_word_embeddings=False,
        **_special(tokenizer),
    )
    return _built(InternVLForConditionalGeneration, config, attention)


def _internvl_processor() -> Any:
    images = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=6, **COLOURS)
    return _processor(  # whose own default, to cut tiles, wins over the image processor's
        InternVLProcessor, image_processor=images, tokenizer=_internvl_tokens(), image_seq_length=16
    )


def _got_tokens() -> Any:
    return parts.tokenizer({"image_token": "<imgpad>"}, ("<img>", "</img>", "<|im_start|>", "<|im_end|>"))


def _got_ocr2(attention: str) -> Any:
    tokenizer = _got_tokens()
    vision = GotOcr2VisionConfig(
        hidden_size=24,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=GOT_SIDE,
        patch_size=PATCH,
        window_size=7,
        global_attn_indexes=[1],
        mlp_dim=48,
    )
    config = GotOcr2Config(
        vision_config=vision,
        text_config=_decoder(Qwen2Config, tokenizer),
        image_token_index=tokenizer.image_token_id,
        image_seq_length=16,
        tie_word_embeddings=False,
        **_special(tokenizer),
    )
    return _built(GotOcr2ForConditionalGeneration, config, {"text_config": attention})  # the tower knows only eager


def _got_processor(tiles: bool = False) -> Any:
    images = GotOcr2ImageProcessorPil(size={"height": GOT_SIDE, "width": GOT_SIDE}, max_patches=6, **COLOURS)
    processor = GotOcr2Processor(image_processor=images, tokenizer=_got_tokens())
    processor.num_image_tokens = 16
    older = {} if hasattr(processor, "images_kwargs") else {"num_image_tokens": 16}
    return parts.picture_settings(processor, **older, **({"crop_to_patches": True, "max_patches": 6} if tiles else {}))


def _got_local(module: Any) -> None:
    """Attention off; a convolution of stride 2 sees its own 2 x 2 places, one of stride 1 its own."""
    tower, projector = module.model.vision_tower, module.model.multi_modal_projector
    _wipe(layer.attn.proj for layer in tower.layers)
    middle = tower.neck.conv2.weight[..., 1, 1].clone()
    tower.neck.conv2.weight.zero_()
    tower.neck.conv2.weight[..., 1, 1] = middle
    for convolution in (projector.conv_upsampler1, projector.conv_upsampler2):
        convolution.weight[..., 0, :] = 0
        convolution.weight[..., :, 0] = 0


INDICATORS = ("<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>")


def _ovis2_tokens() -> Any:
    return _tokens(extra=("<IMG_ATOM>", *INDICATORS))


def _ovis2(attention: str) -> Any:
    tokenizer = _ovis2_tokens()
    vision = Ovis2VisionConfig(**TOWER, image_size=32, patch_size=PATCH, hidden_stride=2, vocab_size=48)
    config = Ovis2Config(
        vision_config=vision,
        text_config=_decoder(Qwen2Config, tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
        visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(list(INDICATORS)),
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        tie_word_embeddings=False,
        **_special(tokenizer),
    )
    return _built(Ovis2ForConditionalGeneration, config, attention)


def _ovis2_processor() -> Any:
    images = Ovis2ImageProcessorPil(size={"height": 32, "width": 32}, max_patches=6, crop_to_patches=True, **COLOURS)
    return Ovis2Processor(image_processor=images, tokenizer=_ovis2_tokens(), image_seq_length=16)


class ThumbnailThenTiles(CLIPImageProcessorPil):
    """Stands in for PerceptionLM's image processor, which needs torchvision.

    The thumbnail comes first, then the tiles of the squeezed picture row by row, as many as the picture's size calls
    for; the family's own rule for how many is another.
    """

    tile_size = 2 * SIDE
    most = 3

    def _preprocess(self, images: list[np.ndarray], **kwargs: Any) -> BatchFeature:
        return BatchFeature({"pixel_values": [self._tiles(image, **kwargs) for image in images]}, tensor_type="pt")

    def _tiles(self, image: np.ndarray, do_rescale: bool, do_normalize: bool, **kwargs: Any) -> np.ndarray:
        side = self.tile_size
        rows, columns = (min(-(-length // side), self.most) for length in image.shape[-2:])
        whole, wide = (
            self.resize(image, SizeDict(height=side * high, width=side * across), kwargs["resample"])
            for high, across in ((1, 1), (rows, columns))
        )
        cut = wide.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
        tiles = np.concatenate([whole[None], cut])
        if do_rescale:
            tiles = tiles * kwargs["rescale_factor"]
        if do_normalize:
            tiles = (tiles - 0.5) / 0.25
        return tiles.astype(np.float32)


def _perception_lm(attention: str) -> Any:
    """With a CLIP tower: the family's own comes out of timm, which needs torchvision."""
    tokenizer = _tokens(video="<video>")
    vision = CLIPVisionConfig(**TOWER, image_size=2 * SIDE, patch_size=PATCH, projection_dim=24)
    vision.model_args = {"embed_dim": 24}
    config = PerceptionLMConfig(
        vision_config=vision,
        text_config=_decoder(LlamaConfig, tokenizer),
        vision_use_cls_token=True,
        projector_pooling_ratio=2,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        **_special(tokenizer),
    )
    return _built(PerceptionLMForConditionalGeneration, config, attention)


def _perception_processor() -> Any:
    return _processor(
        PerceptionLMProcessor,
        image_processor=ThumbnailThenTiles(**COLOURS),
        tokenizer=_tokens(video="<video>"),
        patch_size=PATCH,
        pooling_ratio=2,
    )


CLIP_LAYERS = "model.vision_tower.encoder.layers"

MEMBERS = (
    Member(
        name="vipllava",
        module=_vipllava,
        processor=_vipllava_processor,
        text=TEXT.format("<image>"),
        sizes=((24, 16), (20, 44)),
        local=_wiper(CLIP_LAYERS, "self_attn.out_proj"),
    ),
    Member(
        name="llava_next",
        module=_llava_next,
        processor=_llava_next_processor,
        text=TEXT.format("<image>"),
        sizes=((14, 12), (40, 18), (36, 28)),
        local=_wiper(CLIP_LAYERS, "self_attn.out_proj"),
    ),
    Member(
        name="llava_next_video",
        module=_llava_next_video,
        processor=_llava_next_video_processor,
        text=TEXT.format("<image>"),
        sizes=((14, 12), (40, 18), (36, 28)),
        local=_wiper(CLIP_LAYERS, "self_attn.out_proj"),
    ),
    Member(
        name="video_llava",
        module=_video_llava,
        processor=_video_llava_processor,
        text=TEXT.format("<image>"),
        sizes=((24, 16), (20, 44)),
        local=_wiper("model.image_tower.encoder.layers", "self_attn.out_proj"),
    ),
    Member(
        name="llava_onevision",
        module=_onevision,
        processor=_onevision_processor,
        text=TEXT.format("<image>"),
        sizes=((14, 12), (40, 18), (36, 28)),
        local=_wiper(CLIP_LAYERS, "self_attn.out_proj"),
    ),
    Member(
        name="internvl",
        module=_internvl,
        processor=_internvl_processor,
        text=TEXT.format("<IMG_CONTEXT>"),
        sizes=((30, 26), (70, 40), (50, 80)),
        local=_wiper("model.vision_tower.encoder.layer", "attention.projection_layer"),
    ),
    Member(
        name="got_ocr2",
        module=_got_ocr2,
        processor=_got_processor,
        text=TEXT.format("<img><imgpad></img>"),
        sizes=((60, 44), (80, 150)),
        local=_got_local,
    ),
    Member(
        name="got_ocr2-tiles",
        module=_got_ocr2,
        processor=lambda: _got_processor(tiles=True),
        text=TEXT.format("<img><imgpad></img>"),
        sizes=((60, 56), (150, 80)),
        local=_got_local,
    ),
    Member(
        name="ovis2",
        module=_ovis2,
        processor=_ovis2_processor,
        text=TEXT.format("<image>"),
        sizes=((30, 26), (70, 40), (40, 90)),
        local=_wiper("model.vision_tower.transformer.encoder.layers", "attention.out_proj"),
    ),
    Member(
        name="perception_lm",
        module=_perception_lm,
        processor=_perception_processor,
        text=TEXT.format("<image>"),
        sizes=((30, 26), (70, 40)),
        local=_wiper(CLIP_LAYERS, "self_attn.out_proj"),
    ),
)
