"""The pictures of README.md, and what they show: `python docs/pictures/make.py`.

The page of an answer is photographed in Chromium, as `python tests/browser/setup.py` sets it up. `shown.json` keeps
what the pictures show, words and numbers; a test compares it with what the model gives today.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.plots.style import BLACK

FOLDER = Path(__file__).parent
SHOWN = FOLDER / "shown.json"
SCENES = range(14)
WORD, LAYER = "ring", 5
"""The word of the answer whose patches are painted, and in which layer."""
WINDOW = {"width": 1000, "height": 640}
"""Of the browser; the page makes its picture as large as there is room for."""
SIZE = (5.6, 2.1)
"""Of the curve, in inches."""
INK = {"light": BLACK, "dark": "#E6EDF3"}
"""The colour of text and axes; the background is left open."""


def curve() -> pd.DataFrame:
    """How many answers are right when the last token cannot see a group of tokens from a layer on."""
    model, rows = nv.load("shapes"), []
    starts = [(source, first) for source in ("image", "question") for first in range(10)]
    cuts = [nv.Knockout(source, "last", layers=nv.window(first, 10)) for source, first in starts]
    for scene in map(nv.shapes.scene, SCENES):
        for question in nv.shapes.questions(scene):
            if question.family == "color":
                prompt = nv.encode(model, question.text, scene.image)
                swept = nv.sweep(model, prompt, cuts, answer=question.answer)
                right = (swept["rank"] == 0).astype(float)
                rows.append(pd.DataFrame(starts, columns=["source", "layer"]).assign(image=scene.seed, right=right))
    return nv.statistics.summarise(pd.concat(rows), ["source", "layer"], ["right"])


def page() -> nv.View:
    """The page of a description."""
    model, scene = nv.load("shapes"), nv.shapes.scene(3)
    return nv.view(
        model, nv.encode(model, "describe the image .", scene.image), max_new_tokens=40, objects=scene.objects
    )


def shown() -> dict[str, Any]:
    """What the pictures show."""
    frame = curve()
    return {
        "answers": [column["answer"] for column in page().payload["columns"]],
        "curve": {
            source: rows[["mean", "low", "high"]].round(3).to_numpy().tolist()
            for source, rows in frame.groupby("source", sort=False)
        },
    }


def draw(scheme: str) -> Image.Image:
    """The curve in the colours of a scheme."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = nv.plots.layer_lines(curve(), figure.subplots(), hue="source", value="mean")
    axes.set(
        xlabel="first layer from which the last token cannot see it", ylabel="share of right answers", ylim=(0, 1.03)
    )
    for text in figure.findobj(Text):
        text.set_color(INK[scheme])
    for line in figure.findobj(Line2D):
        if mpl.colors.same_color(line.get_color(), BLACK) or mpl.colors.same_color(line.get_color(), "black"):
            line.set_color(INK[scheme])
    for axis in figure.axes:
        axis.set_facecolor("none")
        for spine in axis.spines.values():
            spine.set_color(INK[scheme])
        axis.tick_params(color=INK[scheme])
    return _pixels(figure)


def _pixels(figure: Figure) -> Image.Image:
    content = BytesIO()
    figure.savefig(content, format="png", dpi=300, bbox_inches="tight", transparent=True)
    return Image.open(content)


def photograph(scheme: str) -> Image.Image:
    """The page in Chromium, with one word chosen."""
    import sys

    sys.path.insert(0, str(FOLDER.parent.parent / "tests" / "browser"))
    import browsers
    from playwright.sync_api import sync_playwright

    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "view.html"
        page().save(path)
        browser = browsers.launched(playwright, "chromium", scheme)
        shot = browser.new_page(viewport=WINDOW, color_scheme=scheme, device_scale_factor=2)
        shot.goto(f"{path.absolute().as_uri()}#l={LAYER}")
        shot.wait_for_selector("html[data-ready=true]", state="attached")
        shot.get_by_text(WORD, exact=True).first.click()
        top = shot.get_by_text("Prompt", exact=True).bounding_box()["y"] - 17
        legend = shot.get_by_text("the largest of this map").first.bounding_box()
        clip = {"x": 0, "y": top, "width": WINDOW["width"], "height": legend["y"] + legend["height"] + 3 - top}
        content = shot.screenshot(clip=clip, full_page=True)
        browser.close()
    return Image.open(BytesIO(content))


def keep(picture: Image.Image, name: str) -> None:
    """Write a picture with few colours, which makes its file small."""
    few = picture.convert("RGBA").quantize(255, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    few.save(FOLDER / f"{name}.png", optimize=True)
    print(f"{name}: {(FOLDER / f'{name}.png').stat().st_size / 1000:.0f} kB, {np.asarray(few).shape}")


def main() -> None:
    """All four pictures and what they show."""
    for scheme in INK:
        keep(draw(scheme), f"knockout-{scheme}")
        keep(photograph(scheme), f"view-{scheme}")
    SHOWN.write_text(json.dumps(shown(), indent=1) + "\n")


if __name__ == "__main__":
    main()
