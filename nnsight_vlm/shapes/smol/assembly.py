"""The whole model: a vision tower and a projector trained here, and SmolLM2 with the updates merged into it.

`parts.safetensors` (float16) is what this package ships: the tower, the projector and the updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from ...storage import atomic_write
from ..model import IMAGE_TOKENS, processor_with, vision_config
from . import language_model
from .gguf import GGUF
from .language_model import CHAT_TEMPLATE, IMAGE_ID
from .updates import PARTS, SCALE, matrix

TOWER, PROJECTOR, UPDATES = "tower.", "projector.", "updates."
"""How the names of the shipped tensors begin."""


def config(file: GGUF) -> LlavaConfig:
    """The configuration of the whole model."""
    text = language_model.config(file)
    return LlavaConfig(
        vision_config=vision_config(),
        text_config=text,
        image_token_id=IMAGE_ID,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )


def processor(file: GGUF) -> LlavaProcessor:
    """The processor: the language model's tokenizer, and the images as for the other embedded models."""
    return processor_with(language_model.tokenizer(file), CHAT_TEMPLATE)


def save_parts(
    path: Path, tower: torch.nn.Module, projector: torch.nn.Module, updates: torch.nn.Module
) -> dict[str, torch.Tensor]:
    """Write what was trained in float16, and return it so."""
    parts = {TOWER: tower, PROJECTOR: projector, UPDATES: updates}
    tensors = {
        begin + name: tensor.detach().to("cpu", torch.float16).contiguous()
        for begin, part in parts.items()
        for name, tensor in part.state_dict().items()
        if tensor.is_floating_point()
    }
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(tensors, metadata={"format": "pt"}))
    return tensors


def load_parts(path: Path) -> dict[str, torch.Tensor]:
    """What `save_parts` wrote."""
    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


def assemble(file: GGUF, parts: Mapping[str, torch.Tensor]) -> LlavaForConditionalGeneration:
    """The model in float32, with all its weights; those of the language model hold values of bfloat16.

    The updates are merged in float64 and rounded once, so that every machine gets the same weights.
    """
    model = LlavaForConditionalGeneration(config(file)).eval()
    llava = model.model
    for module, begin in ((llava.vision_tower, TOWER), (llava.multi_modal_projector, PROJECTOR)):
        tensors = {name.removeprefix(begin): tensor.float() for name, tensor in parts.items() if name.startswith(begin)}
        _fill(module, tensors)
    original = {name: torch.from_numpy(values) for name, values in language_model.weights(file).items()}
    _fill(llava.language_model, {name: values.bfloat16().float() for name, values in original.items()})
    with torch.no_grad():
        for number, layer in enumerate(llava.language_model.layers):
            for part, place in PARTS.items():
                a, b = (parts[f"{UPDATES}{side}.{part}"][number].double() for side in "ab")
                merged = original[f"layers.{number}.{place}.{part}.weight"].double() + SCALE * b @ a
                matrix(layer, part).weight.copy_(merged.bfloat16())
    model.tie_weights()
    return model


def _fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Load weights; what is no weight (the tower's list of positions) stays as it was built."""
    missing, unexpected = module.load_state_dict(dict(tensors), strict=False)
    lacking = [name for name in missing if name in dict(module.named_parameters())]
    if lacking or unexpected:
        raise ValueError(f"weights that do not fit: {lacking} are missing, {unexpected} have no place")
