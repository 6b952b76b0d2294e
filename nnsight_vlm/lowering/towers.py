"""Which kernels and readouts stand in for those of other stages in a vision tower, and what they need to know of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

from ..device import attention_parts, contributions, kernels, lines, mixtures, readouts, states, towers
from ..device.tower_contributions import line_contributions, tower_contributions
from ..families import VISION, Family, ModelView, Stage
from .layouts import Layout

IN_SEQUENCES: dict[Callable[..., Any], Callable[..., Any]] = {
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
    contributions.contributions: tower_contributions,
}
"""Of towers whose batch has a row for each sequence."""
AT_CALLS = IN_SEQUENCES | {kernels.close_edges: towers.close_call_edges}
"""Of those of them whose attention module takes no mask: it is handed to the function that the module calls."""
IN_PIECES: Mapping[Callable[..., Any], Callable[..., Any]] = {
    **{function: IN_SEQUENCES[function] for function in (states.write_output, states.write_embeddings)},
    **{function: IN_SEQUENCES[function] for function in (readouts.hidden_rows, readouts.embedding_rows)},
    **{function: IN_SEQUENCES[function] for function in (attention_parts.write_heads, attention_parts.head_rows)},
    attention_parts.write_part: lines.write_line,
    **{function: function for function in (lines.check_pieces, lines.keep_part, lines.change_line)},
    **{function: function for function in attention_parts.READERS.values()},
    readouts.attention_rows: lines.line_attention,
    readouts.edges_used: lines.line_used,
    readouts.mixed_rows: lines.line_mixed,
    contributions.contributions: line_contributions,
}
"""Of towers whose tokens lie in one line and whose attention is called once for each piece of it."""


def in_stage(stage: Stage | None, function: Callable[..., Any]) -> Callable[..., Any]:
    """A kernel or readout as a stage needs it; None stands for the image features, which lie between stages."""
    if stage is None or stage.tower is None:
        return function
    if stage.attention.line is not None:
        return IN_PIECES[function]
    return (IN_SEQUENCES if stage.attention.mask else AT_CALLS)[function]


def is_line(family: Family, stage: str) -> bool:
    """Whether the attention of a stage is called once for every piece of its sequence."""
    return stage in family.stages and family.stages[stage].attention.line is not None


def parts_of_line(family: Family, stage: str) -> str:
    """The place of query, key and value of all pieces, see `device.lines.parts_of`."""
    line = family.stages[stage].attention.line
    assert line is not None
    return line.parts


def ends_of_pieces(view: ModelView, layout: Layout, layers: Iterable[int]) -> tuple[tuple[tuple[int, ...], Any], ...]:
    """Where the pieces of a line end in each of some layers, `(layers, stops)` for those with the same."""
    in_windows = {layer: view.reach(VISION, max(layer, 0)).windows for layer in layers}
    kinds = groupby(sorted(in_windows, key=lambda layer: (in_windows[layer], layer)), key=in_windows.__getitem__)
    return tuple((tuple(some), _stops(layout, windows)) for windows, some in kinds)


def _stops(layout: Layout, windows: bool) -> tuple[int, ...]:
    """Where the windows of all rows end, or their blocks."""
    stops, before = list[int](), 0
    for tokens in layout.tower_maps:
        pieces = tokens.windows if windows else tokens.blocks
        stops += [before + stop for piece in pieces for _, stop in piece if stop is not None]
        before += tokens.stop
    return tuple(stops)
