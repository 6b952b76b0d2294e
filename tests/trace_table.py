"""The table of docs/recipes/causal_trace.md: `python tests/trace_table.py`; `--save` keeps it.

Questions for the colour of the only object of its shape, first with the shape replaced by that of another object of the
same scene, then with the picture corrupted in each of three ways.
"""

from __future__ import annotations

from typing import Any

import measured
import pandas as pd
from frame_cells import number, only
from page_tables import markdown

import nnsight_vlm as nv

LAYERS = (0, 2, 4, 6, 8)
QUIET = nv.recipes.Work(progress=False)
OF_WORDS = (
    ("`words`", "words", "none"),
    ("`after words`", "after words", "none"),
    ("`last`", "last", "none"),
    ("`words`, random positions", "words", "random positions"),
)
OF_PICTURES = (
    ("`image`", "image", "none"),
    ("`question`", "question", "none"),
    ("`question`, random positions", "question", "random positions"),
    ("`last`", "last", "none"),
)


def asked(model: Any, count: int) -> tuple[list[nv.Prompt], list[nv.Prompt], list[str]]:
    """Questions, the same about another object with another colour, and the answers of the first."""
    clean, corrupt, answers = list[nv.Prompt](), list[nv.Prompt](), list[str]()
    for scene in map(nv.shapes.scene, range(20 * count)):
        shapes = [each.shape for each in scene.objects]
        single = [each for each in scene.objects if shapes.count(each.shape) == 1]
        others = [each for each in single[1:] if each.color != single[0].color]
        if others and len(clean) < count:
            one, other = (
                nv.encode(model, f"what color is the {each.shape}?", scene.image) for each in (single[0], others[0])
            )
            clean, corrupt, answers = [*clean, one], [*corrupt, other], [*answers, single[0].color]
    return clean, corrupt, answers


def rows(frame: pd.DataFrame, lines: tuple[tuple[str, str, str], ...], corrupted: str) -> list[list[str]]:
    found, of = [], f"{corrupted} ({frame['images'].max()} questions)"
    for called, group, control in lines:
        wanted = {"group": group, "control": control, "measure": "restoration"}
        cells = [number(only(frame, layer=layer, **wanted)["mean"]) for layer in LAYERS]
        found.append([of, called, *cells])
    return found


def table(model: Any, count: int) -> str:
    clean, corrupt, answers = asked(model, count)
    common: dict[str, Any] = {"answers": answers, "layers": list(LAYERS), "work": QUIET}
    frame = nv.recipes.causal_trace(model, clean, corrupt=corrupt, **common)
    lines = rows(frame, OF_WORDS, "the question's shape")
    for kind in ("another image", "noise", "mean"):
        frame = nv.recipes.causal_trace(model, clean, corrupt=kind, groups=["image", "question", "last"], **common)
        lines += rows(frame, OF_PICTURES, f"`{kind}`")
    return markdown(["corrupted", "restoration", *map(str, LAYERS)], lines)


def main() -> None:
    options = measured.parser(__doc__, questions=6).parse_args()
    measured.tell("recipes/causal_trace", table(nv.load("shapes"), options.questions))


if __name__ == "__main__":
    main()
