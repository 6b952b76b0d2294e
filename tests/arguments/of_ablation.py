"""Ablation of image tokens, boxes, and what image tokens stand for."""

from __future__ import annotations

import numpy as np
import tiny
import torch

from nnsight_vlm import recipes
from nnsight_vlm.recipes import Thing, Work

from .calls import Entry, models, prompt_lists, world
from .of_recipes import CLUSTERS, FUNCTIONS, MASK, NO_TRUTHS, TRUTHS, WORKS
from .of_runs import PLACED
from .values import COUNTS, DATASET, FLAGS, LAYERS, NAN, NO_LIST, NO_WHOLE, SEEDS, TEXTS, THING, WORDS

VECTORS = [3, "mean", [0.0] * tiny.WIDTH, np.zeros(tiny.WIDTH), torch.zeros(0), torch.zeros(2, tiny.WIDTH), True, THING]
VECTORS += [torch.zeros(tiny.WIDTH, dtype=torch.complex64), torch.full((tiny.WIDTH,), NAN), torch.zeros(3), {}, []]
SIZES = [None, 3, "80x80", b"a", {}, THING, (80,), (80, 80, 3), (0, 80), (80.5, 80), (80, None), [[80, 80]], NAN, True]
ANSWER_LISTS = [
    3,
    True,
    "red",
    b"red",
    THING,
    {},
    [],
    ["red", "blue"],
    [None],
    [1.5],
    [["red"]],
    ["zebra"],
    [-1],
    DATASET,
]
BORDERS = [None, True, "3", {}, {3}, THING, NAN, 2j, int, 1.5, -1, [], [-1], [1.5], [None], [True], np.array([0.5])]
SHARES = [None, True, "3", b"3", {}, {3}, THING, NAN, 2j, int, -1, 101, [], [-1], [101], [None], ["5"], [3, 3]]
SOME = ["some", 3, True, b"a", THING, {}, [], ["some"], [3], [None], NAN]


def entries() -> dict[str, Entry]:
    """The table."""
    here = world()
    usual = {
        "model": here.model,
        "prompts": [here.prompt],
        "truths": TRUTHS,
        "how": "zero",
        "work": Work(progress=False),
    }
    lengths = [each for each in COUNTS if each is not None]
    pixels = {"size": SIZES, "resized": [each for each in SIZES if each is not None]}
    read = {"text": '"bbox_2d": [0, 0, 8, 8]', "format": "qwen2_5_vl", "size": (80, 80), "resized": (56, 56)}
    return {
        "ablation": Entry(
            recipes.ablation,
            recipes.ablation,
            {**usual, "asked": ["red square"], "answers": ["red"]},
            {
                "model": models(),
                "prompts": [*prompt_lists(), [here.foreign], [here.text]],
                "items": [3, True, {}, [], "no.csv", [{}], THING, here.prompt],
                "columns": [3, {"question": "q"}, "a"],
                "only_correct": FLAGS,
                "truths": [*NO_TRUTHS, None, [[Thing(name="red square", mask=np.ones((3, 3), bool))]]],
                "asked": [*(each for each in NO_LIST if each is not None), [], ["dog"], [3], ["red square"] * 2],
                "answers": [*ANSWER_LISTS, None],
                "form": [*WORDS, "box", "polling", "generative"],
                "replies": [("yes", "no"), 3],
                "tokens": SOME,
                "border": BORDERS,
                "how": [*SOME, None, "mean", "resample"],
                "site": [*WORDS, "residual"],
                "layer": [2, "1", 1.5],
                "means": [torch.zeros(tiny.WIDTH)],
                "steps": COUNTS,
                "objects": [str.split, 3],
                "boxes": ["molmo", 3],
                "max_new_tokens": [5, 0],
                "rows": [5, 0],
                "seed": SEEDS,
                "per_image": FLAGS,
                "cluster": CLUSTERS,
                "work": WORKS,
                **PLACED,
            },
            ["prompt", "truths", "mask", "one picture", "gives values", "pictures"],
        ),
        "image_lens": Entry(
            recipes.image_lens,
            recipes.image_lens,
            {
                "model": here.model,
                "prompts": [here.prompt],
                "truths": TRUTHS,
                "layers": [1],
                "work": Work(progress=False),
            },
            {
                "model": models(),
                "prompts": [*prompt_lists(), [here.foreign], [here.text]],
                "items": [3, True, {}, [], "no.csv", [{}], THING, here.prompt],
                "columns": [3, {"question": "q"}, "a"],
                "only_correct": FLAGS,
                "truths": [*NO_TRUTHS, [[Thing(name="red square", mask=np.ones((3, 3), bool))]], [[Thing(name="red")]]],
                "words": [
                    3,
                    True,
                    "red",
                    [],
                    {},
                    {"sky": ["sky"]},
                    {"red square": []},
                    {"red square": ["a b"]},
                    {3: []},
                ],
                "answers": [each for each in ANSWER_LISTS if each is not None],
                "layers": [*LAYERS, []],
                "top": [*COUNTS, 10**6],
                "bank": [3, True, "red", b"a", {}, [], [3], [None], ["?"], [""], THING, NAN],
                "seed": SEEDS,
                "per_image": FLAGS,
                "cluster": CLUSTERS,
                "work": WORKS,
                **PLACED,
            },
            ["prompt", "truths", "mask", "one picture", "gives values", "pictures", "image"],
        ),
        "compressed_context": Entry(
            recipes.compressed_context,
            recipes.compressed_context,
            {
                "model": here.model,
                "prompts": [here.prompt],
                "answers": ["red"],
                "request": None,
                "keep": [0, 100],
                "timed": 0,
                "work": Work(progress=False),
            },
            {
                "model": models(),
                "prompts": [*prompt_lists(), [here.foreign], [here.text]],
                "items": [3, True, {}, [], "no.csv", [{}], THING, here.prompt],
                "columns": [3, {"question": "q"}, "a"],
                "only_correct": FLAGS,
                "answers": [*ANSWER_LISTS, None],
                "request": [each for each in TEXTS if each is not None],
                "reply": TEXTS,
                "keep": [
                    None,
                    True,
                    "3",
                    b"3",
                    {},
                    {3},
                    THING,
                    NAN,
                    2j,
                    int,
                    -1,
                    101,
                    [],
                    [-1],
                    [101],
                    [None],
                    ["5"],
                    [3, 3],
                ],
                "tokens": SOME,
                "fastv_layer": [*NO_WHOLE, 0, 99],
                "timed": [*NO_WHOLE, -1],
                "cut": [each for each in FLAGS if each is not None],
                "seed": SEEDS,
                "per_image": FLAGS,
                "cluster": CLUSTERS,
                "work": WORKS,
                **PLACED,
            },
            ["prompt", "gives values", "pictures", "picture"],
        ),
        "ablation with means": Entry(
            recipes.ablation,
            recipes.ablation,
            {**usual, "asked": ["red square"], "answers": ["red"], "how": "mean", "means": torch.zeros(tiny.WIDTH)},
            {"means": VECTORS},
        ),
        "ablation behind a layer": Entry(
            recipes.ablation,
            recipes.ablation,
            {**usual, "asked": ["red square"], "answers": ["red"], "site": "residual", "layer": 1},
            {"layer": [*NO_WHOLE, -1, 99], "tokens": ["gradient"], "steps": [2]},
            ["layer"],
        ),
        "ablation of polls": Entry(
            recipes.ablation,
            recipes.ablation,
            {**usual, "asked": ["red square"], "form": "polling"},
            {"replies": [3, True, "yes", THING, {}, [], ["yes"], ["yes", "yes"], ["yes", None], ["zebra", "no"], NAN]},
            ["answer", "reply", "replies"],
        ),
        "ablation of descriptions": Entry(
            recipes.ablation,
            recipes.ablation,
            {**usual, "form": "generative", "max_new_tokens": 2},
            {"objects": FUNCTIONS, "max_new_tokens": lengths, "rows": lengths},
        ),
        "ablation of boxes": Entry(
            recipes.ablation,
            recipes.ablation,
            {**usual, "asked": ["red square"], "form": "box", "max_new_tokens": 2},
            {"boxes": [each for each in WORDS if each is not None], "tokens": ["gradient"], "steps": [2]},
            ["boxes", "box"],
        ),
        "boxes_in": Entry(
            recipes.boxes_in, recipes.boxes_in, read, {"text": TEXTS, "format": WORDS, **pixels}, ["size"]
        ),
        "box_scores": Entry(
            recipes.box_scores,
            recipes.box_scores,
            {**read, "truth": (0, 0, 8, 8)},
            {
                "text": TEXTS,
                "truth": [
                    *NO_LIST,
                    [],
                    (0, 0, 8),
                    (0, 0, 0, 8),
                    ("a", 0, 8, 8),
                    [(0, 0, 8)],
                    [None],
                    MASK,
                    (NAN, 0, 8, 8),
                ],
                "format": WORDS,
                **pixels,
            },
            ["size"],
        ),
    }
