"""Localisation heads: which are looked for, of which objects, and their figure."""

from __future__ import annotations

import numpy as np

from nnsight_vlm import recipes
from nnsight_vlm.recipes import Thing, Work

from .calls import Entry, models, prompt_lists, world
from .of_ablation import ANSWER_LISTS
from .of_recipes import CLUSTERS, NO_TRUTHS, PART, TRUTHS, without
from .of_recipes import WORKS as NO_WORKS
from .of_runs import PLACED
from .values import COUNTS, FLAGS, LAYERS, NAN, NO_NUMBER, SEEDS, THING, WHERE, WORDS

OTHER = np.zeros_like(PART)
OTHER[12:, 12:] = True
TWO = [[Thing(name="red square", mask=PART), Thing(name="dog", mask=OTHER)]] * 2
NAMES = [3, True, "dog", b"a", {}, {"a": 1}, THING, [], ["dog"], ["cat"] * 2, [3] * 2, [None] * 2, [[]] * 2, NAN]


def entries() -> dict[str, Entry]:
    """The table."""
    here = world()
    usual = {
        "model": here.model,
        "prompts": [here.prompt, here.twin],
        "truths": TWO,
        "asked": ["red square"] * 2,
        "answers": ["red", "dog"],
        "top": 2,
        "draws": 1,
        "work": Work(progress=False),
    }
    answers = [each for each in ANSWER_LISTS if each != ["red", "blue"]]
    shares = [*NO_NUMBER, 0, 1, -0.5, float("inf")]
    return {
        "heads": Entry(
            recipes.heads,
            recipes.heads,
            usual,
            {
                "model": models(),
                "prompts": [*prompt_lists(), [here.foreign] * 2, [here.text] * 2, [here.prompt]],
                "items": [3, True, {}, [], "no.csv", [{}], THING, here.prompt],
                "columns": [3, {"question": "q"}, "a"],
                "only_correct": FLAGS,
                "answers": answers,
                "truths": [*without(NO_TRUTHS, NO_TRUTHS[8]), None, TRUTHS, [[Thing(name="red square")]] * 2],
                "asked": NAMES,
                "towards": [*NAMES, ["dog"] * 2],
                "other_answers": [["red", "dog"], 3],
                "choose": [*WORDS, "hit"],
                "top": [*COUNTS, 17],
                "lowest": [each for each in [*COUNTS, 3] if each is not None],
                "calibration": shares,
                "target": [*(each for each in WHERE if each is not None), "generated", ()],
                "layers": [*LAYERS, []],
                "smooth": [*NO_NUMBER, -1, float("inf")],
                "draws": COUNTS,
                "seed": SEEDS,
                "cluster": [each for each in CLUSTERS if each != ["a", "b"]],
                "per_image": FLAGS,
                "work": NO_WORKS,
                **PLACED,
            },
            ["prompt", "truths", "mask", "one picture", "gives values", "pictures", "image", "picture"],
        ),
        "heads that are steered": Entry(
            recipes.heads,
            recipes.heads,
            {**usual, "towards": ["dog", "dog"], "other_answers": ["dog", "red"]},
            {"towards": [*NAMES, None], "other_answers": [*answers, None, ["red", "dog"]], "answers": [False]},
        ),
        "heads of the paper": Entry(
            recipes.heads,
            recipes.heads,
            {**usual, "answers": False, "choose": "paper"},
            {"lowest": [each for each in COUNTS if each is not None]},
        ),
    }
