"""What two recipes say of questions about scenes: the tables of docs/recipes/information_flow.md and patch_knockout.md.

`python tests/scene_tables.py`; `--save` keeps them. The numbers below them stand in sentences of information_flow.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import measured
import pandas as pd
from frame_cells import estimate, only
from page_tables import markdown
from scene_questions import color_questions

import nnsight_vlm as nv

MODELS = ("shapes", "shapes-gist")
CENTRES = (1, 5)
EDGES = (
    ("image->last", "none"),
    ("question->last", "none"),
    ("image->question", "none"),
    ("last->last", "none"),
    ("object->last", "none"),
    ("object->last", "random patches"),
    ("rest of the image->last", "none"),
    ("object->question", "none"),
)
REGIONS = (
    ("patch", "largest_drop"),
    ("patch", "top_tenth"),
    ("patch", "hit"),
    ("patch", "iou"),
    ("object", "logprob_change"),
    ("rest of the image", "logprob_change"),
    ("image", "logprob_change"),
)
QUIET = nv.recipes.Work(progress=False)


class Found(NamedTuple):
    """What was measured of a model: frames of both recipes, and of a description that was begun."""

    flow: pd.DataFrame
    all_layers: pd.DataFrame
    patches: pd.DataFrame
    described: pd.DataFrame


def found(name: str, scenes: int) -> Found:
    model = nv.load(name)
    prompts, known = color_questions(model, scenes)
    wanted: dict[str, Any] = {"only_correct": True, "work": QUIET}
    flow = nv.recipes.information_flow
    begun, colors = begun_descriptions(model, min(12, scenes))
    return Found(
        flow=flow(model, prompts, **known, **wanted),
        all_layers=flow(model, prompts, answers=known["answers"], edges=["image->last"], windows=1, **wanted),
        patches=nv.recipes.patch_knockout(model, prompts, **known, **wanted),
        described=flow(model, begun, answers=colors, edges=["image->generated"], windows=1, work=QUIET),
    )


def begun_descriptions(model: Any, count: int) -> tuple[list[nv.Prompt], list[str]]:
    """Descriptions that end before the colour of the second object, and this colour."""
    scenes = [scene for scene in map(nv.shapes.scene, range(10 * count)) if len(scene.objects) > 1][:count]
    prompts, colors = list[nv.Prompt](), list[str]()
    for scene in scenes:
        first, second = scene.description.split(", ")[:2]
        color = next(word for word in second.split() if word in nv.shapes.language.COLORS)
        begun = f"{first}, {second.split(color)[0].strip()}"
        asked = nv.encode(model, "describe the image.", scene.image)
        prompts.append(asked.grown(model.processor.tokenizer(begun, add_special_tokens=False)["input_ids"]))
        colors.append(color)
    return prompts, colors


def percent(row: pd.Series) -> str:
    """A change in per cent. Nothing keeps intervals above -100, so an end beyond -100 or 100 is not written out."""

    def end(value: float) -> str:
        return "below -100" if value < -100 else "over 100" if value > 100 else f"{round(value) + 0}"

    return f"{end(row['mean'])} [{end(row['low'])}, {end(row['high'])}]"


def flow_table(each: list[Found]) -> str:
    head = ["edge", "control"]
    for name in MODELS:
        head += [f"`{name}`, centre {CENTRES[0]}", *(f"centre {centre}" for centre in CENTRES[1:])]
    rows = []
    for edge, control in EDGES:
        wanted = {"edge": edge, "control": control, "measure": "probability_change"}
        cells = [only(of.flow, centre=centre, **wanted) for of in each for centre in CENTRES]
        rows.append([f"`{edge}`", control, *map(percent, cells)])
    return markdown(head, rows)


def patch_table(each: list[Found]) -> str:
    rows = []
    for region, measure in REGIONS:
        controls = ("none",) if region == "image" else ("none", "random patches")
        cells = []
        for of in each:
            known = (only(of.patches, region=region, measure=measure, control=control) for control in controls)
            cells += [*map(estimate, known), ""][:2]
        rows.append([region, f"`{measure}`", *cells])
    return markdown(["region", "measure", *(word for name in MODELS for word in (f"`{name}`", "random patches"))], rows)


def numbers(each: list[Found]) -> list[str]:
    """What all layers together carry to the answer, and to a word of a description."""
    lost = only(each[0].all_layers, control="none", measure="probability_change")
    told = [f"{-lost['mean']:.0f} % [{-lost['high']:.0f}, {-lost['low']:.0f}]"]
    for unit, of in zip((" nats", ""), each, strict=True):
        change = only(of.described, control="none", measure="logprob_change")
        turned = {"mean": -change["mean"], "low": -change["high"], "high": -change["low"]}
        told.append(estimate(turned).replace(" ", f"{unit} ", 1))
    return told


def main() -> None:
    options = measured.parser(__doc__, scenes=24).parse_args()
    each = [found(name, options.scenes) for name in MODELS]
    for name, of in zip(MODELS, each, strict=True):
        print(f"{name}: {of.flow.attrs['images']} scenes")
    measured.tell("recipes/information_flow", flow_table(each), numbers(each))
    measured.tell("recipes/patch_knockout", patch_table(each))


if __name__ == "__main__":
    main()
