"""Interventions, readouts and choices of layers: made, and run where they can be made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tiny
import torch

import nnsight_vlm as nv

from .calls import Entry, interventions, prompts, world
from .values import HEADS, INF, LAYERS, NAN, NO_NUMBER, NO_WHOLE, NUMBERS, TOKENS, WHERE, WORDS


def run_with(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Makes an intervention and runs it."""
    return lambda **given: nv.run(world().model, world().prompt, kind(**given))


def read_with(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a readout and reads it."""
    return lambda **given: nv.run(world().model, world().prompt, reads=[kind(**given)])


def cut_in(choice: Callable[..., Any]) -> Callable[..., Any]:
    """Chooses layers and cuts there."""
    return lambda **given: nv.run(world().model, world().prompt, nv.Knockout("image", "last", layers=choice(**given)))


def tensors() -> list[Any]:
    """What is no state to write at two positions."""
    wide = tiny.WIDTH
    shapes = [(), (wide - 1,), (2, wide + 1), (3, wide), (1, 2, 2, wide), (0, wide), (3, 2, wide)]
    return [*(torch.zeros(shape) for shape in shapes), torch.zeros(2, wide, dtype=torch.complex64)]


def entries() -> dict[str, Entry]:
    """The table."""
    here = world()
    pair = {"source": "image", "target": "last"}
    state = {
        "layers": LAYERS,
        "site": [*WORDS, "mask", "cross mask", "logits"],
        "stage": [*WORDS, "encoder"],
    }
    edges = {"source": WHERE, "target": WHERE, "layers": LAYERS, "heads": HEADS, "stage": [*WORDS, "encoder"]}
    pairs = [[(0, 1)], [(0, 1), 2]]
    wholes = [*NO_NUMBER, 1.5, NAN, INF, -1, 100]
    fractions = [*NUMBERS, -0.1, 1.1]
    return {
        "Knockout": Entry(nv.Knockout, run_with(nv.Knockout), pair, {**edges, "how": [*WORDS, "mean", "limit"]}),
        "Limit": Entry(
            nv.Limit,
            run_with(nv.Limit),
            {**pair, "top": 3},
            {**edges, "top": [*(value for value in NO_WHOLE if value is not None), 0, -1, 25]},
        ),
        "Allow": Entry(
            nv.Allow, run_with(nv.Allow), {**pair, "layers": [0, 1]}, {**edges, "heads": [*HEADS, *pairs], "how": WORDS}
        ),
        "Patch": Entry(
            nv.Patch,
            run_with(nv.Patch),
            {"where": [5, 6], "source": here.twin, "layers": 1, "site": "head"},
            {
                "where": WHERE,
                "heads": [*HEADS, [(0, 1)], [2, 1]],
                **state,
                "source": [*prompts(), *tensors(), here.batch, np.zeros((2, tiny.WIDTH))],
                "under": interventions(),
                "source_where": [*WHERE, [5], "image"],
            },
            ["prompt"],
        ),
        "Ablate": Entry(
            nv.Ablate,
            run_with(nv.Ablate),
            {"where": [5, 6], "layers": 1, "how": "resample", "source": here.twin, "site": "head"},
            {
                "where": WHERE,
                **state,
                "heads": [*HEADS, [(0, 1)]],
                "how": [*WORDS, "zero", "mean", "median"],
                "source": [*prompts(), here.batch],
            },
            ["prompt"],
        ),
        "Add": Entry(
            nv.Add,
            run_with(nv.Add),
            {"where": [5, 6], "vector": torch.ones(tiny.WIDTH // tiny.HEADS), "layers": 1, "site": "head"},
            {
                "where": WHERE,
                **state,
                "heads": [*HEADS, [(0, 1)], [2, 1]],
                "vector": [
                    *prompts(),
                    *tensors(),
                    np.zeros(tiny.WIDTH),
                    torch.ones(tiny.WIDTH) > 0,
                    [0.0] * tiny.WIDTH,
                ],
                "scale": NUMBERS,
            },
        ),
        "Scale": Entry(
            nv.Scale,
            run_with(nv.Scale),
            {"where": [5, 6], "factor": 2.0, "layers": 1, "site": "head"},
            {"where": WHERE, **state, "heads": [*HEADS, [(0, 1)]], "factor": NUMBERS},
        ),
        "Attention": Entry(
            nv.Attention,
            read_with(nv.Attention),
            {"queries": "last", "keys": "image", "reduce": "top", "top": 2},
            {
                "queries": [*WHERE, [], [6, 5]],
                "keys": [*WHERE, [], [6, 5]],
                "layers": [*LAYERS, [], [2, 1]],
                "heads": [*HEADS, [], *pairs, [2, 1]],
                "stage": edges["stage"],
                "reduce": [*WORDS, "max", "mean"],
                "top": [*(value for value in NO_WHOLE if value is not None), 0, -1, 26],
                "over": [*(word for word in WORDS if word is not None), "keys", ["heads", "keys"]],
            },
        ),
        "Attention's contributions": Entry(
            nv.Attention,
            read_with(nv.Attention),
            {"queries": "last", "keys": "image", "reduce": "contribution", "over": ["heads", "keys"]},
            {
                "reduce": ["rows", "route", "contributions"],
                "top": [1, 2],
                "over": [*(word for word in WORDS if word is not None), "query", [], ["keys", "keys"], ["keys", 1]],
            },
        ),
        "Lens": Entry(
            nv.Lens,
            read_with(nv.Lens),
            {"where": "last", "layers": 1},
            {
                "where": [*WHERE, [], [6, 5]],
                "layers": [*LAYERS, [], [2, 1]],
                "top": [*(value for value in NO_WHOLE if value is not None), 0, -1, 10**6],
                "tokens": TOKENS,
            },
        ),
        "Residual": Entry(
            nv.Residual,
            read_with(nv.Residual),
            {"where": "last", "site": "head", "layers": 1},
            {
                "where": [*WHERE, [], [6, 5]],
                **state,
                "layers": [*LAYERS, [], [2, 1]],
                "heads": [*HEADS, [], [(0, 1)], [2, 1]],
            },
        ),
        "Intervention.__or__": Entry(
            nv.Intervention.__or__,
            lambda other: here.cut | other,
            {"other": here.cut},
            {"other": [None, *interventions()]},
        ),
        "window": Entry(
            nv.window,
            cut_in(nv.window),
            {"start": 1, "stop": 3},
            {"start": [*wholes, 3], "stop": [*wholes, 0]},
            ["layer"],
        ),
        "depth": Entry(
            nv.depth,
            cut_in(nv.depth),
            {"start": 0.25, "stop": 0.5},
            {"start": [*fractions, 0.5], "stop": [*fractions, 0]},
        ),
        "depth of nothing": Entry(nv.depth, cut_in(nv.depth), {"start": 0.3, "stop": 0.5}, {"stop": [0.35]}),
    }
