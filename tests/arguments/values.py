"""Families of bad values: what users write where something else is meant, by what is meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

NAN, INF = float("nan"), float("inf")
THING = object()
"""A value of no use anywhere."""


class Rows:
    """A data set as libraries have them: a length, and rows that are dicts."""

    def __len__(self) -> int:
        return 2

    def __getitem__(self, number: int) -> dict[str, Any]:
        if number >= len(self):
            raise IndexError(number)
        return {"text": "what is red ?"}

    def __repr__(self) -> str:
        return "Rows()"


DATASET = Rows()

NO_NUMBER = [None, True, "3", b"3", [3], (3,), {}, {3}, THING, NAN, np.array([1, 2]), torch.tensor([1, 2]), 2j, int]
NO_WHOLE = [*NO_NUMBER, 1.5, 2.0, np.float64(2.0), torch.tensor(2.0), torch.tensor(True), np.bool_(True), INF, -INF]
SEEDS = [*NO_WHOLE, -1]
COUNTS = [*NO_WHOLE, 0, -1, np.int64(0)]
BYTES = [each for each in [*COUNTS, "4GB", 4e9] if each is not None]
NUMBERS = [*NO_NUMBER, INF, -INF]
FLAGS = [None, 0, 1, "yes", "False", 1.0, [], {}, THING, np.array([True, False]), torch.tensor([True, False])]
WORDS = ["unknown", "", 3, True, 1.5, None, b"rows", ["rows"], {"rows": 1}, THING, np.array(["rows", "mean"]), NAN]
TEXTS = [None, 3, True, 1.5, b"red", ["red"], {"text": "red"}, THING, Path("red"), NAN]
NO_LIST = [None, 3, 1.5, True, THING, {}, {"a": 1}, "red", b"red", DATASET, NAN]
PATHS = [3, True, 1.5, b"folder", ["folder"], {}, THING, ""]
REMOTES = [None, 0, 1, 1.5, "", "yes", "ndif.us", b"local", ["local"], {}, THING, NAN]
LAYERS = [
    *("some", "", None, 1.5, NAN, INF, True, b"1", {}, {"a": 1}, THING, slice(0, 2), slice(None), range(40), lambda: 1),
    *(1000, -1000, [0, 1000], [-1000], [1.5], [None], [True], [True, 1], ["all"], [[0], [1.5]], 2j, int),
    *(np.array([True, False, True, True]), np.array([0.5]), torch.tensor([0.5, 1.0]), DATASET),
]
WHERE = [
    *("sky", "", "image.7", "image.x", "last ", 1.5, NAN, INF, True, b"image", {}, {"image": 1}, THING, slice(0, 3)),
    *(slice(None), range(10**3, 10**3 + 2), lambda: 1, 10**6, -3, [10**6], [-1], [1.5], [None], [True, 1], ["sky"]),
    *([b"image"], [[5], [None]], {"image", "sky"}, np.array([0.5]), torch.tensor([0.5]), np.array([True, False])),
    *([{"a": 1}], ("image", 1.5), 2j, int, pd.DataFrame({"a": [5]}), torch.tensor(0.5), DATASET),
]
HEADS = [
    *(True, False, 1.5, NAN, "all", "0", "", b"0", {}, {0: 1}, THING, slice(0, 2), lambda: 1, 1000, -1, [0, 1000]),
    *([1.5], ["a"], [None], [True, False], [(1,)], [(1, 2, 3)], [("a", 1)], [(0, 1.5)], [(0, -1)], [(1000, 0)], [()]),
    *([(-1000, 0)], np.array([0.5]), torch.tensor([True, False, True, True]), 2j, int, DATASET, [(0, True)]),
]
ANSWERS = [
    *(None, 1.5, NAN, True, b"red", "", "red square", "zebra", -1, 10**6, THING, {}, [], [1], ("red",), 2j, int),
    *(torch.tensor(1.5), torch.tensor([1, 2]), np.array([1, 2]), np.float64(2.0), DATASET),
]
TOKENS = [
    *(
        1.5,
        NAN,
        True,
        b"red",
        "",
        "red square",
        "zebra",
        -1,
        10**6,
        THING,
        {},
        [],
        [-1],
        [1, 1.5],
        [True],
        ["red square"],
    ),
    *({1, 2}, 2j, int, torch.tensor(1.5), torch.tensor([[1, 2]]), np.array([0.5]), np.float64(2.0), DATASET, [10**6]),
]
FRAMES = [None, 3, "frame", {}, {"measure": ["f1"]}, [], [{}], THING, pd.DataFrame(), pd.DataFrame({"a": [1]}), DATASET]
ARRAYS = [None, 3, "values", {}, [], ["a"], [None], THING, [[1.0], [2.0, 3.0]], np.zeros((2, 2)), DATASET, [1j]]
