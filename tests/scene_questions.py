"""Questions about synthetic scenes whose answers, objects and pixels are known.

What two recipes say of them: `PYTHONPATH=tests python -m scene_questions shapes shapes-gist`.
"""

from __future__ import annotations

import sys
import time

import nnsight_vlm as nv
from nnsight_vlm.recipes import shape_truth


def color_questions(model, count):
    """Questions for the colour of the only object of its shape, with the right answers and all objects."""
    prompts, answers, truths, asked = [], [], [], []
    for seed in range(10 * count):
        scene = nv.shapes.scene(seed)
        shapes = [thing.shape for thing in scene.objects]
        single = [thing for thing in scene.objects if shapes.count(thing.shape) == 1]
        if single and len(prompts) < count:
            prompts.append(nv.encode(model, f"what color is the {single[0].shape}?", scene.image))
            answers.append(single[0].color)
            truths.append(shape_truth(scene))
            asked.append(f"{single[0].color} {single[0].shape}")
    return prompts, {"answers": answers, "truths": truths, "asked": asked}


def steered_questions(model, count):
    """The same, with another object of a colour of its own in each picture, and this colour."""
    prompts, known = color_questions(model, 2 * count)
    found, kept = [], {"towards": [], "other_answers": []}
    for number, (truth, answer) in enumerate(zip(known["truths"], known["answers"], strict=True)):
        others = [thing.name for thing in truth if thing.name.split()[0] != answer]
        single = [name for name in others if [thing.name for thing in truth].count(name) == 1]
        if single and len(found) < count:
            found.append(number)
            kept["towards"].append(single[0])
            kept["other_answers"].append(single[0].split()[0])
    known = {name: [values[number] for number in found] for name, values in known.items()}
    return [prompts[number] for number in found], {**known, **kept}


def main(models: list[str], count: int = 24) -> None:
    """The tables of docs/recipes/information_flow.md and patch_knockout.md, with the seconds they took."""
    for name in models:
        model = nv.load(name)
        prompts, known = color_questions(model, count)
        for recipe in (nv.recipes.information_flow, nv.recipes.patch_knockout):
            begun = time.perf_counter()
            frame = recipe(model, prompts, only_correct=True, work=nv.recipes.Work(progress=False), **known)
            print(f"{recipe.__name__} of {name}: {time.perf_counter() - begun:.0f} s, {frame.attrs['images']} scenes")
            print(frame.round(3).to_string())


if __name__ == "__main__":
    main(sys.argv[1:] or ["shapes", "shapes-gist"])
