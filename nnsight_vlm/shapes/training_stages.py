"""A stretch of training: its optimisers, its learning rate over time, its saved states and its log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from .muon import Muon


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


@dataclass(kw_only=True)
class TrainingStage:
    """A stage under way: what learns, how, and how far it has come."""

    name: str
    steps: int
    parts: nn.ModuleList
    optimisers: list[torch.optim.Optimizer]
    out: Path
    step: int = 0

    def run(self, loss: Callable[[int], torch.Tensor], watch: Callable[[], dict[str, float]], every: int) -> None:
        """Take all steps that are left; every so many, save the state and write down what ``watch`` finds."""
        self._resume()
        base = [[group["lr"] for group in o.param_groups] for o in self.optimisers]
        bar = tqdm(range(self.step, self.steps), desc=self.name, initial=self.step, total=self.steps, mininterval=30)
        mean = None
        for self.step in bar:
            kind = next(self.parts.parameters()).device.type
            with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
                value = loss(self.step)
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
            self._update(base)
            mean = value.item() if mean is None else 0.98 * mean + 0.02 * value.item()
            bar.set_postfix(loss=f"{mean:.3f}", refresh=False)
            if (self.step + 1) % every == 0 or self.step + 1 == self.steps:
                self._write(mean, watch())

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
        line = {
            "time": time.strftime("%H:%M:%S"),
            "stage": self.name,
            "step": self.step + 1,
            "loss": round(mean, 4),
            **found,
        }
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")

    def _resume(self) -> None:
        file = self.out / f"{self.name}.pt"
        if file.exists():
            state = torch.load(file, weights_only=True)
            self.parts.load_state_dict(state["parts"])
            for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
                optimiser.load_state_dict(saved)
            self.step = state["step"]
