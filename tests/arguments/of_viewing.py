"""The page of an answer."""

from __future__ import annotations

import numpy as np
import tiny

import nnsight_vlm as nv

from .calls import Entry, interventions, models, prompts, world
from .of_runs import PLACED
from .values import BYTES, COUNTS, DATASET, HEADS, INF, LAYERS, NAN, NO_NUMBER, NO_WHOLE, PATHS, THING, WORDS

NO_OBJECTS = [
    *(3, True, 1.5, "dog", b"dog", THING, NAN, DATASET, [3], ["dog"], [None], {"dog": None}, {3: (0, 0, 5, 5)}),
    *({"dog": 3}, {"dog": "here"}, {"dog": (0, 0, 5)}, {"dog": (5, 5, 0, 0)}, {"dog": (0.1, 0.1, 0.5, 0.5)}),
    *({"dog": np.ones((3, 3), bool)}, {"dog": np.zeros((tiny.SIDE, tiny.SIDE))}, [nv.recipes.Thing(name="dog")]),
    *({"dog": np.full((tiny.SIDE, tiny.SIDE), 0.5)}, [{"dog": (0, 0, 5, 5)}, None], [{"dog": 3}], [[3]]),
]
SWITCHED = [None, "yes", "", b"1", [], {}, THING, slice(0, 2), 1000, [0, 1000], [1.5], [None], NAN, 2j, int, DATASET]


def entries() -> dict[str, Entry]:
    """The table."""
    here = world()
    good = {"model": here.model, "prompt": here.grown, "intervention": here.cut, "quantities": ["weight", "causal"]}
    good |= {"layers": 1, "max_new_tokens": 2}
    page = nv.view(here.model, here.grown, layers=1)
    asked = {
        "model": models(),
        "prompt": [*prompts(), here.batch, here.text],
        "intervention": interventions(),
        "quantities": [*WORDS, [], ["weight", "sky"], [None]],
        "layers": [*LAYERS, []],
        "heads": [
            *(each for each in HEADS if not isinstance(each, str) or each != "all"),
            "some",
            None,
            {},
            -1,
            [-1],
            [],
        ],
        "words": [3, True, 1.5, "red", b"red", [], [""], [3], {}, THING, DATASET, NAN, {"red"}],
        "objects": NO_OBJECTS,
        "sinks": [*NO_NUMBER, 0, -1, 1000, INF, "yes"],
        "lens": SWITCHED,
        "max_new_tokens": [each for each in COUNTS if each is not None],
        "limit": [*NO_WHOLE, 0, -1, 1000],
        "memory": BYTES,
        "empty": WORDS,
        **PLACED,
    }
    return {
        "view": Entry(nv.view, nv.view, good, asked, ["picture", "box", "mask", "head", "layer"]),
        "View.save": Entry(nv.View.save, page.save, {}, {"path": [*PATHS, "view.png", "."]}, works=False),
    }
