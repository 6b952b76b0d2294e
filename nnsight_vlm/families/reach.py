"""How far a layer's queries see: causal, sliding windows, chunks, and blocks with attention in both directions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .columns import Family, config_value
from .part_columns import TowerSpec


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


def reaches(config: Any, family: Family, stage: str, layers: Iterable[int]) -> dict[int, Reach]:
    """The reach of each of some layers of a stage."""
    part = config_value(config, family.stages[stage].config)
    if not family.stages[stage].causal:
        return {layer: _both_ways(part, family.stages[stage].tower, layer) for layer in layers}
    layer_types = getattr(part, "layer_types", None)
    type_of = {layer: layer_types[layer] if layer_types else "sliding_attention" for layer in layers}
    by_type = {layer_type: _of_type(part, family, layer_type) for layer_type in {*type_of.values()}}
    return {layer: by_type[layer_type] for layer, layer_type in type_of.items()}


def _of_type(part: Any, family: Family, layer_type: str) -> Reach:
    return Reach(
        span=getattr(part, "sliding_window", None) if layer_type == "sliding_attention" else None,
        chunk=part.attention_chunk_size if layer_type == "chunked_attention" else None,
        blocks=family.blocks != "none" and (not family.block_layers or layer_type in family.block_layers),
        blocks_ignore_span=family.blocks == "prompt",
    )


def _both_ways(part: Any, tower: TowerSpec | None, layer: int) -> Reach:
    """Of a stage that sees in both directions: all of it; of a tower, a picture or, in some layers, a window."""
    in_windows = tower is not None and bool(tower.full) and layer not in getattr(part, tower.full)
    return Reach(blocks=True, blocks_ignore_span=True, windows=in_windows, causal=tower is None)
