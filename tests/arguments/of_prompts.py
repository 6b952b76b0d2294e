"""What makes prompts, and what is asked of prompts and their grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny
import torch
from PIL import Image

import nnsight_vlm as nv

from .calls import QUESTION, Entry, models, prompt_lists, world
from .values import ARRAYS, COUNTS, DATASET, FLAGS, INF, NAN, NO_LIST, NO_WHOLE, TEXTS, THING, WHERE, WORDS

LARGE, SMALL = (4, 4, 12, 12), tiny.SIDE
NUMBERS = [*NO_WHOLE, -1, 1, 10**6]
FRAME_NUMBERS = [each for each in NUMBERS if each is not None]
BOXES = [
    *(None, 3, "image", "4,4,12,12", True, THING, {}, [], [1, 2, 3], [1, 2, 3, 4, 5], (4, 4, 4, 12), (12, 4, 4, 12)),
    *((0.1, 0.2, 0.5, 0.6), (0.0, 0.0, 1.0, 1.0), np.array([0.2, 0.2, 0.8, 0.8]), ("a", 4, 12, 12), (None, 0, 5, 5)),
    *((True, 0, 5, 5), (NAN, 0, 5, 5), (0, 0, INF, INF), [[4, 4], [12, 12]], 2j, DATASET, (1j, 0, 5, 5)),
]
MASKS = [
    *(np.ones((3, 3), bool), np.full((SMALL, SMALL), 255), np.full((SMALL, SMALL), NAN), np.full((SMALL, SMALL), "a")),
    *(np.ones((SMALL, SMALL, 3), bool), torch.ones(3, 3), np.full((SMALL, SMALL), -1.0), [[True] * 3] * 3),
]


def pictures() -> list[Any]:
    """What is no picture of one text."""
    seen = np.zeros((SMALL, SMALL, 3), np.uint8)
    return [
        *(
            "photo.png",
            Path("photo.png"),
            "https://example.org/photo.png",
            b"\x89PNG",
            seen[0, 0],
            seen - 0.5,
            torch.zeros(2, SMALL, SMALL),
        ),
        *(3, True, THING, {}, {"image": tiny.picture()}, [seen[0, 0]], ["photo.png"], [None, None], [DATASET]),
        *(DATASET, Image, [tiny.picture(), "photo.png"], Image.new("RGB", (0, 0)), Image.new("RGB", (5, 0))),
    ]


def inputs() -> list[Any]:
    """What is no ready encoding."""
    given = dict(world().prompt.inputs)
    ids, mask, pixels = given["input_ids"], given["attention_mask"], given["pixel_values"]
    wrong = [
        *(
            {"input_ids": each}
            for each in (None, ids.tolist(), ids[0], ids.float(), ids.numpy(), -ids, ids + 10**6, "a")
        ),
        *({"input_ids": ids[:0]}, {"input_ids": ids[:, :0]}, {"input_ids": ids[None]}),
        *(
            {"attention_mask": each}
            for each in (mask.tolist(), mask[0], mask * 0, mask[:, 1:], "a", mask * 2, mask * NAN)
        ),
        *({"pixel_values": each} for each in (pixels.tolist(), pixels[0], None, "a", pixels.numpy(), pixels[:0])),
        *({"position_ids": each} for each in (ids[0], ids.tolist(), ids[:, 1:], "a", ids.float())),
        *(
            {"labels": ids},
            {"use_cache": True},
            {"past_key_values": None, "remote": True},
            {"inputs_embed": pixels},
            {5: ids},
        ),
        *({"pixel_value": pixels}, {"max_new_tokens": 3}, {"text": QUESTION}),
    ]
    return [
        3,
        True,
        "ids",
        [],
        THING,
        ids,
        list(given),
        DATASET,
        {},
        world().prompt,
        *({**given, **each} for each in wrong),
    ]


def entries() -> dict[str, Entry]:
    """The table."""
    here = world()
    model, prompt, picture = here.model, here.prompt, tiny.picture(0)
    module, processor = tiny.load("sdpa")._module, model.processor
    grid, given = prompt.grid(), {"inputs": here.prompt.inputs, "images": [picture]}
    film = nv.VideoGrid(**{**vars(grid), "frames": ((0,),) * len(grid.positions)})
    no_model = [*models(), model, "", Path("none.txt"), ["shapes"], b"shapes"]
    two = [QUESTION, QUESTION]
    return {
        "load": Entry(
            nv.load,
            nv.load,
            {"model": module, "processor": processor},
            {
                "model": [each for each in no_model if each is not module and not (isinstance(each, str) and each)],
                "processor": ["llava", 5, True, [processor], THING, {}, b"a"],
                "dispatch": [None, 0, 1, "yes", [], THING],
                "options": [{"dtype": "bfloat16"}, {"revision": "main"}, {"attn_implementation": "fast"}],
            },
            ["none.txt"],
        ),
        "load by name": Entry(
            nv.load,
            nv.load,
            {"model": "shapes"},
            {
                "processor": ["llava", 5, True, [processor], THING, {}],
                "dispatch": FLAGS,
                "options": [{"revision": "a"}],
            },
        ),
        "encode": Entry(
            nv.encode,
            nv.encode,
            {"model": model, "text": QUESTION, "image": picture},
            {
                "model": models(),
                "text": [
                    3,
                    True,
                    b"red",
                    {"text": "red"},
                    THING,
                    [],
                    [3],
                    [None],
                    ["red", 3],
                    NAN,
                    [["red"]],
                    DATASET,
                    Path("a"),
                    None,
                ],
                "image": pictures(),
                "inputs": [given["inputs"], 3, "a"],
                "images": [picture, [picture], [], "photo.png"],
                "videos": [
                    3,
                    "clip.mp4",
                    [picture],
                    np.zeros((2, 4, 4, 3)),
                    THING,
                    {},
                    {"video": [picture]},
                    [[picture]],
                ],
                "chat": [each for each in [*FLAGS, "default", 2] if each is not None],
                "tools": [[], "search", 3, {"name": "search"}, [len]],
                "continue_final_message": [*FLAGS, True],
            },
            ["picture", "message", "template", "video"],
        ),
        "encode inputs": Entry(
            nv.encode,
            lambda **given: nv.encode(model, **given),
            given,
            {
                "inputs": inputs(),
                "images": [*pictures(), [picture, picture]],
                "videos": [3, "clip.mp4", [picture], np.zeros((2, 4, 4, 3)), THING, {"video": [picture]}],
                "text": [QUESTION, 3],
                "image": [picture, 3],
                "chat": [True, False, 3],
            },
            ["picture", "pixel_values", "video"],
        ),
        "encode texts": Entry(
            nv.encode,
            lambda **given: nv.encode(model, **given),
            {"text": two, "image": [picture, picture]},
            {
                "image": [picture, [picture], [picture] * 3, ["a", "b"], [[picture], [3]], [None]],
                "text": [[QUESTION, 3]],
            },
            ["picture"],
        ),
        "stack": Entry(nv.stack, nv.stack, {"prompts": [prompt, here.twin]}, {"prompts": prompt_lists()}, ["prompt"]),
        "Prompt[]": Entry(
            nv.Prompt.__getitem__,
            lambda group: prompt[group],
            {"group": "image"},
            {"group": [*WHERE, None]},
            ["position"],
        ),
        "PromptBatch[]": Entry(
            nv.Prompt.__getitem__, lambda group: here.batch[group], {"group": "image"}, {"group": [*WHERE, None]}
        ),
        "Prompt.row": Entry(nv.Prompt.row, prompt.row, {"number": 0}, {"number": NUMBERS}, ["row"]),
        "Prompt.find": Entry(
            nv.Prompt.find,
            prompt.find,
            {"words": "red square"},
            {
                "words": [*TEXTS, "", " ", "sky", "square red"],
                "within": [*WHERE, None, "image"],
                "occurrence": [each for each in NUMBERS if each is not None],
                "whole_words": FLAGS,
                "ignore_case": FLAGS,
            },
        ),
        "Prompt.find_all": Entry(
            nv.Prompt.find_all,
            prompt.find_all,
            {"words": "red square"},
            {"words": TEXTS, "within": [*WHERE, None], "whole_words": FLAGS, "ignore_case": FLAGS},
        ),
        "Prompt.words": Entry(nv.Prompt.words, prompt.words, {"within": "query"}, {"within": [*WHERE, None]}),
        "Prompt.image": Entry(nv.Prompt.image, prompt.image, {"number": 0}, {"number": NUMBERS}, ["picture"]),
        "Prompt.video": Entry(
            nv.Prompt.video, prompt.video, {"number": 0}, {"number": [*NUMBERS, 0]}, ["video"], works=False
        ),
        "Prompt.grid": Entry(
            nv.Prompt.grid,
            prompt.grid,
            {"number": 0},
            {"number": NUMBERS, "stage": [*WORDS, "qformer"], "video": [*FRAME_NUMBERS, 0]},
            ["picture", "number"],
        ),
        "Prompt.positions": Entry(
            nv.Prompt.positions,
            prompt.positions,
            {"group": "image"},
            {"group": [*WHERE, None], "stage": [*WORDS, "qformer"]},
            ["group"],
        ),
        "Prompt.region": Entry(
            nv.Prompt.region,
            prompt.region,
            {"box": LARGE},
            {"box": [*BOXES, *MASKS[:1], (30, 30, 40, 40)], "image": NUMBERS, "stage": [*WORDS, "qformer"]}
            | {"video": [*FRAME_NUMBERS, 0], "frame": [*FRAME_NUMBERS, 0]},
            ["picture", "mask", "number"],
        ),
        "Prompt.grown": Entry(
            nv.Prompt.grown,
            prompt.grown,
            {"tokens": [20, 21]},
            {"tokens": [*NO_LIST, [1.5], ["a"], [True], [-1], [10**6], [[20]], np.array([0.5])]},
            ["token"],
        ),
        "Prompt.grown_rows": Entry(
            nv.Prompt.grown_rows,
            here.batch.grown_rows,
            {"answers": [[20, 21], [22, 23]]},
            {
                "answers": [
                    *NO_LIST,
                    [20, 21],
                    [[20]],
                    [[20], [21, 22]],
                    [["a"], ["b"]],
                    [[1.5], [2.5]],
                    [[-1], [1]],
                    [[10**6], [1]],
                ]
            },
            ["token"],
        ),
        "Inputs": Entry(
            type(prompt.inputs).__setitem__,
            lambda **given: prompt.inputs.__setitem__(*given.values()),
            {"_": "input_ids", "__": 3},
            {"_": ["input_ids"], "__": [3]},
            ["inputs"],
            works=False,
        ),
        "Grid.tokens_in": Entry(
            nv.Grid.tokens_in, grid.tokens_in, {"where": LARGE}, {"where": [*BOXES, *MASKS]}, ["box", "mask"]
        ),
        "Grid.coverage": Entry(
            nv.Grid.coverage, grid.coverage, {"where": LARGE}, {"where": [*BOXES, *MASKS]}, ["box", "mask"]
        ),
        "Grid.heatmap": Entry(
            nv.Grid.heatmap,
            grid.heatmap,
            {"values": [0.5] * 25},
            {
                "values": [
                    *ARRAYS,
                    [0.5] * 24,
                    ["a"] * 25,
                    [None] * 25,
                    "a" * 25,
                    np.zeros((25, 2)),
                    [1j] * 25,
                    dict.fromkeys(range(25)),
                ]
            },
        ),
        "VideoGrid.frame": Entry(nv.VideoGrid.frame, film.frame, {"number": 0}, {"number": NUMBERS}, ["frame"]),
        "counts": Entry(nv.Prompt.row, here.batch.row, {"number": 1}, {"number": [2, *COUNTS[-2:-1]]}, ["row"]),
    }
