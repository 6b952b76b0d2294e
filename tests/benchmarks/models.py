"""Random-weight models from configs, the same on all sides: ours and every peer's.

`build` draws a model and an encoding from a `Shape`, always the same ones; `save` writes both, so that a program in
another virtual environment loads the very same weights and inputs. Weights are drawn wide enough for every
intervention to move the answer's logit, else equal numbers would show nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf
from safetensors.torch import save_file

import nnsight_vlm as nv

WORDS, IMAGE_TOKEN, ANSWER = 4000, 5, 77
SYSTEM, TEXT = 4, 40
"""Text tokens before the image, and in all."""
PATCH, MERGE = 14, 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model to build, and a prompt for it.

    Attributes:
        kind: a name in `KINDS`.
        layers, width, heads: of the decoder.
        side: patches along each side of a picture, after merging.
        pictures: one behind the other, nothing between them.
    """

    kind: str = "llava"
    layers: int = 12
    width: int = 512
    heads: int = 8
    side: int = 24
    pictures: int = 1

    @property
    def image_tokens(self) -> int:
        return self.side**2 * self.pictures


SHAPES = {
    "576": Shape(),
    "2880": Shape(pictures=5),
    "thin": Shape(layers=32, width=128, heads=4),
    "tiny": Shape(width=32, heads=2, side=4),
    "qwen2_5_vl": Shape(kind="qwen2_5_vl", width=256, heads=4),
    "qwen3_vl": Shape(kind="qwen3_vl", width=256, heads=4),
}
QUICK = {"layers": 2, "width": 64, "heads": 4, "side": 4}
"""What `--quick` makes of every shape: it shows that the cases run, and times nothing."""


def shapes(quick: bool) -> dict[str, Shape]:
    """The shapes by name."""
    return {name: Shape(**{**asdict(shape), **QUICK}) if quick else shape for name, shape in SHAPES.items()}


# configs ------------------------------------------------------------------------------------------------------------


def _decoder(shape: Shape, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": WORDS,
        "hidden_size": shape.width,
        "intermediate_size": shape.width * 43 // 16,  # LLaMA's 2.7
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "max_position_embeddings": 16384,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }


def _llava(shape: Shape) -> Any:
    vision = hf.CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=shape.side * PATCH,
        patch_size=PATCH,
    )
    config = hf.LlavaConfig(
        vision_config=vision,
        text_config=hf.LlamaConfig(**_decoder(shape)),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=shape.side**2,
        vision_feature_layer=-1,
    )
    return hf.LlavaForConditionalGeneration(config)


def _qwen_vision(shape: Shape, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": shape.width, "depth": 1, "num_heads": 2}
    patches = {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": 2}
    return {**sizes, **patches, **more}


def _sections(shape: Shape) -> list[int]:
    """Rotary frequencies of each head that turn with time, row and column."""
    half = shape.width // shape.heads // 2
    return [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8]


def _qwen2_5_vl(shape: Shape) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(shape)}
    config = hf.Qwen2_5_VLConfig(
        text_config=_decoder(shape, rope_parameters=rope),
        vision_config=_qwen_vision(shape, window_size=4 * PATCH * MERGE, fullatt_block_indexes=[0]),
        image_token_id=IMAGE_TOKEN,
        **QWEN_MARKS,
    )
    return hf.Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl(shape: Shape) -> Any:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(shape), "mrope_interleaved": True}
    config = hf.Qwen3VLConfig(
        text_config=_decoder(shape, head_dim=shape.width // shape.heads, rope_parameters=rope),
        vision_config=_qwen_vision(shape, num_position_embeddings=36, deepstack_visual_indexes=[0]),
        image_token_id=IMAGE_TOKEN,
        **QWEN_MARKS,
    )
    return hf.Qwen3VLForConditionalGeneration(config)


QWEN_MARKS = {"video_token_id": 6, "vision_start_token_id": 8, "vision_end_token_id": 9}
KINDS: dict[str, Callable[[Shape], Any]] = {"llava": _llava, "qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}


# weights and inputs -------------------------------------------------------------------------------------------------


def build_module(shape: Shape) -> Any:
    """The transformers model, float32, ready to run."""
    torch.manual_seed(0)
    module = KINDS[shape.kind](shape).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, weight in module.named_parameters():
        if weight.dim() > 1:
            spread = 1.0 if "embed" in name or "lm_head" in name else 1.2
            scale = spread if "embed_tokens" in name else spread / weight[0].numel() ** 0.5
            weight.copy_(torch.randn(weight.shape, generator=generator) * scale)
    module.get_output_embeddings().weight[:10] = 0  # markers are never said
    module.generation_config.eos_token_id = None  # so that all answers are of one length
    return module


def pixels(shape: Shape, seed: int) -> torch.Tensor:
    """Noise as pixels, in the form that the kind of model takes."""
    generator = torch.Generator().manual_seed(seed)
    if shape.kind == "llava":
        return torch.randn(shape.pictures, 3, shape.side * PATCH, shape.side * PATCH, generator=generator)
    return torch.randn(shape.image_tokens * MERGE**2, 3 * 2 * PATCH**2, generator=generator)


def inputs_of(shape: Shape, seed: int = 0) -> dict[str, torch.Tensor]:
    """An encoding: 4 tokens, the pictures, 36 tokens. Other seeds are other pictures in the same words."""
    words = torch.randint(10, WORDS, (TEXT,), generator=torch.Generator().manual_seed(1))
    ids = torch.cat([words[:SYSTEM], torch.full((shape.image_tokens,), IMAGE_TOKEN), words[SYSTEM:]])[None]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels(shape, seed)}
    if shape.kind != "llava":
        grid = [1, shape.side * MERGE, shape.side * MERGE]
        inputs |= {"image_grid_thw": torch.tensor([grid] * shape.pictures)}
        inputs |= {"mm_token_type_ids": (ids == IMAGE_TOKEN).long()}
    return inputs


def wrap(module: Any) -> Any:
    """The model as `nv.load` gives it."""
    return nv.load(module)


def prompt_of(model: Any, shape: Shape, seed: int = 0) -> nv.Prompt:
    """A prompt that the model has not met before, if its seed is new."""
    return nv.encode(model, inputs=inputs_of(shape, seed))


def save(folder: Path, module: Any, shape: Shape) -> Path:
    """Weights, encoding and facts for a program in another environment; see `peers/common.py`.

    M-RoPE positions are written out: transformers 5.3 gives Qwen2.5-VL's image tokens other ones than 5.23.
    """
    folder.mkdir(parents=True, exist_ok=True)
    module.config.save_pretrained(folder)
    weights = {name: weight.contiguous() for name, weight in module.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    inputs = inputs_of(shape)
    if shape.kind != "llava":
        asked = {name: inputs[name] for name in ("input_ids", "image_grid_thw", "mm_token_type_ids")}
        inputs["position_ids"] = module.model.get_rope_index(**asked)[0]
    torch.save(inputs, folder / "inputs.pt")
    positions = {"image": [SYSTEM, SYSTEM + shape.image_tokens], "length": TEXT + shape.image_tokens}
    facts = {"class": type(module).__name__, "layers": shape.layers, "answer": ANSWER, **positions}
    (folder / "facts.json").write_text(json.dumps(facts))
    return folder
