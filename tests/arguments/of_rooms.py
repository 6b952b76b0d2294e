"""The synthetic world, and work on a server."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np

import nnsight_vlm as nv
from nnsight_vlm import remote, shapes
from nnsight_vlm.remote.background import Job

from .calls import Entry, world
from .values import (
    DATASET,
    FLAGS,
    INF,
    NAN,
    NO_LIST,
    NO_NUMBER,
    NUMBERS,
    PATHS,
    REMOTES,
    SEEDS,
    TEXTS,
    THING,
    WORDS,
)

FUNCTIONS = [None, 3, "mean", ["a"], {}, THING]
SHARES = [*NUMBERS, 0, 1, -0.1, 95]
COLUMNS = [None, 3, True, THING, {}, "a", b"a", ["missing"], [3], [None], DATASET, NAN]
SCENES = [None, 3, "scene", {}, THING, True, [nv.shapes.scene(3)], nv.shapes.scene(3).image]


def of_shapes() -> dict[str, Entry]:
    """The synthetic world."""
    scene = shapes.scene(3)
    return {
        "scene": Entry(shapes.scene, shapes.scene, {"seed": 3}, {"seed": SEEDS}),
        "pair": Entry(shapes.pair, shapes.pair, {"seed": 3}, {"seed": SEEDS, "change": [*WORDS, "colour"]}),
        "color_pairs": Entry(
            shapes.color_pairs, shapes.color_pairs, {"count": 1}, {"count": [*SEEDS, 0], "first": SEEDS}
        ),
        "questions": Entry(shapes.questions, shapes.questions, {"scene": scene}, {"scene": SCENES, "seed": SEEDS}),
        "ask": Entry(
            shapes.ask,
            shapes.ask,
            {"scene": scene, "family": "color", "rng": random.Random(0)},
            {
                "scene": SCENES,
                "family": WORDS,
                "rng": [None, 3, "a", THING, random, np.random.default_rng(0), random.Random],
            },
        ),
        "parse": Entry(shapes.parse, shapes.parse, {"description": "a red ring."}, {"description": TEXTS}),
        "score": Entry(
            shapes.score,
            shapes.score,
            {"text": "a red ring.", "truth": scene},
            {
                "text": TEXTS,
                "truth": [*SCENES[:2], *SCENES[3:]],
                "by": [None, 3, True, "color", THING, {}, [], ["hue"], [3], [None]],
            },
        ),
        "checkpoint": Entry(shapes.checkpoint, shapes.checkpoint, {"name": "shapes"}, {"name": [*TEXTS, "shape"]}),
    }


KWARGS = [("remote", False), ("remote", None), ("remote", "yes"), ("positions", THING)]


def of_remote() -> dict[str, Entry]:
    """Work on a server."""
    here = world()
    job: Job[int] = Job(Path("none"), lambda: 3)
    job._result = [3]
    waiting: Job[int] = Job(Path("none"), lambda: 3)
    computations = [lambda: nv.run(here.model, here.prompt)]
    return {
        "submit": Entry(
            remote.submit,
            lambda function, args=(), kwargs=None: remote.submit(
                function, *args, **{"remote": "local", **(kwargs or {})}
            ),
            {"function": nv.run, "args": (here.model, here.prompt)},
            {
                "function": [None, 3, "run", nv.window, len, lambda: 3, THING, nv.Knockout],
                "args": [(here.model, "a prompt")],
                "kwargs": [{"kwargs": {name: value}} for name, value in KWARGS],
            },
            ["job"],
            works=False,
        ),
        "resume": Entry(
            remote.resume,
            remote.resume,
            {"path": Path("none")},
            {
                "path": [*PATHS, None, "no folder of this name", __file__],
                "model": ["shapes", 5, THING, {}],
                "host": [3, True, ["a"], THING, "", "yes", b"a"],
            },
            works=False,
        ),
        "together": Entry(
            remote.together,
            remote.together,
            {"computations": computations, "remote": False},
            {"computations": [*NO_LIST, computations[0], [3], ["a"], [None]], "remote": REMOTES, "apart": FLAGS},
        ),
        "patience": Entry(
            remote.patience,
            lambda seconds: remote.patience(seconds).__enter__(),
            {"seconds": 3600},
            {"seconds": [*NO_NUMBER, 0, -1, -INF]},
        ),
        "counting": Entry(remote.counting, remote.counting, {}, {}),
        "Job.result": Entry(
            Job.result,
            waiting.result,
            {"timeout": 3},
            {"timeout": [each for each in [*NO_NUMBER, -1, "1"] if each is not None]},
            works=False,
        ),
        "Job.done": Entry(Job.done, job.done, {}, {}),
        "Job.cancel": Entry(Job.cancel, job.cancel, {}, {}),
    }


def entries() -> dict[str, Entry]:
    """The table."""
    return {**of_shapes(), **of_remote()}
