"""Vision towers whose tokens lie in one line, written out by hand: what `test_vision_packed` compares with.

Nothing of nnsight is used, and of nnsight_vlm only the grid, which says which position is which patch. Patches stay in
the order in which the processor gives them, so windows are no stretches of it but what their rows and columns say. One
attention over all pictures has a mask of its own, `[patch, patch]`, in every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

import nnsight_vlm as nv

MERGE = 2
Write = Callable[[torch.Tensor], torch.Tensor]
"""Of states `[patch, width]`, of parts `[patch, head, head_dim]`, of weights `[head, query, key]`."""


@dataclass(kw_only=True)
class Tower:
    """One run of a tower: what is changed, and what it computes.

    Attributes:
        cuts: by layer, `(heads or None for all, queries, keys)` whose edges are closed.
        writes: by site and layer, what is put in the place of states; `"weights"` are attention's.
        states: by site and layer, as written.
        frames: for each patch `(picture, row, column)`, in the order of the pixels.
    """

    cuts: Mapping[int, Sequence[tuple[Sequence[int] | None, Sequence[int], Sequence[int]]]] = field(
        default_factory=dict
    )
    writes: Mapping[tuple[str, int], Write] = field(default_factory=dict)
    states: dict[tuple[str, int], torch.Tensor] = field(default_factory=dict)
    frames: torch.Tensor = field(default_factory=lambda: torch.empty(0, 3, dtype=torch.long))

    def settle(self, site: str, layer: int, states: torch.Tensor) -> torch.Tensor:
        """States, written and recorded."""
        self.states[site, layer] = self.writes.get((site, layer), lambda same: same)(states.clone())
        return self.states[site, layer]

    def attend(self, layer: int, query: Any, key: Any, value: Any, window: int | None) -> torch.Tensor:
        """What heads give, `[patch, width]`, of parts `[patch, head, head_dim]`."""
        parts = {"query": query, "key": key, "value": value}
        query, key, value = (self.settle(site, layer, part) for site, part in parts.items())
        scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
        place = self.frames.clone()
        place[:, 1:] //= window or 10**6
        scores = scores.masked_fill((place[:, None] != place[None]).any(-1), float("-inf"))
        for heads, queries, keys in self.cuts.get(layer, ()):
            for head in range(len(scores)) if heads is None else heads:
                for patch in queries:
                    scores[head, patch, list(keys)] = float("-inf")
        weights = self.settle("weights", layer, scores.softmax(-1))
        return self.settle("head", layer, torch.einsum("hqk,khd->qhd", weights, value)).flatten(1)


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return states * cos[:, None] + torch.cat([-second, first], dim=-1) * sin[:, None]


# Qwen ---------------------------------------------------------------------------------------------


def merged_frames(grids: Sequence[tuple[int, int, int]]) -> torch.Tensor:
    """`(frame, row, column)` of each patch: 2 x 2 patches that become a token follow each other."""
    places, frames = [], 0
    for times, rows, columns in grids:
        for _ in range(times):
            for top in range(0, rows, MERGE):
                for left in range(0, columns, MERGE):
                    places += [(frames, top + down, left + across) for down in range(MERGE) for across in range(MERGE)]
            frames += 1
    return torch.tensor(places)


def qwen(module: Any, inputs: Mapping[str, Any], tower: Tower) -> torch.Tensor:
    """Logits of a Qwen2.5-VL or Qwen3-VL whose tower is run by hand."""
    visual, config = module.model.visual, module.config.vision_config
    kind = "image" if "image_grid_thw" in inputs else "video"
    pixels = inputs["pixel_values" if kind == "image" else "pixel_values_videos"]
    tower.frames = merged_frames(inputs[f"{kind}_grid_thw"].tolist())
    hidden = visual.patch_embed(pixels) + positions_added(visual, inputs[f"{kind}_grid_thw"])
    cos, sin = visual.rotary_pos_emb(hidden, tower.frames[:, 1:])
    hidden, taps = tower.settle("embedding", -1, hidden), []
    full, taken = getattr(config, "fullatt_block_indexes", None), getattr(config, "deepstack_visual_indexes", ())
    side = None if full is None else config.window_size // config.patch_size
    for layer, block in enumerate(visual.blocks):
        handed = block.norm1(hidden)
        parts = block.attn.qkv(handed).reshape(len(hidden), 3, config.num_heads, -1).unbind(1)
        query, key, value = rotated(parts[0], cos, sin), rotated(parts[1], cos, sin), parts[2]
        window = side if full is not None and layer not in full else None
        mixed = block.attn.proj(tower.attend(layer, query, key, value, window))
        hidden = hidden + tower.settle("attention", layer, mixed)
        hidden = hidden + tower.settle("mlp", layer, block.mlp(block.norm2(hidden)))
        hidden = tower.settle("residual", layer, hidden)
        if layer in taken:
            taps.append(visual.deepstack_merger_list[list(taken).index(layer)](hidden))
    tower.states["features", -1] = visual.merger(hidden)

    def put(_: Any, __: Any, output: Any) -> Any:
        output.pooler_output = tower.states["features", -1]
        if taps:
            output.deepstack_features = taps
        return output

    return logits_with(module, inputs, visual.register_forward_hook(put))


def positions_added(visual: Any, grids: torch.Tensor) -> torch.Tensor | float:
    """What Qwen3-VL adds to patches: a square table of positions, interpolated."""
    if not hasattr(visual, "pos_embed"):
        return 0.0
    table = visual.pos_embed.weight
    side, added = round(len(table) ** 0.5), []
    for times, rows, columns in grids.tolist():
        square = table.T.reshape(1, -1, side, side)
        grid = torch.nn.functional.interpolate(square, (rows, columns), mode="bilinear", align_corners=True)[0]
        for _, row, column in merged_frames([(times, rows, columns)]).tolist():
            added.append(grid[:, row, column])
    return torch.stack(added)


# Pixtral ------------------------------------------------------------------------------------------


def pixtral(module: Any, inputs: Mapping[str, Any], tower: Tower) -> torch.Tensor:
    """Logits of a Mistral 3 whose tower is run by hand."""
    model, heads = module.model.vision_tower, module.config.vision_config.num_attention_heads
    side, places, patches = model.patch_size, [], []
    for number, (pixels, (height, width)) in enumerate(
        zip(inputs["pixel_values"], inputs["image_sizes"].tolist(), strict=True)
    ):
        rows, columns = height // side, width // side
        patches.append(model.patch_conv(pixels[None])[0, :, :rows, :columns].flatten(1).T)
        places += [(number, row, column) for row in range(rows) for column in range(columns)]
    tower.frames = torch.tensor(places)
    hidden = model.ln_pre(torch.cat(patches))
    cos, sin = (part.reshape(len(hidden), -1) for part in model.patch_positional_embedding(hidden, tower.frames[:, 1:]))
    hidden = tower.settle("embedding", -1, hidden)
    for layer, block in enumerate(model.transformer.layers):
        handed, attention = block.attention_norm(hidden), block.attention
        query, key, value = (
            project(handed).unflatten(1, (heads, -1))
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        parts = rotated(query, cos, sin), rotated(key, cos, sin), value
        hidden = hidden + tower.settle("attention", layer, attention.o_proj(tower.attend(layer, *parts, None)))
        hidden = hidden + tower.settle("mlp", layer, block.feed_forward(block.ffn_norm(hidden)))
        hidden = tower.settle("residual", layer, hidden)

    def put(_: Any, args: Any) -> Any:
        return (hidden, *args[1:])

    return logits_with(module, inputs, module.model.multi_modal_projector.register_forward_pre_hook(put))


def logits_with(module: Any, inputs: Mapping[str, Any], hook: Any) -> torch.Tensor:
    """Logits at the last token of each row, of a plain forward under a hook."""
    try:
        with torch.no_grad():
            return module(**inputs).logits[:, -1]
    finally:
        hook.remove()


HAND = {"qwen2_5_vl": qwen, "qwen3_vl": qwen, "mistral3": pixtral}


def patch_of(prompt: nv.Prompt, tower: Tower) -> dict[int, int]:
    """For each position of a prompt's tower, the number of its patch in the order of the pixels."""
    numbers = {tuple(place): number for number, place in enumerate(tower.frames.tolist())}
    found = {}
    for image in range(len(prompt.rows[0].images)):
        grid = prompt.grid(image, stage="vision")
        for position, cell in zip(grid.positions, grid.cells, strict=True):
            found[position] = numbers[image, *cell]
    return found
