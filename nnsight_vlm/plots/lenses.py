"""Figures of what a lens reads: how many image tokens read as their object by layer, and the words over the picture."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import instance, one_of, refuse, whole_number
from ..errors import SpecError
from ..grids import Grid
from .frames import frame_of, rows_of
from .lines import layer_lines
from .words import image_words

NAMES = {
    "named": "share of tokens with a word of the object",
    "named_first": "share of tokens whose first word is the object's",
    "probability": "probability of the first word",
    "similarity": "cosine to the nearest state",
    "rank": "rank of the answer",
    "log_rank": "log(1 + rank of the answer)",
    "first": "share with the answer first",
}


def image_lens(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: str | None = None,
    grid: Grid | None = None,
    image: int = 0,
    layer: int = -1,
    lens: str = "logit",
) -> Axes:
    """One measure by layer, a line for each kind of tokens and lens; with `grid=` one layer's words over the picture.

    Args:
        frame: what `nv.recipes.image_lens` returns; with `grid=` that of `per_image=True`.
        ax: where to draw; default a figure of its own.
        measure: what the lines are of; default `named`, or the rank of the answer where no object was counted.
        grid: of the prompt whose words are drawn, `prompt.grid(0)`.
        image, layer, lens: which words are drawn: of the prompt with this number, in this layer (-1 is the last one in
            the frame), by this lens.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, no such measure, or no words of this image, layer and lens.
    """
    if grid is not None:
        return _picture(frame, instance("grid", grid, Grid, "grid=prompt.grid()"), ax, image, layer, lens)
    if measure is None:
        frame_of("image_lens", frame)
        known = list(dict.fromkeys(frame["measure"]))
        measure = next((name for name in ("named", "log_rank") if name in known), known[0])
    rows = rows_of(frame, measure, "image_lens")
    lenses = set(rows["lens"])
    lines = rows["tokens"] + (", " + rows["lens"] if len(lenses) > 1 else "")
    return layer_lines(rows.assign(line=lines), ax, x="layer", hue="line", label=NAMES.get(measure, measure))


def _picture(frame: Any, grid: Grid, ax: Axes | None, image: Any, layer: Any, lens: Any) -> Axes:
    """The first word of every image token, over the picture."""
    columns = ("image", "layer", "lens", "tokens", "words")
    if not isinstance(frame, pd.DataFrame) or not set(columns) <= set(frame.columns):
        refuse("frame", frame, "frame with words", "nv.recipes.image_lens(..., per_image=True)")
    lens = one_of("lens", lens, tuple(dict.fromkeys(frame["lens"])))
    number, image = whole_number("layer", layer), whole_number("image", image, least=0)
    chosen = frame[(frame["image"] == image) & (frame["lens"] == lens) & frame["words"].notna()]
    known = sorted(set(chosen["layer"]))
    wanted = known[number] if known and -len(known) <= number < 0 else number
    found = chosen.loc[chosen["layer"] == wanted, "words"]
    if found.empty:
        raise SpecError(
            f"there is nothing to draw: frame= has no words of image={image} in layer={layer} (its layers are "
            f"{', '.join(map(str, known)) or 'none'})"
        )
    words = pd.DataFrame(json.loads(found.iloc[0]), columns=["position", "text", "logprob"])
    shares = words["logprob"].astype(float)
    if lens != "logit":  # a bar as long as the similarity
        shares = np.log(shares.clip(lower=1e-9))
    words = words.assign(layer=wanted, rank=0, token=-1, logprob=shares)
    return image_words(words, grid, layer=int(wanted), ax=ax)
