"""What is trained of the language model: a low-rank update of every matrix in its layers.

The matrix `W` of a layer becomes `W + 2 B A`, where `A` has `RANK` rows and `B` as many columns (Hu et al. 2022). The
updated matrices are computed as a whole, rounded to the language model's dtype and put in the place of the original
ones. So the model that is trained is, bit for bit, the model that is shipped; it runs without any code of this module.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import nn
from transformers import LlamaModel

RANK = 8
SCALE = 2.0
PARTS = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}
"""The matrices of a layer, and where each lies."""

Matrices = Mapping[str, torch.Tensor]
"""By part, the matrices of all layers `[layer, output, input]`."""


def matrix(layer: nn.Module, part: str) -> nn.Linear:
    """The module of a layer that holds this matrix."""
    found: nn.Linear = getattr(getattr(layer, PARTS[part]), part)
    return found


def matrices_of(decoder: LlamaModel) -> dict[str, torch.Tensor]:
    """The matrices of a decoder as they are, a copy."""
    return {part: torch.stack([matrix(layer, part).weight.detach() for layer in decoder.layers]) for part in PARTS}


class Updates(nn.Module):
    """The updates of all layers: `a` `[layer, rank, input]` and `b` `[layer, output, rank]` of every part.

    At first `b` is zero, so that nothing is changed.
    """

    def __init__(self, shapes: Mapping[str, torch.Size], rank: int = RANK, seed: int = 0) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for part, (layers, outputs, inputs) in shapes.items():
            self.a[part] = nn.Parameter(torch.randn(layers, rank, inputs, generator=random) / math.sqrt(inputs))
            self.b[part] = nn.Parameter(torch.zeros(layers, outputs, rank))

    def updated(self, matrices: Matrices, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """The matrices with the updates added, rounded to this dtype."""
        return {
            part: torch.baddbmm(original, self.b[part], self.a[part], alpha=SCALE).to(dtype)
            for part, original in matrices.items()
        }


def cast(module: nn.Module, decoder: LlamaModel, dtype: torch.dtype) -> None:
    """Bring a module with a decoder in it to a dtype; the decoder's frequencies stay in float32, as when it is loaded.

    Rounded to bfloat16 they would turn queries and keys at later positions by wrong angles.
    """
    frequencies = decoder.rotary_emb.inv_freq
    module.to(dtype)
    decoder.rotary_emb.inv_freq = frequencies


def put(decoder: LlamaModel, matrices: Matrices) -> None:
    """Let a decoder compute with these matrices; gradients flow into them."""
    for part, stacked in matrices.items():
        for layer, values in zip(decoder.layers, stacked.unbind(), strict=True):
            module = matrix(layer, part)
            module._parameters.pop("weight", None)
            module.weight = values
