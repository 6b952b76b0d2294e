"""A stage of training: optimisers, a learning-rate schedule, saved states to resume from, and a log."""

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


def learning_rate_share(step: int, steps: int, warmup: int = 60, decay: float = 0.4) -> float:
    """The share of the full learning rate at a step: linear warm-up, then constant, then linear decay to 0.

    Args:
        step: the step, from 0.
        steps: how many steps there are.
        warmup: how many steps the warm-up takes.
        decay: the share of the steps that the decay takes.
    """
    return min(1.0, (step + 1) / warmup, (steps - step) / (decay * steps))


def optimisers(
    parts: list[nn.Module], muon_rate: float, adam_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers of these parts, AdamW for their other parameters.

    Args:
        parts: the modules to train.
        muon_rate, adam_rate: learning rates.
        weight_decay: of Muon; AdamW has none.
    """
    named = [(name, parameter) for part in parts for name, parameter in part.named_parameters()]
    matrices = [parameter for name, parameter in named if "layers." in name and parameter.ndim == 2]
    chosen = {id(parameter) for parameter in matrices}
    others = [parameter for _, parameter in named if id(parameter) not in chosen]
    adam = torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [Muon(matrices, lr=muon_rate, weight_decay=weight_decay), adam]


@dataclass(kw_only=True)
class TrainingStage:
    """A stage, and how far it has come.

    Attributes:
        name: names its files in `out`.
        steps: how many steps it takes in all.
        parts: the modules that are trained.
        optimisers: their optimisers, at the full learning rate.
        out: the folder for its state (`<name>.pt`) and the log (`log.jsonl`).
        step: the next step.
    """

    name: str
    steps: int
    parts: nn.ModuleList
    optimisers: list[torch.optim.Optimizer]
    out: Path
    step: int = 0

    def run(self, loss: Callable[[int], torch.Tensor], measure: Callable[[], dict[str, float]], every: int) -> None:
        """Resume from the saved state if there is one, and take all steps that are left.

        Args:
            loss: computes the loss of a step.
            measure: computes the accuracies that the log shows.
            every: after this many steps the state is saved and a line logged.
        """
        self._resume()
        full_rates = [[group["lr"] for group in optimiser.param_groups] for optimiser in self.optimisers]
        bar = tqdm(range(self.step, self.steps), desc=self.name, initial=self.step, total=self.steps, mininterval=30)
        mean_loss = None
        for self.step in bar:
            device = next(self.parts.parameters()).device.type
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                value = loss(self.step)
            torch.autograd.backward(value)
            nn.utils.clip_grad_norm_(self.parts.parameters(), 1.0)
            self._update(full_rates)
            mean_loss = value.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * value.item()
            bar.set_postfix(loss=f"{mean_loss:.3f}", refresh=False)
            if (self.step + 1) % every == 0 or self.step + 1 == self.steps:
                self._save()
                self._log(mean_loss, measure())

    def _update(self, full_rates: list[list[float]]) -> None:
        """One step of every optimiser at the rate of the moment; saved states contain the full rates."""
        for optimiser, rates in zip(self.optimisers, full_rates, strict=True):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * learning_rate_share(self.step, self.steps)
            optimiser.step()
            optimiser.zero_grad()
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate

    def _save(self) -> None:
        state = {"step": self.step + 1, "parts": self.parts.state_dict()}
        state["optimisers"] = [optimiser.state_dict() for optimiser in self.optimisers]
        torch.save(state, self.out / f"{self.name}.new")
        (self.out / f"{self.name}.new").replace(self.out / f"{self.name}.pt")

    def _log(self, mean_loss: float, accuracies: dict[str, float]) -> None:
        line = {
            "time": time.strftime("%H:%M:%S"),
            "stage": self.name,
            "step": self.step + 1,
            "loss": round(mean_loss, 4),
            **accuracies,
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
