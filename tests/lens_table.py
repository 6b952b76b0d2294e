"""The table of docs/recipes/image_lens.md: `python tests/lens_table.py`; `--save` keeps it."""

from __future__ import annotations

import itertools
import sys
import time

import measured
import pandas as pd
from frame_cells import estimate, only
from page_tables import markdown

import nnsight_vlm as nv

LAYERS = {"shapes-smol": (4, 16, 29), "shapes": (3, 4, 6), "shapes-gist": (4,)}
"""The layers that are read, by model."""
LINES = (
    ("shapes-smol", "contextual", 4),
    ("shapes-smol", "contextual", 16),
    ("shapes-smol", "logit", 4),
    ("shapes-smol", "logit", 16),
    ("shapes", "contextual", 4),
    ("shapes", "logit", 4),
    ("shapes-gist", "contextual", 4),
    ("shapes-gist", "logit", 4),
)
CONTROLS = ("none", "other object's words", "random patches")
WORDS = nv.shapes.language
BANK = [
    f"a {size} {color} {shape} at top."
    for size, color, shape in itertools.product(WORDS.SIZES, WORDS.COLORS, WORDS.SHAPES)
]


def frame_of(name: str, scenes: int) -> pd.DataFrame:
    model, begun = nv.load(name), time.perf_counter()
    asked = [
        (scene, next((each for each in nv.shapes.questions(scene) if each.family == "color"), None))
        for scene in map(nv.shapes.scene, range(scenes))
    ]
    known = [(scene, question) for scene, question in asked if question is not None]
    frame = nv.recipes.image_lens(
        model,
        [nv.encode(model, question.text, scene.image) for scene, question in known],
        truths=[nv.recipes.shape_truth(scene) for scene, _ in known],
        answers=[question.answer for _, question in known],
        bank=BANK,
        layers=list(LAYERS[name]),
        work=nv.recipes.Work(progress=False),
    )
    print(f"{name}: {time.perf_counter() - begun:.0f} s, {len(known)} questions", file=sys.stderr)
    return frame


def table(frames: dict[str, pd.DataFrame]) -> str:
    rows = []
    for name, lens, layer in LINES:
        wanted = {"tokens": "object", "lens": lens, "layer": layer, "measure": "named_first"}
        cells = [estimate(only(frames[name], control=control, **wanted)) for control in CONTROLS]
        rows.append([f"`{name}`", lens, str(layer), *cells])
    return markdown(["model", "lens", "layer", "object", *CONTROLS[1:]], rows)


def numbers(frames: dict[str, pd.DataFrame]) -> list[str]:
    """What the logit lens finds in the last layer, and how often the answer is the first word at the last token."""
    named = only(frames["shapes-smol"], tokens="object", lens="logit", layer=29, measure="named", control="none")
    first = [only(frames["shapes"], tokens="last", layer=layer, measure="first", control="none") for layer in (3, 6)]
    return [estimate(named), *map(estimate, first)]


def main() -> None:
    options = measured.parser(__doc__, scenes=12).parse_args()
    frames = {name: frame_of(name, options.scenes) for name in LAYERS}
    measured.tell("recipes/image_lens", table(frames), numbers(frames))


if __name__ == "__main__":
    main()
