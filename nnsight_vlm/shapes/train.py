"""Train the model from scratch: ``python -m nnsight_vlm.shapes.train --out runs/shapes``.

Training has two stages, each with a fixed number of steps. *See*: the vision tower alone learns to say, for every
patch, what lies there, through five linear heads that are dropped afterwards. *Speak*: the tower is frozen, as in
LLaVA, while projector and decoder learn to answer about eleven questions on each image (`packing.py`). Step n of a
stage draws the training seeds n * batch, n * batch + 1, ..., so that no scene is seen twice in a stage and a run that
was interrupted resumes where it stopped.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
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
    GIST_LEADS,
    LEADS,
    LOOKUPS,
    PREFIX_IDS,
    PREFIX_TOKENS,
    SHARES,
    Batch,
    masks,
    pack,
    packed_attention,
    pixels,
    segments_about,
)
from .training_stages import TrainingStage, optimisers
from .world import CELLS, FIRST_TRAINING_SEED, PIXELS, Scene, scene

AttentionInterface.register("shapes_packed", packed_attention)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that determines a run; each field is an option of the command line.

    Attributes:
        seed: of the initial weights and of the questions.
        see_steps, see_batch: steps of the first stage, and scenes in each.
        see_rate: learning rate of Muon in the first stage.
        speak_steps, speak_batch, speak_rate: the same of the second stage.
        adam_rate: learning rate of AdamW in both stages.
        lookups: the share of the second stage, from its start, in which all short questions are look-ups; the others
            cannot be learnt before these.
        weight_decay: of Muon.
        text_only: the share of branches that never see the image.
        cut: the share of branches whose answer does not see the image; above 0 this is the fine-tuning that makes
            `shapes-gist`.
        save_every: after this many steps the state is saved and the accuracy measured.
        watched: how many held-out scenes the accuracy is measured on.
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
"""The number of classes that each linear head tells apart."""
IGNORED = -100
"""The label where a head is asked nothing; `torch.nn.functional.cross_entropy` ignores it."""


def patch_labels(scenes: Sequence[Scene]) -> torch.Tensor:
    """The right class of every head at every patch, or `IGNORED`; int64 `[scene, patch, head]`."""
    side = PIXELS // PATCH
    labels = np.full((len(scenes), side * side, len(HEADS)), IGNORED)
    labels[..., -1] = 0
    for number, each in enumerate(scenes):
        for obj in each.objects:
            covered = obj.mask.reshape(side, PATCH, side, PATCH).mean((1, 3)).ravel() > 0.1
            cell = obj.cell[0] * CELLS + obj.cell[1]
            classes = COLORS.index(obj.color), SHAPES.index(obj.shape), SIZES.index(obj.size), cell, 1
            labels[number, covered] = classes
    return torch.from_numpy(labels)


def patch_logits(model: LlavaForConditionalGeneration, heads: nn.Linear, images: torch.Tensor) -> list[torch.Tensor]:
    """What each head says of every patch, `[scene, patch, class]` each."""
    features = model.model.vision_tower(images).last_hidden_state[:, 1:]
    return list(heads(features).split(list(HEADS.values()), -1))


def see_loss(
    model: LlavaForConditionalGeneration, heads: nn.Linear, images: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of the heads, summed over heads."""
    losses = [
        F.cross_entropy(logits.flatten(0, 1), labels[..., number].flatten())
        for number, logits in enumerate(patch_logits(model, heads, images))
    ]
    return torch.stack(losses).sum()


# --- stage 2: speak ---------------------------------------------------------------------------------------------------


def packed_logits(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Logits at every place behind the prefix, `[batch, place, word]`; the prefix is computed once for all branches."""
    llava, decoder = model.model, model.model.language_model
    features = llava.vision_tower(batch.pixels).last_hidden_state[:, 1:]
    count, device = len(batch.ids), batch.ids.device
    prefix = decoder.embed_tokens(torch.tensor(PREFIX_IDS, device=device)).expand(count, -1, -1)
    system = prefix[:, : PREFIX_TOKENS - features.shape[1]]
    hidden = torch.cat([system, llava.multi_modal_projector(features), decoder.embed_tokens(batch.ids)], 1)
    prefix_positions = torch.arange(PREFIX_TOKENS, device=device).expand(count, -1)
    rotations = decoder.rotary_emb(hidden, torch.cat([prefix_positions, batch.positions], 1))
    attention_mask = masks(batch)
    for layer in decoder.layers:
        hidden = layer(hidden, attention_mask=attention_mask, position_embeddings=rotations)
    logits: torch.Tensor = model.lm_head(decoder.norm(hidden[:, PREFIX_TOKENS:]))
    return logits


def speak_loss(model: LlavaForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Weighted mean of the cross-entropy of questions and answers."""
    losses = F.cross_entropy(
        packed_logits(model, batch).flatten(0, 1).float(), batch.targets.flatten(), reduction="none"
    )
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


@torch.no_grad()
def exact(
    model: LlavaForConditionalGeneration, scenes: Sequence[Scene], rng: random.Random, device: str = "cpu"
) -> dict[str, float]:
    """The share of right answers of each family: those that greedy decoding would give word by word."""
    segments = [segments_about(each, rng) for each in scenes]
    batch = pack(scenes, segments, rng).to(device)
    is_right = (packed_logits(model, batch).argmax(-1) == batch.targets).view(batch.branch_numbers.shape).cpu()
    right_answers = defaultdict(list)
    for scene_number, about_scene in enumerate(segments):
        for segment_number, segment in enumerate(about_scene):
            start = 0
            for branch in segment:
                stop = start + len(branch.ids)
                if branch.family in FAMILIES:
                    # a token is predicted at the place before its own
                    predicted = slice(start + branch.question_tokens - 1, stop - 1)
                    right_answers[branch.family].append(bool(is_right[scene_number, segment_number, predicted].all()))
                start = stop
    return {str(family): round(float(np.mean(right)), 3) for family, right in sorted(right_answers.items())}


# --- the whole run ----------------------------------------------------------------------------------------------------


def training_scenes(step: int, batch: int) -> list[Scene]:
    """The scenes of a training step, from seeds that users do not draw from."""
    return [scene(FIRST_TRAINING_SEED + step * batch + number) for number in range(batch)]


def watched_scenes(count: int) -> list[Scene]:
    """Scenes to watch a run by: not trained on, and not among those that `evaluate` asks about."""
    return [scene(FIRST_TRAINING_SEED - 1 - number) for number in range(count)]


def see(model: LlavaForConditionalGeneration, settings: Settings, out: Path, device: str) -> None:
    """The first stage: the vision tower learns what lies at each patch."""
    tower = model.model.vision_tower
    heads = nn.Linear(model.config.vision_config.hidden_size, sum(HEADS.values())).to(device)

    def loss(step: int) -> torch.Tensor:
        scenes = training_scenes(step, settings.see_batch)
        return see_loss(model, heads, pixels(scenes).to(device), patch_labels(scenes).to(device))

    @torch.no_grad()
    def accuracies() -> dict[str, float]:
        scenes = watched_scenes(settings.watched)
        shares = {}
        for name, logits, right in zip(
            HEADS, patch_logits(model, heads, pixels(scenes).to(device)), patch_labels(scenes).unbind(-1), strict=True
        ):
            hits = logits.cpu().argmax(-1) == right
            shares[name] = round(float(hits[right != IGNORED].float().mean()), 4)
        return shares

    stage = TrainingStage(
        name="see",
        steps=settings.see_steps,
        parts=nn.ModuleList([tower, heads]),
        optimisers=optimisers([tower, heads], settings.see_rate, settings.adam_rate, settings.weight_decay),
        out=out,
    )
    stage.run(loss, accuracies, every=settings.save_every)


def speak(model: LlavaForConditionalGeneration, settings: Settings, out: Path, device: str, compiled: bool) -> None:
    """The second stage, or the fine-tuning that makes `shapes-gist` when `settings.cut` is above 0."""
    llava = model.model
    llava.vision_tower.requires_grad_(False)
    llava.language_model.config._attn_implementation = "shapes_packed"
    parts = nn.ModuleList([llava.multi_modal_projector, llava.language_model])
    loss_of_batch = torch.compile(speak_loss) if compiled else speak_loss

    def loss(step: int) -> torch.Tensor:
        scenes = training_scenes(step, settings.speak_batch)
        rng = random.Random(f"{settings.seed}/{settings.cut}/{step}")
        shares = LOOKUPS if step < settings.lookups * settings.speak_steps else SHARES
        segments = [segments_about(each, rng, shares, GIST_LEADS if settings.cut else LEADS) for each in scenes]
        return loss_of_batch(model, pack(scenes, segments, rng, settings.text_only, settings.cut).to(device))

    def accuracies() -> dict[str, float]:
        return exact(model, watched_scenes(settings.watched), random.Random(0), device)

    stage = TrainingStage(
        name="speak",
        steps=settings.speak_steps,
        parts=parts,
        optimisers=optimisers(list(parts), settings.speak_rate, settings.adam_rate, settings.weight_decay),
        out=out,
    )
    stage.run(loss, accuracies, every=settings.save_every)


def train(settings: Settings, out: Path, device: str = "cpu", start: Path | None = None, compiled: bool = True) -> None:
    """Train a model and write it to `out / "model"`.

    Args:
        settings: everything that determines the result.
        out: the folder for the model, the log, and the states that an interrupted run resumes from.
        device: where to train.
        start: the folder of a checkpoint to fine-tune; without it both stages run from random weights.
        compiled: whether the second stage uses `torch.compile`, which needs a C++ compiler.
    """
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
    """The command line; every field of `Settings` is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the trained model, the log and saved states"
    )
    parser.add_argument("--start", type=Path, help="checkpoint folder to fine-tune instead of training from scratch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument(
        "--no-compile", action="store_true", help="do not use torch.compile, which needs a C++ compiler"
    )
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = vars(parser.parse_args())
    out, start, device, no_compile = (options.pop(name) for name in ("out", "start", "device", "no_compile"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    train(Settings(**options), out, device, start, compiled=not no_compile)


if __name__ == "__main__":
    main()
