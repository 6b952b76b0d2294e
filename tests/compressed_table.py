"""How a compressed context answers on the models of scenes, with the size of its cache and how fast it decodes.

`python tests/compressed_table.py` prints a table of docs/recipes/compressed_context.md: the first question about a
colour of each of the scenes 0, 1, 2, ... that has one. With `--no-request` the question itself is the first pass.
`--save` keeps it. Speeds are of the machine at hand, so they stand below the table and are not kept.
"""

from __future__ import annotations

from typing import Any

import measured
import pandas as pd
from frame_cells import estimate
from page_tables import markdown

import nnsight_vlm as nv

KEEP = (0, 1, 2, 5, 10, 25, 100)


def frame_of(name: str, scenes: int, request: str | None, timed: int) -> pd.DataFrame:
    """The frame of the recipe."""
    model, prompts, answers = nv.load(name), list[nv.Prompt](), list[str]()
    for scene in map(nv.shapes.scene, range(scenes)):
        for question in [each for each in nv.shapes.questions(scene) if each.family == "color"][:1]:
            prompts.append(nv.encode(model, question.text, scene.image))
            answers.append(question.answer)
    return nv.recipes.compressed_context(
        model, prompts, answers=answers, request=request, keep=KEEP, timed=timed, work=nv.recipes.Work(progress=False)
    )


def of_measure(frame: pd.DataFrame, measure: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of a measure for each choice of tokens, by the share that is kept."""
    choices = frame["tokens"].where(frame["control"] == "none", "random, for " + frame["tokens"])
    rows = frame[frame["measure"] == measure].sort_values("kept", kind="stable")
    names = dict.fromkeys(choices[frame["measure"] == measure])
    return {name: rows[choices[rows.index] == name].to_dict("records") for name in names}


def table(frame: pd.DataFrame) -> str:
    """Accuracy with intervals by choice and share, and below it what the cache takes."""
    rows = [[name, *map(estimate, cells)] for name, cells in of_measure(frame, "accuracy").items()]
    size = of_measure(frame, "bytes")
    for name in ("attention", "fastv"):
        if name in size:
            rows.append([f"{name}: the cache", *(f"{cell['mean'] / 1000:.0f} kB" for cell in size[name])])
    return markdown(["tokens", *(f"{share} %" for share in KEEP)], rows)


def speeds(frame: pd.DataFrame) -> str:
    """A line for each choice whose decoding was timed."""
    timed = of_measure(frame, "tokens_per_second")
    means = {name: [f"{cell['mean']:.0f}" for cell in cells] for name, cells in timed.items()}
    return "\n".join(f"tokens per second, {name}: {', '.join(each)}" for name, each in means.items())


if __name__ == "__main__":
    parser = measured.parser(__doc__, scenes=24, timed=16)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--no-request", action="store_true")
    given = parser.parse_args()
    request = None if given.no_request else "Describe the image."
    found = frame_of(given.model, given.scenes, request, given.timed)
    measured.tell("recipes/compressed_context", f"{table(found)}\n{speeds(found)}")
