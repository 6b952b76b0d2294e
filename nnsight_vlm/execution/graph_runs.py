"""One forward that keeps its graph, on this machine: hidden states that are read lie on the way to the logits.

The model goes on with the very tensors that come home, so gradients of whatever is computed from logits and reads can
be taken with respect to them. It never travels to a server: graphs do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
from nnsight import save

from ..device import attention_parts, readouts
from ..device.gates import gated, row_factors, take_factors
from ..device.gradients import put, replaced, rows_of, tensor_in
from ..device.lines import parts_of
from ..device.positions import crossing, index, sequence, windows
from ..device.runner import fetch, full_windows, installed, open_source
from ..device.states import from_batch_layout, to_batch_layout

KINDS: Mapping[Any, str] = {
    readouts.hidden_rows: "state",
    readouts.embedding_rows: "embedding",
    readouts.feature_rows: "features",
    attention_parts.head_rows: "head",
    **{reader: part for part, reader in attention_parts.READERS.items()},
}
"""What is taken of a site, as in `device.gradients`, by the readout of its states."""
WITHOUT_LAYER: Mapping[str, tuple[int, ...]] = {"features": (), "embedding": ()}
"""Sites before the first layer, whose states have no dimension of layers."""


def forward_with_graph(
    model: Any, inputs: Mapping[str, Any], edits: Any, extents: Any, reads: Sequence[Any], slots: Any, entry: str
) -> list[Any]:
    """`device.runner.forward` with a graph; `entry` is the path of the module that is handed the decoder's sequence."""
    assert not slots
    edited = installed(model, edits)
    with torch.enable_grad(), edited.trace(**inputs):
        answers: list[Any] = save(_collect(edited, extents, reads, entry))
    return answers


def _collect(model: Any, extents: Any, reads: Sequence[Any], entry: str) -> list[Any]:
    """As `device.runner.collect`; the decoder's sequence becomes a leaf where nothing before it requires a gradient."""
    answers, window_of, line_of, inputs = dict[int, Any](), dict[int, Any](), dict[str, list[Any]](), None
    factors_of, held, held_at = row_factors(reads), None, None
    open_source(model, [gate[0] for *_, gate in reads if gate is not None and gate[0]])
    for number in _parts_first(reads):
        stage, layer, path, place, readout, requests, outside, modules, gate = reads[number]
        if place == "logits" or extents[stage][0]:
            inputs = _entering(model, entry) if inputs is None else inputs
        if place == "logits":
            answers[number] = readout(model.output.logits, requests, None)
            continue
        own, _, causal, cache_layers = extents[stage]
        if stage not in window_of:
            window_of[stage] = windows(inputs, cache_layers, causal) if own else full_windows(extents[stage])
        take_factors(model, factors_of, stage, layer)
        window = crossing(window_of[stage][layer], outside)
        if " " in place:
            held = parts_of(model.get(path), place, window_of[stage][layer], line_of.setdefault(path, []))
        elif held_at != (path, place):
            held = inputs if path == own and place == "inputs" else fetch(model, path, place, window[1])
        held_at, kind = (path, place), KINDS.get(readout)
        if kind is None:
            value = held if gate is None else gated(model, held, gate, factors_of.get((stage, layer)))
            answers[number] = readout(value, requests, window, *[model.get(each) for each in modules])
            continue
        answers[number], held = _put_on_the_way(model, path, place, held, kind, requests, window, gate)
    return [answers[number] for number in range(len(reads))]


def _parts_first(reads: Sequence[Any]) -> Iterator[int]:
    """Numbers of reads, those of an attention's query, key and value before what is computed of them."""
    for _, some in groupby(range(len(reads)), key=lambda number: reads[number][2]):
        yield from sorted(some, key=lambda number: reads[number][4] not in attention_parts.READERS.values())


def _entering(model: Any, entry: str) -> Any:
    """What the decoder is handed, with states that require a gradient."""
    inputs = model.get(entry).inputs
    held = sequence(inputs)
    if held.is_floating_point() and not held.requires_grad:
        inputs = replaced(inputs, "embedding", held.detach().requires_grad_().clone())
        put(model, entry, "inputs", inputs)
    return inputs


def _put_on_the_way(
    model: Any, path: str, place: str, value: Any, kind: str, requests: Any, window: Any, gate: Any
) -> tuple[list[torch.Tensor], Any]:
    """The states of each request, as their readout assembles them, and what the site holds then, with them in it."""
    factor = 1.0 if gate is None else gate[2]
    tensor, answers = tensor_in(value, kind), []
    for request in requests:
        held = rows_of(tensor, kind, request, window)[:, 0]
        heads = list(request[2][1]) if len(request) > 2 else [0]
        home = (held[heads] * factor).cpu().reshape(*WITHOUT_LAYER.get(kind, (1,)), *_shape(held, request))
        home = home if home.requires_grad else home.requires_grad_()
        used = (home / factor).to(held).reshape(-1, *held.shape[1:])
        tensor = _written(tensor, kind, request, window, held.index_copy(0, torch.tensor(heads).to(held.device), used))
        answers.append(home)
    value = replaced(value, kind, tensor)
    put(model, path, place, value)
    return answers, value


def _shape(held: torch.Tensor, request: Any) -> tuple[int, ...]:
    """`[head, position, width]` of the chosen heads; `[position, width]` at a site without heads."""
    return (len(request[2][1]), *held.shape[1:]) if len(request) > 2 else tuple(held.shape[1:])


def _written(tensor: torch.Tensor, kind: str, request: Any, window: Any, held: torch.Tensor) -> torch.Tensor:
    """The tensor of a site with states `[head, position, width]` at the request's positions."""
    offset, queries, key_offset, *_ = window
    row, positions, *_ = request
    if kind in attention_parts.READERS:
        start, written = offset if kind == "query" else key_offset, tensor.clone()
        places = index(positions, start, tensor.shape[2], tensor.device)
        written[row, :, places] = held.repeat_interleave(tensor.shape[1] // len(held), dim=0)
        return written
    if kind == "features":
        written = tensor.reshape(-1, tensor.shape[-1]).clone()
        written[index(positions, 0, len(written), tensor.device)] = held[0]
        return written.reshape(tensor.shape)
    written = to_batch_layout(tensor, queries).clone()
    written[row, index(positions, offset, written.shape[1], tensor.device)] = held.transpose(0, 1).flatten(1)
    folded: torch.Tensor = from_batch_layout(written, tensor)
    return folded
