"""Pages to look at by eye: `python tests/browser/screenshots.py FOLDER [chromium|firefox]`.

Light and dark, 1280 and 400 pixels wide: a square picture with outlines, a picture in tiles with a thumbnail, two
columns, a video.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import browsers
from playwright.sync_api import sync_playwright
from shown_tokens import CASES, prompt_of
from zoo import videos

import nnsight_vlm as nv


def views() -> Iterator[tuple[str, nv.View, str]]:
    """Names, pages, and what is chosen in them."""
    model, scene = nv.load("shapes"), nv.shapes.scene(3)
    described = nv.encode(model, "describe the image .", scene.image)
    more = {"objects": scene.objects, "sinks": 6.0, "lens": True, "max_new_tokens": 40}
    yield "square", nv.view(model, described, quantities=["weight", "contribution", "causal"], **more), ""
    asked = nv.encode(model, "what color is the ring ?", scene.image)
    cut = nv.Knockout("image", "last", layers=nv.window(2, 8))
    yield "columns", nv.view(model, asked, cut, objects=scene.objects, heads="all"), "#both=1&l=4"
    for name in ("padded tiles", "shuffled tile"):
        prompt = prompt_of(CASES[name])
        yield name.replace(" ", "-"), nv.view(prompt.model, prompt, max_new_tokens=8), "#l=1&show=grid,numbers"
    film = videos.load("qwen2_vl")
    prompt = nv.encode(film, "what happens then ?", videos=videos.film("qwen2_vl", 8, size=(240, 160)))
    yield "video", nv.view(film, prompt, max_new_tokens=8), "#l=1&show=grid"


def main(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        for kind, view, fragment in views():
            path = folder / f"{kind}.html"
            view.save(path)
            for scheme in browsers.SCHEMES:
                browser = browsers.launched(playwright, name, scheme)
                for width in (1280, 400):
                    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                    page.goto(path.absolute().as_uri() + fragment)
                    page.wait_for_selector("html[data-ready=true]", state="attached")
                    page.screenshot(path=folder / f"{kind}-{scheme}-{width}.png", full_page=True)
                browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(sys.argv[2:] or ["chromium"]))
