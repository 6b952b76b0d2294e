"""The recipes on routes and paths, their figures, and the places that they are asked about."""

from __future__ import annotations

from typing import Any

import nnsight_vlm as nv
from nnsight_vlm import plots, recipes
from nnsight_vlm.recipes import Place, Work

from .calls import Entry, models, prompt_lists, world
from .of_recipes import CLUSTERS, FUNCTIONS, TRUTHS, WORKS, pairs, without
from .of_runs import PLACED
from .values import FLAGS, FRAMES, LAYERS, NAN, SEEDS, THING

PLACES = [3, True, b"last", THING, {}, {"last": 1}, ["last", 3], [3], [None], NAN]
ROUTES = [3, True, "image->last", b"a", THING, {}, ["image->last"], ["image", "last"], [3, 4], ["->", "->"], NAN]
ANSWERS = [3, True, "red", b"red", THING, {}, [], ["red", "blue"], [None], [1.5], [["red"]], ["zebra"], [-1]]


def entries() -> dict[str, Entry]:
    """The table."""
    here, quiet = world(), Work(progress=False)
    common = {"model": models(), "seed": SEEDS, "per_image": FLAGS, "cluster": CLUSTERS, "work": WORKS, **PLACED}
    pair, two = (here.prompt, here.twin, "red", "blue"), ["image->last", "image->question"]
    asked = {"model": here.model, "prompts": [here.prompt], "answers": ["red"], "routes": two, "work": quiet}
    sent = {"model": here.model, "pairs": [pair], "sender": Place("image", layers=1), "work": quiet}
    sent |= {"receivers": Place("last", layers=2)}
    tables = {"items": [3, True, THING, {}, [], "no such file"], "columns": [3, True, "a", THING, {}, {"image": "a"}]}
    kept = {"only_correct": [value for value in FLAGS if not isinstance(value, bool)]}
    cut = recipes.joint_routes(**asked)
    own = [int(nv.run(here.model, prompt).logits.argmax()) for prompt in (here.prompt, here.twin)]
    carried = recipes.path_patching(**{**sent, "pairs": [(here.prompt, here.twin, *own)]})  # what the model answers
    return {
        "joint_routes": Entry(
            recipes.joint_routes,
            recipes.joint_routes,
            asked,
            {
                **common,
                **tables,
                **kept,
                "prompts": [*prompt_lists(), [here.foreign]],
                "answers": ANSWERS,
                "truths": [TRUTHS, 3],
                "objects": [str.split, *without(FUNCTIONS, None)],
                "pairs": without(pairs(), None),
                "routes": ROUTES,
                "layers": [*without(LAYERS, None, "all"), []],
                "max_new_tokens": [3, "a"],
                "rows": [3, "a"],
            },
            ["prompt"],
        ),
        "path_patching": Entry(
            recipes.path_patching,
            recipes.path_patching,
            sent,
            {
                **common,
                **tables,
                **kept,
                "pairs": pairs(),
                "sender": [*PLACES, "sky", Place("last", site="output"), Place("last", layers=99)],
                "receivers": [*PLACES, [], ["sky"], Place("last", layers=99)],
                "between": [3, None, True, "open", ["frozen"], {}, NAN],
            },
            ["pair", "prompt"],
        ),
        "Place": Entry(
            Place,
            lambda **given: recipes.path_patching(**{**sent, "receivers": Place(**given)}),
            {"group": "last", "layers": 2, "site": "residual"},
            {
                "group": [3, None, True, b"last", {}, ["last"], THING, "sky", "generated"],
                "layers": [*without(LAYERS, None, "all"), []],
                "site": [3, None, True, "sky", "features", {}, ["mlp"]],
                "heads": [3, True, "a", [0], {}, THING],
            },
        ),
        "plots.joint_routes": Entry(
            plots.joint_routes, plots.joint_routes, {"frame": cut}, {"frame": [*FRAMES, carried], "ax": AXES}
        ),
        "plots.path_patching": Entry(
            plots.path_patching,
            plots.path_patching,
            {"frame": carried},
            {"frame": [*FRAMES, cut], "ax": AXES, "measure": [3, None, "sky"], "control": [3, None, "sky"]},
        ),
    }


AXES: list[Any] = [3, "axis", {}, THING, True]
