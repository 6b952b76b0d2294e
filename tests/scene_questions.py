"""Questions about synthetic scenes whose answers, objects and pixels are known."""

from __future__ import annotations

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
