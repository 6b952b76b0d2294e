"""Pictures of the recipes' frames: one function a figure, each returns a matplotlib `Figure`.

Every figure takes the summed-up frame that its recipe returns; see `drawing` for what marks mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from .drawing import ARROW, BLACK, BLUE, COLORS, GREY, ORANGE, PALE, STYLES, across, legend, level, line, panels, points


def claims(frame: pd.DataFrame) -> Figure:
    """Every claim's number with interval and threshold; controls in grey beneath their claim."""
    keys = list(dict.fromkeys(frame["claim"]))
    figure, axes = panels(1, len(keys), width=7.4, height=1.15)
    for axis, key in zip(axes[:, 0], keys, strict=True):
        rows = frame[frame["claim"] == key].reset_index(drop=True)
        for place, row in rows.iterrows():
            color = GREY if row["control"] else BLUE
            interval = np.nan_to_num(np.clip([[row["value"] - row["low"]], [row["high"] - row["value"]]], 0, None))
            axis.errorbar(row["value"], -int(str(place)), xerr=interval, color=color, marker="o", ms=5, elinewidth=1.5)
        axis.axvline(rows["threshold"][0], color=BLACK, lw=1, ls="--")
        names = [("control: " if row["control"] else f"{key}. ") + row["statement"] for _, row in rows.iterrows()]
        axis.set_yticks(range(0, -len(rows), -1), names, fontsize=8)
        axis.set_ylim(-len(rows) + 0.4, 0.6)
        unit = rows["unit"][0]
        axis.set_xlabel(rows["measured"][0] + (f" ({unit})" if unit else ""), fontsize=7.5)
        if not unit:
            axis.set_xlim(min(-0.05, np.nanmin([0, *rows["low"]])), max(1.05, np.nanmax([1, *rows["high"]])))
    return figure


def knockout_routes(frame: pd.DataFrame, measure: str = "f1") -> Figure:
    """What is left of a description when a route is cut in all layers, beside its controls."""
    f1 = frame[(frame["measure"] == measure) & (frame["window"].isin(["all", ""]))]
    routes = [route for route in dict.fromkeys(f1["route"]) if route and route != "image->text"]
    figure, axes = panels(1, width=6.4, height=0.55 * len(routes) + 1.5)
    axis = axes[0, 0]
    kinds = {
        "none": (BLUE, "o", "route cut in all layers"),
        "random positions": (GREY, "D", "as many random edges cut"),
    }
    kinds["query of another image"] = (GREY, "x", "route cut, query tokens of another image")
    for control, (color, marker, label) in kinds.items():
        rows = f1[(f1["control"] == control) & f1["route"].isin(routes) & (f1["form"] == "block")]
        step = {"none": 0.0, "random positions": -0.2}.get(control, -0.36)
        across(axis, rows, [-routes.index(route) + step for route in rows["route"]], color, marker, label)
    for form, style, label in (("clean", "-", "un-cut"), ("blind", ":", "blind: image cut from all text")):
        for _, row in f1[f1["form"] == form].iterrows():
            axis.axvline(row["mean"], color=BLACK, ls=style, lw=1, label=label, zorder=0)
            axis.axvspan(row["low"], row["high"], color=GREY, alpha=0.2, lw=0, zorder=0)
    axis.set_yticks(range(0, -len(routes), -1), [route.replace("->", ARROW) for route in routes])
    axis.set_ylim(-len(routes) + 0.4, 0.5)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("object F1 against the un-cut description", fontsize=9)
    legend(figure, axis, 2)
    return figure


def knockout_windows(
    frame: pd.DataFrame, measure: str = "f1", label: str = "object F1 against\nthe un-cut description"
) -> Figure:
    """A description under cuts in windows of layers: one panel a route, block and allow forms."""
    chosen = frame[frame["measure"] == measure]
    figure = _windows(chosen, label)
    for axis in figure.axes:
        level(axis, chosen[chosen["form"] == "blind"], BLACK, "blind: image cut from all text", ":")
        axis.set_ylim(-0.03, 1.05)
    legend(figure, figure.axes[0], max(3, len(figure.axes)))
    return figure


def answer_windows(frame: pd.DataFrame) -> Figure:
    """An answer's log-probability under cuts in windows of layers: one panel a route."""
    chosen = frame[frame["measure"] == "logprob_change"]
    figure = _windows(chosen, "change of the answer's\nlog-probability (nats)")
    for axis in figure.axes:
        level(axis, chosen[chosen["form"] == "blind"], BLACK, "blind: image cut from all text", ":")
    legend(figure, figure.axes[0], max(3, len(figure.axes)))
    return figure


def _windows(chosen: pd.DataFrame, label: str) -> Figure:
    parts = chosen[chosen["window"].str[:1].str.isdigit()]
    routes = list(dict.fromkeys(parts["route"]))
    figure, axes = panels(len(routes), width=2.25, sharey=True)
    for axis, route in zip(axes[0], routes, strict=True):
        rows = chosen[chosen["route"] == route]
        windows = list(dict.fromkeys(parts.loc[parts["route"] == route, "window"]))
        for form, (color, marker, name) in STYLES.items():
            own = rows[(rows["form"] == form) & (rows["control"] == "none") & rows["window"].isin(windows)]
            points(axis, [windows.index(window) for window in own["window"]], own, color, marker, name, "-")
            control = rows[
                (rows["form"] == form) & (rows["control"] == "random layers") & rows["window"].str.startswith("any")
            ]
            style = "--" if form == "block" else "-."
            level(axis, control, GREY, f"{name.replace('here', 'in as many random layers')}", style)
        axis.set_xticks(range(len(windows)), windows)
        axis.set_xlim(-0.4, len(windows) - 0.6)
        axis.set_title(route.replace("->", ARROW), fontsize=9)
        axis.set_xlabel("layers", fontsize=8)
    axes[0, 0].set_ylabel(label, fontsize=8)
    return figure


def attention_share(frame: pd.DataFrame) -> Figure:
    """Mass by token group per layer (dashed: random tokens of the same number), and entropy over the image."""
    figure, axes = panels(3, width=3.0)
    for axis, target in zip(axes[0], ("query", "generated"), strict=False):
        rows = frame[(frame["target"] == target) & (frame["measure"] == "mass")]
        for source in dict.fromkeys(rows.loc[rows["mean"] > 0, "source"]):
            some = rows[rows["source"] == source]
            line(axis, some[some["control"] == "none"], "layer", COLORS[source], source)
            axis.plot(*_means(some[some["control"] != "none"]), "--", color=COLORS[source], lw=0.9)
        axis.plot([], [], "--", color=GREY, lw=0.9, label="as many random tokens")
        axis.set_title(f"attention of {target} tokens", fontsize=9)
        axis.set_ylim(0, 1)
        axis.set_ylabel("share of attention mass", fontsize=8)
    _entropy(axes[0, 2], frame[(frame["measure"] == "entropy")])
    for axis in axes[0]:
        axis.set_xlabel("layer", fontsize=8)
    legend(figure, axes[0, 1], 5)
    return figure


def _means(frame: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    ordered = frame.sort_values("layer")
    return ordered["layer"], ordered["mean"]


def _entropy(axis: Any, frame: pd.DataFrame) -> None:
    tokens = frame[(frame["control"] == "none") & (frame["target"] == "query") & (frame["token"] != "all")]
    for _, rows in tokens.groupby("token"):
        axis.plot(rows["layer"], rows["mean"], color=ORANGE, lw=0.6, alpha=0.6)
    whole = frame[frame["token"] == "all"]
    line(
        axis,
        whole[(whole["control"] == "none") & (whole["target"] == "query")],
        "layer",
        ORANGE,
        "query (thin: each token)",
    )
    line(axis, whole[whole["control"] == "random generated tokens"], "layer", GREY, "as many generated tokens")
    line(axis, whole[(whole["control"] == "uniform")].drop_duplicates("layer"), "layer", GREY, "equal attention", "--")
    axis.set_title("attention over the image", fontsize=9)
    axis.set_ylabel("entropy (nats)", fontsize=8)
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=7, loc="lower left")


def query_patching(frame: pd.DataFrame) -> Figure:
    """How much of the other picture's answer each token group carries, layer by layer."""
    rows = frame[frame["measure"] == "restoration"]
    groups = sorted(dict.fromkeys(rows["group"]), key=lambda group: [*COLORS, group].index(group))
    figure, axes = panels(len(groups), width=2.7, sharey=True)
    for axis, group in zip(axes[0], groups, strict=True):
        some = rows[rows["group"] == group]
        line(axis, some[some["control"] == "none"], "layer", BLUE, "from the other picture")
        line(axis, some[some["control"] == "another image"], "layer", GREY, "from a third picture", "--")
        line(axis, some[some["control"] == "random positions"], "layer", GREY, "as many random tokens", ":")
        axis.set_title(
            {"query": "query tokens without the last", "last": "last token"}.get(group, f"{group} tokens"), fontsize=9
        )
        axis.set_xlabel("layer whose output is patched", fontsize=8)
    axes[0, 0].set_ylabel("share of the other picture's\nanswer that comes with it", fontsize=8)
    legend(figure, axes[0, -1])
    return figure


def patch_grounding(frame: pd.DataFrame) -> Figure:
    """Peak-in-object hits and IoU per layer against random patches and other objects, and the cut."""
    if "hit" not in set(frame["measure"]):
        return _top_mass(frame)
    cut = frame[frame["measure"] == "logprob_change"]
    figure, axes = panels(3 if len(cut) else 2, width=2.9)
    names = {
        "hit": "share of words whose attention\npeaks on their object",
        "iou": "IoU of as many best patches\nwith the object's",
    }
    for axis, (measure, label) in zip(axes[0], names.items(), strict=False):
        rows = frame[(frame["measure"] == measure) & frame["layer"].str.isdigit()]
        for where, color in (("predicting", BLUE), ("word", ORANGE)):
            line(
                axis,
                rows[(rows["control"] == "none") & (rows["read_at"] == where)],
                "layer",
                color,
                f"read at the {where} position",
            )
        own = rows[rows["read_at"] == rows["read_at"].iloc[0]]
        line(axis, own[own["control"] == "other object"], "layer", GREY, "held against another object", "--")
        line(axis, own[own["control"] == "random patches"], "layer", GREY, "random patches", ":")
        axis.set_ylim(0, 1.02)
        axis.set_xlabel("layer", fontsize=8)
        axis.set_ylabel(label, fontsize=8)
    if len(cut):
        _cut_bars(axes[0, 2], cut)
    legend(figure, axes[0, 0])
    return figure


def _cut_bars(axis: Any, cut: pd.DataFrame) -> None:
    names = {
        "none": "the object's\npatches",
        "random patches": "as many\nother patches",
        "random patches, again": "others,\nagain",
    }
    for place, (control, _) in enumerate(names.items()):
        rows = cut[cut["control"] == control]
        points(axis, [place] * len(rows), rows, BLUE if control == "none" else GREY)
    axis.axhline(0, color=BLACK, lw=0.8)
    axis.set_xticks(range(len(names)), list(names.values()), fontsize=7.5)
    axis.set_xlim(-0.5, len(names) - 0.5)
    axis.set_xlabel("hidden from the answer, all layers", fontsize=8)
    axis.set_ylabel("change of the word's\nlog-probability (nats)", fontsize=8)


def _top_mass(frame: pd.DataFrame) -> Figure:
    figure, axes = panels(1, width=4)
    rows = frame[(frame["measure"] == "top_mass") & frame["layer"].str.isdigit() & (frame["read_at"] == "predicting")]
    line(axes[0, 0], rows[rows["control"] == "none"], "layer", BLUE, "words of the answer")
    line(axes[0, 0], rows[rows["control"] != "none"], "layer", GREY, "equal attention", ":")
    axes[0, 0].set_xlabel("layer", fontsize=8)
    axes[0, 0].set_ylabel("share of the attention to the\nimage on the top patches", fontsize=8)
    axes[0, 0].set_ylim(0, 1)
    legend(figure, axes[0, 0])
    return figure


def _part_name(part: str) -> str:
    names = {"nothing": "all words kept", "blind": "blind: no text sees the image"}
    place, _, word = part.partition(" ")
    return names.get(part, f'without "{word}"' if place.isdigit() else f"without {part}")


def prompt_ablation(frame: pd.DataFrame, measure: str = "f1") -> Figure:
    """A description with parts of the prompt dropped, with and without direct access to the image."""
    rows = frame[frame["measure"] == measure]
    parts = list(dict.fromkeys(rows["part"]))
    figure, axes = panels(1, width=6.4, height=0.32 * len(parts) + 1.3)
    axis = axes[0, 0]
    kinds = {"direct": (BLUE, "o", "generated tokens see the image"), "none": (ORANGE, "s", "they do not")}
    for shift, (access, (color, marker, label)) in zip((0.14, -0.14), kinds.items(), strict=True):
        for control, shade, name in (("random positions", PALE, None), ("none", color, label)):
            some = rows[(rows["access"] == access) & (rows["control"] == control)]
            places = [-parts.index(part) + shift for part in some["part"]]
            text = name or ("as many random tokens dropped" if access == "direct" else None)
            across(axis, some, places, GREY if shade == PALE else shade, marker if shade != PALE else "x", text)
    axis.set_yticks(range(0, -len(parts), -1), [_part_name(part) for part in parts])
    axis.set_ylim(-len(parts) + 0.4, 0.6)
    axis.set_xlim(-0.03, 1.03)
    axis.set_xlabel("object F1 against the un-cut description", fontsize=9)
    legend(figure, axis, 3)
    return figure
