"""Which figures a report draws, from which frames."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import plots
from ..errors import SpecError
from ..execution.decoding import Generation
from ..families import Model
from ..grids import Grid
from ..lowering.layers import Layers
from ..plots import Overlay, draw_overlays
from ..prompts.prompt import Prompt
from ..remote.batching import together
from ..remote.model_call import Remote
from ..studies.image_patches import patch_maps, patch_source
from ..studies.layer_sets import layers_reading, middle_half
from ..studies.object_words import first_mention
from ..studies.words import Objects, default_objects
from ..sweeping.answers import generations
from .sections import SECTIONS
from .study import NO_PATCHES, Study

EXAMPLES = 3
"""How many pictures are shown with maps."""
WORDS = 4
"""Most words of one picture that are shown."""
ANSWER_TOKENS = 64
"""Length of the descriptions whose words are shown."""


NAMELESS = "no description names an object"
COMPARED = f"{NAMELESS}, so there is nothing by which descriptions could be compared"
ANSWERS = "no answer could be scored"
PAIRS = "the model answered no pair of questions right"


class FrameFigure(NamedTuple):
    """A figure of one recipe's frame.

    Attributes:
        plot: draws it.
        frame: the recipe's name.
        measures: what it shows: one of them, or several.
        needs: why there is no figure where the frame has none of them.
    """

    plot: Callable[[pd.DataFrame], Axes | np.ndarray]
    frame: str
    measures: tuple[str, ...]
    needs: str

    def why_not(self, frames: Mapping[str, pd.DataFrame], lacks: Mapping[str, str]) -> str:
        """Why there is nothing to draw; empty where there is something.

        Args:
            frames: the means of the recipes that ran.
            lacks: why the others did not, by the name of their frames.
        """
        if self.frame not in frames:
            return lacks.get(self.frame, NO_PATCHES)
        rows = frames[self.frame]
        shown = rows.loc[rows["measure"].isin(self.measures), "mean"].astype(float)
        return "" if np.isfinite(shown).any() else self.needs


FRAME_FIGURES = {
    "routes": FrameFigure(plots.knockout_routes, "knockout_windows", ("f1",), COMPARED),
    "windows": FrameFigure(plots.knockout_windows, "knockout_windows", ("f1",), COMPARED),
    "answers": FrameFigure(plots.answer_windows, "knockout_answers", ("logprob_change",), ANSWERS),
    "attention": FrameFigure(plots.attention_share, "attention_share", ("mass",), "no attention was read"),
    "patching": FrameFigure(plots.query_patching, "query_patching", ("restoration",), PAIRS),
    "grounding": FrameFigure(
        plots.patch_grounding,
        "patch_grounding",
        ("top_mass",),
        f"{NAMELESS} of its picture",
    ),
    "ablation": FrameFigure(plots.prompt_ablation, "prompt_ablation", ("f1",), COMPARED),
    **{
        section.figure: FrameFigure(section.plot, section.name, section.drawn, "nothing of it could be measured")
        for section in SECTIONS
    },
}
"""The figures of a report that show a recipe's means, by name."""


def draw(
    model: Model, study: Study, frames: Mapping[str, pd.DataFrame], claims: pd.DataFrame, remote: Remote = False
) -> dict[str, Figure]:
    """Every figure for which there are measurements, by name."""
    shown = claims_with_values(claims)
    figures = {} if shown.empty else {"claims": figure_of(plots.claims(shown))}
    for name, figure in FRAME_FIGURES.items():
        if not figure.why_not(frames, {}):
            with suppress(SpecError):  # `missing` says what it needs
                figures[name] = figure_of(figure.plot(frames[figure.frame]))
    examples = overlays(model, study, remote) if "patch_grounding" in frames else []
    return figures | ({"overlays": _without_empty_places(draw_overlays(examples))} if examples else {})


def _without_empty_places(axes: np.ndarray) -> Figure:
    """The figure of some axes, of which those without a picture are taken out."""
    figure = figure_of(axes)
    for axis in axes.flat:
        if not axis.images:
            axis.remove()
    return figure


def figure_of(axes: Axes | np.ndarray) -> Figure:
    """The figure of what a function of `nv.plots` returns."""
    figure: Figure = np.atleast_1d(np.asarray(axes)).flat[0].figure
    return figure


def claims_with_values(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims that were measured, with those of their controls that were, too."""
    measured = claims[np.isfinite(claims["value"].astype(float))]
    keys = set(measured.loc[~measured["control"].astype(bool), "claim"])
    return measured[measured["claim"].isin(keys)].reset_index(drop=True)


def missing(
    frames: Mapping[str, pd.DataFrame], figures: Collection[str], lacks: Mapping[str, str], chosen: Collection[str]
) -> dict[str, str]:
    """Why each figure that a report may have is not among those that it has.

    Args:
        frames: the means of the recipes that ran.
        figures: the names of those that were drawn.
        lacks: why recipes did not run, by the name of their frames.
        chosen: the parts of the report that were wanted.
    """
    wanted = {name: figure for name, figure in FRAME_FIGURES.items() if figure.frame in chosen}
    reasons = {name: figure.why_not(frames, lacks) or figure.needs for name, figure in wanted.items()}
    if {"knockout_windows", "patch_grounding"} & set(chosen):
        reasons = {"claims": "no claim could be measured", **reasons}
    shown_words = f"no description of the first {EXAMPLES} pictures names an object"
    if "patch_grounding" in chosen:
        reasons["overlays"] = shown_words if "patch_grounding" in frames else lacks.get("patch_grounding", NO_PATCHES)
    return {name: why for name, why in reasons.items() if name not in figures}


def overlays(model: Model, study: Study, remote: Remote = False) -> list[list[Overlay]]:
    """A few pictures, each with the maps of a few object words of its description."""
    known = [number for number, why in enumerate(study.patches[:EXAMPLES]) if not why]
    prompts = [study.prompts[number] for number in known]
    answers = generations(model, [(prompt, None) for prompt in prompts], max_new_tokens=ANSWER_TOKENS, remote=remote)
    objects = study.objects or default_objects(model)
    maps = [
        partial(word_maps, model, prompt, answer, objects, remote=remote)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return [picture for picture in together(maps, remote) if picture]


def word_maps(
    model: Model,
    prompt: Prompt,
    answer: Generation,
    objects: Objects,
    *,
    layers: Layers | None = None,
    limit: int = WORDS,
    remote: Remote = False,
) -> list[Overlay]:
    """Attention maps of the first object words of an answer, at the position that predicts each.

    Args:
        model: an nnsight model from `load`.
        prompt: the prompt without the answer.
        answer: what the model answered.
        objects: finds the object words of the answer.
        layers: a map is the mean over these layers and over all heads, see `patch_grounding`; default the middle half
            of the layers that read the image.
        limit: most words that are shown.
        remote: see `nv.run`.
    """
    names = list(dict.fromkeys(objects(answer.text)))[:limit]
    positions = {name: _last_token(answer.prompt, name) for name in names}
    predicting = {name: position - 1 for name, position in positions.items() if position is not None}
    if not predicting:
        return []
    chosen = middle_half(layers_reading(model, prompt, "image")) if layers is None else layers
    source, queries = patch_source(prompt), sorted(set(predicting.values()))
    maps = patch_maps(model, answer.prompt, queries, source, layers=chosen, remote=remote).mean(0)
    by_position = dict(zip(queries, maps, strict=True))
    return [_word_map(prompt, source.grid, by_position[position], name) for name, position in predicting.items()]


def _word_map(prompt: Prompt, grid: Grid, attention: np.ndarray, name: str) -> Overlay:
    """A word's attention to each patch as its share of the attention to the picture, in per cent."""
    weights = np.asarray(attention, dtype=float)
    shares = 100 * weights / weights.sum() if weights.sum() > 0 else weights
    note = f"peak: patch with the most attention, {shares.max():.2g} % of the image's"
    return Overlay.of(prompt.image(), grid, shares, title=name, label="attention, % of the image's", note=note)


def _last_token(prompt: Prompt, name: str) -> int | None:
    """Position of the last token of a name in the answer (in English the noun); None where the answer lacks it."""
    mention = first_mention(prompt, name)
    return None if mention is None else mention.positions[-1]
