"""Figures of frames, maps and words over pictures."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pandas as pd
import tiny
from matplotlib.figure import Figure
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm import plots
from nnsight_vlm.recipes import (
    Thing,
    Work,
    ablation,
    attention_share,
    attribution_map,
    causal_trace,
    compressed_context,
    heads,
    image_lens,
    knockout_windows,
    object_score,
    pair_routes,
    patch_grounding,
    patch_knockout,
    patching_map,
    prompt_ablation,
    query_patching,
)

from .calls import Entry, world
from .of_prompts import pictures
from .values import ARRAYS, FLAGS, FRAMES, INF, NAN, NO_LIST, NO_NUMBER, NO_WHOLE, TEXTS, THING, WORDS

NO_WORD = [3, True, 1.5, "unknown", "", ["image"], {"a": 1}, THING, NAN]
"""What is no word, where None is left out."""
NO_TEXT = [each for each in TEXTS if each is not None]
NO_LIMIT = [*(each for each in NO_NUMBER if each is not None), 0, -1, INF]


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
    about = {"truths": truths, "asked": [said[0]] * 2, "answers": ["red", "red"], "work": quiet}
    return {
        "ablation": ablation(here.model, prompts, **about),
        "knockout_windows": knockout_windows(here.model, prompts, windows=2, **short),
        "answer_windows": scored,
        "attention_share": attention_share(here.model, prompts, **short),
        "object_score": object_score(here.model, prompts, truths=truths, objects=nv.recipes.content_words, **short),
        "patch_grounding": patch_grounding(here.model, prompts, truths=truths, **short),
        "prompt_ablation": prompt_ablation(here.model, prompts, **short),
        "query_patching": query_patching(here.model, [(*prompts, *own)], layers=[1], work=quiet),
        "patching_map": patching_map(here.model, [(*prompts, *own)], layers=[1], work=quiet),
        "causal_trace": causal_trace(
            here.model, prompts[:1], answers=own[:1], corrupt=prompts[1:], layers=[1], work=quiet
        ),
        "attribution_map": attribution_map(here.model, [(*prompts, *own)], layers=[1], exact=1, work=quiet),
        "heads": heads(
            here.model, prompts, truths=truths, asked=[said[0]] * 2, answers=["red", "red"], top=2, draws=1, work=quiet
        ),
        "compressed_context": compressed_context(
            here.model, prompts[:1], answers=["red"], request=None, keep=[4], tokens="norm", timed=0, work=quiet
        ),
        "image_lens": image_lens(here.model, prompts[:1], answers=["red"], layers=[1], work=quiet),
        "words of image_lens": image_lens(here.model, prompts[:1], layers=[1], per_image=True, work=quiet),
        "pair_routes": pair_routes(here.model, [(*prompts, *own)], cuts=[1], work=quiet),
        "claims": nv.report.judge({}),
        "information_flow": pd.DataFrame(flow()),
        "patch_regions": patch_knockout(here.model, prompts, answers=["red", "red"], work=quiet),
        "patch_knockout": patch_knockout(here.model, here.prompt, answer="red"),
    }


def flow() -> list[dict[str, Any]]:
    """Rows as `information_flow` gives them."""
    numbers = {"mean": -1.0, "low": -2.0, "high": 0.0, "images": 2}
    measures = ("probability_change", "logprob_change")
    about = {"layers": "0-1", "width": 2, "control": "none"}
    edges = ("image->last", "query->last")
    return [
        {"edge": edge, "centre": centre, **about, "measure": measure, **numbers}
        for edge in edges
        for centre in (0, 1)
        for measure in measures
    ]


def of_recipes() -> dict[str, Entry]:
    """Figures of the frames of recipes."""
    made, axis = frames(), Figure().subplots()
    agreement, axes = [*WORDS, "hit"], [3, "axis", {}, THING, axis.figure, [axis]]

    def drawn(name: str, of: str = "", **more: Any) -> Entry:
        function, frame = getattr(plots, name), made[of or name]
        wrong = [*FRAMES, made["claims" if name != "claims" else "attention_share"]]
        return Entry(function, function, {"frame": frame}, {"frame": wrong, "ax": axes, **more})

    return {
        "plots.ablation": drawn("ablation", measure=[each for each in agreement if each is not None]),
        "plots.answer_windows": drawn("answer_windows", route=NO_WORD),
        "plots.attention_share": drawn("attention_share", target=NO_WORD),
        "plots.attribution_map": drawn(
            "attribution_map",
            measure=NO_WORD,
            site=[*NO_WORD, "mlp"],
            group=[*NO_WORD, "image"],
            source=[*NO_WORD, "image"],
            control=NO_WORD,
            routes=FLAGS,
        ),
        "plots.causal_trace": drawn("causal_trace", measure=NO_WORD, control=NO_WORD),
        "plots.claims": drawn("claims", claim=NO_WORD),
        "plots.compressed_context": drawn("compressed_context", measure=NO_WORD),
        "plots.heads": drawn("heads", measure=NO_WORD, split=[*NO_WORD, None], sets=FLAGS),
        "plots.image_lens": drawn("image_lens", measure=NO_WORD, grid=[3, True, "grid", {}, THING, NAN]),
        "plots.image_lens of words": Entry(
            plots.image_lens,
            plots.image_lens,
            {"frame": made["words of image_lens"], "grid": world().prompt.grid(0)},
            {
                "frame": [*FRAMES, made["claims"], made["image_lens"]],
                "ax": axes,
                "image": [*NO_WHOLE, -1, 7],
                "layer": [*NO_WHOLE, 7],
                "lens": [*NO_WORD, "contextual"],
            },
        ),
        "plots.information_flow": drawn("information_flow", measure=agreement),
        "plots.knockout_routes": drawn("knockout_routes", "knockout_windows", measure=agreement),
        "plots.knockout_windows": drawn("knockout_windows", measure=agreement, route=NO_WORD, label=NO_TEXT),
        "plots.object_score": drawn("object_score"),
        "plots.pair_routes": drawn("pair_routes", measure=NO_WORD),
        "plots.patch_grounding": drawn("patch_grounding", measure=NO_WORD),
        "plots.patch_knockout": drawn(
            "patch_knockout",
            picture=[3, "picture", {}, THING, axis, Image.new("RGB", (3, 3))],
            tile=[*(each for each in NO_WHOLE if each is not None), -1, 1],
            limit=NO_LIMIT,
            measure=[each for each in NO_WORD if each is not None],
        ),
        "plots.patch_knockout, regions": drawn(
            "patch_knockout",
            "patch_regions",
            picture=[3, Image.new("RGB", (3, 3))],
            tile=[0, 1],
            limit=[1.0],
            measure=[each for each in agreement if each is not None],
        ),
        "plots.patching_map": drawn("patching_map", measure=NO_WORD, control=NO_WORD, group=[*NO_WORD, "image"]),
        "plots.prompt_ablation": drawn("prompt_ablation", measure=agreement),
        "plots.query_patching": drawn("query_patching", group=NO_WORD),
    }


def of_any_frame() -> dict[str, Entry]:
    """Figures of frames of any columns."""
    numbers = {"mean": [0.5, 0.2], "low": [0.4, 0.1], "high": [0.6, 0.3]}
    frame = pd.DataFrame({"group": ["image", "last"], "layer": [0, 0], **numbers, "text": ["a", "b"]})
    twice, axis = pd.concat([frame, frame]), Figure().subplots()
    columns = [*NO_WORD, "missing"]
    more = {
        "ax": [3, "axis", {}, THING, axis.figure, [axis]],
        "value": [*columns, "text"],
        "baseline": [*columns, "text"],
        "label": NO_TEXT,
    }
    no_frames = [*FRAMES[:-2], FRAMES[-1], twice]
    return {
        "layer_lines": Entry(
            plots.layer_lines,
            plots.layer_lines,
            {"frame": frame, "hue": "group"},
            {"frame": no_frames, "x": [*columns, "text"], "hue": columns, **more},
            ["layer", "column"],
        ),
        "dot_rows": Entry(
            plots.dot_rows,
            plots.dot_rows,
            {"frame": frame, "rows": "group"},
            {"frame": no_frames, "rows": [None, *columns], "hue": columns, **more},
            ["column"],
        ),
        "heat_map": Entry(
            plots.heat_map,
            plots.heat_map,
            {"frame": frame},
            {
                "frame": no_frames,
                "rows": [*columns, "layer"],
                "columns": [*columns, "group"],
                "limit": NO_LIMIT,
                **more,
            },
            ["column"],
        ),
    }


def of_pictures() -> dict[str, Entry]:
    """Maps and words over pictures."""
    here = world()
    grid, picture = here.prompt.grid(), tiny.picture(0)
    overlay = plots.Overlay.of(picture, grid, np.arange(25.0), title="map")
    scores = pd.DataFrame({"layers": ["0-1"], "form": ["block"], "logprob_change": [0.5]})
    said = {"token": 20, "text": "red", "logprob": -1.0}
    words = pd.DataFrame({"position": grid.positions, "layer": 1, "rank": 0, **said})
    axis = Figure().subplots()
    no_picture = [each for each in pictures() if not isinstance(each, Image.Image)]
    axes = [3, "axis", {}, THING, axis.figure]
    looks = {
        "title": TEXTS,
        "label": TEXTS,
        "signed": FLAGS,
        "least": [*NO_NUMBER, -1, INF],
        "limit": NO_LIMIT,
    }
    return {
        "Overlay.of": Entry(
            plots.Overlay.of.__func__,  # type: ignore[attr-defined]
            plots.Overlay.of,
            {"image": picture, "grid": grid, "values": np.arange(25.0), "title": "map"},
            {
                "image": [None, *no_picture],
                "grid": [None, 3, "grid", {}, THING, here.prompt],
                "values": [*ARRAYS, [0.5] * 24, [NAN] * 25],
                "note": NO_TEXT,
                **looks,
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
                "note": TEXTS,
                **looks,
            },
        ),
        "draw_overlay": Entry(
            plots.draw_overlay,
            plots.draw_overlay,
            {"overlay": overlay},
            {"overlay": [None, 3, "overlay", {}, THING, picture, [overlay]], "ax": axes},
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
                "ax": axes,
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


def entries() -> dict[str, Entry]:
    """The table."""
    return {**of_recipes(), **of_any_frame(), **of_pictures()}
