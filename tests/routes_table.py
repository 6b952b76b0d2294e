"""The table of docs/recipes/joint_routes.md: `python tests/routes_table.py`; `--save` keeps it."""

from __future__ import annotations

import sys
from typing import Any

import measured
import pandas as pd
from frame_cells import estimate, number, only
from page_tables import markdown

import nnsight_vlm as nv

MODELS = ("shapes", "shapes-gist")
COLORS = ("image->last", "image->question", "image->markers")
DESCRIPTIONS = ("image->generated", "image->query")
QUIET = nv.recipes.Work(progress=False)


def of_colors(model: Any, count: int) -> pd.DataFrame:
    """Questions for the colour of an object, which another picture has in another colour."""
    rows = nv.shapes.color_pairs(count)
    images = ("image", "other_image")
    pairs = [
        (*(nv.encode(model, row["question"], row[name]) for name in images), row["answer"], row["other_answer"])
        for row in rows
    ]
    prompts, answers = [pair[0] for pair in pairs], [row["answer"] for row in rows]
    return nv.recipes.joint_routes(model, prompts, answers=answers, pairs=pairs, routes=COLORS, work=QUIET)


def of_descriptions(model: Any, count: int) -> pd.DataFrame:
    scenes = [nv.shapes.scene(number) for number in range(count)]
    return nv.recipes.joint_routes(
        model,
        [nv.encode(model, "describe the image.", scene.image) for scene in scenes],
        truths=[nv.recipes.shape_truth(scene) for scene in scenes],
        max_new_tokens=32,
        routes=DESCRIPTIONS,
        work=QUIET,
    )


def cells(frame: pd.DataFrame, routes: tuple[str, ...]) -> list[str]:
    """What the table says of a model and a kind of question; restorations are of swaps, which need pairs."""

    def of_routes(measure: str, control: str = "none", **wanted: str) -> str:
        rows = (only(frame, route=route, measure=measure, control=control, **wanted) for route in routes)
        return " / ".join(number(row["mean"], 3) for row in rows)

    return [
        " / ".join(f"`{route}`" for route in routes),
        of_routes("needed"),
        of_routes("suffices"),
        estimate(only(frame, measure="self_repair", control="none"), 3),
        of_routes("restoration", condition="swapped") if routes == COLORS else "",
        of_routes("needed", "random edges"),
    ]


CALLED = ("routes", "needed", "suffices", "self-repair", "does (restoration)", "`needed`, random edges")


def main() -> None:
    scenes, models = measured.parser(__doc__, scenes=12).parse_args().scenes, [nv.load(name) for name in MODELS]
    head, columns = [""], list[list[str]]()
    for kind, measure, routes in (
        ("colour of an object", of_colors, COLORS),
        ("description", of_descriptions, DESCRIPTIONS),
    ):
        for name, model in zip(MODELS, models, strict=True):
            frame = measure(model, scenes)
            print(f"{name}, {kind}: {frame['images'].max()} scenes", file=sys.stderr)
            head.append(f"`{name}`, {kind}")
            columns.append(cells(frame, routes))
    rows = [[called, *each] for called, *each in zip(CALLED, *columns, strict=True)]
    measured.tell("recipes/joint_routes", markdown(head, rows))


if __name__ == "__main__":
    main()
