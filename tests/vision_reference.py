"""CLIP's vision tower written by hand over the weights of a transformers model: what tests of the tower compare with.

Nothing of nnsight or nnsight_vlm is used. All pictures are one line of tokens `[position, width]`, in which the edges
between two pictures are closed like any other: scores, a mask in which every closed edge is -inf, softmax, values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import reference
import torch

Writes = Mapping[tuple[str, int], Callable[[torch.Tensor], torch.Tensor]]
"""What replaces a state: `(site, layer)` to a function of the state; what enters the first layer has layer -1."""


@dataclass(frozen=True, kw_only=True)
class Tower:
    """Everything that the tower computes.

    Attributes:
        features: what the projector makes of the patches, `[token, width]`.
        states: `(site, layer)` to the state after any write, `[position, width]`; heads side by side.
        weights: attention probabilities `[layer, head, position, position]`.
    """

    features: torch.Tensor
    states: dict[tuple[str, int], torch.Tensor]
    weights: torch.Tensor


@torch.no_grad()
def tower(
    module: Any,
    pixels: torch.Tensor,
    cut: torch.Tensor | None = None,
    writes: Writes | None = None,
    changes: Mapping[int, Callable[[torch.Tensor], torch.Tensor]] | None = None,
) -> Tower:
    """The tower on all pictures, with edges cut `[layer, head, position, position]`, states and weights changed."""
    writes, changes, states, weights = writes or {}, changes or {}, {}, []

    def reached(site: str, layer: int, value: torch.Tensor) -> torch.Tensor:
        value = writes[site, layer](value.clone()) if (site, layer) in writes else value
        states[site, layer] = value
        return value

    vision = module.model.vision_tower
    hidden = vision.pre_layrnorm(vision.embeddings(pixels))
    pictures, length, width = hidden.shape
    of = torch.arange(pictures).repeat_interleave(length)
    hidden = reached("embedding", -1, torch.cat(list(hidden)))
    for number, layer in enumerate(vision.encoder.layers):
        attention, normed = layer.self_attn, layer.layer_norm1(hidden)
        heads = attention.num_heads
        query, key, value = (
            reached(site, number, part(normed)).reshape(len(of), heads, width // heads).permute(1, 0, 2)
            for site, part in (("query", attention.q_proj), ("key", attention.k_proj), ("value", attention.v_proj))
        )
        scores = query @ key.transpose(1, 2) / (width // heads) ** 0.5
        closed = (of[:, None] != of).expand_as(scores)
        closed = closed if cut is None else closed | cut[number]
        probabilities = torch.softmax(scores.masked_fill(closed, float("-inf")), -1)
        probabilities = changes[number](probabilities.clone()) if number in changes else probabilities
        weights.append(probabilities)
        mixed = reached("head", number, (probabilities @ value).permute(1, 0, 2).flatten(1))
        hidden = hidden + reached("attention", number, attention.out_proj(mixed))
        hidden = hidden + reached("mlp", number, layer.mlp(layer.layer_norm2(hidden)))
        hidden = reached("residual", number, hidden)
    taken = len(vision.encoder.layers) + module.config.vision_feature_layer
    patches = states["residual", taken].reshape(pictures, length, width)[:, 1:].flatten(0, 1)
    projector = module.model.multi_modal_projector
    features = projector.linear_2(torch.nn.functional.gelu(projector.linear_1(patches)))
    return Tower(features=features, states=states, weights=torch.stack(weights))


def logits(module: Any, inputs: Mapping[str, Any], features: torch.Tensor) -> torch.Tensor:
    """The logits `[row, position, word]` of an encoding whose image features are these."""
    return reference.forward(module, inputs, writes={("features", -1): lambda _: features}).logits
