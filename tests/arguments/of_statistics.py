"""Means, intervals and verdicts."""

from __future__ import annotations

import numpy as np
import pandas as pd

import nnsight_vlm as nv
from nnsight_vlm import recipes, statistics

from .calls import Entry, world
from .values import ARRAYS, DATASET, FLAGS, FRAMES, NAN, NUMBERS, SEEDS, THING

FUNCTIONS = [None, 3, "mean", ["a"], {}, THING, float]
SHARES = [*NUMBERS, 0, 1, -0.1, 95]
COLUMNS = [None, 3, True, THING, {}, "a", b"a", ["missing"], [3], [None], DATASET, NAN, []]


def entries() -> dict[str, Entry]:
    """The table."""
    rows = pd.DataFrame({"image": [0, 1, 2], "group": ["a", "a", "b"], "hit": [1.0, 0.5, 0.25]})
    numbers, hit = rows[["hit"]], lambda means: means["hit"]
    estimate = statistics.Estimate(0.7, 0.6, 0.8)
    here = world()
    recorded = recipes.knockout_windows(
        here.model, [here.prompt], answers=["red"], windows=0, work=recipes.Work(progress=False)
    )
    return {
        "cite": Entry(
            nv.cite,
            nv.cite,
            {"frame": recorded},
            {
                "frame": [*FRAMES, rows],
                "rows": [
                    3,
                    True,
                    "f1",
                    b"a",
                    THING,
                    {"missing": 1},
                    {"measure": "missing"},
                    [],
                    ["a"],
                    [1],
                    [True],
                    NAN,
                ],
                "style": [None, 3, True, "latex", "", b"text", THING, ["text"], {}],
            },
        ),
        "bootstrap": Entry(
            statistics.bootstrap,
            statistics.bootstrap,
            {"values": [1.0, 2.0]},
            {
                "values": [*ARRAYS[:4], *ARRAYS[5:], [True, "a"]],
                "confidence": SHARES,
                "seed": SEEDS,
                "share": [*FLAGS[1:]],
            },
        ),
        "interval": Entry(
            statistics.interval,
            statistics.interval,
            {"rows": numbers, "statistic": hit},
            {
                "rows": [None, 3, "rows", {}, [1.0], THING, rows, DATASET, np.ones((2, 2))],
                "statistic": FUNCTIONS,
                "seed": SEEDS,
                "confidence": SHARES,
                "shares": FLAGS,
            },
        ),
        "verdict": Entry(
            statistics.verdict,
            statistics.verdict,
            {"estimate": estimate, "threshold": 0.5, "images": 20},
            {
                "estimate": [None, 0.7, "a", {}, (0.7, 0.6), THING, ("a", "b", "c")],
                "threshold": NUMBERS,
                "images": SEEDS,
            },
        ),
        "summarise": Entry(
            statistics.summarise,
            statistics.summarise,
            {"frame": rows, "by": ["group"], "measures": ["hit"]},
            {
                "frame": FRAMES,
                "by": COLUMNS,
                "measures": [*COLUMNS, ["group"]],
                "unit": [None, 3, True, "missing", ["image"], THING, {}],
                "confidence": SHARES,
                "shares": [3, True, THING, "hit", b"a", [3], [None], NAN],
            },
        ),
        "image_means": Entry(
            statistics.image_means,
            statistics.image_means,
            {"frame": rows, "by": ["group"], "measures": ["hit"]},
            {
                "frame": FRAMES,
                "by": COLUMNS[:-1],
                "measures": [*COLUMNS, ["group"]],
                "unit": [None, 3, True, "missing", ["image"], THING, {}],
            },
        ),
    }
