"""The table of docs/recipes/patch_grounding.md: `python tests/grounding_table.py`; `--save` keeps it."""

from __future__ import annotations

import math
import sys
import time
from typing import Any, NamedTuple

import measured
import pandas as pd
from frame_cells import estimate, only
from page_tables import markdown

import nnsight_vlm as nv

MODELS = ("shapes", "shapes-gist")
TOLERANCE = 15
"""In pixels."""


class Found(NamedTuple):
    """The frames of a model: with the defaults, of everything else together, and with a tolerance."""

    plain: pd.DataFrame
    parts: pd.DataFrame
    tolerant: pd.DataFrame
    tau: float


def found(name: str, count: int) -> Found:
    model, scenes = nv.load(name), [nv.shapes.scene(seed) for seed in range(count)]
    prompts = [nv.encode(model, "describe the image.", scene.image) for scene in scenes]
    common = {"truths": [nv.recipes.shape_truth(scene) for scene in scenes], "max_new_tokens": 32}
    common["work"] = nv.recipes.Work(progress=False)
    tau = 20 * math.sqrt(model.config.text_config.hidden_size / 4096)
    kinds = {"of": ["token", "phrase"], "quantity": ["weight", "contribution"], "heads": "each", "sinks": tau}
    frames = []
    for options in ({}, {**kinds, "ablate": True, "cut": False}, {"of": "phrase", "tolerance": TOLERANCE}):
        begun = time.perf_counter()
        frames.append(nv.recipes.patch_grounding(model, prompts, **common, **options))
        print(f"{name}, {options}: {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return Found(*frames, tau)


def of_map(frame: pd.DataFrame, **wanted: Any) -> str:
    """What a frame says of the map of the middle half of the layers, read before the word."""
    return estimate(only(frame, read_at="predicting", layer="middle half", **wanted))


def cells(of: Found) -> dict[str, str]:
    """What the table says of one model."""
    phrase = {"head": "mean", "map": "all patches", "of": "phrase"}
    weights, contributions = ({**phrase, "quantity": name} for name in ("weight", "contribution"))
    tokens = {**weights, "of": "token", "measure": "hit"}
    chance = only(of.parts, read_at="predicting", layer="middle half", **tokens, control="random patches")["mean"]
    own = {"measure": "ablation_change"}
    sinks = of.parts.attrs["sinks"]
    return {
        f"hit, token by token (chance {chance:.2f})": of_map(of.parts, **tokens, control="none"),
        "hit, phrase": of_map(of.parts, **weights, measure="hit", control="none"),
        "hit against another object, phrase": of_map(of.parts, **weights, measure="hit", control="other object"),
        "IoU, phrase: weights": of_map(of.parts, **weights, measure="iou", control="none"),
        "IoU, phrase: contributions": of_map(of.parts, **contributions, measure="iou", control="none"),
        f"chance of a hit, {TOLERANCE} pixels of tolerance": of_map(
            of.tolerant, of="phrase", measure="hit", control="random patches"
        ),
        "nats lost, phrase: the map's best patches ablated": of_map(of.parts, **weights, **own, control="none"),
        "the object's patches ablated": of_map(of.parts, **weights, **own, control="object's patches"),
        "as many random patches ablated": of_map(of.parts, **weights, **own, control="random patches"),
        f"sinks at the corresponding threshold, {of.tau:.2f}": "some" if len(sinks) else "none",
    }


def main() -> None:
    options = measured.parser(__doc__, scenes=12).parse_args()
    each = [cells(found(name, options.scenes)) for name in MODELS]
    rows = [[called, *(of[called] for of in each)] for called in each[0]]
    measured.tell("recipes/patch_grounding", markdown(["", *(f"`{name}`" for name in MODELS)], rows))


if __name__ == "__main__":
    main()
