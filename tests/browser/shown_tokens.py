"""Pictures whose red rectangle fills what one token saw, and pages on which three words read one token each.

The rectangle is worked out by hand (`geometry.py`); the prompt is made by transformers' own processors.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import blocks
import geometry
import numpy as np
import pages
import payloads
import zoo
from geometry import Box, Size
from zoo import videos

import nnsight_vlm as nv

SQUARE, WIDE, TALL, BROAD, HIGH, FRAME = (320, 320), (480, 320), (300, 480), (640, 320), (300, 640), (240, 160)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One token of a picture.

    Attributes:
        member: the model of the zoo.
        size: of the picture.
        token: its number among all image tokens.
        box: what it saw, by hand.
        others: two other tokens of the same panel, far from it.
        pictures: how many pictures there are; the rectangle is in the last.
        frames: in which frames of a video the rectangle is.
    """

    member: str
    size: Size
    token: int
    box: Box
    others: tuple[int, int]
    pictures: int = 1
    frames: tuple[int, ...] = ()


CASES = {
    "square": Case(member="llava", size=SQUARE, token=6, others=(0, 15), box=geometry.centre_crop(SQUARE, 16, 4, 1, 2)),
    "wide": Case(member="llava", size=WIDE, token=6, others=(0, 15), box=geometry.centre_crop(WIDE, 16, 4, 1, 2)),
    "tall": Case(member="llava", size=TALL, token=9, others=(3, 12), box=geometry.centre_crop(TALL, 16, 4, 2, 1)),
    "second picture": Case(
        member="llava",
        size=WIDE,
        token=16 + 6,
        others=(16, 31),
        box=geometry.centre_crop(WIDE, 16, 4, 1, 2),
        pictures=2,
    ),
    # the whole picture first, then the rows of the canvas, each with a break at its end
    "tile": Case(
        member="llava_next",
        size=BROAD,
        token=16 + 1 * 9 + 5,
        others=(16 + 7, 16 + 3 * 9 + 6),
        box=geometry.on_canvas(BROAD, (32, 16), 4, 1, 5),
    ),
    "thumbnail": Case(
        member="llava_next", size=BROAD, token=6, others=(0, 15), box=geometry.stretched(BROAD, (16, 16), 4, 1, 2)
    ),
    # 35 of the canvas's 48 rows of pixels show the picture, so tokens of its rows 2 to 9 are kept
    "padded tiles": Case(
        member="llava_next",
        size=HIGH,
        token=16 + 3 * 5 + 1,
        others=(16 + 2 * 5 + 3, 16 + 3 * 5 + 3),
        box=geometry.on_canvas(HIGH, (16, 48), 4, 3 + 2, 1),
    ),
    "shuffled tile": Case(
        member="idefics3", size=BROAD, token=4 + 2, others=(5, 7), box=geometry.stretched(BROAD, (32, 16), 8, 1, 2)
    ),
    "shuffled thumbnail": Case(
        member="idefics3", size=BROAD, token=8 + 1, others=(8, 10), box=geometry.stretched(BROAD, (16, 16), 8, 0, 1)
    ),
    "merged": Case(
        member="qwen2_vl",
        size=BROAD,
        token=2 * 8 + 5,
        others=(0, 3 * 8 + 7),
        box=geometry.stretched(BROAD, geometry.multiples(BROAD, 8, 16 * 16, 48 * 48), 8, 2, 5),
    ),
    "frames": Case(
        member="qwen2_vl",
        size=FRAME,
        token=6 + 2,
        others=(6 + 0, 6 + 4),
        box=geometry.stretched(FRAME, (24, 16), 8, 0, 2),
        frames=(2, 3),
    ),
}


def prompt_of(case: Case) -> nv.Prompt:
    """Grey noise with the rectangle, in front of a model."""
    if case.frames:
        film = [
            payloads.picture(case.size, case.box if number in case.frames else None, seed=number) for number in range(4)
        ]
        return nv.encode(videos.load(case.member), "what happens then ?", videos=film)
    model, text = zoo.load(case.member), zoo.ZOO[case.member].text
    plain = [payloads.picture(case.size, seed=number) for number in range(1, case.pictures)]
    return nv.encode(
        model,
        text if case.pictures == 1 else text.replace("<image>", "<image> " * case.pictures),
        [*plain, payloads.picture(case.size, case.box)] if plain else payloads.picture(case.size, case.box),
    )


@functools.cache
def page_about(name: str) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    """A page of one case, its payload, and three words: they read the token, and the two others."""
    case = CASES[name]
    prompt = prompt_of(case)
    made = nv.view(prompt.model, prompt, quantities=["weight"], max_new_tokens=3)
    payload = pages.payload_of(made.html())
    [column] = payload["columns"]
    chosen = [index for index, word in enumerate(column["words"]) if word["row"] >= 0][-3:]
    weight = column["quantities"]["weight"]
    layers, heads, rows, tokens = weight["data"]["shape"]
    values = np.zeros((layers, heads, rows, tokens))
    for index, token in zip(chosen, (case.token, *case.others), strict=True):
        values[:, :, column["words"][index]["row"], token] = 0.7
    weight["data"] = blocks.dense(values)
    return pages.with_payload(made.html(), payload), payload, tuple(chosen)
