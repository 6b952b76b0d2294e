"""Frames as recipes give them, made up, and how what is drawn of them is read back."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pandas as pd
from PIL import Image

from nnsight_vlm import plots
from nnsight_vlm.studies.labels import (
    ANOTHER_IMAGE,
    OTHER_OBJECT,
    RANDOM_EDGES,
    RANDOM_LAYERS,
    RANDOM_PATCHES,
    RANDOM_PATCHES_AGAIN,
    RANDOM_POSITIONS,
    RANDOM_TOKENS,
)

RNG = np.random.default_rng(0)
NONE = "none"


def means(**columns):
    """A row as recipes give it: a mean with an interval of its own."""
    mean = columns.pop("mean", float(RNG.uniform(0.2, 0.8)))
    return {"control": NONE, "mean": mean, "low": mean - 0.1, "high": mean + 0.15, "images": 5, **columns}


def by_layer(names=("image", "last"), layers=range(4), controls=(NONE, "random positions"), **columns):
    """A frame of one measure, by group, layer and control."""
    places = itertools.product(names, layers, controls)
    return pd.DataFrame([means(group=name, layer=layer, control=c, **columns) for name, layer, c in places])


def windows(measure="f1", routes=("image->last", "image->query"), spelled=("0-2", "3-4", "5-7"), scale=1.0):
    """What `knockout_windows` returns, windows of unequal size among it."""
    rows = [means(route="image->text", form="blind", window="all", measure=measure, mean=0.1 * scale)]
    rows += [means(route="", form="clean", window="", measure=measure, mean=1.0 * scale)]
    for route, form in itertools.product(routes, ("block", "allow")):
        rows += [means(route=route, form=form, window=each, measure=measure) for each in spelled]
        rows += [means(route=route, form=form, window="any 3", control=RANDOM_LAYERS, measure=measure)]
    for route, control in itertools.product(routes, (NONE, RANDOM_POSITIONS)):
        rows += [means(route=route, form="block", window="all", control=control, measure=measure)]
    return pd.DataFrame(rows).assign(layers="")


def attention():
    rows = [
        means(target=target, source=source, layer=layer, token="all", control=control, measure="mass")
        for target in ("query", "generated")
        for source in ("image", "query", "system")
        for layer in range(4)
        for control in (NONE, RANDOM_POSITIONS)
    ]
    rows += [
        means(target="query", source="image", layer=layer, token=token, control=control, measure="entropy")
        for token, control in (("all", NONE), ("0 what", NONE), ("all", "uniform"))
        for layer in range(4)
    ]
    return pd.DataFrame(rows)


def grounding():
    rows = [
        means(read_at=read_at, layer=str(layer), control=control, measure=measure)
        for measure in ("hit", "iou")
        for read_at in ("predicting", "word")
        for layer in [*range(4), "middle half"]
        for control in (NONE, OTHER_OBJECT, RANDOM_PATCHES)
    ]
    rows += [
        means(read_at="", layer="", control=control, measure="logprob_change", mean=mean)
        for control, mean in ((NONE, -3.0), (RANDOM_PATCHES, -0.01), (RANDOM_PATCHES_AGAIN, 0.0))
    ]
    return pd.DataFrame(rows)


def patching():
    frame = by_layer(("image", "question", "last"), controls=(NONE, ANOTHER_IMAGE, RANDOM_POSITIONS))
    return frame.assign(measure="restoration")


def ablation():
    parts = ("nothing", "blind", "system", "0 what", "1 color")
    return pd.DataFrame(
        [
            means(part=part, access=access, control=control, measure="f1")
            for part, access, control in itertools.product(parts, ("direct", "none"), (NONE, RANDOM_POSITIONS))
        ]
    )


def flow():
    rows = [
        means(edge=edge, centre=centre, layers="", width=width, control=control, measure=measure)
        for edge in ("image->last", "query->last", "image->query")
        for centre, width in zip(range(6), (2, 3, 3, 3, 3, 2), strict=True)
        for control in (NONE, RANDOM_LAYERS, RANDOM_POSITIONS)
        for measure in ("probability_change", "logprob_change", "kept")
    ]
    return pd.DataFrame(rows)


def judged():
    common = {"measured": "share of words", "unit": "", "threshold": 0.5, "images": 5, "verdict": ""}
    rows = [
        {"claim": key, "control": control, "statement": f"statement {key}", "value": value, "low": low, "high": high}
        for key in ("1", "2")
        for control, value, low, high in ((False, 0.8, 0.7, 0.9), (True, 0.2, 0.1, 0.4))
    ]
    return pd.DataFrame(rows).assign(**common)


def patches(scale=1.0, side=3, pixels=8):
    rows = []
    for row, column in itertools.product(range(side), range(side)):
        box = (column * pixels, row * pixels, (column + 1) * pixels, (row + 1) * pixels)
        change = scale * (row - 1.5 * column)
        place = {"token": 5 + row * side + column, "tile": 0, "row": row, "column": column, "hidden": 4}
        rows.append(
            {**place, **dict(zip(("x0", "y0", "x1", "y1"), map(float, box), strict=True)), "logprob_change": change}
        )
    return pd.DataFrame(rows)


def mapped(name="group", cells=("last", "query", "image", "all"), **columns):
    """A map of one measure: layers by groups, positions or heads, with what survives."""
    rows = by_layer(cells, controls=(NONE, ANOTHER_IMAGE), measure="restoration").rename(columns={"group": name})
    return rows.assign(p=0.01, survives=rows["control"] == NONE, **columns)


def by_cut():
    """What `pair_routes` returns."""
    rows = by_layer(("total", "direct", "text-mediated"), controls=(NONE, ANOTHER_IMAGE), measure="restoration")
    percent = [
        means(group="text-mediated", layer=cut, measure="percent", mean=start + cut, control=control)
        for cut in range(4)
        for start, control in ((40.0, NONE), (10.0, ANOTHER_IMAGE))
    ]
    return pd.concat([rows, pd.DataFrame(percent)]).rename(columns={"group": "route", "layer": "cut"})


def joint():
    """What `joint_routes` returns: two routes and all of them, cut, alone open and swapped."""
    kinds = (
        ("needed", "cut", RANDOM_EDGES),
        ("suffices", "only", RANDOM_EDGES),
        ("restoration", "swapped", ANOTHER_IMAGE),
        ("restoration", "others swapped", NONE),
        ("logprob_change", "cut", NONE),
    )
    rows = [
        means(route=route, condition=condition, shows="", measure=measure, control=control)
        for route in ("image->last", "image->question", "image->last & image->question")
        for measure, condition, of_kind in kinds
        for control in dict.fromkeys((NONE, of_kind))
    ]
    whole = [
        means(route="all", condition="cut", shows="could", measure="self_repair", control=control, mean=mean)
        for control, mean in ((NONE, -0.25), (RANDOM_EDGES, 0.125))
    ]
    return pd.DataFrame([*rows, *whole])


def paths(head=None, layers=(4, 5, None)):
    """What `path_patching` returns of two receivers; None is behind all layers."""
    rows = [
        means(receiver=name, site="head" if head is not None else "residual", layer=layer, head=head, control=control)
        for name, layer, control in itertools.product(("question", "last"), layers, (NONE, ANOTHER_IMAGE))
    ]
    frame = pd.DataFrame(rows).assign(sender="image residual 3", measure="logit_diff_change", p=0.01)
    numbers = {name: frame[name].astype("Int64") for name in ("layer", "head")}
    return frame.assign(survives=(frame["control"] == NONE) & (frame["receiver"] == "last"), **numbers)


def tokens(hows=("mean", "zero"), borders=(0, 1)):
    """What the recipe `ablation` returns of a question."""
    kinds = (
        ("object", NONE),
        ("object", OTHER_OBJECT),
        ("random", RANDOM_PATCHES),
        ("random", RANDOM_PATCHES_AGAIN),
        ("gradient", NONE),
    )
    rows = [means(tokens="nothing", border=0, how="nothing", form="question", measure="kept", mean=0.9)]
    rows += [
        means(tokens=name, border=border, how=how, form="question", control=control, measure="kept")
        for (name, control), border, how in itertools.product(kinds, borders, hows)
    ]
    return pd.DataFrame(rows)


def located():
    """What `heads` returns: every head, two of which were chosen, and what these do together."""
    single = [
        means(what="map", heads="each", layer=layer, head=head, split=split, measure="hit", control=control)
        for split in ("calibration", "held out")
        for layer, head, control in [
            *((layer, head, NONE) for layer in range(3) for head in range(2)),
            (-1, -1, RANDOM_PATCHES),
        ]
    ]
    sets = [
        means(what=what, heads=heads, layer=-1, head=-1, split="held out", control=control, measure=measure)
        for what, measure in (("map", "hit"), ("smoothed map", "hit"), ("cut", "logprob_change"))
        for heads, control in (("chosen", NONE), ("chosen", "random heads"), ("all", NONE))
    ]
    frame = pd.DataFrame([*single, *sets])
    numbers = {name: frame[name].astype("Int64").mask(frame[name] < 0) for name in ("layer", "head")}
    rank = numbers["layer"].where((numbers["head"] == 1) & (numbers["layer"] > 0))
    return frame.assign(**numbers, rank=rank, p=0.01, survives=(frame["heads"] == "each") & (frame["control"] == NONE))


def compressed():
    """What `compressed_context` returns."""
    rows = [
        means(tokens=name, kept=kept, control=control, measure="accuracy")
        for name in ("attention", "fastv", "norm")
        for kept in (0.0, 0.5, 5.0, 100.0)
        for control in (NONE, RANDOM_TOKENS)
    ]
    return pd.DataFrame(rows)


def regions():
    """What `patch_knockout` returns of several prompts."""
    known = {"patch": (NONE, RANDOM_PATCHES), "object": (NONE, RANDOM_PATCHES), "image": (NONE,)}
    rows = [
        means(region=region, control=control, measure=measure)
        for region, controls in known.items()
        for control in controls
        for measure in ("logprob_change", *(["hit"] if region == "patch" else []))
    ]
    return pd.DataFrame(rows)


PICTURE = Image.fromarray(RNG.integers(0, 255, (24, 24, 3), dtype=np.uint8))
PANELS: dict[str, tuple[Callable, pd.DataFrame, dict, int]] = {
    "answer_windows": (plots.answer_windows, windows("logprob_change", scale=-1.0), {"route": "image->last"}, 2),
    "attention_share": (plots.attention_share, attention(), {"target": "query"}, 3),
    "entropy": (plots.attention_share, attention(), {"target": "entropy"}, 3),
    "claims": (plots.claims, judged(), {"claim": "2"}, 2),
    "knockout_windows": (plots.knockout_windows, windows(), {"route": "image->query"}, 2),
    "patch_grounding": (plots.patch_grounding, grounding(), {"measure": "iou"}, 3),
    "query_patching": (plots.query_patching, patching(), {"group": "last"}, 3),
}
"""Functions of several panels: the frame, what chooses a panel, and how many there are."""
SINGLE: dict[str, tuple[Callable, pd.DataFrame, dict]] = {
    "ablation": (plots.ablation, tokens(), {"measure": "kept"}),
    "ablation, one way": (plots.ablation, tokens(["mean"], [0]), {"measure": "kept"}),
    "attribution_map": (
        plots.attribution_map,
        mapped(head="all", site="residual", source="all").assign(measure="estimate"),
        {"routes": True},
    ),
    "causal_trace": (plots.causal_trace, mapped("position", ("-2 cross", "-1 :")), {}),
    "compressed_context": (plots.compressed_context, compressed(), {}),
    "dot_rows": (plots.dot_rows, by_layer(layers=[2]), {"rows": "group", "hue": "layer"}),
    "heads": (plots.heads, located(), {}),
    "heads, sets": (plots.heads, located(), {"sets": True}),
    "heads, cuts": (plots.heads, located(), {"measure": "logprob_change"}),
    "heat_map": (plots.heat_map, by_layer(controls=[NONE]).assign(measure="restoration"), {}),
    "image_lens": (
        plots.image_lens,
        by_layer(measure="named").rename(columns={"group": "tokens"}).assign(lens="logit"),
        {},
    ),
    "information_flow": (plots.information_flow, flow(), {}),
    "joint_routes": (plots.joint_routes, joint(), {}),
    "knockout_routes": (plots.knockout_routes, windows(), {}),
    "layer_lines": (plots.layer_lines, by_layer(measure="logprob_change"), {"hue": "group"}),
    "pair_routes": (plots.pair_routes, by_cut(), {}),
    "pair_routes, percent": (plots.pair_routes, by_cut(), {"measure": "percent"}),
    "patching_map": (plots.patching_map, mapped(), {}),
    "patching_map of heads": (plots.patching_map, mapped("head", ("0", "1", "all"), group="last"), {}),
    "patch_knockout": (plots.patch_knockout, patches(), {"picture": PICTURE}),
    "patch_knockout of several prompts": (plots.patch_knockout, regions(), {}),
    "patch_knockout of several prompts, hits": (plots.patch_knockout, regions(), {"measure": "hit"}),
    "path_patching": (plots.path_patching, paths(), {}),
    "path_patching of heads": (plots.path_patching, paths(2, (4, 5)), {}),
    "prompt_ablation": (plots.prompt_ablation, ablation(), {}),
}
ALL = {**{name: entry[:3] for name, entry in PANELS.items()}, **SINGLE}


def lines_of(axis):
    """The lines that the legend names, and those with the same style behind them: `(x, y, colour, dashes)`."""
    return [
        line for line in axis.lines if len(line.get_xdata()) > 1 and not str(line.get_label()).startswith("_window")
    ]


def line_with(axis, y):
    """The line that has these values, whose number must be one."""
    found = [line for line in lines_of(axis) if np.shape(line.get_ydata()) == np.shape(y)]
    [line] = [line for line in found if np.allclose(np.asarray(line.get_ydata(), dtype=float), y, atol=0)]
    return line


def sorted_rows(frame, x="layer", **labels):
    chosen = frame[np.logical_and.reduce([frame[column] == value for column, value in labels.items()])]
    return chosen.sort_values(x)


def bands(axis):
    return [collection for collection in axis.collections if collection.get_paths() and collection.get_alpha()]
