"""Train the model from scratch: ``python -m nnsight_vlm.shapes.train --out runs/shapes``.

Two stages, each with a fixed number of steps. *See*: the vision tower alone learns to tell, patch by patch, which object
lies there (four linear heads, dropped afterwards). *Speak*: projector and decoder learn to answer, eight to sixteen
questions to an image (`packing.py`); the tower joins at ``thaw``. Every scene is new: step n draws the training seeds
n * batch, n * batch + 1, ..., so that a run is fixed by its settings and goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm
from transformers import AttentionInterface

from .language import COLORS, SHAPES, SIZES
from .model import PATCH, build_model, save
from .muon import Muon
from .packing import PREFIX, PREFIX_IDS, Batch, branches, masks, pack, packed_attention, pixels
from .world import CELLS, FIRST_TRAINING_SEED, PIXELS, Scene, scene

AttentionInterface.register("shapes_packed", packed_attention)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that fixes a run. ``thaw`` is the share of the speak stage after which the tower learns again."""

    seed: int = 0
    see_steps: int = 1500
    see_batch: int = 64
    see_rate: float = 0.02
    speak_steps: int = 4000
    speak_batch: int = 16
    speak_rate: float = 0.02
    adam_rate: float = 2e-3
    thaw: float = 0.6
    thawed_rate: float = 0.2
    weight_decay: float = 0.01
    text_only: float = 0.1
    cut: float = 0.0
    save_every: int = 100


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


def see_loss(model: nn.Module, heads: nn.Linear, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the patch heads on the tower's output."""
    features = model.model.vision_tower(images).last_hidden_state[:, 1:]
    logits = heads(features).split(list(HEADS.values()), -1)
    losses = [F.cross_entropy(l.flatten(0, 1), labels[..., n].flatten()) for n, l in enumerate(logits)]
    return torch.stack(losses).sum()


# --- stage 2: speak ---------------------------------------------------------------------------------------------------


def packed_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
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
    return model.lm_head(decoder.norm(x[:, PREFIX:]))


def speak_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Weighted cross-entropy of questions and answers."""
    losses = F.cross_entropy(packed_logits(model, batch).flatten(0, 1).float(), batch.targets.flatten(), reduction="none")
    return (losses * batch.weights.flatten()).sum() / batch.weights.sum()


@torch.no_grad()
def exact(model: nn.Module, scenes: list[Scene], rng: random.Random, device: str = "cpu") -> dict[str, float]:
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
                found[it.family].append(bool(right[b, r, start + it.prompt - 1 : stop - 1].all()))
                start = stop
    return {family: round(float(np.mean(hits)), 3) for family, hits in sorted(found.items())}


# --- the loop ---------------------------------------------------------------------------------------------------------


def slope(step: int, steps: int, warm: int = 60, decay: float = 0.4) -> float:
    """Share of the full learning rate at a step: a short rise, a plateau, a straight line down to 0."""
    return min(1.0, (step + 1) / warm, (steps - step) / (decay * steps))


def optimisers(parts: list[nn.Module], muon_rate: float, adam_rate: float, decay: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks of these parts, AdamW for everything else of them."""
    named = [(name, p) for part in parts for name, p in part.named_parameters()]
    inside = [p for name, p in named if "layers." in name and p.ndim == 2]
    chosen = {id(p) for p in inside}
    outside = [p for _, p in named if id(p) not in chosen]
    adam = torch.optim.AdamW(outside, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(inside, lr=muon_rate, weight_decay=decay), adam]


def training_scenes(step: int, batch: int) -> list[Scene]:
    """The scenes of a training step; their seeds begin where those of users end."""
    return [scene(FIRST_TRAINING_SEED + step * batch + n) for n in range(batch)]


@dataclass(kw_only=True)
class Stage:
    """A stage under way: what learns, how, and how far it has come."""

    name: str
    steps: int
    parts: nn.ModuleList
    optimisers: list[torch.optim.Optimizer]
    out: Path
    step: int = 0

    def run(self, loss: Callable[[int], torch.Tensor], watch: Callable[[int], dict[str, float]], every: int) -> None:
        """Take all steps that are left; every so many, save the state and write down what ``watch`` finds."""
        self._resume()
        base = [[group["lr"] for group in o.param_groups] for o in self.optimisers]
        bar = tqdm(range(self.step, self.steps), desc=self.name, initial=self.step, total=self.steps, mininterval=30)
        mean = None
        for self.step in bar:
            kind = next(self.parts.parameters()).device.type
            with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                value = loss(self.step)
            value.backward()
            nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
            self._update(base)
            mean = value.item() if mean is None else 0.98 * mean + 0.02 * value.item()
            bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
            if (self.step + 1) % every == 0 or self.step + 1 == self.steps:
                self._write(mean, watch(self.step))

    def _update(self, base: list[list[float]]) -> None:
        for optimiser, rates in zip(self.optimisers, base, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * slope(self.step, self.steps)
            optimiser.step()
            optimiser.zero_grad()
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate

    def _write(self, mean: float, found: dict[str, float]) -> None:
        state = {"step": self.step + 1, "parts": self.parts.state_dict()}
        state["optimisers"] = [o.state_dict() for o in self.optimisers]
        torch.save(state, self.out / f"{self.name}.new")
        (self.out / f"{self.name}.new").replace(self.out / f"{self.name}.pt")
        line = {"time": time.strftime("%H:%M:%S"), "stage": self.name, "step": self.step + 1, "loss": round(mean, 4), **found}
        with open(self.out / "log.jsonl", "a") as log:
            log.write(json.dumps(line) + "\n")

    def _resume(self) -> None:
        file = self.out / f"{self.name}.pt"
        if file.exists():
            state = torch.load(file, weights_only=True)
            self.parts.load_state_dict(state["parts"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step = state["step"]


def see(model: nn.Module, settings: Settings, out: Path, device: str) -> None:
    """Stage 1."""
    heads = nn.Linear(model.config.vision_config.hidden_size, sum(HEADS.values())).to(device)
    tower = model.model.vision_tower
    made = optimisers([tower, heads], settings.see_rate, settings.adam_rate, settings.weight_decay)

    def loss(step: int) -> torch.Tensor:
        scenes = training_scenes(step, settings.see_batch)
        return see_loss(model, heads, pixels(scenes).to(device), patch_labels(scenes).to(device))

    def watch(step: int) -> dict[str, float]:
        scenes = [scene(FIRST_TRAINING_SEED - 1 - n) for n in range(128)]
        labels = patch_labels(scenes)
        with torch.no_grad():
            logits = heads(tower(pixels(scenes).to(device)).last_hidden_state[:, 1:]).cpu().split(list(HEADS.values()), -1)
        asked = labels >= 0
        return {
            name: round(float((l.argmax(-1) == labels[..., n])[asked[..., n]].float().mean()), 4)
            for n, (name, l) in enumerate(zip(HEADS, logits, strict=True))
        }

    stage = Stage(name="see", steps=settings.see_steps, parts=nn.ModuleList([tower, heads]), optimisers=made, out=out)
    stage.run(loss, watch, every=settings.save_every)


def speak(model: nn.Module, settings: Settings, out: Path, device: str) -> None:
    """Stage 2, or the fine-tuning of ``shapes-gist`` when ``cut`` is above 0."""
    llava = model.model
    decoder = [llava.multi_modal_projector, llava.language_model]
    made = optimisers(decoder, settings.speak_rate, settings.adam_rate, settings.weight_decay)
    share = settings.thawed_rate
    made += optimisers([llava.vision_tower], share * settings.speak_rate, share * settings.adam_rate, settings.weight_decay)
    llava.language_model.config._attn_implementation = "shapes_packed"
    compiled = torch.compile(speak_loss)

    def loss(step: int) -> torch.Tensor:
        llava.vision_tower.requires_grad_(step >= settings.thaw * settings.speak_steps)
        scenes = training_scenes(step, settings.speak_batch)
        rng = random.Random(f"{settings.seed}/{settings.cut}/{step}")
        layout = [branches(it, rng) for it in scenes]
        return compiled(model, pack(scenes, layout, rng, settings.text_only, settings.cut).to(device))

    def watch(step: int) -> dict[str, float]:
        scenes = [scene(FIRST_TRAINING_SEED - 1 - n) for n in range(64)]
        return exact(model, scenes, random.Random(0), device)

    stage = Stage(name="speak", steps=settings.speak_steps, parts=nn.ModuleList([llava]), optimisers=made, out=out)
    stage.run(loss, watch, every=settings.save_every)


def train(settings: Settings, out: Path, device: str = "cpu", start: Path | None = None) -> None:
    """Train from scratch, or from a checkpoint folder, into a folder: states to resume from, ``log.jsonl``, ``model/``."""
    out.mkdir(parents=True, exist_ok=True)
    model = build_model(settings.seed).to(device)
    torch.manual_seed(settings.seed)
    if start is not None:
        model.load_state_dict(type(model).from_pretrained(start, dtype=torch.float32).state_dict())
    else:
        see(model, settings, out, device)
    speak(model, settings, out, device)
    save(model.cpu(), out / "model")


def main() -> None:
    """The command line: every field of `Settings` is an option."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for states, log and the trained model")
    parser.add_argument("--start", type=Path, help="checkpoint folder to fine-tune instead of training from scratch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    for name, value in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    out, start, device = (given.pop(name) for name in ("out", "start", "device"))
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    train(Settings(**given), out, device, start)


if __name__ == "__main__":
    main()
