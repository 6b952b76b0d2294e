"""Which kernels and readouts of `device.towers` stand in for those of other stages in a vision tower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..device import attention_parts, kernels, mixtures, readouts, states, towers
from ..families import Stage

IN_SEQUENCES: Mapping[Callable[..., Any], Callable[..., Any]] = {
    states.write_output: towers.write_tower_output,
    states.write_embeddings: towers.write_tower_embeddings,
    attention_parts.write_heads: towers.write_tower_heads,
    attention_parts.write_part: towers.write_tower_part,
    kernels.close_edges: towers.close_tower_edges,
    mixtures.change_weights: towers.change_tower_weights,
    readouts.hidden_rows: towers.tower_rows,
    readouts.embedding_rows: towers.tower_embedding_rows,
    attention_parts.head_rows: towers.tower_head_rows,
    attention_parts.query_rows: towers.tower_query_rows,
    attention_parts.key_rows: towers.tower_key_rows,
    attention_parts.value_rows: towers.tower_value_rows,
    readouts.attention_rows: towers.tower_attention_rows,
    readouts.edges_used: towers.tower_edges_used,
    readouts.mixed_rows: readouts.mixed_rows,
}
"""Of towers whose batch has a row for each sequence."""


def in_stage(stage: Stage | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel or readout as a stage needs it; None stands for the image features, which lie between stages."""
    return function if stage is None or stage.tower is None else IN_SEQUENCES[function]
