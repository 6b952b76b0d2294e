"""The table of docs/recipes/patch_grounding.md: `python tests/grounding_scenes.py shapes`, with the seconds it took."""

from __future__ import annotations

import math
import sys
import time

import nnsight_vlm as nv

SCENES = 12


def main(name: str) -> None:
    model, scenes = nv.load(name), [nv.shapes.scene(seed) for seed in range(SCENES)]
    prompts = [nv.encode(model, "describe the image.", scene.image) for scene in scenes]
    common = {"truths": [nv.recipes.shape_truth(scene) for scene in scenes], "max_new_tokens": 32}
    common["work"] = nv.recipes.Work(progress=False)
    tau = 20 * math.sqrt(model.config.text_config.hidden_size / 4096)
    kinds = {"of": ["token", "phrase"], "quantity": ["weight", "contribution"], "heads": "each", "sinks": tau}
    for options in ({}, {**kinds, "ablate": True, "cut": False}, {"of": "phrase", "tolerance": 15}):
        start = time.perf_counter()
        frame = nv.recipes.patch_grounding(model, prompts, **common, **options)
        print(name, options, f"{time.perf_counter() - start:.0f} s", sep="\n")
        rows = frame[frame["layer"].isin(["middle half", "all"])]
        rows = rows[rows["measure"] != "top_mass"]
        print(rows.round(3).to_string(index=False))
        if "sinks" in frame.attrs:
            best = frame[frame["survives"]].nlargest(5, "mean")
            print(f"sinks: {frame.attrs['sinks']}", best.round(3).to_string(index=False), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
