"""Payloads made by hand, from the description of format 1 alone: what each word reads is known without a model."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import blocks
import numpy as np
from PIL import Image

Payload = dict[str, Any]
RED = (214, 40, 40)
LAYERS, HEADS, SIDE, PATCH = [0, 1, 2], ["mean", "0", "1"], 4, 48
TOKENS = SIDE * SIDE
PROMPT = ["user:", "what", "is", "red", "?", "assistant:"]
ANSWERS = {"clean": ["a", "red", "square", "."], "changed": ["a", "blue", "ring", "."]}
ROWS = len(PROMPT) - 1 + len(ANSWERS["clean"])
"""The first word stands before the picture and reads nothing of it."""
SIGNED = {"weight": False, "contribution": True, "gradient": True, "causal": True}
ABOUT = {
    "weight": ("attention weight", "share of the row"),
    "contribution": ("contribution", "share of the row"),
    "gradient": ("gradient", "log-probability"),
    "causal": ("causal effect", "nats"),
}


def top(layer: int, head: int, row: int, column: int = 0) -> int:
    """The patch that a row reads most, by numbers of layer, head, row and column."""
    return (5 * row + 3 * layer + 7 * head + 2 * column + 1) % TOKENS


def weights(column: int = 0, layers: int = len(LAYERS), heads: int = len(HEADS), signed: bool = False) -> np.ndarray:
    """`[layer, head, row, token]`: each row has one large value; where signs count, the patch behind it is below 0."""
    values = np.full((layers, heads, ROWS, TOKENS), 0.5 / (TOKENS - 1))
    for layer, head, row in np.ndindex(layers, heads, ROWS):
        best = top(layer, head, row, column)
        values[layer, head, row, best] = 0.5
        if signed:
            values[layer, head, row, (best + 1) % TOKENS] = -0.3
    return values


def picture(size: tuple[int, int], red: Sequence[float] | None = None, seed: int = 0) -> Image.Image:
    """Grey noise, with a red rectangle in it."""
    shades = np.random.default_rng(seed).integers(90, 150, size[::-1], dtype=np.uint8)
    colours = np.repeat(shades[..., None], 3, axis=-1)
    if red is not None:
        x0, y0, x1, y1 = (round(edge) for edge in red)
        colours[y0:y1, x0:x1] = RED
    return Image.fromarray(colours)


def uri(image: Image.Image) -> str:
    """A picture as the address of itself."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def words(answer: Sequence[str], changed: bool = False) -> list[dict[str, Any]]:
    """The prompt's words and an answer's."""
    listed = []
    for index, text in enumerate((*PROMPT, *answer)):
        written = index >= len(PROMPT)
        kind = "generated" if written else "system" if index == 0 else "query"
        listed.append(
            {
                "text": text,
                "space": index > 0 and text not in ".?",
                "part": kind,
                "row": index - 1,
                "why": "" if index else "it stands before the image",
                "changed": changed and written and text != ANSWERS["clean"][index - len(PROMPT)],
                "logprob": -0.1 * index if written else None,
            }
        )
    return listed


def quantity(name: str, column: int) -> dict[str, Any]:
    """A quantity of one column; the causal one has no layers, and is known of the answer's words only."""
    title, unit = ABOUT[name]
    whole = name == "causal"
    rows = list(range(len(PROMPT) - 1, ROWS))
    values = weights(column, *((1, 1) if whole else ()), signed=SIGNED[name])
    data = values[:, :, rows] if whole else values
    return {
        "title": title,
        "unit": unit,
        "about": f"What {title} is.",
        "signed": SIGNED[name],
        "layers": ["all"] if whole else LAYERS,
        "heads": ["mean"] if whole else HEADS,
        "rows": ROWS,
        "has": rows if whole else None,
        "missing": "page = nv.view(model, prompt, words=[...])",
        "data": blocks.dense(data, signed=SIGNED[name]),
    }


def column(key: str, quantities: Sequence[str]) -> dict[str, Any]:
    number = ["clean", "changed"].index(key)
    lens = np.arange(len(LAYERS) * TOKENS).reshape(len(LAYERS), TOKENS)
    return {
        "key": key,
        "title": {"clean": "as it is", "changed": "without image to answer"}[key],
        "words": words(ANSWERS[key], changed=number == 1),
        "sinks": {"layers": LAYERS, "tokens": [[3], [3], [3, 9]]},
        "lens": {
            "layers": LAYERS,
            "vocabulary": ["red", "sky", "ring"],
            "words": blocks.lens_block(lens % 3, "<u2"),
            "probability": blocks.lens_block(lens * 4, "u1"),
        },
        "quantities": {name: quantity(name, number) for name in quantities},
    }


def square(*, columns: Sequence[str] = ("clean",), quantities: Sequence[str] = tuple(SIGNED)) -> Payload:
    """A square picture of 4 x 4 patches, whose object fills the second patch of the second row."""
    size, box = (SIDE * PATCH, SIDE * PATCH), [PATCH, PATCH, 2 * PATCH, 2 * PATCH]
    cells = [[row, cell] for row in range(SIDE) for cell in range(SIDE)]
    return {
        "format": 1,
        "title": "what is red ?",
        "facts": [["model", "by hand"], ["precision", "float32"]],
        "notes": ["Nothing was left out."],
        "pictures": [{"uri": uri(picture(size, box)), "width": size[0], "height": size[1], "label": "picture 1"}],
        "tokens": TOKENS,
        "positions": list(range(1, TOKENS + 1)),
        "panels": [
            {
                "picture": 0,
                "kind": "picture",
                "label": "picture 1",
                "crop": [0, 0, *size],
                "rows": SIDE,
                "columns": SIDE,
                "tokens": list(range(TOKENS)),
                "boxes": [[x * PATCH, y * PATCH, (x + 1) * PATCH, (y + 1) * PATCH] for y, x in cells],
                "cells": cells,
            }
        ],
        "unplaced": [],
        "objects": [{"picture": 0, "name": "red square", "box": box, "outline": None}],
        "columns": [column(key, quantities) for key in columns],
    }
