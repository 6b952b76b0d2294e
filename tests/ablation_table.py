"""The table of docs/recipes/ablation.md: image tokens that show an object are overwritten, and as many others.

Run: `python tests/ablation_table.py`; `--save` keeps it. The numbers below it, of polling and of descriptions, stand in
sentences of the page.
"""

from __future__ import annotations

from typing import Any

import measured
import pandas as pd
from frame_cells import estimate, only
from page_tables import markdown

import nnsight_vlm as nv

MODELS = ("shapes", "shapes-gist")
ROWS = (
    ("object", "none"),
    ("object", "other object"),
    ("random", "random patches"),
    ("random", "random patches, again"),
    ("register-like", "none"),
    ("gradient", "none"),
)
QUIET = nv.recipes.Work(progress=False)


def asked_for_colors(model: Any, scenes: int) -> pd.DataFrame:
    """The frame of the questions that ask for a colour."""
    asked = []
    for scene in map(nv.shapes.scene, range(scenes)):
        for question in nv.shapes.questions(scene):
            if question.family == "color":
                shape = next(word for word in question.text.strip("?").split() if word in nv.shapes.language.SHAPES)
                about = next(f"{each.color} {each.shape}" for each in scene.objects if each.shape == shape)
                asked.append((scene, question, about))
    return nv.recipes.ablation(
        model,
        [nv.encode(model, question.text, scene.image) for scene, question, _ in asked],
        truths=[nv.recipes.shape_truth(scene) for scene, *_ in asked],
        asked=[about for *_, about in asked],
        answers=[question.answer for _, question, _ in asked],
        work=QUIET,
    )


def in_other_forms(model: Any, scenes: int) -> list[str]:
    """Of the first object of each scene: yes to "is there ...?" without it and with it, and whether it is named."""
    drawn = [nv.shapes.scene(number) for number in range(scenes)]
    first = [f"{scene.objects[0].color} {scene.objects[0].shape}" for scene in drawn]
    truths = [nv.recipes.shape_truth(scene) for scene in drawn]
    tokens = ["object", "random"]
    common: dict[str, Any] = {"truths": truths, "tokens": tokens, "work": QUIET}
    polls = [nv.encode(model, f"is there a {name}?", scene.image) for name, scene in zip(first, drawn, strict=True)]
    polled = nv.recipes.ablation(model, polls, asked=first, form="polling", **common)
    asked = [nv.encode(model, "describe the image.", scene.image) for scene in drawn]
    described = nv.recipes.ablation(model, asked, form="generative", max_new_tokens=32, **common)
    return [
        estimate(only(polled, tokens="nothing", measure="yes"), 3),
        estimate(only(polled, tokens="object", control="none", measure="yes"), 3),
        estimate(only(described, tokens="object", control="none", measure="named")),
        estimate(only(described, tokens="random", control="random patches", measure="named")),
    ]


def table(frames: list[pd.DataFrame]) -> str:
    head, rows = ["tokens", "control"], []
    for name in MODELS:
        head += [f"`{name}`, nats", f"`{name}`, kept", "overlap"]
    for tokens, control in ROWS:
        cells = []
        for frame in frames:
            wanted = {"tokens": tokens, "control": control}
            kept = only(frame, **wanted, measure="kept")
            cells += [
                estimate(only(frame, **wanted, measure="logprob_change")),
                estimate(kept),
                f"{only(frame, **wanted, measure='overlap')['mean']:.2f}",
            ]
        most = only(frames[0], tokens=tokens, control=control, measure="kept")["images"]
        everything = only(frames[0], tokens="object", control="none", measure="kept")["images"]
        called = "" if control == "none" else control if most == everything else f"{control} ({most} scenes)"
        rows.append([tokens, called, *cells])
    return markdown(head, rows)


def main() -> None:
    scenes = measured.parser(__doc__, scenes=18).parse_args().scenes
    models = [nv.load(name) for name in MODELS]
    frames = [asked_for_colors(model, scenes) for model in models]
    measured.tell("recipes/ablation", table(frames), in_other_forms(models[0], scenes))


if __name__ == "__main__":
    main()
