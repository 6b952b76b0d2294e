"""What recipes take: things, words, and how they go about their work."""

from __future__ import annotations

import numpy as np

import nnsight_vlm as nv
from nnsight_vlm import recipes

from .calls import Entry
from .values import BYTES, COUNTS, FLAGS, NO_LIST, PATHS, TEXTS, THING


def entries() -> dict[str, Entry]:
    """The table."""
    return {
        "Thing": Entry(
            recipes.Thing,
            lambda **given: recipes.shape_objects("red square") and recipes.Thing(**given),
            {"name": "dog"},
            {
                "name": [*TEXTS, ""],
                "mask": [3, "mask", True, THING, {}, np.ones(3), np.ones((2, 2, 3)), [[True]], np.full((2, 2), 7)],
            },
        ),
        "Work": Entry(
            recipes.Work,
            recipes.Work,
            {"chunk": 2},
            {"journal": PATHS, "progress": FLAGS, "chunk": COUNTS, "ahead": COUNTS, "memory": BYTES},
        ),
        "coco_objects": Entry(recipes.coco_objects, recipes.coco_objects, {"text": "a dog"}, {"text": TEXTS}),
        "content_words": Entry(recipes.content_words, recipes.content_words, {"text": "a dog"}, {"text": TEXTS}),
        "object_names": Entry(
            recipes.object_names,
            recipes.object_names,
            {"names": {"dog": ["puppy"], "cat": []}},
            {
                "names": [
                    *(each for each in NO_LIST if each != {"a": 1}),
                    *([], {}, [3], [None], [""], ["."], ["dog", 3], [["dog"]]),
                    *({"dog": "puppy"}, {"dog": 3}, {3: []}, {"dog": [3]}, {"dog": ["cat"], "cat": []}, {"dog": [""]}),
                    *({"Dog": [], "dog": []}, {"a": 1}),
                ],
                "negation": FLAGS,
                "counts": FLAGS,
                "ignored": ["a", [3], [""], 3, [None]],
            },
        ),
        "shape_objects": Entry(recipes.shape_objects, recipes.shape_objects, {"text": "a red ring"}, {"text": TEXTS}),
        "shape_truth": Entry(
            recipes.shape_truth,
            recipes.shape_truth,
            {"scene": nv.shapes.scene(3)},
            {"scene": [*TEXTS, {}, [nv.shapes.scene(3)]]},
        ),
        "vocabulary": Entry(
            recipes.vocabulary,
            recipes.vocabulary,
            {"names": ["dog", "cat"]},
            {"names": [*NO_LIST, [], [3], [None], [""], ["dog", 3], [["dog"]]]},
        ),
    }
