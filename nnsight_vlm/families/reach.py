"""How far a layer's queries see: causal, sliding windows, chunks, and blocks with attention in both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .columns import Family, config_value


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which keys a query of one layer may see.

    Attributes:
        span: number of keys, the query's own included, that a query sees going back from itself; None for all.
        chunk: length of the chunks that positions are divided into, where a query sees only its own chunk; None where
            there are no chunks.
        blocks: whether the prompt's blocks (the tokens of one image, say) attend to each other in both directions.
        blocks_ignore_span: whether they do so even beyond `span`.
        windows: whether they do so in the prompt's windows, and not in its blocks.
        causal: whether a query sees the keys before it; else it sees those of its blocks only.
    """

    span: int | None = None
    chunk: int | None = None
    blocks: bool = False
    blocks_ignore_span: bool = False
    windows: bool = False
    causal: bool = True


def reach(config: Any, family: Family, stage: str, layer: int) -> Reach:
    """The reach of one layer of a stage."""
    part, tower = config_value(config, family.stages[stage].config), family.stages[stage].tower
    if not family.stages[stage].causal:
        in_windows = tower is not None and bool(tower.full) and layer not in getattr(part, tower.full)
        return Reach(blocks=True, blocks_ignore_span=True, windows=in_windows, causal=tower is None)
    layer_types = getattr(part, "layer_types", None)
    layer_type = layer_types[layer] if layer_types else "sliding_attention"
    return Reach(
        span=getattr(part, "sliding_window", None) if layer_type == "sliding_attention" else None,
        chunk=part.attention_chunk_size if layer_type == "chunked_attention" else None,
        blocks=family.blocks != "none" and (not family.block_layers or layer_type in family.block_layers),
        blocks_ignore_span=family.blocks == "prompt",
    )
