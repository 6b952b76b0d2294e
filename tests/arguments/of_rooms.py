"""The synthetic world, figures, and work on a server."""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tiny
from matplotlib.figure import Figure
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm import plots, remote, shapes
from nnsight_vlm.recipes import (
    Thing,
    Work,
    ablation,
    attention_share,
    knockout_windows,
    patch_grounding,
    prompt_ablation,
    query_patching,
)
from nnsight_vlm.remote.background import Job

from .calls import Entry, world
from .of_prompts import pictures
from .values import (
    ARRAYS,
    DATASET,
    FLAGS,
    FRAMES,
    INF,
    NAN,
    NO_LIST,
    NO_NUMBER,
    NO_WHOLE,
    NUMBERS,
    PATHS,
    REMOTES,
    SEEDS,
    TEXTS,
    THING,
    WORDS,
)

FUNCTIONS = [None, 3, "mean", ["a"], {}, THING]
AXES = [3, "axes", True, THING, {}, [], Figure()]
SHARES = [*NUMBERS, 0, 1, -0.1, 95]
COLUMNS = [None, 3, True, THING, {}, "a", b"a", ["missing"], [3], [None], DATASET, NAN]
SCENES = [None, 3, "scene", {}, THING, True, [nv.shapes.scene(3)], nv.shapes.scene(3).image]


@functools.cache
def frames() -> dict[str, pd.DataFrame]:
    """The frame of every recipe, as small as it can be."""
    here, quiet = world(), Work(progress=False)
    prompts, short = [here.prompt, here.twin], {"max_new_tokens": 3, "work": quiet}
    mask = np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[:8, :8] = True
    said = nv.generate(here.model, here.prompt, max_new_tokens=3).text.split()
    truths = [[Thing(name=word, mask=mask) for word in said]] * 2
    scored = knockout_windows(here.model, prompts, answers=["red", "red"], windows=2, work=quiet)
    own = [int(nv.run(here.model, prompt).logits.argmax()) for prompt in prompts]
    about = {"truths": truths, "about": [said[0]] * 2, "answers": ["red", "red"], "work": quiet}
    return {
        "ablation": ablation(here.model, prompts, **about),
        "knockout_windows": knockout_windows(here.model, prompts, windows=2, **short),
        "answer_windows": scored,
        "attention_share": attention_share(here.model, prompts, **short),
        "patch_grounding": patch_grounding(here.model, prompts, truths=truths, **short),
        "prompt_ablation": prompt_ablation(here.model, prompts, **short),
        "query_patching": query_patching(here.model, [(*prompts, *own)], layers=[1], work=quiet),
        "claims": nv.report.judge({}),
    }


def of_shapes() -> dict[str, Entry]:
    """The synthetic world."""
    scene = shapes.scene(3)
    return {
        "scene": Entry(shapes.scene, shapes.scene, {"seed": 3}, {"seed": SEEDS}),
        "pair": Entry(shapes.pair, shapes.pair, {"seed": 3}, {"seed": SEEDS, "change": [*WORDS, "colour"]}),
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


def of_plots() -> dict[str, Entry]:
    """Figures."""
    made, here = frames(), world()
    agreement = [*WORDS, "hit"]
    grid, picture = here.prompt.grid(), tiny.picture(0)
    overlay = plots.Overlay.of(picture, grid, np.arange(25.0), title="map")
    scores = pd.DataFrame({"layers": ["0-1"], "form": ["block"], "logprob_change": [0.5]})
    said = {"token": 20, "text": "red", "logprob": -1.0}
    words = pd.DataFrame({"position": grid.positions, "layer": 1, "rank": 0, **said})
    figure = Figure()
    axis = figure.subplots()
    no_picture = [each for each in pictures() if not isinstance(each, Image.Image)]
    one = {name: getattr(plots, name) for name in plots.__all__}

    def drawn(name: str, of: str = "", **more: Any) -> Entry:
        frame = made[of or name]
        wrong = [*FRAMES, made["claims" if name != "claims" else "attention_share"]]
        return Entry(one[name], one[name], {"frame": frame}, {"frame": wrong, **more})

    return {
        "plots.ablation": drawn("ablation", measure=[each for each in agreement if each is not None], ax=AXES),
        "plots.claims": drawn("claims"),
        "plots.knockout_routes": drawn("knockout_routes", "knockout_windows", measure=agreement),
        "plots.knockout_windows": drawn("knockout_windows", measure=agreement, label=[None, 3, ["a"], THING]),
        "plots.answer_windows": drawn("answer_windows"),
        "plots.attention_share": drawn("attention_share"),
        "plots.query_patching": drawn("query_patching"),
        "plots.patch_grounding": drawn("patch_grounding"),
        "plots.prompt_ablation": drawn("prompt_ablation", measure=agreement),
        "Overlay.of": Entry(
            plots.Overlay.of.__func__,  # type: ignore[attr-defined]
            plots.Overlay.of,
            {"image": picture, "grid": grid, "values": np.arange(25.0), "title": "map"},
            {
                "image": [None, *no_picture],
                "grid": [None, 3, "grid", {}, THING, here.prompt],
                "values": [*ARRAYS, [0.5] * 24, [NAN] * 25],
                "title": TEXTS,
            },
        ),
        "Overlay": Entry(
            plots.Overlay,
            lambda **given: plots.draw_overlays([[plots.Overlay(**given)]]),
            {"image": picture, "heat": overlay.heat, "peak": (3.0, 3.0), "title": "map"},
            {
                "image": [None, *no_picture],
                "heat": [*ARRAYS[:9], np.zeros(3)],
                "peak": [None, 3, "a", (1,), (1, 2, 3), ("a", "b"), THING],
                "title": TEXTS,
            },
        ),
        "draw_overlay": Entry(
            plots.draw_overlay,
            plots.draw_overlay,
            {"axis": axis, "overlay": overlay},
            {
                "axis": [None, 3, "axis", {}, THING, figure],
                "overlay": [None, 3, "overlay", {}, THING, picture, [overlay]],
                "label": [3, True, ["a"], THING, "a scale without a figure"],
                "figure": [3, "figure", {}, THING, axis],
            },
        ),
        "draw_overlays": Entry(
            plots.draw_overlays,
            plots.draw_overlays,
            {"pictures": [[overlay]]},
            {"pictures": [*NO_LIST, [], [overlay], overlay, [[]], [["a"]], [None], [3]]},
        ),
        "image_words": Entry(
            plots.image_words,
            plots.image_words,
            {"frame": words, "grid": grid, "layer": 1},
            {
                "frame": FRAMES,
                "grid": [None, 3, "grid", {}, THING, here.prompt],
                "layer": [*NO_WHOLE, 7, -3],
                "rank": [*NO_WHOLE, -1, 5],
                "tile": [*(each for each in NO_WHOLE if each is not None), -1, 1],
                "ax": [3, "axis", {}, THING, figure],
            },
        ),
        "answer_map": Entry(
            plots.answer_map,
            plots.answer_map,
            {"picture": picture, "overlay": overlay, "scores": scores, "title": "map"},
            {
                "picture": [None, *no_picture],
                "overlay": [3, "overlay", {}, THING, picture, [overlay]],
                "scores": [each for each in FRAMES if each is not None],
                "title": TEXTS,
            },
        ),
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
    return {**of_shapes(), **of_plots(), **of_remote()}
