"""The recipes that write states of one run into another."""

from __future__ import annotations

import numpy as np
import tiny

import nnsight_vlm as nv
from nnsight_vlm import recipes
from nnsight_vlm.recipes import Work

from .calls import Entry, models, prompt_lists, world
from .of_recipes import CLUSTERS, WORKS, pairs, without
from .of_runs import PLACED
from .values import COUNTS, FLAGS, LAYERS, NAN, SEEDS, THING

GROUPS = [3, True, "image", b"a", THING, {}, ["sky"], [3], [None], ["image.4"], [], ["generated"], NAN]
QUESTIONS = [{"image": tiny.picture(0), "question": "what is the red square ?", "answer": "red"}]
TABLES = {"items": [QUESTIONS, 3], "columns": [{"question": "question"}, 3], "only_correct": FLAGS}
"""Refused beside prompts or pairs."""
ANSWER_LISTS = [
    3,
    True,
    "red",
    b"red",
    THING,
    {},
    {"a": "red"},
    [],
    ["red", "blue"],
    [None],
    [1.5],
    [["red"]],
    ["zebra"],
]


def entries() -> dict[str, Entry]:
    """The table."""
    here, quiet = world(), Work(progress=False)
    common = {
        "model": models(),
        "seed": SEEDS,
        "per_image": FLAGS,
        "work": WORKS,
        "cluster": CLUSTERS,
        **TABLES,
        **PLACED,
    }
    of_pairs = {"model": here.model, "pairs": [(here.prompt, here.twin, "red", "blue")], "work": quiet}
    traced = {"model": here.model, "prompts": [here.prompt], "answers": ["red"], "corrupt": "mean", "work": quiet}
    layers = [*without(LAYERS, None, "all"), []]
    words = nv.encode(here.model, "what is the small dog ?", tiny.picture(1))
    sites = [3, True, "features", "embedding", "projector", "sky", b"a", ["residual"], THING, {}, NAN]
    overs = [None, 3, True, "layer", b"a", ["group"], THING, {}, NAN]
    return {
        "patching_map": Entry(
            recipes.patching_map,
            recipes.patching_map,
            {**of_pairs, "layers": [1]},
            {
                **common,
                "pairs": pairs(),
                "over": overs,
                "groups": GROUPS,
                "positions": [*GROUPS, ["query"]],
                "layers": layers,
                "site": sites,
            },
            ["pair", "prompt"],
        ),
        "attribution_map": Entry(
            recipes.attribution_map,
            recipes.attribution_map,
            {**of_pairs, "layers": [1], "exact": 1},
            {
                **common,
                "pairs": pairs(),
                "at": [None, 3, True, "sky", "projector", b"a", [], [3], [None], ["sky"], THING, {}, NAN],
                "groups": GROUPS,
                "layers": layers,
                "exact": [*(each for each in COUNTS if not isinstance(each, (int, np.integer)) or each != 0)],
                "steps": COUNTS,
            },
            ["pair", "prompt"],
        ),
        "patching_map of positions": Entry(
            recipes.patching_map,
            recipes.patching_map,
            {**of_pairs, "over": "position", "layers": [1]},
            {"positions": GROUPS, "groups": GROUPS},
            ["prompt", "group"],
        ),
        "patching_map of heads": Entry(
            recipes.patching_map,
            recipes.patching_map,
            {**of_pairs, "over": "head", "layers": [1]},
            {"site": [*sites, "mlp", "attention", "residual"], "groups": GROUPS, "positions": [["query"]]},
            ["prompt"],
        ),
        "pair_routes": Entry(
            recipes.pair_routes,
            recipes.pair_routes,
            {**of_pairs, "cuts": [1]},
            {**common, "pairs": pairs(), "cuts": layers},
            ["pair", "prompt", "layer"],
        ),
        "causal_trace": Entry(
            recipes.causal_trace,
            recipes.causal_trace,
            {**traced, "layers": [1]},
            {
                **common,
                "prompts": [*prompt_lists(), [here.foreign], [here.text]],
                "answers": [*ANSWER_LISTS, ["zebra"], None],
                "against": [*ANSWER_LISTS, ["zebra"], ["red"]],
                "corrupt": [
                    *(None, 3, True, "blur", "", b"noise", THING, {}, [], [None], [here.prompt], ["noise"], NAN),
                    *([words, words], [words], [here.text], [here.foreign], [here.batch], "another image"),
                ],
                "noise": [0, -1.0, True, "3", NAN, [3.0], THING, 3.0],
                "over": [*overs, "head"],
                "groups": [*GROUPS, ["words"], ["after words"]],
                "layers": layers,
                "window": COUNTS,
                "site": [*sites, "head", "key"],
            },
            ["prompt", "corrupt", "answer"],
        ),
        "causal_trace of noise": Entry(
            recipes.causal_trace,
            recipes.causal_trace,
            {**traced, "corrupt": "noise", "noise": 2.0, "layers": [1]},
            {"noise": [0, -1.0, True, "3", NAN, [3.0], THING]},
        ),
    }
