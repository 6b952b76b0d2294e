"""Figures of the recipes' frames: each function takes the means that one recipe returns, and returns a `Figure`.

See `drawing` for what marks and colours mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..arguments import text
from ..errors import SpecError
from ..showing import for_figure
from ..studies.labels import (
    ANOTHER_IMAGE,
    NONE,
    OTHER_OBJECT,
    QUERY_OF_ANOTHER_IMAGE,
    RANDOM_GENERATED_TOKENS,
    RANDOM_LAYERS,
    RANDOM_PATCHES,
    RANDOM_PATCHES_AGAIN,
    RANDOM_POSITIONS,
    UNIFORM,
    AgreementMeasure,
)
from .drawing import (
    BLACK,
    BLUE,
    COLORS,
    GREY,
    ORANGE,
    STYLES,
    Style,
    across,
    ends,
    errors,
    frame_of,
    legend,
    level,
    line,
    panels,
    points,
    rows_of,
    spell_part,
    spell_route,
)

BLIND = "blind: image cut from all text"
F1_AXIS = "object F1 against the un-cut description"


def claims(frame: pd.DataFrame) -> Figure:
    """Every claim's number with interval and threshold; its control in grey beneath it."""
    frame_of("nv.report.judge", frame)
    keys = list(dict.fromkeys(frame["claim"]))
    figure, axes = panels(1, len(keys), width=7.4, height=1.15)
    for axis, key in zip(axes[:, 0], keys, strict=True):
        rows = frame[frame["claim"] == key].rename(columns={"value": "mean"}).reset_index(drop=True)
        for place, row in rows.iterrows():
            bar, color = errors(rows)[:, [int(str(place))]], GREY if row["control"] else BLUE
            axis.errorbar(row["mean"], -int(str(place)), xerr=bar, color=color, marker="o", ms=5, elinewidth=1.5)
        axis.axvline(rows["threshold"][0], color=BLACK, lw=1, ls="--")
        names = [("control: " if row["control"] else f"{key}. ") + row["statement"] for _, row in rows.iterrows()]
        axis.set_yticks(range(0, -len(rows), -1), [for_figure(name) for name in names], fontsize=8)
        axis.set_ylim(-len(rows) + 0.4, 0.6)
        unit = rows["unit"][0]
        axis.set_xlabel(for_figure(rows["measured"][0] + (f" ({unit})" if unit else ""), longest=100), fontsize=7.5)
        if not unit:
            axis.set_xlim(np.nanmin([-0.05, *ends(rows)[0]]), np.nanmax([1.05, *ends(rows)[1]]))
    return figure


def knockout_routes(frame: pd.DataFrame, measure: AgreementMeasure = "f1") -> Figure:
    """What is left of a description when a route is cut in all layers, beside its controls."""
    of_measure = rows_of(frame, measure, "knockout_windows")
    scores = of_measure[of_measure["window"].isin(["all", ""])]
    routes = [route for route in dict.fromkeys(scores["route"]) if route and route != "image->text"]
    figure, axes = panels(1, width=6.4, height=0.55 * len(routes) + 1.5)
    axis = axes[0, 0]
    styles = {
        NONE: Style(BLUE, "o", "route cut in all layers"),
        RANDOM_POSITIONS: Style(GREY, "D", "as many random edges cut"),
        QUERY_OF_ANOTHER_IMAGE: Style(GREY, "x", "route cut, query tokens of another image"),
    }
    shifts = {NONE: 0.0, RANDOM_POSITIONS: -0.2, QUERY_OF_ANOTHER_IMAGE: -0.36}
    for control, style in styles.items():
        rows = scores[(scores["control"] == control) & scores["route"].isin(routes) & (scores["form"] == "block")]
        across(axis, rows, [-routes.index(route) + shifts[control] for route in rows["route"]], style)
    for form, style_of_line, label in (("clean", "-", "un-cut"), ("blind", ":", BLIND)):
        for _, row in scores[scores["form"] == form].iterrows():
            axis.axvline(row["mean"], color=BLACK, ls=style_of_line, lw=1, label=label, zorder=0)
            axis.axvspan(row["low"], row["high"], color=GREY, alpha=0.2, lw=0, zorder=0)
    axis.set_yticks(range(0, -len(routes), -1), [spell_route(route) for route in routes])
    axis.set_ylim(-len(routes) + 0.4, 0.5)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel(F1_AXIS, fontsize=9)
    legend(figure, axis, 2)
    return figure


def knockout_windows(
    frame: pd.DataFrame, measure: AgreementMeasure = "f1", label: str = "object F1 against\nthe un-cut description"
) -> Figure:
    """A description under cuts in windows of layers: one panel for each route, with block and allow forms."""
    figure = _windows(rows_of(frame, measure, "knockout_windows"), text("label", label))
    for axis in figure.axes:
        axis.set_ylim(-0.03, 1.05)
    return figure


def answer_windows(frame: pd.DataFrame) -> Figure:
    """An answer's log-probability under cuts in windows of layers: one panel for each route."""
    return _windows(
        rows_of(frame, "logprob_change", "knockout_windows"), "change of the answer's\nlog-probability (nats)"
    )


def _windows(chosen: pd.DataFrame, label: str) -> Figure:
    """One measure by window of layers, with the blind baseline.

    Raises:
        SpecError: no route was cut in a window.
    """
    in_windows = chosen[chosen["window"].str[:1].str.isdigit()]
    routes = list(dict.fromkeys(in_windows["route"]))
    if not routes:
        raise SpecError("there is nothing to draw: no route was cut in a window of layers; write windows=4, say")
    figure, axes = panels(len(routes), width=2.25, sharey=True)
    for axis, route in zip(axes[0], routes, strict=True):
        windows = list(dict.fromkeys(in_windows.loc[in_windows["route"] == route, "window"]))
        _window_panel(axis, chosen[chosen["route"] == route], windows)
        axis.set_title(spell_route(route), fontsize=9)
        level(axis, chosen[chosen["form"] == "blind"], BLACK, BLIND, ":")
    axes[0, 0].set_ylabel(label, fontsize=8)
    legend(figure, axes[0, 0], max(3, len(routes)))
    return figure


def _window_panel(axis: Any, rows: pd.DataFrame, windows: Sequence[str]) -> None:
    """One route: its cuts by window, and the level of cuts in as many random layers."""
    for form, style in STYLES.items():
        of_form = rows[rows["form"] == form]
        cuts = of_form[(of_form["control"] == NONE) & of_form["window"].isin(windows)]
        points(axis, [windows.index(window) for window in cuts["window"]], cuts, style, line="-")
        control = of_form[(of_form["control"] == RANDOM_LAYERS) & of_form["window"].str.startswith("any")]
        label = str(style.label).replace("here", "in as many random layers")
        level(axis, control, GREY, label, "--" if form == "block" else "-.")
    axis.set_xticks(range(len(windows)), windows)
    axis.set_xlim(-0.4, len(windows) - 0.6)
    axis.set_xlabel("layers", fontsize=8)


def attention_share(frame: pd.DataFrame) -> Figure:
    """Attention mass by token group and layer (dashed: as many random tokens), and entropy over the image."""
    masses = rows_of(frame, "mass", "attention_share")
    figure, axes = panels(3, width=3.0)
    for axis, target in zip(axes[0], ("query", "generated"), strict=False):
        rows = masses[masses["target"] == target]
        for source in dict.fromkeys(rows.loc[rows["mean"] > 0, "source"]):
            of_source = rows[rows["source"] == source]
            line(axis, of_source[of_source["control"] == NONE], "layer", COLORS[source], source)
            control = of_source[of_source["control"] != NONE].sort_values("layer")
            axis.plot(control["layer"], control["mean"], "--", color=COLORS[source], lw=0.9)
        axis.plot([], [], "--", color=GREY, lw=0.9, label="as many random tokens")
        axis.set_title(f"attention of {target} tokens", fontsize=9)
        axis.set_ylim(0, 1)
        axis.set_ylabel("share of attention mass", fontsize=8)
    _entropy(axes[0, 2], frame[(frame["measure"] == "entropy")])
    for axis in axes[0]:
        axis.set_xlabel("layer", fontsize=8)
    legend(figure, axes[0, 1], 5)
    return figure


def _entropy(axis: Any, frame: pd.DataFrame) -> None:
    of_query = frame[(frame["control"] == NONE) & (frame["target"] == "query")]
    for _, rows in of_query[of_query["token"] != "all"].groupby("token"):
        axis.plot(rows["layer"], rows["mean"], color=ORANGE, lw=0.6, alpha=0.6)
    line(axis, of_query[of_query["token"] == "all"], "layer", ORANGE, "query (thin: each token)")
    means = frame[frame["token"] == "all"]
    line(axis, means[means["control"] == RANDOM_GENERATED_TOKENS], "layer", GREY, "as many generated tokens")
    line(axis, means[means["control"] == UNIFORM].drop_duplicates("layer"), "layer", GREY, "equal attention", "--")
    axis.set_title("attention over the image", fontsize=9)
    axis.set_ylabel("entropy (nats)", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=7, loc="lower left")


def query_patching(frame: pd.DataFrame) -> Figure:
    """How much of the other picture's answer each token group carries, layer by layer."""
    rows = rows_of(frame, "restoration", "query_patching")
    groups = sorted(dict.fromkeys(rows["group"]), key=lambda group: [*COLORS, group].index(group))
    titles = {"last": "last token"}
    figure, axes = panels(len(groups), width=2.7, sharey=True)
    for axis, group in zip(axes[0], groups, strict=True):
        of_group = rows[rows["group"] == group]
        line(axis, of_group[of_group["control"] == NONE], "layer", BLUE, "from the other picture")
        line(axis, of_group[of_group["control"] == ANOTHER_IMAGE], "layer", GREY, "from a third picture", "--")
        line(axis, of_group[of_group["control"] == RANDOM_POSITIONS], "layer", GREY, "as many random tokens", ":")
        axis.set_title(titles.get(group, for_figure(f"{group} tokens")), fontsize=9)
        axis.set_xlabel("layer whose output is patched", fontsize=8)
    axes[0, 0].set_ylabel("share of the other picture's\nanswer that comes with it", fontsize=8)
    legend(figure, axes[0, -1])
    return figure


def patch_grounding(frame: pd.DataFrame) -> Figure:
    """Hits and IoU by layer against random patches and other objects, and what hiding the object's patches does.

    Without object masks there are neither, and the figure shows the attention on the best patches.
    """
    frame_of("patch_grounding", frame)
    if "hit" not in set(frame["measure"]):
        return _top_mass(frame)
    cuts = frame[frame["measure"] == "logprob_change"]
    figure, axes = panels(3 if len(cuts) else 2, width=2.9)
    labels = {
        "hit": "share of words whose attention\npeaks on their object",
        "iou": "IoU of as many best patches\nwith the object's",
    }
    for axis, (measure, label) in zip(axes[0], labels.items(), strict=False):
        _by_layer(axis, frame[(frame["measure"] == measure) & frame["layer"].str.isdigit()])
        axis.set_ylabel(label, fontsize=8)
    if len(cuts):
        _cut_bars(axes[0, 2], cuts)
    legend(figure, axes[0, 0])
    return figure


def _by_layer(axis: Any, rows: pd.DataFrame) -> None:
    for read_at, color in (("predicting", BLUE), ("word", ORANGE)):
        words = rows[(rows["control"] == NONE) & (rows["read_at"] == read_at)]
        line(axis, words, "layer", color, f"read at the {read_at} position")
    controls = rows[rows["read_at"] == rows["read_at"].iloc[0]]
    line(axis, controls[controls["control"] == OTHER_OBJECT], "layer", GREY, "compared with another object", "--")
    line(axis, controls[controls["control"] == RANDOM_PATCHES], "layer", GREY, "random patches", ":")
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("layer", fontsize=8)


def _cut_bars(axis: Any, cuts: pd.DataFrame) -> None:
    names = {
        NONE: "the object's\npatches",
        RANDOM_PATCHES: "as many\nother patches",
        RANDOM_PATCHES_AGAIN: "others,\nagain",
    }
    for place, control in enumerate(names):
        rows = cuts[cuts["control"] == control]
        points(axis, [place] * len(rows), rows, Style(BLUE if control == NONE else GREY, "o", None))
    axis.axhline(0, color=BLACK, lw=0.8)
    axis.set_xticks(range(len(names)), list(names.values()), fontsize=7.5)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_xlabel("hidden from the answer, all layers", fontsize=8)
    axis.set_ylabel("change of the word's\nlog-probability (nats)", fontsize=8)


def _top_mass(frame: pd.DataFrame) -> Figure:
    masses = rows_of(frame, "top_mass", "patch_grounding")
    figure, axes = panels(1, width=4)
    axis = axes[0, 0]
    rows = masses[masses["layer"].str.isdigit() & (masses["read_at"] == "predicting")]
    line(axis, rows[rows["control"] == NONE], "layer", BLUE, "words of the answer")
    line(axis, rows[rows["control"] != NONE], "layer", GREY, "equal attention", ":")
    axis.set_xlabel("layer", fontsize=8)
    axis.set_ylabel("share of the attention to the\nimage on the top patches", fontsize=8)
    axis.set_ylim(0, 1)
    legend(figure, axis)
    return figure


def prompt_ablation(frame: pd.DataFrame, measure: AgreementMeasure = "f1") -> Figure:
    """A description with parts of the prompt dropped, with and without direct access to the image."""
    scores = rows_of(frame, measure, "prompt_ablation")
    parts = list(dict.fromkeys(scores["part"]))
    figure, axes = panels(1, width=6.4, height=0.32 * len(parts) + 1.3)
    axis = axes[0, 0]
    styles = {
        "direct": Style(BLUE, "o", "generated tokens see the image"),
        "none": Style(ORANGE, "s", "they do not"),
    }
    control_labels = {"direct": "as many random tokens dropped", "none": None}
    for shift, (access, style) in zip((0.14, -0.14), styles.items(), strict=True):
        control_style = Style(GREY, "x", control_labels[access])
        for control, chosen_style in ((RANDOM_POSITIONS, control_style), (NONE, style)):
            rows = scores[(scores["access"] == access) & (scores["control"] == control)]
            across(axis, rows, [-parts.index(part) + shift for part in rows["part"]], chosen_style)
    axis.set_yticks(range(0, -len(parts), -1), [for_figure(spell_part(part)) for part in parts])
    axis.set_ylim(-len(parts) + 0.4, 0.6)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel(F1_AXIS, fontsize=9)
    legend(figure, axis, 3)
    return figure
