"""Figures of token groups by layer: attention shares, patches between pictures, the flow along edges."""

from __future__ import annotations

from typing import Any, Literal, overload

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ..arguments import one_of
from ..showing import for_figure
from ..studies.labels import ANOTHER_IMAGE, NONE, RANDOM_GENERATED_TOKENS, RANDOM_POSITIONS, UNIFORM
from .canvas import chosen_panel, drawn_panels, legend_below, named, panels_of, say, titled
from .depths import spans_of
from .frames import rows_of
from .lines import layer_axis, layer_lines
from .marks import has_values, line, show_at_least, trimmed
from .overlaps import overlap_said
from .quantities import NATS
from .style import BLUE, COLORS, GREY, MARKERS, ORANGE, Style, spell_name

ENTROPY = "entropy"
FLOW_MEASURES = ("probability_change", "logprob_change")


@overload
def attention_share(frame: pd.DataFrame, ax: Axes, *, target: str | None = None) -> Axes: ...
@overload
def attention_share(frame: pd.DataFrame, ax: None = None, *, target: str | None = None) -> np.ndarray: ...
def attention_share(frame: pd.DataFrame, ax: Axes | None = None, *, target: str | None = None) -> Axes | np.ndarray:
    """Attention mass by token group and layer (grey, dashed: as many random tokens), and entropy over the image.

    Args:
        frame: what `nv.recipes.attention_share` returns.
        ax: where to draw one panel; default a figure of its own.
        target: which panel: the tokens that attend, `query` or `generated`, or `entropy` for the entropy of the
            attention over the image; default all of them, without `ax`.

    Returns:
        The axes that were given; without `ax` an array of axes, one for each panel.

    Raises:
        SpecError: another frame, no such panel, or several for one `ax`.
    """
    masses = trimmed(rows_of(frame, "mass", "attention_share"), 0, 1)
    entropies = trimmed(frame[frame["measure"] == ENTROPY], 0, NATS)
    known = [*dict.fromkeys(masses["target"]), *([ENTROPY] if len(entropies) else [])]
    panels = chosen_panel("target", target, known, ax)
    axes = panels_of(len(panels), ax)
    for axis, panel in zip(axes, panels, strict=True):
        if panel == ENTROPY:
            _entropy(axis, entropies)
        else:
            _masses(axis, masses[masses["target"] == panel])
            titled(axis, f"attention of {spell_name(panel)} tokens")
        layer_axis(axis)
        named(axis, x="layer")
    of_masses = [axis for axis, panel in zip(axes, panels, strict=True) if panel != ENTROPY]
    if of_masses:
        legend_below(of_masses[-1], others=of_masses[:-1])
    if panels[-1] == ENTROPY:
        legend_below(axes[-1])
    return drawn_panels(axes, ax, 1.2)


def _masses(axis: Axes, rows: pd.DataFrame) -> None:
    """A line for each source that gets any attention, and the share of as many random tokens."""
    labelled = "as many random tokens"
    for source in dict.fromkeys(rows.loc[rows["mean"] > 0, "source"]):
        marker = MARKERS[[*COLORS, source].index(source) % len(MARKERS)]
        of_source = rows[rows["source"] == source]
        own, control = of_source[of_source["control"] == NONE], of_source[of_source["control"] != NONE]
        line(axis, spans_of(own["layer"]), own, Style(COLORS.get(source, BLUE), marker, spell_name(source)))
        line(axis, spans_of(control["layer"]), control, Style(GREY, marker, labelled, "--"), width=0.8)
        labelled = labelled if not has_values(control) else "_control"
    show_at_least(axis, 0, 1)
    named(axis, y="share of attention")


def _entropy(axis: Axes, frame: pd.DataFrame) -> None:
    of_query = frame[(frame["control"] == NONE) & (frame["target"] == "query")]
    for _, rows in of_query[of_query["token"] != "all"].groupby("token", sort=False):
        axis.plot(rows["layer"].astype(int), rows["mean"], color=ORANGE, lw=0.6, alpha=0.6, label="_token")
    means = frame[frame["token"] == "all"]
    lines = (
        (of_query[of_query["token"] == "all"], Style(ORANGE, "s", "query (thin: each token)")),
        (means[means["control"] == RANDOM_GENERATED_TOKENS], Style(GREY, "^", "as many generated tokens", "-.")),
        (means[means["control"] == UNIFORM].drop_duplicates("layer"), Style(GREY, "", "equal attention", "--")),
    )
    for rows, style in lines:
        line(axis, spans_of(rows["layer"]), rows, style)
    titled(axis, "attention over the image")
    show_at_least(axis, 0, NATS)
    axis.set_ylim(bottom=0)
    named(axis, y="entropy (nats)")


@overload
def query_patching(frame: pd.DataFrame, ax: Axes, *, group: str | None = None) -> Axes: ...
@overload
def query_patching(frame: pd.DataFrame, ax: None = None, *, group: str | None = None) -> np.ndarray: ...
def query_patching(frame: pd.DataFrame, ax: Axes | None = None, *, group: str | None = None) -> Axes | np.ndarray:
    """How much of the other picture's answer each token group carries, layer by layer: one panel for each group.

    Args:
        frame: what `nv.recipes.query_patching` returns.
        ax: where to draw one panel; default a figure of its own.
        group: which panel; default all of them, without `ax`.

    Returns:
        The axes that were given; without `ax` an array of axes, one for each panel.

    Raises:
        SpecError: another frame, no such group, or several for one `ax`.
    """
    rows = trimmed(rows_of(frame, "restoration", "query_patching"), 0, 1)
    known = sorted(dict.fromkeys(rows["group"]), key=lambda group: [*COLORS, group].index(group))
    panels = chosen_panel("group", group, known, ax)
    axes = panels_of(len(panels), ax, sharex=True, sharey=True)
    styles = {
        NONE: Style(BLUE, "o", "from the other picture"),
        ANOTHER_IMAGE: Style(GREY, "^", "from a third picture", "--"),
        RANDOM_POSITIONS: Style(GREY, "x", "as many random tokens", ":"),
    }
    for axis, name in zip(axes, panels, strict=True):
        of_group = rows[rows["group"] == name]
        for control, style in styles.items():
            of_control = of_group[of_group["control"] == control]
            line(axis, spans_of(of_control["layer"]), of_control, style)
        if not has_values(of_group):
            say(axis, "no pair counts: the model answers none right")
        titled(axis, "last token" if name == "last" else for_figure(f"{name} tokens"))
        named(axis, y="share of the other picture's answer")
        show_at_least(axis, 0, 1)
        layer_axis(axis)
    named(axes[-1], x="layer whose output is patched")
    legend_below(axes[-1], others=axes[:-1])
    return drawn_panels(axes, ax, 1.2)


def information_flow(
    frame: pd.DataFrame,
    ax: Axes | None = None,
    *,
    measure: Literal["probability_change", "logprob_change"] = "probability_change",
) -> Axes:
    """What cutting an edge in a window of layers does to an answer: a line for each edge, over the windows' centres.

    After Geva et al. 2023 (arXiv 2304.14767). Controls are grey and dashed, with the marker of the edge they control.

    Args:
        frame: what `nv.recipes.information_flow` returns.
        ax: where to draw; default a figure of its own, one column wide.
        measure: `probability_change` in per cent, or `logprob_change` in nats.

    Returns:
        The axes; `.figure` is the figure.

    Raises:
        SpecError: another frame, or no such measure.
    """
    one_of("measure", measure, FLOW_MEASURES)
    rows: Any = rows_of(frame, measure, "information_flow")
    name = "probability (%)" if measure == "probability_change" else "log-probability (nats)"
    said = f"{RANDOM_POSITIONS}{overlap_said(frame)}"
    rows = rows.assign(control=rows["control"].replace(RANDOM_POSITIONS, said))
    return layer_lines(rows, ax, x="centre", hue="edge", label=f"change of the answer's {name}")
