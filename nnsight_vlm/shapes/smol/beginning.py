"""Where a training of `shapes-smol` begins: its settings, its learner, its optimiser, and the texts to keep to."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from ...storage import atomic_write
from ..embedded import checkpoint
from . import assembly, language_model
from .gguf import GGUF
from .learning import Learner
from .packing import Writer
from .texts import beginnings, write
from .updates import PARTS

BETAS = (0.9, 0.98)
TEXT_ROWS = {"cuda": 2048}
"""Texts that are written at a time, by device; elsewhere `FEWER_TEXT_ROWS`."""
FEWER_TEXT_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What determines a run; each field is an option of the command line.

    Attributes:
        seed: of the projector, the updates and the questions.
        rows: scenes in a step.
        rank: of the updates.
        projector_rate, update_rate, tower_rate: learning rates of AdamW.
        warmup: steps in which the rate rises.
        hold: the share of the time after which the rate begins to fall.
        text_every: every so many steps there are texts.
        text_rows: texts in such a step.
        text_weight: of their divergence in the loss.
        texts, text_tokens: how many texts the untouched model writes, and how many tokens it adds to each beginning.
        save_seconds: time between two saved states.
        watch_seconds, watched: time between two measurements on held-out scenes, and how many scenes those are.
        evaluated: scenes that the accuracy is measured on in the end.
        evaluation_seconds: time that is kept for it.
    """

    seed: int = 0
    rows: int = 32
    rank: int = 8
    projector_rate: float = 2e-3
    update_rate: float = 1e-3
    tower_rate: float = 2e-4
    warmup: int = 100
    hold: float = 0.45
    text_every: int = 6
    text_rows: int = 32
    text_weight: float = 4.0
    texts: int = 2048
    text_tokens: int = 160
    save_seconds: float = 60
    watch_seconds: float = 30
    watched: int = 64
    evaluated: int = 500
    evaluation_seconds: float = 50


def new_learner(file: GGUF, settings: Settings, device: torch.device, dtype: torch.dtype | None = None) -> Learner:
    """What is trained, at its start; the language model in bfloat16 on a GPU, unless a dtype is given."""
    torch.manual_seed(settings.seed)
    model = LlavaForConditionalGeneration(assembly.config(file))
    weights = {name: torch.from_numpy(values) for name, values in language_model.weights(file).items()}
    model.model.language_model.load_state_dict(weights)
    model.tie_weights()
    stored = load_file(checkpoint("shapes") / "model.safetensors")
    tower = {name.removeprefix("vision_tower."): value.float() for name, value in stored.items()}
    seen = {name: value for name, value in tower.items() if not name.startswith(("language_model", "multi_modal"))}
    _, unexpected = model.model.vision_tower.load_state_dict(seen, strict=False)
    if unexpected:
        raise ValueError(f"the tower of shapes has other weights: {unexpected}")
    with torch.no_grad():  # image tokens begin about as large as words
        model.model.multi_modal_projector.linear_2.weight.mul_(word_scale(model))
        model.model.multi_modal_projector.linear_2.bias.mul_(word_scale(model))
    layers = range(len(model.model.language_model.layers))
    original = {
        part: torch.stack([weights[f"layers.{number}.{place}.{part}.weight"] for number in layers]).to(device)
        for part, place in PARTS.items()
    }
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    return Learner(model.to(device), original, dtype, settings.rank, settings.seed).to(device)


def word_scale(model: LlavaForConditionalGeneration) -> float:
    """The standard deviation of the language model's embeddings."""
    return float(model.model.language_model.embed_tokens.weight.float().std())


def optimiser_of(learner: Learner, settings: Settings) -> torch.optim.AdamW:
    """AdamW at the full rates; the projector's last layer, which is small, moves in proportion."""
    scale = word_scale(learner.model)
    last, first = learner.projector.linear_2, learner.projector.linear_1
    groups: list[dict[str, Any]] = [
        {"params": list(first.parameters()), "lr": settings.projector_rate},
        {"params": list(last.parameters()), "lr": settings.projector_rate * scale},
        {"params": list(learner.updates.parameters()), "lr": settings.update_rate},
        {"params": list(learner.tower.parameters()), "lr": settings.tower_rate},
    ]
    for group in groups:
        group["full"] = group["lr"]
    fused = next(learner.parameters()).is_cuda
    return torch.optim.AdamW(groups, betas=BETAS, weight_decay=0.0, fused=fused)


def texts_of(learner: Learner, writer: Writer, settings: Settings, file: Path) -> list[list[int]]:
    """The texts that the untouched model writes, as token ids; a run writes them once and keeps them in a file."""
    if file.exists():
        kept: list[list[int]] = json.loads(file.read_text())
        return kept
    learner.use_untouched()
    torch.manual_seed(settings.seed)
    begun = beginnings(settings.texts, random.Random(settings.seed))
    written = []
    rows = TEXT_ROWS.get(learner.model.device.type, FEWER_TEXT_ROWS)
    for start in range(0, len(begun), rows):
        written += write(learner.model, begun[start : start + rows], writer, settings.text_tokens)
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(written))
    return written
