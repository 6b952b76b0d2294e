"""From a ready encoding to a `Prompt`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import SpecError
from ..families import Model, view_of
from ..grids import frames_per_tile, with_frames
from .conversation import READY
from .frame_runs import Films
from .pictures import per_row
from .prompt import Prompt, PromptBatch, make_prompt
from .ready_inputs import check_entries, checked_inputs
from .token_map import TokenMap
from .token_roles import token_maps
from .token_text import known_tokenizer
from .turns import speaking, unspoken
from .video_sources import Frames, as_video, videos_per_row


def from_ready(model: Model, inputs: Mapping[str, Any], images: Any, videos: Any) -> Prompt | PromptBatch:
    """A prompt from an encoding that a user gives, and from the pictures and videos that it was made of."""
    inputs = checked_inputs(model, inputs)
    rows = len(inputs["input_ids"])
    opened = [[as_video(view_of(model), video).frames for video in some] for some in videos_per_row(videos, rows)]
    films = [()] * rows if images is not None and videos is None else None
    return _prompt(model, inputs, per_row(images, rows), opened, films)


def from_inputs(
    model: Model,
    inputs: Mapping[str, Any],
    images: Any,
    videos: Sequence[Sequence[Frames]],
    films: Sequence[Films] | None,
) -> Prompt | PromptBatch:
    """A prompt from an encoding, its pictures and the frames of its videos.

    Args:
        model: an nnsight model.
        inputs: the encoding.
        images: the pictures of each row.
        videos: the frames of each row's videos.
        films: which images are frames, see `frame_runs`.

    Raises:
        SpecError: see `checked_inputs`; another number of pictures or videos than the rows have.
    """
    inputs = checked_inputs(model, inputs)
    return _prompt(model, inputs, per_row(images, len(inputs["input_ids"])), videos, films)


def _prompt(
    model: Model,
    inputs: Mapping[str, Any],
    pictures: Any,
    videos: Sequence[Sequence[Frames]],
    films: Sequence[Films] | None,
) -> Prompt | PromptBatch:
    tokenizer = known_tokenizer(model)
    made = token_maps(model, inputs, films=films)
    rows = tuple(speaking(row, unspoken(row, tokenizer, READY)) for row in made)
    check_entries(model, inputs, rows)
    _check_count("picture", "image", pictures, [len(tokens.images) for tokens in rows])
    _check_count("video", "video", videos, [len(tokens.videos) for tokens in rows])
    if any(videos):
        per_tile = frames_per_tile(view_of(model))
        rows = tuple(_with_frames(tokens, shown, per_tile) for tokens, shown in zip(rows, videos, strict=True))
    frames = tuple(tuple(shown) for shown in videos) if any(videos) else ()
    return make_prompt(model, inputs, rows, pictures if any(pictures) else (), frames)


def _check_count(thing: str, kind: str, given: Sequence[Sequence[Any]], there: Sequence[int]) -> None:
    """Refuse pictures or videos that are not as many as the rows have, where any were given."""
    counts = list(map(len, given))
    if any(given) and counts != list(there):
        raise SpecError(
            f"{counts} {thing}(s) were given for the {len(there)} row(s), whose input_ids have tokens of "
            f"{list(there)} {kind}(s)"
        )


def _with_frames(tokens: TokenMap, videos: Sequence[Frames], per_tile: int) -> TokenMap:
    """A row of which it is known how many frames each video has: the last of a temporal patch may be a copy."""
    cells = zip(tokens.video_cells, videos, strict=True)
    return replace(tokens, video_cells=tuple(with_frames(own, per_tile, len(frames)) for own, frames in cells))
