"""The table of docs/recipes/object_score.md: `python tests/object_score_table.py`; `--save` keeps it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import measured

import nnsight_vlm as nv

MEASURES = ("precision", "recall", "f1", "chair_i", "chair_s", "kappa")


def read_literally(text, names):
    """A judge that looks for the names themselves, in place of a language model."""
    return [name for name in names if name in text]


def lines(scenes: int) -> Iterator[str]:
    """The table, line by line."""
    yield "| model | scorer | control | " + " | ".join(MEASURES) + " |"
    yield "| --- " * (3 + len(MEASURES)) + "|"
    for name in ("shapes", "shapes-gist"):
        model, start = nv.load(name), time.perf_counter()
        drawn = [nv.shapes.scene(number) for number in range(scenes)]
        frame = nv.recipes.object_score(
            model,
            [nv.encode(model, "describe the image .", scene.image) for scene in drawn],
            truths=[nv.recipes.shape_truth(scene) for scene in drawn],
            judge=read_literally,
            work=nv.recipes.Work(progress=False),
        )
        for (scorer, control), rows in frame.groupby(["scorer", "control"], sort=False):
            cells = rows.set_index("measure")
            shown = [
                f"{cells['mean'][measure]:.3f} [{cells['low'][measure]:.3f}, {cells['high'][measure]:.3f}]"
                if measure in cells.index
                else ""
                for measure in MEASURES
            ]
            yield f"| {name} | {scorer} | {control} | {' | '.join(shown)} |"
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    parser = measured.parser(__doc__)
    parser.add_argument("scenes", type=int, nargs="?", default=24)
    options = parser.parse_args()
    measured.tell("recipes/object_score", "\n".join(lines(options.scenes)))
