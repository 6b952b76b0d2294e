"""How far a layer sees: causal, sliding windows, chunks, and blocks that see each other both ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .columns import Family
from .lookup import config_value


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which keys a query of one layer may see, besides being causal.

    Attributes:
        span: keys back from itself, itself included; None for all.
        chunk: only keys of its own stretch of this many positions; None for all.
        blocks: whether the prompt's blocks (an image's tokens, say) see each other in both directions.
        whole: whether they do so beyond the span too.
    """

    span: int | None = None
    chunk: int | None = None
    blocks: bool = False
    whole: bool = False


def reach(config: Any, family: Family, stage: str, layer: int) -> Reach:
    """The reach of one layer of a stage."""
    if not family.stages[stage].causal:
        return Reach(blocks=True, whole=True)
    part = config_value(config, family.stages[stage].config)
    kinds = getattr(part, "layer_types", None)
    kind = kinds[layer] if kinds else "sliding_attention"
    return Reach(
        span=getattr(part, "sliding_window", None) if kind == "sliding_attention" else None,
        chunk=part.attention_chunk_size if kind == "chunked_attention" else None,
        blocks=family.blocks != "none" and (not family.block_layers or kind in family.block_layers),
        whole=family.blocks == "prompt",
    )
