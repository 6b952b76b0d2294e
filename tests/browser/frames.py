"""How smoothly a large page moves: `python tests/browser/frames.py`, with nothing else at work on the machine.

The page has 2,880 image tokens (four tiles of 24 x 24 and a thumbnail), 12 layers and an answer of 60 words. Its
numbers are random, so it has more bytes than `nv.view` lets a page have. The pointer goes over all words, then over
patches, then the layer slider is dragged to and fro; meanwhile each frame of the screen is timed. A frame takes 16.7 ms
at best.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import blocks
import browsers
import numpy as np
import pages
import payloads
from playwright.sync_api import Page, sync_playwright

SIDE, LAYERS, WORDS, EDGE = 24, 12, 60, 672
TILES = [(0, 0), (1, 0), (0, 1), (1, 1)]
TIME_FRAMES = """
() => {
    window.frames_ = []; window.timing = true;
    let last = performance.now();
    const note = now => { window.frames_.push(now - last); last = now; window.timing && requestAnimationFrame(note); };
    requestAnimationFrame(now => { last = now; requestAnimationFrame(note); });
}
"""


def large() -> payloads.Payload:
    """A picture of 1,344 x 1,344 pixels; attention is spread as it is in models: few patches have most of it."""
    payload = payloads.square(quantities=("weight",))
    tokens = SIDE * SIDE * (len(TILES) + 1)
    panels = [panel("tile", (x * EDGE, y * EDGE), EDGE, number) for number, (x, y) in enumerate(TILES)]
    panels.append(panel("thumbnail", (0, 0), 2 * EDGE, len(TILES)))
    picture = {"uri": payloads.uri(payloads.picture((2 * EDGE, 2 * EDGE))), "width": 2 * EDGE, "height": 2 * EDGE}
    [column] = payload["columns"]
    column["words"] = payloads.words([f"word{number}" for number in range(WORDS)])
    rows = len(payloads.PROMPT) - 1 + WORDS
    shares = np.random.default_rng(0).lognormal(0, 2, (LAYERS, 1, rows, tokens))
    weight = column["quantities"]["weight"]
    weight.update(layers=list(range(LAYERS)), heads=["mean"], rows=rows)
    weight["data"] = blocks.sparse(shares / shares.sum(-1, keepdims=True), 0.04)
    column.update(sinks=None, lens=None)
    return payload | {
        "pictures": [picture | {"label": "picture"}],
        "panels": panels,
        "objects": [],
        "tokens": tokens,
        "positions": list(range(tokens)),
    }


def panel(kind: str, corner: tuple[int, int], edge: int, number: int) -> dict[str, Any]:
    """A square of patches."""
    (left, top), step = corner, edge / SIDE
    cells = [[row, column] for row in range(SIDE) for column in range(SIDE)]
    return {
        "picture": 0,
        "kind": kind,
        "label": f"{kind} {number}",
        "crop": [left, top, left + edge, top + edge],
        "rows": SIDE,
        "columns": SIDE,
        "tokens": [number * SIDE * SIDE + at for at in range(SIDE * SIDE)],
        "boxes": [[left + x * step, top + y * step, left + (x + 1) * step, top + (y + 1) * step] for y, x in cells],
        "cells": cells,
    }


def over_words(page: Page) -> None:
    for index in range(len(payloads.PROMPT), len(payloads.PROMPT) + WORDS):
        box = page.locator(f'[data-word="0.{index}"]').bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def over_patches(page: Page) -> None:
    box = page.locator("canvas[data-panel='0']").bounding_box()
    for share in np.linspace(0.02, 0.98, 60):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + share * box["height"])


def over_layers(page: Page) -> None:
    box = page.locator("#layer").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for share in (*np.linspace(0.5, 1, 15), *np.linspace(1, 0, 30), *np.linspace(0, 0.5, 15)):
        page.mouse.move(box["x"] + share * box["width"], middle)
    page.mouse.up()


def main() -> None:
    html = pages.page_of(large())
    print(f"page: {len(html.encode()):,} bytes")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "large.html"
        path.write_text(html, encoding="utf-8")
        for name in browsers.COMMANDS:
            browser = browsers.launched(playwright, name)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            page.goto(f"{path.as_uri()}#l=5&w=0.{len(payloads.PROMPT)}")
            page.wait_for_selector("html[data-ready=true]", state="attached")
            print(f"{name} {browser.version}: ready after {time.perf_counter() - start:.1f} s")
            for act in (over_words, over_patches, over_layers):
                page.evaluate(TIME_FRAMES)
                act(page)
                frames = np.asarray(page.evaluate("() => { window.timing = false; return window.frames_ }"))
                middle, high = np.percentile(frames, [50, 95])
                most = f"median {middle:.1f}, 95 % below {high:.1f}, longest {frames.max():.1f}"
                print(f"  {act.__name__.replace('_', ' ')}: {len(frames)} frames, ms: {most}", flush=True)
            browser.close()


if __name__ == "__main__":
    main()
