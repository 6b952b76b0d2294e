"""How a compressed context answers on the models of scenes, with the size of its cache and how fast it decodes.

`python tests/compressed_table.py` prints a table of docs/recipes/compressed_context.md: the first question about a
colour of each of the scenes 0, 1, 2, ... that has one. With `--no-request` the question itself is the first pass.
"""

from __future__ import annotations

import argparse

import pandas as pd

import nnsight_vlm as nv

KEEP = (0, 1, 2, 5, 10, 25, 100)


def measured(name: str, scenes: int, request: str | None, timed: int) -> pd.DataFrame:
    """The frame of the recipe."""
    model, prompts, answers = nv.load(name), list[nv.Prompt](), list[str]()
    for scene in map(nv.shapes.scene, range(scenes)):
        for question in [each for each in nv.shapes.questions(scene) if each.family == "color"][:1]:
            prompts.append(nv.encode(model, question.text, scene.image))
            answers.append(question.answer)
    return nv.recipes.compressed_context(
        model, prompts, answers=answers, request=request, keep=KEEP, timed=timed, work=nv.recipes.Work(progress=False)
    )


def table(frame: pd.DataFrame) -> str:
    """Accuracy with intervals by choice and share, and below it bytes and tokens per second, as Markdown."""
    shown = frame.assign(choice=frame["tokens"].where(frame["control"] == "none", "random, for " + frame["tokens"]))
    lines = [f"| tokens | {' | '.join(f'{share} %' for share in KEEP)} |", f"| --- |{' --- |' * len(KEEP)}"]
    formats = {
        "accuracy": lambda row: f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
        "bytes": lambda row: f"{row['mean'] / 1000:.0f} kB",
        "tokens_per_second": lambda row: f"{row['mean']:.0f} tokens/s",
    }
    for measure, spelled in formats.items():
        of_measure = shown[shown["measure"] == measure]
        kinds = ("attention", "fastv") if measure != "accuracy" else dict.fromkeys(of_measure["choice"])
        for choice in kinds:
            rows = of_measure[of_measure["choice"] == choice].sort_values("kept")
            cells = [spelled(row) for row in rows.to_dict("records")]
            if cells:
                lines.append(f"| {choice}{'' if measure == 'accuracy' else f': {measure}'} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--no-request", action="store_true")
    parser.add_argument("--timed", type=int, default=16)
    given = parser.parse_args()
    request = None if given.no_request else "Describe the image."
    print(table(measured(given.model, given.scenes, request, given.timed)))
