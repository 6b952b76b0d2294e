"""What the words of a page read of each patch, all of them from one forward over the prompt and its answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ..execution.forward import run
from ..families import Model
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.lenses import Lens
from ..specs.measurements import Attention, Readout
from ..studies.image_patches import map_of, map_reads, patch_source
from ..studies.sinks import find_sinks, sink_reads
from .asking import OF_ATTENTION, Asked, Quantity
from .shown_words import ShownWord

MEAN = "mean"


class Maps(NamedTuple):
    """One quantity of a column.

    Attributes:
        layers: the numbers of the layers; empty for a quantity of all layers together.
        heads: `mean`, and the numbers of single heads.
        values: `[layer, head, row, token]`.
        has: which rows were measured, None for all; `values` has these rows only.
        least: what is smaller than this may be rounding; 0 where it is not known.
    """

    layers: tuple[int, ...]
    heads: tuple[str, ...]
    values: np.ndarray
    has: tuple[int, ...] | None = None
    least: float = 0.0


class Read(NamedTuple):
    """What one forward gave.

    Attributes:
        maps: by quantity.
        sinks: which tokens are sinks of each layer, bool `[layer, token]`; None where they were not looked for.
        words: of each token's state, `[layer, token, 3]`: its best word, that word's rank and log-probability; None
            where no lens was asked for.
        logprobs: of each generated token, by its position.
    """

    maps: dict[Quantity, Maps]
    sinks: np.ndarray | None
    words: np.ndarray | None
    logprobs: dict[int, float]


def rows_of(words: Sequence[ShownWord]) -> list[ShownWord]:
    """The words that have a row, in order."""
    return [word for word in words if word.read_at]


def read_words(
    model: Model,
    prompt: Prompt,
    intervention: Intervention | None,
    words: Sequence[ShownWord],
    asked: Asked,
    *,
    remote: Remote,
) -> Read:
    """What every word reads, under the intervention of its column.

    Args:
        model: an nnsight model from `load`.
        prompt: with its answer.
        intervention: of the column; None for the clean run.
        words: of the prompt and the answer.
        asked: which layers, heads and quantities.
        remote: see `nv.run`.
    """
    rows = rows_of(words)
    positions = sorted({place for word in rows for place in word.read_at})
    reads = _reads(prompt, positions, asked)
    said = [place for word in words if word.is_generated for place in word.positions]
    predicting = sorted({place - 1 for place in said})
    result = run(
        model,
        prompt,
        intervention,
        reads=[read for some in reads.values() for read in some],
        positions=predicting or "last",
        empty="ignore",
        remote=remote,
    )
    given = iter(result.reads)
    got = {name: [next(given) for _ in some] for name, some in reads.items()}
    maps: dict[Quantity, Maps] = {}
    for quantity in OF_ATTENTION:
        if quantity in asked.quantities:
            values = _by_head(got[f"{quantity} {MEAN}"], got.get(f"{quantity} each"))
            heads = (MEAN, *map(str, asked.heads))
            maps[quantity] = Maps(asked.layers, heads, _by_row(values, positions, rows))
    sinks = None if asked.tau is None else find_sinks(prompt, asked.shown.positions, got["sinks"], asked.tau)
    lens = got["lens"][0][:, :, 0].double().numpy() if asked.lens else None
    return Read(maps, sinks, lens, _logprobs(result.logits, predicting, prompt) if predicting else {})


def _reads(prompt: Prompt, positions: Sequence[int], asked: Asked) -> dict[str, list[Readout]]:
    """What is read, by name."""
    shown, reads = asked.shown, dict[str, list[Readout]]()
    if "weight" in asked.quantities and shown.stage != "decoder":
        reads[f"weight {MEAN}"] = [*map_reads(positions, patch_source(prompt), layers=asked.layers)]
    for quantity in OF_ATTENTION if shown.stage == "decoder" else ():
        if quantity not in asked.quantities:
            continue
        of_mean = {"reduce": "mean"} if quantity == "weight" else {"reduce": "contribution", "over": "heads"}
        of_heads = {"reduce": "rows"} if quantity == "weight" else {"reduce": "contribution"}
        reads[f"{quantity} {MEAN}"] = [Attention(positions, shown.positions, layers=asked.layers, **of_mean)]  # type: ignore[arg-type]
        if asked.heads:
            each = Attention(positions, shown.positions, layers=asked.layers, heads=asked.heads, **of_heads)  # type: ignore[arg-type]
            reads[f"{quantity} each"] = [each]
    if asked.tau is not None:
        reads["sinks"] = [*sink_reads(prompt, shown.positions, asked.layers)]
    if asked.lens:
        reads["lens"] = [Lens(shown.positions, layers=asked.lens, top=1)]
    return reads


def _by_head(mean: Sequence[torch.Tensor], each: Sequence[torch.Tensor] | None) -> np.ndarray:
    """The mean over heads, then the single heads, `[layer, head, position, token]`."""
    values = map_of(mean)[:, None]
    return values if each is None else np.concatenate([values, each[0].double().numpy()], axis=1)


def _by_row(values: np.ndarray, positions: Sequence[int], rows: Sequence[ShownWord]) -> np.ndarray:
    """The mean over each word's positions, `[layer, head, row, token]`."""
    places = {position: number for number, position in enumerate(positions)}
    if not rows:
        return values[:, :, :0]
    return np.stack([values[:, :, [places[at] for at in word.read_at]].mean(2) for word in rows], axis=2)


def _logprobs(logits: torch.Tensor, predicting: Sequence[int], prompt: Prompt) -> dict[int, float]:
    """The log-probability of each token behind these positions."""
    tokens = prompt.rows[0].tokens
    scores = logits.double().log_softmax(-1)
    return {at + 1: float(scores[number, tokens[at + 1]]) for number, at in enumerate(predicting)}


def logprob_of(word: ShownWord, logprobs: dict[int, float]) -> float | None:
    """A generated word's log-probability, the sum over its tokens; None for other words, and where it is no number."""
    if not word.is_generated:
        return None
    total = sum(logprobs[place] for place in word.positions)
    return total if math.isfinite(total) else None
