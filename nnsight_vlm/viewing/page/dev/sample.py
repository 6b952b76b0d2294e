"""Pages of numbers that were made up, to look at the viewer without a model: `python dev/sample.py FOLDER`."""

from __future__ import annotations

import base64
import io
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ASSETS = Path(__file__).parents[2] / "assets"
CSP = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "require-trusted-types-for 'script'"
)
PROMPT = "<s> USER: <picture> What does the person on the left hold ? ASSISTANT:".split()
ANSWER = (
    "The person on the left holds a red umbrella , and a small brown dog <script>alert(1)</script> stands "
    "beside them on the wet pavement , looking at the camera . Behind them , several people walk past a shop."
).split()
CHANGED = ANSWER[:6] + "a black bag , and nobody else is near .".split()


def packed(values: np.ndarray, kind: str) -> str:
    """Numbers as a page has them."""
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values, dtype=kind).tobytes(), 9)).decode()


def block(values: np.ndarray, *, signed: bool, floor: float = 0.0) -> dict[str, Any]:
    """`[layer, head, row, token]` in bytes."""
    scale = np.abs(values).max(-1)
    shares = values / np.where(scale > 0, scale, 1)[..., None]
    codes = (np.rint(shares * 127) + 128 if signed else np.rint(shares * 255)).astype(np.uint8)
    made: dict[str, Any] = {"shape": list(values.shape), "dtype": "u8", "scale": packed(scale, "<f4")}
    if not floor:
        return made | {"encoding": "dense", "bytes": packed(codes, "u1")}
    kept = (np.abs(shares) >= floor).reshape(-1, values.shape[-1])
    steps = [np.diff(np.flatnonzero(row), prepend=0) for row in kept]
    return made | {
        "encoding": "sparse",
        "bytes": packed(codes.reshape(kept.shape)[kept], "u1"),
        "counts": packed(kept.sum(1), "<u2"),
        "index": packed(np.concatenate(steps), "<u2"),
        "floor": floor,
        "dropped": 0.04,
    }


def picture(width: int, height: int) -> Image.Image:
    """A street, roughly."""
    image = Image.new("RGB", (width, height), (178, 196, 210))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, height * 0.6, width, height), fill=(110, 108, 104))
    draw.rectangle((width * 0.55, height * 0.1, width * 0.95, height * 0.65), fill=(150, 90, 70))
    draw.pieslice((width * 0.12, height * 0.12, width * 0.45, height * 0.62), 180, 360, fill=(190, 30, 40))
    draw.rectangle((width * 0.26, height * 0.37, width * 0.31, height * 0.85), fill=(40, 50, 90))
    draw.ellipse((width * 0.42, height * 0.68, width * 0.56, height * 0.85), fill=(110, 70, 40))
    noise = np.random.default_rng(0).normal(0, 6, (height, width, 1))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


def panel(
    kind: str, label: str, crop: tuple[float, ...], shape: tuple[int, int], first: int, number: int = 0
) -> dict[str, Any]:
    """A panel of patches in rows."""
    rows, columns = shape
    x0, y0, x1, y1 = crop
    across, down = (x1 - x0) / columns, (y1 - y0) / rows
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    boxes = [[x0 + c * across, y0 + r * down, x0 + (c + 1) * across, y0 + (r + 1) * down] for r, c in cells]
    tokens = list(range(first, first + len(cells)))
    shown = {"picture": number, "kind": kind, "label": label, "crop": list(crop), "rows": rows, "columns": columns}
    return shown | {"tokens": tokens, "boxes": boxes, "cells": cells}


def words(answer: list[str], changed: bool) -> list[dict[str, Any]]:
    """Words, of which the first three read nothing."""
    found = []
    for index, text in enumerate([*PROMPT, *answer]):
        part = "generated" if index >= len(PROMPT) else "markup" if text[0] == "<" or text.endswith(":") else "query"
        silent = index < 3
        word = {"text": text, "space": index > 0, "part": part, "row": -1 if silent else index - 3, "logprob": None}
        word["why"] = "It stands before the picture, so it could not read any of it." if silent else ""
        word["changed"] = changed and index >= len(PROMPT) + 6
        if text == "<picture>":
            word |= {"picture": 0, "text": "picture", "why": "The picture's own tokens stand here."}
        found.append(word)
    return found


def maps(centres: np.ndarray, layers: int, rows: int, seed: int, sinks: list[int]) -> np.ndarray:
    """Made-up attention `[layer, 1, row, token]`: a blob that sharpens with depth, noise, and sinks."""
    random = np.random.default_rng(seed)
    aims = random.uniform(0.15, 0.85, (rows, 2))
    far = ((centres[None] - aims[:, None]) ** 2).sum(-1)
    found = np.stack([np.exp(-far / (0.16 - 0.13 * layer / max(layers - 1, 1))) for layer in range(layers)])
    found = found + random.exponential(0.08, found.shape)
    found[:, :, sinks] += 3
    return (found / found.sum(-1, keepdims=True) * 0.35)[:, None]


def payload(
    title: str,
    size: tuple[int, int],
    panels: list[dict[str, Any]],
    *,
    layers: int,
    pair: bool,
    causal: bool,
    floor: float = 0.0,
    pictures: int = 1,
) -> dict[str, Any]:
    """A page of made-up numbers."""
    tokens = sum(len(each["tokens"]) for each in panels)
    boxes = np.array([box for each in panels for box in each["boxes"]])
    centres = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2 / size[0], (boxes[:, 1] + boxes[:, 3]) / 2 / size[1]], -1)
    file = io.BytesIO()
    picture(*size).save(file, "JPEG", quality=88)
    uri = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
    sinks = [0, tokens // 3]

    def column(key: str, seed: int) -> dict[str, Any]:
        listed = words(ANSWER if key == "clean" else CHANGED, key != "clean")
        rows = len(listed) - 3
        values = maps(centres, layers, rows, seed, sinks)
        weight = {
            "title": "attention weight",
            "unit": "share of the row",
            "signed": False,
            "layers": list(range(layers)),
        }
        weight |= {
            "about": "The share of a word's attention that goes to each patch.",
            "heads": ["mean"],
            "rows": rows,
            "has": None,
        }
        weight |= {"missing": 'nv.view(model, prompt, heads="all")', "data": block(values, signed=False, floor=floor)}
        quantities = {"weight": weight}
        if causal:
            has = list(range(len(PROMPT) - 3, rows))
            lost = (values.mean(0, keepdims=True) * 20 - 0.01)[:, :, has]
            quantities["causal"] = weight | {
                "title": "causal effect",
                "unit": "nats",
                "signed": True,
                "layers": ["all"],
                "has": has,
                "about": "How much log-probability the word loses when one patch is hidden from the answer.",
                "missing": 'nv.view(model, prompt, quantities=["causal"])',
                "data": block(lost, signed=True),
            }
        lens = np.random.default_rng(seed).integers(1, 6, (layers, tokens))
        return {
            "key": key,
            "title": "clean" if key == "clean" else "Knockout image \u2192 generated, layers 8\u201316",
            "words": listed,
            "sinks": {"layers": list(range(layers)), "tokens": [sinks] * layers},
            "lens": {
                "layers": list(range(layers)),
                "vocabulary": ["", "red", "umbrella", "sky", "dog", "street"],
                "words": {"encoding": "dense", "shape": list(lens.shape), "dtype": "u16", "bytes": packed(lens, "<u2")},
                "probability": {
                    "encoding": "dense",
                    "shape": list(lens.shape),
                    "dtype": "u8",
                    "bytes": packed(lens * 30, "u1"),
                },
            },
            "quantities": quantities,
        }

    width, height = size
    return {
        "format": 1,
        "title": title,
        "facts": [
            ["model", "made up"],
            ["precision", "float32"],
            ["a row", "what the model read when it wrote the word"],
        ],
        "notes": ["All numbers of this page are made up."],
        "pictures": [
            {"uri": uri, "width": width, "height": height, "label": f"picture {n + 1}"} for n in range(pictures)
        ],
        "tokens": tokens,
        "positions": list(range(5, 5 + tokens)),
        "panels": panels,
        "unplaced": [],
        "objects": [
            {
                "picture": 0,
                "name": "umbrella",
                "box": [width * 0.12, height * 0.12, width * 0.45, height * 0.38],
                "outline": None,
            },
            {
                "picture": 0,
                "name": "dog",
                "box": [width * 0.42, height * 0.68, width * 0.56, height * 0.85],
                "outline": [
                    [width * (0.49 + 0.07 * np.cos(a)), height * (0.765 + 0.085 * np.sin(a))]
                    for a in np.linspace(0, 6.28, 20)
                ],
            },
        ],
        "columns": [column("clean", 1), *([column("changed", 2)] if pair else [])],
    }


def page(content: dict[str, Any]) -> str:
    """The page as it is saved."""
    text = json.dumps(content).replace("<", "\\u003c")
    script, style = ((ASSETS / name).read_text() for name in ("viewer.js", "viewer.css"))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><meta http-equiv="Content-Security-Policy" content="{CSP}">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>view</title><style>{style}</style></head><body>'
        f'<script type="application/json" id="nnsight-vlm-view">{text}</script><script>{script}</script></body></html>'
    )


def samples() -> dict[str, dict[str, Any]]:
    """Pages by name."""
    square, wide, tall, big = (640, 640), (1400, 420), (360, 1100), (1344, 1008)
    crop = (152.0, 0.0, 152.0 + 420, 420.0)
    tiles = [
        panel("tile", f"tile {n + 1} of 4", (x * 672, y * 504, x * 672 + 672, y * 504 + 504), (24, 24), 576 * n)
        for n, (y, x) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)])
    ]
    tiles.append(panel("thumbnail", "thumbnail", (0, 0, *big), (24, 24), 576 * 4))
    frames = [panel("frame", f"frame {n}", (0, 0, 480, 360), (9, 12), 108 * n, n) for n in range(8)]
    return {
        "square": payload(
            "llava: What does the person on the left hold?",
            square,
            [panel("picture", "picture", (0, 0, *square), (24, 24), 0)],
            layers=32,
            pair=False,
            causal=True,
        ),
        "pair": payload(
            "llava, cut: What does the person hold?",
            square,
            [panel("picture", "picture", (0, 0, *square), (12, 12), 0)],
            layers=12,
            pair=True,
            causal=False,
        ),
        "wide": payload(
            "wide", wide, [panel("picture", "picture", crop, (24, 24), 0)], layers=4, pair=False, causal=False
        ),
        "tall": payload(
            "tall", tall, [panel("picture", "picture", (0, 0, *tall), (31, 10), 0)], layers=4, pair=False, causal=False
        ),
        "tiles": payload("tiles", big, tiles, layers=12, pair=False, causal=False, floor=0.02),
        "frames": payload("frames", (480, 360), frames, layers=4, pair=False, causal=False, pictures=8),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in samples().items():
        made = page(content)
        (folder / f"{name}.html").write_text(made)
        print(name, len(made))
