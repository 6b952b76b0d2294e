"""Tiny models of the families that keep the picture's own shape: as many image tokens as it has room for.

M-RoPE (Qwen-VL, GLM-V), decoders with few attention layers (Qwen3.5, LFM2), sliding windows and shared keys (Gemma4).
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers as hf
from transformers.utils import is_torchvision_available

from . import parts

PATCH, MERGE = 4, 2
WIDTH, LAYERS, HEADS, KEY_VALUE_HEADS = 32, 4, 4, 2
SECTIONS = [2, 1, 1]
"""Of each head's rotary frequencies, those that turn with time, row and column."""

QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
GLM = {"image_token": "<|image|>", "video_token": "<|video|>"}
GLM_MARKS = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
LFM = {
    "image_token": "<image>",
    "image_start_token": "<|image_start|>",
    "image_end_token": "<|image_end|>",
    "image_thumbnail_token": "<|img_thumbnail|>",
}
LFM_TILES = tuple(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))
GEMMA = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
    "video_token": "<|video|>",
}


def _base(words: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(words),
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": 4096,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
    }


def _build(owner: Any, config: Any, attention: str, seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = parts.draw(owner._from_config(config, attn_implementation=attention), seed=seed, spread=1.0)
    words = module.get_output_embeddings()
    silent, said = [getattr(config, name, None) for name in ("image_token_id", "video_token_id")], len(words.weight)
    words.weight[[number for number in silent if number is not None and number < said]] = 0  # never said
    return module


# ------------------------------------------------------------------------------------------------ Qwen-VL and GLM-V


@functools.cache
def _qwen_words() -> Any:
    return parts.tokenizer(QWEN)


@functools.cache
def _glm_words() -> Any:
    return parts.tokenizer(GLM, GLM_MARKS)


def _marks(words: Any, named: Mapping[str, str]) -> dict[str, int]:
    """Ids of the marker tokens under the names that a config has for them."""
    return {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in named.items()}


def _rope(**more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": SECTIONS, **more}


TOWER = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}


def _qwen2_vl(attention: str) -> Any:
    words = _qwen_words()
    config = hf.Qwen2VLConfig(
        text_config={**_base(words), "intermediate_size": 48, "rope_parameters": _rope()},
        vision_config={**TOWER, "embed_dim": 16, "hidden_size": WIDTH, "mlp_ratio": 2},
        **_marks(words, QWEN),
    )
    return _build(hf.Qwen2VLForConditionalGeneration, config, attention)


def _qwen2_5_vl(attention: str) -> Any:
    words = _qwen_words()
    tower = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": WIDTH}
    config = hf.Qwen2_5_VLConfig(
        text_config={**_base(words), "intermediate_size": 48, "rope_parameters": _rope()},
        vision_config={**TOWER, **tower, "window_size": 16, "fullatt_block_indexes": [1]},
        **_marks(words, QWEN),
    )
    return _build(hf.Qwen2_5_VLForConditionalGeneration, config, attention)


QWEN3_TOWER = {
    **TOWER,
    "hidden_size": 16,
    "intermediate_size": 24,
    "out_hidden_size": WIDTH,
    "num_position_embeddings": 36,
}


def _qwen3_vl(attention: str) -> Any:
    words = _qwen_words()
    text = {**_base(words), "intermediate_size": 48, "head_dim": 8, "rope_parameters": _rope(mrope_interleaved=True)}
    config = hf.Qwen3VLConfig(
        text_config=text,
        vision_config={**QWEN3_TOWER, "deepstack_visual_indexes": [0, 1]},
        **_marks(words, QWEN),
    )
    return _build(hf.Qwen3VLForConditionalGeneration, config, attention)


def _hybrid() -> dict[str, Any]:
    """The decoder of Qwen3.5: every second layer carries a state in place of attention."""
    return {
        "head_dim": 16,
        "layer_types": ["linear_attention", "full_attention"] * (LAYERS // 2),
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "rope_parameters": _rope(mrope_interleaved=True, partial_rotary_factor=0.5),
    }


def _qwen3_5(attention: str) -> Any:
    words = _qwen_words()
    text = {
        **_base(words),
        "intermediate_size": 48,
        **_hybrid(),
    }
    config = hf.Qwen3_5Config(text_config=text, vision_config=QWEN3_TOWER, **_marks(words, QWEN))
    return _build(hf.Qwen3_5ForConditionalGeneration, config, attention)


def _glm4v(attention: str) -> Any:
    words = _glm_words()
    marks = {
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    config = hf.Glm4vConfig(
        text_config={**_base(words), "intermediate_size": 48, "rope_parameters": _rope()},
        vision_config={
            **TOWER,
            "hidden_size": 16,
            "intermediate_size": 24,
            "out_hidden_size": WIDTH,
            "image_size": 24,
        },
        **_marks(words, GLM),
        **{name: words.convert_tokens_to_ids(token) for name, token in marks.items()},
    )
    return _build(hf.Glm4vForConditionalGeneration, config, attention)


PATCHES = {
    "patch_size": PATCH,
    "merge_size": MERGE,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 16 * 16, "longest_edge": 48 * 48},
}


def _assemble(owner: Any, *made: Any, **named: Any) -> Any:
    """The family's processor; its video part needs torchvision, so there is none, and nothing asks of what class."""
    with mock.patch.object(owner, "check_argument_for_proper_class", lambda *_: object):
        return owner(*made, **named)


def _qwen_processor(owner: Any) -> Any:
    return _assemble(owner, hf.Qwen2VLImageProcessorPil(**PATCHES), parts.tokenizer(QWEN), None)


class _QuietGlm(hf.Glm4vProcessor):
    """GLM's own processor makes arrays of tensors in a way that numpy warns of."""

    def create_mm_token_type_ids(self, input_ids: Any) -> Any:
        return super().create_mm_token_type_ids([list(map(int, row)) for row in input_ids])


def _glm_processor() -> Any:
    # the bounds count the two frames that a still picture is made into
    pictures = hf.Glm4vImageProcessorPil(**{**PATCHES, "size": {"shortest_edge": 512, "longest_edge": 2 * 48 * 48}})
    return _assemble(_QuietGlm, pictures, parts.tokenizer(GLM, GLM_MARKS), None)


def _silence(module: Any, *endings: str) -> None:
    """Zero the vision tower's weights whose names end so."""
    found = 0
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if (".visual." in name or ".vision_tower." in name) and name.endswith(endings):
                weight.zero_()
                found += 1
    assert found, endings


def _local_visual(module: Any) -> None:
    _silence(module, "attn.proj.weight", "attn.proj.bias")


def _local_lfm(module: Any) -> None:
    _silence(module, "self_attn.out_proj.weight", "self_attn.out_proj.bias")


def _local_gemma(module: Any) -> None:
    _silence(module, "self_attn.o_proj.linear.weight")


# ------------------------------------------------------------------------------------------------------------ LFM2-VL


@functools.cache
def _lfm_words() -> Any:
    return parts.tokenizer(LFM, LFM_TILES)


def _lfm2_vl(attention: str) -> Any:
    words = _lfm_words()
    text = {
        **_base(words),
        "model_type": "lfm2",
        "intermediate_size": 48,
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention"] * (LAYERS // 2),
    }
    vision = {
        "model_type": "siglip2_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_patches": 16,
        "patch_size": PATCH,
        "vision_use_head": False,
    }
    config = hf.Lfm2VlConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=words.image_token_id,
        downsample_factor=MERGE,
        projector_hidden_size=24,
    )
    return _build(hf.Lfm2VlForConditionalGeneration, config, attention)


class _Interpolation(Enum):
    BILINEAR, BICUBIC, LANCZOS = "bilinear", "bicubic", "lanczos"


def _resize(image: torch.Tensor, size: Any, interpolation: _Interpolation, antialias: bool = True) -> torch.Tensor:
    """What torchvision does to a tensor of bytes: resized as floats, rounded back."""
    planes = image.float() if image.dim() == 4 else image.float()[None]
    out = torch.nn.functional.interpolate(planes, tuple(size), mode=interpolation.value, antialias=antialias)
    out = out if image.dim() == 4 else out[0]
    return out.round().clamp(0, 255).to(image.dtype) if image.dtype == torch.uint8 else out


def _normalize(image: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    middle, scale = (torch.as_tensor(values, dtype=image.dtype).view(-1, 1, 1) for values in (mean, std))
    return (image - middle) / scale


def _pad(image: torch.Tensor, sides: Any, fill: int = 0, padding_mode: str = "constant") -> torch.Tensor:
    left, top, right, bottom = sides
    return torch.nn.functional.pad(image, (left, right, top, bottom), mode=padding_mode, value=fill)


def _to_tensor(picture: Any) -> torch.Tensor:
    """What versions of transformers before 5.21 ask for."""
    return torch.from_numpy(np.array(picture)).movedim(-1, 0)


@functools.cache
def _without_torchvision(name: str, owner: str) -> Any:
    """An image processor that only torchvision can carry, on the few functions of it that are needed."""
    if is_torchvision_available():
        return getattr(hf, owner)
    backends = importlib.import_module("transformers.image_processing_backends")
    functions = SimpleNamespace(InterpolationMode=_Interpolation, resize=_resize, normalize=_normalize, pad=_pad)
    functions.pil_to_tensor = _to_tensor
    stand_ins = {path: ModuleType(path) for path in ("torchvision", "torchvision.transforms")}
    stand_ins["torchvision.transforms.v2"] = ModuleType("torchvision.transforms.v2")
    stand_ins["torchvision.transforms.v2"].functional = functions
    with mock.patch.dict(sys.modules, stand_ins):
        found = getattr(importlib.import_module(f"transformers.models.{name}"), owner)
    backends.tvF = functions
    backends.pil_torch_interpolation_mapping = {2: _Interpolation.BILINEAR, 3: _Interpolation.BICUBIC}
    return found


def _lfm_processor() -> Any:
    owner = _without_torchvision("lfm2_vl.image_processing_lfm2_vl", "Lfm2VlImageProcessor")
    pictures = owner(
        encoder_patch_size=PATCH,
        downsample_factor=MERGE,
        tile_size=16,
        min_tiles=2,
        max_tiles=6,
        min_image_tokens=4,
        max_image_tokens=16,
        max_pixels_tolerance=1.0,
    )
    return _assemble(hf.Lfm2VlProcessor, pictures, parts.tokenizer(LFM, LFM_TILES))


# ------------------------------------------------------------------------------------------------------------- Gemma 4


@functools.cache
def _gemma_words() -> Any:
    return parts.tokenizer(GEMMA)


def _gemma4(attention: str, **special: Any) -> Any:
    words = _gemma_words()
    text = {
        **_base(words),
        "intermediate_size": 48,
        "num_hidden_layers": 6,
        "head_dim": 8,
        "global_head_dim": 16,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": len(words),
        "final_logit_softcapping": 30.0,
        **special,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "patch_size": PATCH,
        "pooling_kernel_size": 3,
        "position_embedding_size": 64,
    }
    ids = _marks(words, {name: token for name, token in GEMMA.items() if name != "eoa_token"})
    config = hf.Gemma4Config(text_config=text, vision_config=vision, audio_config=None, **ids)
    return _build(hf.Gemma4ForConditionalGeneration, config, attention)


GEMMA_SHARED = {
    "layer_types": ["sliding_attention", "full_attention"] * 3,
    "num_kv_shared_layers": 2,
    "hidden_size_per_layer_input": 8,
    "use_double_wide_mlp": True,
}


class _FewTokens(hf.Gemma4ImageProcessorPil):
    """Gemma's image processor, which knows no picture of fewer than 70 tokens, with 20 at most."""

    def __init__(self, **kwargs: Any) -> None:
        with self.few():
            super().__init__(**kwargs)

    @staticmethod
    def few() -> Any:
        return mock.patch.object(sys.modules[hf.Gemma4ImageProcessorPil.__module__], "_SUPPORTED_SOFT_TOKENS", (20,))

    def _preprocess(self, *args: Any, **kwargs: Any) -> Any:
        with self.few():
            return super()._preprocess(*args, **kwargs)


def _gemma_processor() -> Any:
    pictures = _FewTokens(patch_size=PATCH, pooling_kernel_size=3, max_soft_tokens=20)
    return _assemble(hf.Gemma4Processor, None, pictures, parts.tokenizer(GEMMA), None, image_seq_length=20)


QWEN_TEXT = "<s>user : <|vision_start|><|image_pad|><|vision_end|> what is red ? assistant :"
GLM_TEXT = "<s>user : <|begin_of_image|><|image|><|end_of_image|> what is red ? assistant :"
SIZES = ((40, 24), (21, 33))


def _qwen(name: str, module: Callable[[str], Any], owner: Any) -> parts.Member:
    return parts.Member(
        name=name,
        module=module,
        processor=functools.partial(_qwen_processor, owner),
        text=QWEN_TEXT,
        sizes=SIZES,
        local=_local_visual,
    )


MEMBERS = (
    _qwen("qwen2_vl", _qwen2_vl, hf.Qwen2VLProcessor),
    _qwen("qwen2_5_vl", _qwen2_5_vl, hf.Qwen2_5_VLProcessor),
    _qwen("qwen3_vl", _qwen3_vl, hf.Qwen3VLProcessor),
    _qwen("qwen3_5", _qwen3_5, hf.Qwen3VLProcessor),
    parts.Member(
        name="glm4v", module=_glm4v, processor=_glm_processor, text=GLM_TEXT, sizes=SIZES, local=_local_visual
    ),
    parts.Member(
        name="lfm2_vl",
        module=_lfm2_vl,
        processor=_lfm_processor,
        text="<s>user : <image> what is red ? assistant :",
        sizes=((40, 24), (21, 33), (60, 40)),
        local=_local_lfm,
    ),
    *(
        parts.Member(
            name=name,
            module=functools.partial(_gemma4, **special),
            processor=_gemma_processor,
            text="<s>user : <|image|> what is red ? assistant :",
            sizes=SIZES,
            local=_local_gemma,
        )
        for name, special in (
            ("gemma4", {"use_bidirectional_attention": "vision"}),
            ("gemma4-causal-shared", GEMMA_SHARED),
        )
    ),
)
