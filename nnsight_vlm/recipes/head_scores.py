"""Scores of every head on every picture, which pictures heads are chosen on, and which heads are chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from ..errors import SpecError
from ..execution.forward import run
from ..families import Model, view_of
from ..grids import Grid
from ..lowering.layers import Layers, layer_numbers
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..remote.model_call import Remote
from ..specs.measurements import Attention
from ..statistics import image_means
from ..studies.head_maps import FITS, chance_fit, fit_of, spatial_entropy, turning_point
from ..studies.labels import NONE, RANDOM_PATCHES
from ..studies.layer_sets import layers_reading

Choose = Literal["peak", "mass", "iou", "paper"]
CHOOSE: tuple[Choose, ...] = get_args(Choose)
"""What decides which heads are chosen: the share of peaks on the object, the attention on it, IoU, or the paper."""
LOWEST = 10
"""How many heads of lowest entropy the paper selects in each picture."""
MAP, EACH = "map", "each"
NO_HEAD = -1
"""In the columns `layer` and `head` of rows that are of no single head, until the frame is shown."""
CALIBRATION, HELD_OUT = "calibration", "held out"
Head = tuple[int, int]
"""A layer, and a head in it."""


class Pictured(NamedTuple):
    """A prompt's picture, by what its patches show.

    Attributes:
        image: number of the prompt.
        prompt: the prompt.
        grid: the patches.
        own: which of them show the object that is asked about, bool `[patch]`.
        others: which show another object and not this one, bool `[patch]`.
        towards: positions of the patches of the object towards which heads are steered; none where there is none.
    """

    image: int
    prompt: Prompt
    grid: Grid
    own: np.ndarray
    others: np.ndarray
    towards: tuple[int, ...]


def head_layers(model: Model, prompt: Prompt, grid: Grid, target: Where, layers: Layers) -> tuple[int, ...]:
    """The layers whose heads are measured.

    Raises:
        SpecError: layers that the model has not got, or that do not attend to the picture; no target.
    """
    prompt.rows[0].required(target)
    reading = layers_reading(model, prompt, grid.positions)
    if isinstance(layers, str) and layers in ("all", "attention"):
        return reading
    chosen = layer_numbers(layers, view_of(model).stage().layer_count)
    wrong = [layer for layer in chosen if layer not in reading]
    if not chosen or wrong:
        given = f"layer {wrong[0]} does not attend to the picture" if wrong else "it names no layer"
        raise SpecError(f"layers={layers!r}: {given}; write some of {', '.join(map(str, reading))}, or leave it out")
    return chosen


def maps_of(
    model: Model, prompt: Prompt, grid: Grid, target: Where, layers: Sequence[int], remote: Remote
) -> np.ndarray:
    """Attention of every head to the patches, mean over the target's positions: `[layer, head, patch]`."""
    read = Attention(target, grid.positions, layers=tuple(layers))
    found: np.ndarray = run(model, prompt, reads=[read], remote=remote).reads[0].double().mean(2).numpy()
    return found


def score_rows(pictured: Pictured, maps: np.ndarray, layers: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The scores of every head on one picture, and those of chance."""
    labels = {"image": pictured.image, "what": MAP, "heads": EACH}
    for layer, of_layer in zip(layers, maps, strict=True):
        for head, values in enumerate(of_layer):
            yield {
                **labels,
                "layer": layer,
                "head": head,
                "control": NONE,
                **fit_of(values, pictured.own),
                "attention": float(values.sum()),
                "entropy": spatial_entropy(values, pictured.grid),
            }
    chance = chance_fit(pictured.own)
    yield {**labels, "layer": NO_HEAD, "head": NO_HEAD, "control": RANDOM_PATCHES, **chance}


# which pictures, and which heads --------------------------------------------------------------------


def calibrating(clusters: Sequence[int], usable: Sequence[int], share: float, seed: int) -> tuple[int, ...]:
    """The prompts on which heads are chosen: those of a random part of the images.

    Prompts about one image are all on one side. There is one image at least on either.

    Args:
        clusters: of each prompt, the image.
        usable: the prompts that are measured.
        share: of the images, on which heads are chosen.
        seed: of the draw.

    >>> calibrating([0, 0, 2, 3], [0, 1, 2, 3], 0.34, seed=0)
    (2,)

    Raises:
        SpecError: there is only one image.
    """
    images = list(dict.fromkeys(clusters[prompt] for prompt in usable))
    if len(images) < 2:
        raise SpecError(
            f"heads are chosen on some pictures and scored on others, and {len(images)} picture(s) can be measured; "
            "give prompts of two or more"
        )
    count = min(max(round(share * len(images)), 1), len(images) - 1)
    drawn = np.random.default_rng((seed, len(images), 0)).choice(len(images), count, replace=False)
    chosen = {images[number] for number in drawn}
    return tuple(prompt for prompt in usable if clusters[prompt] in chosen)


def chosen_heads(
    rows: pd.DataFrame, choose: Choose, top: int, lowest: int | None
) -> tuple[pd.DataFrame, tuple[Head, ...]]:
    """The heads that are chosen, best first, and the rows, for `paper` with what each picture selected.

    Args:
        rows: of every picture, with `split`.
        choose: by what.
        top: how many.
        lowest: of `paper`, how many heads each picture selects.
    """
    seen = rows[(rows["split"] == CALIBRATION) & (rows["control"] == NONE)]
    if choose == "paper":
        seen = with_selection(seen, lowest or LOWEST)
        rows = rows.assign(selected=seen["selected"])
    return rows, tuple(best_heads(seen, choose, top))


def with_selection(rows: pd.DataFrame, lowest: int) -> pd.DataFrame:
    """Which heads the criteria of the paper select in each picture (`selected`), and which can be (`attentive`).

    A head can be selected where its mean attention to the image lies at or above the turning point of all heads'. A
    picture selects the `lowest` of these whose maps have least spatial entropy; of equal ones, those with more
    attention.

    Args:
        rows: of all heads on the pictures of calibration.
        lowest: how many are selected in each.
    """
    sums = _means(rows, ["attention"])["attention"]
    attentive = sums >= turning_point(sums.to_numpy())
    able = attentive.reindex(pd.MultiIndex.from_frame(rows[["layer", "head"]])).to_numpy()
    ordered = rows[able & rows["entropy"].notna().to_numpy()].sort_values(
        ["entropy", "attention"], ascending=[True, False], kind="stable"
    )
    first = ordered.groupby("image", sort=False).head(lowest).index
    return rows.assign(selected=rows.index.isin(first).astype(float), attentive=able.astype(float))


def best_heads(rows: pd.DataFrame, choose: Choose, top: int) -> list[Head]:
    """The heads that are chosen, best first; of equal ones the earlier.

    Args:
        rows: of all heads on the pictures of calibration, for `paper` those of `with_selection`.
        choose: by what.
        top: how many.
    """
    orders = {
        "peak": [("hit", -1), ("mass", -1)],
        "mass": [("mass", -1), ("hit", -1)],
        "iou": [("iou", -1), ("mass", -1)],
        "paper": [("selected", -1), ("attentive", -1), ("entropy", 1), ("attention", -1)],
    }
    means = _means(rows, [name for name, _ in orders[choose]])
    keys = [(sign * means[name]).fillna(np.inf).to_numpy() for name, sign in orders[choose]]
    layers, heads = (means.index.get_level_values(name).to_numpy() for name in ("layer", "head"))
    order = np.lexsort([heads, layers, *reversed(keys)])[:top]
    return [(int(layers[place]), int(heads[place])) for place in order]


def _means(rows: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Means over images, by layer and head."""
    return image_means(rows, measures, ["layer", "head"]).groupby(level=["layer", "head"], sort=True).mean()


BY_FIT = {"peak": FITS[0], "mass": FITS[1], "iou": FITS[2], "paper": FITS[0]}
"""The measure of single heads that is compared with chance, by what decides which heads are chosen."""
