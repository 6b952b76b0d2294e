"""The recipes, and the values that they take."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny

import nnsight_vlm as nv
from nnsight_vlm import recipes
from nnsight_vlm.recipes import Pair, Thing, Work

from .calls import Entry, models, prompt_lists, prompts, world
from .of_runs import PLACED
from .values import (
    ANSWERS,
    BYTES,
    COUNTS,
    DATASET,
    FLAGS,
    LAYERS,
    NAN,
    NO_LIST,
    NO_WHOLE,
    SEEDS,
    THING,
    WHERE,
)

MASK = np.ones((tiny.SIDE, tiny.SIDE), bool)
PART = np.zeros((tiny.SIDE, tiny.SIDE), bool)
PART[:8, :8] = True
TRUTHS_OF_A_PART = [[Thing(name="red square", mask=PART)]]
TRUTHS = [[Thing(name="red square", mask=MASK)]]
WORKS = [None, 4, True, "fast", {}, {"chunk": 2}, THING, Work, [Work(progress=False)]]
CLUSTERS = [3, True, "a", b"a", {}, {"a": 1}, THING, [], ["a", "b"], [None], [["a"]], [NAN], NAN]
FUNCTIONS = [3, True, "dog", ["dog"], {}, THING, {"dog"}]
NO_TRUTHS = [
    3,
    True,
    "dog",
    b"a",
    {},
    {"a": 1},
    THING,
    [],
    TRUTHS * 2,
    [["dog"]],
    ["dog"],
    [[None]],
    [3],
    [{"name": "dog"}],
    NAN,
]


QUESTIONS = [{"image": tiny.picture(0), "question": "what is the red square ?", "answer": "red"}]
NO_ITEMS = [
    *(3, 1.5, True, b"a", THING, {}, {"a": 1}, [], NAN, DATASET, "no such file.csv", "questions", "", ["a.png"], [3]),
    *([{}], [{"image": "a.png"}], [{"question": "what ?"}], [{"image": "no such.png", "question": "what ?"}]),
    *([{"image": tiny.picture(0), "question": each}] for each in (None, "", " ", NAN, 3, ["a"])),
    *([{"image": each, "question": "what ?"}] for each in (None, "", NAN, 3, [], {}, [None], {"bytes": None}, THING)),
    *([{**QUESTIONS[0], "answer": each}] for each in (None, "", NAN, 1.5, True, ["red"])),
    *([{**QUESTIONS[0], "options": each}] for each in (3, "red", ["red"], ["red", "red"], ["blue", "green"], {"a": 1})),
    *([{**QUESTIONS[0], "id": each}] for each in (None, NAN, 1.5, ["a"], "")),
    *([{**QUESTIONS[0], "cluster": each}] for each in (None, NAN, "", ["a"])),
    [{**QUESTIONS[0], "id": 1}, {**QUESTIONS[0], "id": 1}],
]
NO_COLUMNS = [3, True, "question", b"a", ["question"], THING, {"sky": "question"}, {"question": "sky"}, {3: "question"},
              {"question": None}, {"question": ["question"]}, {"image": []}, {"boxes": "sky"}, NAN]  # fmt: skip


def without(values: list[Any], *left_out: Any) -> list[Any]:
    """Values without some of them, told apart by identity."""
    return [value for value in values if not any(value is other for other in left_out)]


def pairs() -> list[Any]:
    """What is no list of pairs."""
    here = world()
    one, other = here.prompt, here.twin
    longer = nv.encode(here.model, "where is the dog ?", tiny.picture(3))
    wrong = [
        *(
            (one, other),
            (one, other, "red"),
            (one, other, "red", "blue", 3),
            ("a", "b", "red", "blue"),
            (one, other, 1.5, "red"),
        ),
        *(
            (one, other, "red", "red"),
            (one, other, "red", tiny.vocabulary()["red"]),
            (one, longer, "red", "blue"),
            (here.batch, other, "red", "blue"),
        ),
        *(
            (one, here.foreign, "red", "blue"),
            (here.foreign, other, "red", "blue"),
            (one, None, "red", "blue"),
            "four",
            None,
        ),
        *(
            (one, other, "zebra", "red"),
            (one, other, "red", "red square"),
            (here.batch, here.batch, "red", "blue"),
            {},
            5,
        ),
        *(
            (here.text, here.text, "red", "blue", 1),
            (one, other, -1, 3),
            (one, other, None, "red"),
            (one, other, ["red"], "blue"),
        ),
    ]
    return [
        *NO_LIST,
        [],
        (one, other, "red", "blue"),
        Pair(one, other, "red", "blue"),
        one,
        *([each] for each in wrong),
    ]


def entries() -> dict[str, Entry]:
    """The table."""
    here, quiet = world(), Work(progress=False)
    usual = {"model": here.model, "prompts": [here.prompt], "work": quiet}
    common = {
        "model": models(),
        "prompts": [*prompt_lists(), [here.foreign]],
        "seed": SEEDS,
        "per_image": FLAGS,
        "cluster": CLUSTERS,
        "work": WORKS,
        "items": [QUESTIONS, 3],
        "columns": [{"question": "question"}, 3],
        "only_correct": FLAGS,
        **PLACED,
    }
    written = {"max_new_tokens": COUNTS, "rows": without(COUNTS, None)}
    optional = {name: without(values, None) for name, values in written.items()}
    answer_lists = [
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
        [-1],
        DATASET,
    ]
    routes = [
        3,
        True,
        "image->last",
        b"a",
        THING,
        {},
        ["image"],
        ["image->sky"],
        ["sky->last"],
        [3],
        ["a->b->c"],
        ["last->image"],
        ["->"],
        [None],
        NAN,
    ]
    forms = [None, 3, True, "block", THING, {}, ["cut"], [3], [None], ["block", "cut"], NAN]
    return {
        "knockout_windows": Entry(
            recipes.knockout_windows,
            recipes.knockout_windows,
            {**usual, "answers": ["red"], "windows": 2},
            {
                **common,
                "answers": answer_lists,
                "truths": [TRUTHS, 3],
                "objects": [str.split, 3],
                "routes": routes,
                "windows": [*without(SEEDS, None), 5],
                "width": [*without(COUNTS, None), 5],
                "stride": without(COUNTS, None),
                "forms": forms,
                "max_new_tokens": [5, 0],
                "rows": [5, 0],
            },
            ["prompt", "group"],
        ),
        "knockout_windows of descriptions": Entry(
            recipes.knockout_windows,
            recipes.knockout_windows,
            {**usual, "windows": 2, "max_new_tokens": 2},
            {"truths": NO_TRUTHS, "objects": FUNCTIONS, "prompts": [[here.text]], **optional},
            ["prompt"],
        ),
        "knockout_windows of items": Entry(
            recipes.knockout_windows,
            recipes.knockout_windows,
            {"model": here.model, "items": QUESTIONS, "windows": 2, "work": quiet},
            {
                "items": [*NO_ITEMS, *([{**QUESTIONS[0], "answer": each}] for each in ("zebra", "red square"))],
                "columns": NO_COLUMNS,
                "answers": [3, ["red"], "red"],
                "cluster": CLUSTERS,
                "model": models(),
                "prompts": [[here.prompt]],
                "max_new_tokens": [5],
            },
            ["items"],
        ),
        "items": Entry(
            nv.items,
            nv.items,
            {"source": QUESTIONS},
            {
                "source": NO_ITEMS,
                "columns": NO_COLUMNS,
                "question": [3, True, "", " ", b"a", ["a"], THING, {}, NAN],
                "folder": [3, True, 1.5, b"folder", ["folder"], {}, THING, "", __file__],
                "objects": [
                    3,
                    True,
                    "no such.json",
                    "no such.csv",
                    b"a",
                    {},
                    [],
                    THING,
                    NAN,
                    [{"image": "a"}],
                    QUESTIONS,
                ],
                "unusable": [None, 3, True, "skip", b"error", ["error"], THING, {}, NAN],
            },
            ["row", "column", "file"],
        ),
        "Items.only": Entry(
            nv.Items.only,
            lambda numbers, **_: nv.items(QUESTIONS).only(numbers),
            {"numbers": [0]},
            {"numbers": [3, True, "0", b"0", THING, {}, None, [None], ["a"], [1.5], [True], [1], [-2], NAN]},
        ),
        "Items[]": Entry(
            nv.Items.__getitem__,
            lambda number, **_: nv.items(QUESTIONS)[number],
            {"number": 0},
            {"number": [None, True, "0", b"0", 1.5, [0], {}, THING, NAN]},
        ),
        "Item.encode": Entry(
            nv.Item.encode,
            nv.items(QUESTIONS)[0].encode,
            {"model": here.model},
            {"model": models(), "other": FLAGS},
            ["item", "model"],
        ),
        "information_flow": Entry(
            recipes.information_flow,
            recipes.information_flow,
            {**usual, "answers": ["red"], "truths": TRUTHS_OF_A_PART, "edges": ["object->last"], "width": 2},
            {
                **common,
                "prompts": [*common["prompts"], [here.text]],
                "answers": [None, *answer_lists],
                "truths": [*NO_TRUTHS, [[Thing(name="a", mask=np.ones((3, 3), bool))]], [[Thing(name="red")]]],
                "asked": [3, True, "dog", b"a", {}, {"a": 1}, THING, [], ["dog"], [3], [None], [[]], [[3]], NAN],
                "edges": [*routes, ["image->last"], [], "object->last"],
                "windows": [5, "a", 1.5, 2],
                "width": [*without(COUNTS, None), 5],
                "stride": [*without(COUNTS, None), 5],
            },
            ["prompt", "edge", "object", "mask"],
        ),
        "attention_share": Entry(
            recipes.attention_share,
            recipes.attention_share,
            {**usual, "max_new_tokens": 2},
            {**common, **written, "prompts": [*common["prompts"], [here.text]]},
            ["prompt"],
        ),
        "object_score": Entry(
            recipes.object_score,
            recipes.object_score,
            {**usual, "truths": [[Thing(name="dog")]], "max_new_tokens": 2},
            {
                **common,
                **written,
                "prompts": [*common["prompts"], [here.text]],
                "truths": [None, *NO_TRUTHS, [[Thing(name="red square")]]],
                "objects": FUNCTIONS,
                "counts": [*(each for each in FLAGS if each is not None), True],
                "judge": FUNCTIONS,
                "transcripts": [3, True, 1.5, b"folder", ["folder"], {}, THING, "", __file__, "folder"],
            },
            ["prompt", "object", "judge", "picture"],
        ),
        "patch_grounding": Entry(
            recipes.patch_grounding,
            recipes.patch_grounding,
            {**usual, "max_new_tokens": 2},
            {
                **common,
                **written,
                "prompts": [*common["prompts"], [here.text]],
                "truths": [*NO_TRUTHS, [[Thing(name="a", mask=np.ones((3, 3), bool))]]],
                "objects": FUNCTIONS,
                "read_at": [None, 3, True, "word", THING, {}, ["after"], [3], [None], [], NAN],
                "top": [*COUNTS, 26],
                "cut": FLAGS,
                "words": [3, True, "dog", [], [""], [3], [None], {}, THING, NAN],
                "of": [None, 3, True, "letter", THING, {}, ["letter"], [3], [None], [], NAN],
                "quantity": [None, 3, True, "weights", THING, {}, ["mass"], [3], [None], [], NAN],
                "heads": [None, 3, True, "all", THING, {}, ["mean"], [], NAN],
                "sinks": [None, "yes", 0, -1, 20, True, THING, {}, [], NAN, float("inf")],
                "tolerance": [None, "15", -1, True, THING, {}, [], NAN, float("inf")],
                "tolerance_in": [None, 3, True, "inches", THING, {}, [], NAN],
                "ablate": FLAGS,
                "frame": [*(each for each in NO_WHOLE if each is not None), -1, 0],
            },
            ["prompt", "mask"],
        ),
        "patch_knockout": Entry(
            recipes.patch_knockout,
            recipes.patch_knockout,
            {"model": here.model, "prompts": here.prompt, "answer": "red", "size": 3},
            {
                "model": models(),
                "prompts": [*prompts(), here.batch, here.text],
                "answer": ANSWERS,
                "target": [*WHERE, "first", []],
                "layers": [*LAYERS, []],
                "size": [*COUNTS, 2, 4],
                "image": [*NO_WHOLE, -1, 1],
                "frame": [*(each for each in NO_WHOLE if each is not None), -1, 0],
                "memory": BYTES,
                **PLACED,
            },
            ["prompt"],
        ),
        "patch_knockout of a list": Entry(
            recipes.patch_knockout,
            recipes.patch_knockout,
            {**usual, "answers": ["red"], "truths": TRUTHS_OF_A_PART, "size": 3},
            {
                **common,
                "prompts": [*common["prompts"], [here.text]],
                "answer": ["red"],
                "answers": [None, *answer_lists],
                "truths": [*NO_TRUTHS, [[Thing(name="a", mask=np.ones((3, 3), bool))]], [[Thing(name="red")]]],
                "asked": [3, True, "dog", b"a", {}, {"a": 1}, THING, [], ["dog"], [3], [None], [[]], [[3]], NAN],
                "target": [*WHERE, "first", []],
            },
            ["prompt", "edge", "object", "mask"],
        ),
        "prompt_ablation": Entry(
            recipes.prompt_ablation,
            recipes.prompt_ablation,
            {**usual, "max_new_tokens": 2},
            {
                **common,
                **written,
                "prompts": [*common["prompts"], [here.text]],
                "parts": [
                    3,
                    True,
                    "question",
                    ["question"],
                    THING,
                    {},
                    {"a": "sky"},
                    {"a": []},
                    {"a": "last"},
                    {"a": None},
                    {"a": 1.5},
                    {"a": True},
                    {3: "question"},
                    {"a": [10**6]},
                    {"a": {"b": 1}},
                    {"a": slice(0, 3)},
                    NAN,
                ],
                "truths": NO_TRUTHS,
                "objects": FUNCTIONS,
            },
            ["prompt"],
        ),
        "query_patching": Entry(
            recipes.query_patching,
            recipes.query_patching,
            {"model": here.model, "pairs": [(here.prompt, here.twin, "red", "blue")], "layers": [1], "work": quiet},
            {
                "model": models(),
                "pairs": pairs(),
                "groups": [
                    3,
                    True,
                    "image",
                    b"a",
                    THING,
                    {},
                    ["sky"],
                    [3],
                    [None],
                    ["image.4"],
                    [],
                    ["generated"],
                    NAN,
                ],
                "layers": [*without(LAYERS, None, "all"), []],
                **{name: common[name] for name in ("seed", "per_image", "work", "cluster", "columns", "only_correct")},
                "items": [QUESTIONS, 3],
                **PLACED,
            },
            ["pair", "prompt"],
        ),
    }
