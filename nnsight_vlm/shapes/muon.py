"""Muon: an optimiser that makes the momentum of every matrix orthogonal before applying it (Jordan et al. 2024).

`torch.optim.Muon` computes in bfloat16, which many CPUs emulate slowly. This one computes in the parameters' own
precision, and handles all matrices of one shape together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn


def orthogonal(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """The matrices `[count, row, column]` with their singular values moved near 1, by Newton-Schulz iteration."""
    transposed = matrices.shape[1] > matrices.shape[2]
    x: torch.Tensor = matrices.transpose(1, 2) if transposed else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.transpose(1, 2) if transposed else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum, for parameters that are matrices; weight decay is decoupled."""

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float = 0.02, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, _closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                momenta = torch.stack([self._nesterov(parameter, group["momentum"]) for parameter in parameters])
                for parameter, update in zip(parameters, orthogonal(momenta), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-scale)

    def _nesterov(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        """The Nesterov momentum of a parameter; its running mean of gradients is updated."""
        gradient = parameter.grad
        assert gradient is not None
        mean: torch.Tensor = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
        mean.lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)
