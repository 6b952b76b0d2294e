"""The tables of nnsight_vlm/shapes/README.md: `python tests/shapes_table.py`; `--save` keeps them.

What the models answer, and what they answer where the answer's tokens, or all of the text, cannot see the image.
"""

from __future__ import annotations

import sys
import time

import measured
from page_tables import markdown

from nnsight_vlm.shapes.evaluate import FamilyResult, evaluate, load
from nnsight_vlm.shapes.language import DESCRIPTIONS, FAMILIES

MODELS = ("shapes", "shapes-gist")
CUTS = {"none": "", "generated": ", answer cut from image (`generated`)", "text": ", blind (`text`)"}
RESULTS = dict[tuple[str, str], dict[str, FamilyResult]]
"""By model and cut, then by family of questions."""


def results(scenes: int) -> RESULTS:
    found: RESULTS = {}
    for name in MODELS:
        model, processor = load(name)
        for cut in CUTS:
            families = FAMILIES if cut == "none" or (name, cut) == ("shapes", "text") else DESCRIPTIONS
            begun = time.perf_counter()
            each = evaluate(model, processor, range(scenes), families, cut)
            found[name, cut] = {result.family: result for result in each}
            print(f"{name}, cut: {cut}, {time.perf_counter() - begun:.0f} s", file=sys.stderr)
    return found


def exact_table(found: RESULTS) -> str:
    head = ["family", "asked", *(word for name in MODELS for word in (f"`{name}`, exact", "95 % interval"))]
    rows = []
    for family in FAMILIES:
        each = [found[name, "none"][family] for name in MODELS]
        cells = [cell for one in each for cell in (f"{one.exact:.3f}", f"{one.low:.3f} to {one.high:.3f}")]
        rows.append([family, str(each[0].asked), *cells, f"{found['shapes', 'text'][family].exact:.3f}"])
    return markdown([*head, "`shapes`, blind"], rows)


def f1_table(found: RESULTS) -> str:
    head = ["object F1", "`describe`", "`describe`, all attributes", "`describe-short`", "`list`"]
    rows = []
    for (name, cut), of in found.items():
        scores = of["describe"].f1, of["describe"].f1_full, of["describe-short"].f1, of["list"].f1
        rows.append([f"`{name}`{CUTS[cut]}", *(f"{score:.3f}" for score in scores)])
    return markdown(head, rows)


def main() -> None:
    found = results(measured.parser(__doc__, scenes=1000).parse_args().scenes)
    measured.tell("shapes", f"{exact_table(found)}\n{f1_table(found)}")


if __name__ == "__main__":
    main()
