"""The maps of an answer's object words over the patches, as rows: each kind of map that was asked for, by layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..execution.forward import run
from ..families import Model
from ..grids import Grid
from ..remote.model_call import Remote
from ..specs.measurements import Attention, Readout, Residual
from ..studies.image_patches import PatchSource, map_of, map_reads
from ..studies.labels import MIDDLE_HALF, NONE, RANDOM_PATCHES
from ..studies.layer_sets import layers_reading, middle_half
from ..studies.map_scores import grid_of, map_rows, spell_patch
from ..studies.object_words import Answered, ObjectWord
from ..studies.sinks import find_sinks, sink_reads
from .word_choices import ALL_PATCHES, WITHOUT_SINKS, Asked, Quantity


class LayerMap(NamedTuple):
    """One kind of map in one layer, or over the middle half of the layers.

    Attributes:
        quantity, head: what it shows; `head` is `mean` or a number.
        layer: as the table shows it.
        values: `[position, patch]`.
        sinks: which patches are sinks there, bool `[patch]`; None where they were not looked for.
    """

    quantity: Quantity
    head: str
    layer: str
    values: np.ndarray
    sinks: np.ndarray | None


class AnswerMaps(NamedTuple):
    """All maps of one answer, and what ablations need to know of the picture.

    Attributes:
        positions: the positions that were read.
        maps: by quantity, head and layer.
        mean_feature: the mean of the picture's image features, `[width]`; empty where it was not asked for.
    """

    positions: tuple[int, ...]
    maps: tuple[LayerMap, ...]
    mean_feature: torch.Tensor


class WordMap(NamedTuple):
    """One map of one word, over the patches that count.

    Attributes:
        word: with its object's patches among those that count.
        values: `[patch]`.
        grid: of these patches.
        labels: the columns that tell it apart.
        sinks: see `LayerMap`; None for a map without them.
    """

    word: ObjectWord
    values: np.ndarray
    grid: Grid
    labels: dict[str, Any]
    sinks: np.ndarray | None


def read_maps(model: Model, answered: Answered, asked: Asked, *, with_features: bool, remote: Remote) -> AnswerMaps:
    """The maps of all words of one answer, from one forward over the prompt and its answer.

    Args:
        model: an nnsight model from `load`.
        answered: the answer and its object words, at least one.
        asked: which maps.
        with_features: whether the mean of the image features is read too.
        remote: see `nv.run`.
    """
    prompt, source = answered.grown, answered.source
    positions = sorted({position - step for word in answered.words for position in word.positions for step in (0, 1)})
    layers = layers_reading(model, prompt, source.grid.positions if source.stage == "decoder" else "image")
    reads: dict[str, list[Readout]] = {
        "weight mean": [*map_reads(positions, source)] if "weight" in asked.quantity else [],
        "weight each": [Attention(positions, source.grid.positions, layers="attention")],
        "contribution mean": [contributions(positions, source, over="heads")],
        "contribution each": [contributions(positions, source)],
        "sinks": [] if asked.tau is None else [*sink_reads(prompt, source.grid.positions, layers)],
        "features": [Residual(source.grid.positions, site="features")] if with_features else [],
    }
    kinds = [f"{quantity} {heads}" for quantity in asked.quantity for heads in dict.fromkeys(("mean", asked.heads))]
    wanted = {name: reads[name] for name in (*kinds, "sinks", "features")}
    result = iter(run(model, prompt, reads=[read for each in wanted.values() for read in each], remote=remote).reads)
    got = {name: [next(result) for _ in each] for name, each in wanted.items()}
    sinks = None if asked.tau is None else find_sinks(prompt, source.grid.positions, got["sinks"], asked.tau)
    maps = [layer_map for kind in kinds for layer_map in _layer_maps(kind, map_of(got[kind]), layers, sinks)]
    features = got["features"]
    return AnswerMaps(tuple(positions), tuple(maps), features[0].double().mean(0) if features else torch.empty(0))


def contributions(positions: Sequence[int], source: PatchSource, over: str | None = None) -> Attention:
    """How long the vectors are that patches add to the rows of some positions."""
    patches = source.grid.positions
    return Attention(positions, patches, layers="attention", reduce="contribution", over=over)


def _layer_maps(kind: str, maps: np.ndarray, layers: Sequence[int], sinks: np.ndarray | None) -> Iterator[LayerMap]:
    """The maps of one kind, from `[layer, position, patch]`, or `[layer, head, position, patch]` for single heads."""
    quantity, heads = kind.split()
    half = list(middle_half(len(maps)))
    for number, layer in enumerate(layers):
        found = None if sinks is None else sinks[number]
        if heads == "mean":
            yield LayerMap(quantity, "mean", str(layer), maps[number], found)  # type: ignore[arg-type]
            continue
        for head, values in enumerate(maps[number]):
            yield LayerMap(quantity, str(head), str(layer), values, found)  # type: ignore[arg-type]
    if heads == "mean":
        found = None if sinks is None else sinks[half].any(0)
        yield LayerMap(quantity, "mean", MIDDLE_HALF, maps[half].mean(0), found)  # type: ignore[arg-type]


def word_maps(read: AnswerMaps, answered: Answered, word: ObjectWord, asked: Asked) -> Iterator[WordMap]:
    """Every map of one word: the mean over its tokens, each read at the word or before it."""
    grid, image = answered.source.grid, answered.image
    for where in asked.read_at:
        rows = [read.positions.index(position - (where == "predicting")) for position in word.positions]
        for each in read.maps:
            values = each.values[rows].mean(0)
            common = {"image": image, "thing": word.thing, "word": word.text, "read_at": where, "layer": each.layer}
            named = {"of": word.of, "quantity": each.quantity, "head": each.head}
            labels = common | asked.labels(**named, patches=ALL_PATCHES)
            yield WordMap(word, values, grid, labels, each.sinks)
            if each.sinks is None or each.sinks.all():
                continue
            kept = ~each.sinks
            labels = common | asked.labels(**named, patches=WITHOUT_SINKS)
            yield WordMap(word.among(kept), values[kept], grid_of(grid, kept), labels, None)


def rows_of_word(read: AnswerMaps, answered: Answered, word: ObjectWord, asked: Asked) -> Iterator[dict[str, Any]]:
    """The rows of every map of one word; where sinks were looked for, with their attention and their list."""
    for each in word_maps(read, answered, word, asked):
        for row in map_rows(each.values, each.word, each.grid, asked.top, each.labels):
            yield row | _sink_columns(each, row["control"])


def _sink_columns(each: WordMap, control: str) -> dict[str, Any]:
    """The sinks and their share of the attention to the picture; by chance, their share of the patches."""
    if each.sinks is None or control not in (NONE, RANDOM_PATCHES):
        return {}
    if control == RANDOM_PATCHES:
        return {"sink_mass": float(each.sinks.mean())}
    total = each.values.sum()
    listed = " ".join(spell_patch(each.grid, int(patch)) for patch in np.flatnonzero(each.sinks))
    return {"sink_mass": float(each.values[each.sinks].sum() / total) if total > 0 else np.nan, "sinks": listed}
