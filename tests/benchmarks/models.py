"""Models with random weights, built from configs; this package and every peer run the same ones.

`build_module` and `inputs_of` make a model and an encoding from a `ModelSize`, always the same ones. `save` writes
both, so that a program in another virtual environment loads the same weights and inputs. The weights are drawn so
large that every intervention moves the answer's logit; otherwise equal numbers would show nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers as hf
from safetensors.torch import save_file

import nnsight_vlm as nv

WORDS, IMAGE_TOKEN, ANSWER = 4000, 5, 77
SYSTEM, TEXT = 4, 40
"""Text tokens before the image, and all text tokens."""
PATCH, MERGE = 14, 2
Kind = Literal["llava", "qwen2_5_vl", "qwen3_vl"]


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The size of a model to build, and of the prompt for it.

    Attributes:
        kind: which architecture, a key of `BUILDERS`.
        layers, width, heads: of the decoder.
        side: image tokens along each side of a picture.
        pictures: how many pictures the prompt has, with no text between them.
    """

    kind: Kind = "llava"
    layers: int = 12
    width: int = 512
    heads: int = 8
    side: int = 24
    pictures: int = 1

    @property
    def image_tokens(self) -> int:
        return self.side**2 * self.pictures


SIZES: dict[str, ModelSize] = {
    "576": ModelSize(),
    "2880": ModelSize(pictures=5),
    "thin": ModelSize(layers=32, width=128, heads=4),
    "tiny": ModelSize(width=32, heads=2, side=4),
    "qwen2_5_vl": ModelSize(kind="qwen2_5_vl", width=256, heads=4),
    "qwen3_vl": ModelSize(kind="qwen3_vl", width=256, heads=4),
}
QUICK = {"layers": 2, "width": 64, "heads": 4, "side": 4}
"""What `--quick` makes of every size: enough to show that the cases run, too small to time."""


def model_sizes(quick: bool) -> dict[str, ModelSize]:
    """The sizes by name."""
    return {name: ModelSize(**{**asdict(size), **QUICK}) if quick else size for name, size in SIZES.items()}


# configs ------------------------------------------------------------------------------------------------------------


def _decoder(size: ModelSize, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": WORDS,
        "hidden_size": size.width,
        "intermediate_size": size.width * 43 // 16,  # LLaMA's 2.7
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": 16384,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def _llava(size: ModelSize) -> Any:
    vision = hf.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=size.side * PATCH,
        patch_size=PATCH,
    )
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**_decoder(size)),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=size.side**2,
        vision_feature_layer=-1,
    )
    return hf.LlavaForConditionalGeneration(config)


def _qwen_vision(size: ModelSize, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": size.width, "depth": 1, "num_heads": 2}
    patches = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    return {**sizes, **patches, **more}


def _sections(size: ModelSize) -> list[int]:
    """How many rotary frequencies of a head encode time, grid row and grid column."""
    half = size.width // size.heads // 2
    return [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]


def _qwen2_5_vl(size: ModelSize) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(size)}
    config = hf.Qwen2_5_VLConfig(
        text_config=_decoder(size, rope_parameters=rope),
        vision_config=_qwen_vision(size, window_size=4 * PATCH * MERGE, fullatt_block_indexes=[0]),
        image_token_id=IMAGE_TOKEN,
        **QWEN_TOKENS,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl(size: ModelSize) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(size), "mrope_interleaved": True}
    config = hf.Qwen3VLConfig(
        text_config=_decoder(size, head_dim=size.width // size.heads, rope_parameters=rope),
        vision_config=_qwen_vision(size, num_position_embeddings=36, deepstack_visual_indexes=[0]),
        image_token_id=IMAGE_TOKEN,
        **QWEN_TOKENS,
    )
    return hf.Qwen3VLForConditionalGeneration(config)


QWEN_TOKENS = {"video_token_id": 6, "vision_start_token_id": 8, "vision_end_token_id": 9}
BUILDERS: dict[Kind, Callable[[ModelSize], Any]] = {"llava": _llava, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}


# weights and inputs -------------------------------------------------------------------------------------------------


def build_module(size: ModelSize) -> Any:
    """The transformers model, float32, ready to run."""
    torch.manual_seed(0)
    module = BUILDERS[size.kind](size).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            spread = 1.0 if "embed" in name or "lm_head" in name else 1.2
            scale = spread if "embed_tokens" in name else spread / weight[0].numel() ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    module.get_output_embeddings().weight[:10] = 0  # so that special tokens are never generated
    module.generation_config.eos_token_id = None  # so that all answers have the same length
    return module


def pixels(size: ModelSize, seed: int) -> torch.Tensor:
    """Noise in place of pixels, in the form that this kind of model takes."""
    generator = torch.Generator().manual_seed(seed)
    if size.kind == "llava":
        return torch.randn(size.pictures, 3, size.side * PATCH, size.side * PATCH, generator=generator)
    return torch.randn(size.image_tokens * MERGE**2, 3 * 2 * PATCH**2, generator=generator)


def inputs_of(size: ModelSize, seed: int = 0) -> dict[str, torch.Tensor]:
    """An encoding: 4 text tokens, the pictures, 36 text tokens. The seed changes the pictures and not the text."""
    text = torch.randint(10, WORDS, (TEXT,), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([text[:SYSTEM], torch.full((size.image_tokens,), IMAGE_TOKEN), text[SYSTEM:]])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels(size, seed)}
    if size.kind != "llava":
        grid = [1, size.side * MERGE, size.side * MERGE]
        inputs |= {"image_grid_thw": torch.tensor([grid] * size.pictures)}
        inputs |= {"mm_token_type_ids": (ids == IMAGE_TOKEN).long()}
    return inputs


def wrap(module: Any) -> Any:
    """The model as `nv.load` gives it."""
    return nv.load(module)


def prompt_of(model: Any, size: ModelSize, seed: int = 0) -> nv.Prompt:
    """A prompt; with a seed of its own it shares nothing with earlier prompts but the text."""
    return nv.encode(model, inputs=inputs_of(size, seed))


def save(folder: Path, module: Any, size: ModelSize) -> Path:
    """Write weights, encoding and facts for a program in another environment (`peers/common.py` loads them).

    M-RoPE position ids are written too: transformers 5.3 computes others for Qwen2.5-VL's image tokens than 5.23.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module.config.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in module.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    inputs = inputs_of(size)
    if size.kind != "llava":
        arguments = {name: inputs[name] for name in ("input_ids", "image_grid_thw", "mm_token_type_ids")}
        inputs["position_ids"] = module.model.get_rope_index(**arguments)[0]
    torch.save(inputs, folder / "inputs.pt")
    positions = {"image": [SYSTEM, SYSTEM + size.image_tokens], "length": TEXT + size.image_tokens}
    facts = {"class": type(module).__name__, "layers": size.layers, "answer": ANSWER, **positions}
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder
