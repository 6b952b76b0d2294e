"""Which images of a row are frames of a video, in families whose frames have the token of images (InternVL, SmolVLM).

There a video is a text that the processor writes, `Frame1: <image> Frame2: <image> ...`, and nothing else tells its
frames from images. Where the encoding was made here, it is known what was shown. Of a ready encoding the text tells it;
whoever wrote such a text around images of their own says so by giving them, `nv.encode(model, inputs=..., images=...)`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ..families import ModelView
from ..grids import Cells, joined

Films = Sequence[int] | None
"""For each image or video that a row's text refers to, in order: 0 for an image, else the video's number of frames.

What it does not list are images. None where it is not known.
"""


class Shown(NamedTuple):
    """The images or videos of a row: the positions of each one's tokens, and its cells."""

    positions: tuple[tuple[int, ...], ...]
    cells: tuple[Cells, ...]


def with_films(images: Shown, films: Sequence[int]) -> tuple[Shown, Shown]:
    """The images that are images, and the videos that the others are frames of."""
    kept, videos, at = list[int](), list[range](), 0
    for frames in films:
        if frames:
            videos.append(range(at, at + frames))
        else:
            kept.append(at)
        at += frames or 1
    kept += range(at, len(images.positions))
    positions = tuple(tuple(place for n in video for place in images.positions[n]) for video in videos)
    cells = tuple(joined([images.cells[n] for n in video]) for video in videos)
    return Shown(tuple(images.positions[n] for n in kept), tuple(images.cells[n] for n in kept)), Shown(
        positions, cells
    )


def films_in(view: ModelView, ids: Sequence[int], images: Shown) -> list[int]:
    """What the text of a ready encoding tells about its images."""
    video, tokenizer = view.family.video, getattr(view.processor, "tokenizer", None)
    if video is None or tokenizer is None or not images.positions:
        return []
    edges = [(0, 0), *((positions[0], positions[-1] + 1) for positions in images.positions)]
    gaps = ["".join(str(tokenizer.decode(list(ids[stop:start]))).split()) for (_, stop), (start, _) in pairwise(edges)]
    films = list[int]()
    for gap, cells in zip(gaps, images.cells, strict=True):
        is_tile = len(cells.shapes) == 1
        if is_tile and films and films[-1] and re.search(video.between, gap, re.IGNORECASE):
            films[-1] += 1
        else:
            films.append(int(is_tile and re.search(video.opening, gap, re.IGNORECASE) is not None))
    return films
