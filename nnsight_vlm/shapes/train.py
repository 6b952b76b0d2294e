"""Train the model from scratch: ``python -m nnsight_vlm.shapes.train --out runs/shapes``.

Two stages, each with a fixed number of steps. *See*: the vision tower alone learns to tell, patch by patch, what
lies there (five linear heads, dropped afterwards). *Speak*: the tower is held, as in LLaVA, while projector and decoder
learn to answer, about eleven questions to an image (`packing.py`). Step n of a stage draws the training seeds
n * batch, n * batch + 1, ..., so that no scene comes twice in a stage and a run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AttentionInterface, LlavaForConditionalGeneration

from .language import COLORS, FAMILIES, SHAPES, SIZES
from .model import PATCH, build_model, save
from .packing import (
    DESCRIBING,
    LEADS,
    LOOKUPS,
    PREFIX,
    PREFIX_IDS,
    SHARES,
    Batch,
    branches,
    masks,
    pack,
    packed_attention,
    pixels,
)
from .training_stages import TrainingStage, optimisers
from .world import CELLS, FIRST_TRAINING_SEED, PIXELS, Scene, scene

AttentionInterface.register("shapes_packed", packed_attention)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that fixes a run.

    ``lookups`` is the share of the speak stage in which only look-ups are asked: the other families cannot be learnt
    before those. ``cut`` above 0 makes it a fine-tuning to ``shapes-gist`` (`packing.pack`).
    """

    seed: int = 0
    see_steps: int = 1200
    see_batch: int = 64
    see_rate: float = 0.02
    speak_steps: int = 3000
    speak_batch: int = 16
    speak_rate: float = 0.01
    adam_rate: float = 2e-3
    lookups: float = 0.24
    weight_decay: float = 0.01
    text_only: float = 0.1
    cut: float = 0.0
    save_every: int = 100
    watched: int = 64


# --- stage 1: see -----------------------------------------------------------------------------------------------------

HEADS = {"color": len(COLORS), "shape": len(SHAPES), "size": len(SIZES), "cell": CELLS * CELLS, "object": 2}


def patch_labels(scenes: list[Scene]) -> torch.Tensor:
    """What lies at each patch, one number per head, -100 where nothing is asked; int64 [scene, patch, head]."""
    side = PIXELS // PATCH
    labels = np.full((len(scenes), side * side, len(HEADS)), -100)
    labels[..., -1] = 0
    for row, it in zip(labels, scenes, strict=True):
        for o in it.objects:
            covered = o.mask.reshape(side, PATCH, side, PATCH).mean((1, 3)).ravel() > 0.1
            cell = o.cell[0] * CELLS + o.cell[1]
            row[covered] = COLORS.index(o.color), SHAPES.index(o.shape), SIZES.index(o.size), cell, 1
    return torch.from_numpy(labels)


def see_loss(
    model: LlavaForConditionalGeneration, heads: nn.Linear, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Mean cross-entropy of the patch heads on the tower's output."""
    features = model.model.vision_tower(images).last_hidden_state[:, 1:]
    logits = heads(features).split(list(HEADS.values()), -1)
    losses = [F.cross_entropy(each.flatten(0, 1), labels[..., n].flatten()) for n, each in enumerate(logits)]
    return torch.stack(losses).sum()


# --- stage 2: speak ---------------------------------------------------------------------------------------------------


def packed_logits(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Logits of the packed branches, [batch, rows * length, word]; the prefix is computed once for all of them."""
    llava, decoder = model.model, model.model.language_model
    features = llava.vision_tower(batch.pixels).last_hidden_state[:, 1:]
    prefix = decoder.embed_tokens(torch.tensor(PREFIX_IDS, device=batch.ids.device)).expand(len(batch.ids), -1, -1)
    text = PREFIX - features.shape[1]
    x = torch.cat([prefix[:, :text], llava.multi_modal_projector(features), decoder.embed_tokens(batch.ids)], 1)
    places = torch.arange(PREFIX, device=batch.ids.device).expand(len(batch.ids), -1)
    turns = decoder.rotary_emb(x, torch.cat([places, batch.positions], 1))
    seen = masks(batch)
    for layer in decoder.layers:
        x = layer(x, attention_mask=seen, position_embeddings=turns)
    logits: torch.Tensor = model.lm_head(decoder.norm(x[:, PREFIX:]))
    return logits


def speak_loss(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Weighted cross-entropy of questions and answers."""
    losses = F.cross_entropy(
        packed_logits(model, batch).flatten(0, 1).float(), batch.targets.flatten(), reduction="none"
    )
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


@torch.no_grad()
def exact(
    model: LlavaForConditionalGeneration, scenes: list[Scene], rng: random.Random, device: str = "cpu"
) -> dict[str, float]:
    """Share of branches, per family, whose whole answer is the most likely one word by word (as greedy decoding)."""
    layout = [branches(it, rng) for it in scenes]
    batch = pack(scenes, layout, rng).to(device)
    right = (packed_logits(model, batch).argmax(-1) == batch.targets).view(batch.owner.shape).cpu()
    found = defaultdict(list)
    for b, rows in enumerate(layout):
        for r, row in enumerate(rows):
            start = 0
            for it in row:
                stop = start + len(it.ids)
                if it.family in FAMILIES:
                    found[it.family].append(bool(right[b, r, start + it.prompt - 1 : stop - 1].all()))
                start = stop
    return {family: round(float(np.mean(hits)), 3) for family, hits in sorted(found.items())}


# --- the whole run ----------------------------------------------------------------------------------------------------


def training_scenes(step: int, batch: int) -> list[Scene]:
    """The scenes of a training step; their seeds begin where those of users end."""
    return [scene(FIRST_TRAINING_SEED + step * batch + n) for n in range(batch)]


def watched_scenes(count: int) -> list[Scene]:
    """Scenes to watch a run by, neither trained on nor among those that `evaluate` asks about."""
    return [scene(FIRST_TRAINING_SEED - 1 - n) for n in range(count)]


def see(model: LlavaForConditionalGeneration, settings: Settings, out: Path, device: str) -> None:
    """Stage 1."""
    heads = nn.Linear(model.config.vision_config.hidden_size, sum(HEADS.values())).to(device)
    tower = model.model.vision_tower
    made = optimisers([tower, heads], settings.see_rate, settings.adam_rate, settings.weight_decay)

    def loss(step: int) -> torch.Tensor:
        scenes = training_scenes(step, settings.see_batch)
        return see_loss(model, heads, pixels(scenes).to(device), patch_labels(scenes).to(device))

    def watch() -> dict[str, float]:
        scenes = watched_scenes(settings.watched)
        labels = patch_labels(scenes)
        with torch.no_grad():
            logits = heads(tower(pixels(scenes).to(device)).last_hidden_state[:, 1:]).cpu()
        right = [each.argmax(-1) == labels[..., n] for n, each in enumerate(logits.split(list(HEADS.values()), -1))]
        shares = [hits[labels[..., n] >= 0].float().mean() for n, hits in enumerate(right)]
        return {name: round(float(share), 4) for name, share in zip(HEADS, shares, strict=True)}

    stage = TrainingStage(
        name="see", steps=settings.see_steps, parts=nn.ModuleList([tower, heads]), optimisers=made, out=out
    )
    stage.run(loss, watch, every=settings.save_every)


def speak(model: LlavaForConditionalGeneration, settings: Settings, out: Path, device: str, compiled: bool) -> None:
    """Stage 2, or the fine-tuning of ``shapes-gist`` when ``cut`` is above 0."""
    llava = model.model
    llava.vision_tower.requires_grad_(False)
    parts = nn.ModuleList([llava.multi_modal_projector, llava.language_model])
    made = optimisers(list(parts), settings.speak_rate, settings.adam_rate, settings.weight_decay)
    llava.language_model.config._attn_implementation = "shapes_packed"
    measured = torch.compile(speak_loss) if compiled else speak_loss

    def loss(step: int) -> torch.Tensor:
        scenes = training_scenes(step, settings.speak_batch)
        rng = random.Random(f"{settings.seed}/{settings.cut}/{step}")
        shares = LOOKUPS if step < settings.lookups * settings.speak_steps else SHARES
        layout = [branches(it, rng, shares, DESCRIBING if settings.cut else LEADS) for it in scenes]
        return measured(model, pack(scenes, layout, rng, settings.text_only, settings.cut).to(device))

    def watch() -> dict[str, float]:
        return exact(model, watched_scenes(settings.watched), random.Random(0), device)

    stage = TrainingStage(name="speak", steps=settings.speak_steps, parts=parts, optimisers=made, out=out)
    stage.run(loss, watch, every=settings.save_every)


def train(settings: Settings, out: Path, device: str = "cpu", start: Path | None = None, compiled: bool = True) -> None:
    """Train from scratch, or from a checkpoint folder, into a folder: states to resume from, the log, ``model/``."""
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(settings.seed).to(device)
    torch.manual_seed(settings.seed)
    if start is not None:
        model.load_state_dict(type(model).from_pretrained(start, dtype=torch.float32).state_dict())
    else:
        see(model, settings, out, device)
    speak(model, settings, out, device, compiled)
    save(model.cpu(), out / "model")


def main() -> None:
    """The command line: every field of `Settings` is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for states, log and the trained model")
    parser.add_argument("--start", type=Path, help="checkpoint folder to fine-tune instead of training from scratch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument(
        "--no-compile", action="store_true", help="do without torch.compile, which needs a C++ compiler"
    )
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    out, start, device, plain = (given.pop(name) for name in ("out", "start", "device", "no_compile"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    train(Settings(**given), out, device, start, compiled=not plain)


if __name__ == "__main__":
    main()
