"""A LLaVA forward written by hand over the weights of a transformers model: what the tests compare with.

Nothing of nnsight or nnsight_vlm is used. Attention is spelled out: scores, a mask `[batch, head, query, key]`
in which every cut edge is -inf, softmax, values. Llama, Mistral (sliding windows) and Qwen2 decoders are covered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

Writes = Mapping[tuple[str, int], Callable[[torch.Tensor], torch.Tensor]]
"""What replaces a state: `(site, layer)` to a function of the state; sites before the first layer have layer -1."""

Change = Callable[[torch.Tensor], torch.Tensor]
Changes = Mapping[int, Change]
"""What replaces attention probabilities `[batch, head, query, key]`, by layer."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Everything that one forward computes.

    Attributes:
        logits: `[batch, position, vocabulary]`.
        states: `(site, layer)` to the state after any write, `[batch, position, width]`; features `[token, width]`.
        weights: attention probabilities `[layer, batch, head, query, key]`.
    """

    logits: torch.Tensor
    states: dict[tuple[str, int], torch.Tensor]
    weights: torch.Tensor


def positions_of(real: torch.Tensor) -> torch.Tensor:
    """Position ids `[batch, position]` as generation counts them: padding does not count."""
    return (real.cumsum(-1) - 1).clamp(min=0)


def no_cut(module: Any, ids: torch.Tensor) -> torch.Tensor:
    """`cut[layer, batch, head, query, key]` with every edge open."""
    text = module.config.get_text_config()
    batch, length = ids.shape
    return torch.zeros(text.num_hidden_layers, batch, text.num_attention_heads, length, length, dtype=torch.bool)


@torch.no_grad()
def forward(
    module: Any,
    inputs: Mapping[str, Any],
    cut: torch.Tensor | None = None,
    writes: Writes | None = None,
    changes: Changes | None = None,
) -> Reference:
    """One forward of an encoding with edges cut, states written and probabilities changed."""
    writes, states = writes or {}, {}

    def reached(site: str, layer: int, value: torch.Tensor) -> torch.Tensor:
        value = writes[site, layer](value.clone()) if (site, layer) in writes else value
        states[site, layer] = value
        return value

    ids = inputs["input_ids"]
    real = inputs.get("attention_mask", torch.ones_like(ids))
    cut = no_cut(module, ids) if cut is None else cut
    decoder = module.model.language_model
    hidden = decoder.embed_tokens(ids)
    if "pixel_values" in inputs:
        features = reached("features", -1, image_features(module, inputs["pixel_values"]))
        hidden = hidden.clone()
        hidden[ids == module.config.image_token_id] = features
    hidden = reached("embedding", -1, hidden)
    rotation = rotary(decoder.rotary_emb.inv_freq, positions_of(real), hidden.dtype)
    weights = []
    for number, layer in enumerate(decoder.layers):
        normed = norm(hidden, layer.input_layernorm)
        closed, change = base_mask(module, real) | cut[number], (changes or {}).get(number)
        mixed, probabilities = attention(layer.self_attn, normed, rotation, closed, change)
        weights.append(probabilities)
        hidden = hidden + reached("attention", number, mixed)
        normed = norm(hidden, layer.post_attention_layernorm)
        gated = torch.nn.functional.silu(layer.mlp.gate_proj(normed)) * layer.mlp.up_proj(normed)
        hidden = hidden + reached("mlp", number, layer.mlp.down_proj(gated))
        hidden = reached("residual", number, hidden)
    logits = norm(hidden, decoder.norm) @ module.lm_head.weight.T
    return Reference(logits=logits, states=states, weights=torch.stack(weights))


def image_features(module: Any, pixels: torch.Tensor) -> torch.Tensor:
    """What the projector makes of each patch, images end to end: `[token, width]`."""
    seen = module.model.vision_tower(pixels, output_hidden_states=True).hidden_states[
        module.config.vision_feature_layer
    ]
    projector = module.model.multi_modal_projector
    return projector.linear_2(torch.nn.functional.gelu(projector.linear_1(seen[:, 1:]))).flatten(0, 1)


def norm(hidden: torch.Tensor, module: Any) -> torch.Tensor:
    """Root-mean-square norm."""
    return module.weight * hidden / (hidden.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).sqrt()


def rotary(frequencies: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines `[batch, 1, position, width of a head]`.

    The frequencies are the model's own: versions of transformers round them differently.
    """
    angles = positions[:, None, :, None].to(dtype) * torch.cat([frequencies, frequencies]).to(dtype)
    return angles.cos(), angles.sin()


def rotate(states: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * rotation[0] + torch.cat([-second, first], dim=-1) * rotation[1]


def base_mask(module: Any, real: torch.Tensor) -> torch.Tensor:
    """`[batch, 1, query, key]`, true where a clean run cannot look: later, padding, behind the sliding window.

    Rows of padding look at themselves; nobody reads them.
    """
    place = torch.arange(real.shape[1])
    closed = (place[None, :] > place[:, None]) | (real[:, None, None, :] == 0)
    window = getattr(module.config.get_text_config(), "sliding_window", None)
    if window is not None:
        closed = closed | (place[None, :] <= place[:, None] - window)
    return closed & ~((real[:, None, :, None] == 0) & torch.eye(len(place), dtype=torch.bool))


def attention(
    module: Any, hidden: torch.Tensor, rotation: Any, closed: torch.Tensor, change: Change | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """What attention adds to the residual stream, and its probabilities `[batch, head, query, key]`."""
    width = module.head_dim
    query, key, value = (
        part(hidden).unflatten(-1, (-1, width)).transpose(1, 2)
        for part in (module.q_proj, module.k_proj, module.v_proj)
    )
    share = query.shape[1] // key.shape[1]
    query, key = rotate(query, rotation), rotate(key, rotation).repeat_interleave(share, dim=1)
    scores = query @ key.transpose(-1, -2) / width**0.5
    added = torch.zeros_like(scores).masked_fill(closed.expand_as(scores), float("-inf"))
    probabilities = torch.softmax(scores + added, dim=-1)
    probabilities = probabilities if change is None else change(probabilities)
    mixed = probabilities @ value.repeat_interleave(share, dim=1)
    return module.o_proj(mixed.transpose(1, 2).flatten(2)), probabilities


def edges(
    module: Any, ids: torch.Tensor, sources: Any, targets: Any, layers: Any, heads: Any = None, row: int | None = None
) -> torch.Tensor:
    """`cut[layer, batch, head, query, key]`: targets that read sources in these layers, heads, rows (or all)."""
    cut = no_cut(module, ids)
    for layer in layers:
        for batch in range(len(ids)) if row is None else [row]:
            for head in range(cut.shape[2]) if heads is None else heads:
                for query in targets:
                    cut[layer, batch, head, query, list(sources)] = True
    return cut
