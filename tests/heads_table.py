"""The table of docs/recipes/heads.md: `python tests/heads_table.py`; `--save` keeps it."""

from __future__ import annotations

import sys
import time
from typing import NamedTuple

import measured
import pandas as pd
from frame_cells import estimate, only
from page_tables import markdown
from scene_questions import steered_questions

import nnsight_vlm as nv

MODELS = ("shapes", "shapes-gist")
QUIET = nv.recipes.Work(progress=False)
ROWS = (
    ("hit of their mean map (chance {chance:.2f})", "map", "hit", "chosen", "none"),
    ("the same, random heads", "map", "hit", "chosen", "random heads"),
    ("the same, all heads", "map", "hit", "all", "none"),
    ("mass: chosen", "map", "mass", "chosen", "none"),
    ("mass: all heads", "map", "mass", "all", "none"),
    ("`mask_iou`: chosen", "map", "mask_iou", "chosen", "none"),
    ("`mask_iou`: chosen, smoothed", "smoothed map", "mask_iou", "chosen", "none"),
    ("nats lost, cut in the chosen heads", "cut", "logprob_change", "chosen", "none"),
    ("`kept`, cut in the chosen heads", "cut", "kept", "chosen", "none"),
    ("cut in random heads", "cut", "logprob_change", "chosen", "random heads"),
    ("cut in random heads, same layers", "cut", "logprob_change", "chosen", "random heads, same layers"),
    ("cut in all heads", "cut", "logprob_change", "all", "none"),
    ("other answer first, `steered`: chosen", "steered", "flipped", "chosen", "none"),
    ("other answer first, `forced`: chosen", "forced", "flipped", "chosen", "none"),
    ("`forced`: random heads", "forced", "flipped", "chosen", "random heads"),
    ("`forced`: random heads, same layers", "forced", "flipped", "chosen", "random heads, same layers"),
    ("`steered`: all heads", "steered", "flipped", "all", "none"),
)
"""The lines of the table: what they are called, and which row of the frame they are."""


class Found(NamedTuple):
    """The frames of a model, whose heads were chosen by masks and as in the paper, without them."""

    peak: pd.DataFrame
    paper: pd.DataFrame


def found(name: str, count: int) -> Found:
    model = nv.load(name)
    prompts, known = steered_questions(model, count)
    begun = time.perf_counter()
    frames = [
        nv.recipes.heads(model, prompts, choose=choose, only_correct=True, work=QUIET, **known)
        for choose in ("peak", "paper")
    ]
    print(f"{name}: {time.perf_counter() - begun:.0f} s, {frames[0].attrs['images']} pictures", file=sys.stderr)
    return Found(*frames)


def single_heads(frame: pd.DataFrame, split: str) -> pd.DataFrame:
    """The rows of each head's hits on one side of the split."""
    rows = frame[(frame["heads"] == "each") & (frame["control"] == "none")]
    return rows[(rows["measure"] == "hit") & (rows["split"] == split)]


def chosen_heads(frame: pd.DataFrame) -> list[tuple[int, int]]:
    """Layer and head, the best first."""
    ranked = single_heads(frame, "held out").dropna(subset="rank").sort_values("rank")
    return [(int(layer), int(head)) for layer, head in zip(ranked["layer"], ranked["head"], strict=True)]


def table(each: list[Found]) -> str:
    held = [single_heads(of.peak, "held out") for of in each]
    chances = [only(of.peak, what="map", measure="hit", heads="chosen", control="random patches") for of in each]
    rows = [
        ["the chosen heads (layer, head)", *(str(chosen_heads(of.peak))[1:-1] for of in each)],
        [f"heads that hold against chance, of {len(held[0])}", *(f"{int(hits['survives'].sum())}" for hits in held)],
    ]
    for called, what, measure, heads, control in ROWS:
        wanted = {"what": what, "measure": measure, "heads": heads, "control": control}
        cells = [estimate(only(of.peak, **wanted)) for of in each]
        rows.append([called.format(chance=chances[0]["mean"]), *cells])
    return markdown(['`choose="peak"`', *(f"`{name}`" for name in MODELS)], rows)


def others(of: Found) -> list[str]:
    """The hits of heads that the paper's way chooses and masks do not."""
    hits = single_heads(of.paper, "held out")
    new = [head for head in chosen_heads(of.paper) if head not in chosen_heads(of.peak)]
    return [estimate(only(hits, layer=layer, head=head)) for layer, head in new]


def main() -> None:
    options = measured.parser(__doc__, scenes=24).parse_args()
    each = [found(name, options.scenes) for name in MODELS]
    for name, of in zip(MODELS, each, strict=True):
        print(f'{name}, choose="paper": {chosen_heads(of.paper)}', file=sys.stderr)
    measured.tell("recipes/heads", table(each), [number for of in each for number in others(of)])


if __name__ == "__main__":
    main()
