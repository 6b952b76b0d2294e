"""A video from whatever holds one: a list of pictures, an array, a file; and the frames that a model is shown of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..arguments import number
from ..errors import SpecError
from ..families import ModelView
from ..grids import video_spec
from ..opening.files import can_import
from ..opening.processors import INSTALL, NoVideos
from .picture_sources import as_picture
from .pictures import as_rgb

Frames = tuple[Image.Image, ...]
"""A video as the model is shown it."""
Videos = tuple[tuple[Frames, ...], ...]
"""The videos of each row of an encoding."""

READERS = {"torchcodec": "torchcodec", "pyav": "av", "decord": "decord", "opencv": "cv2"}
"""What transformers reads video files with, in the order in which it is tried here, and the modules that it needs."""
WRITE = (
    'a list of pictures, an array [frame, height, width, 3], the path of a file, or {"video": frames, "fps": 2.0}; '
    "several videos are a list of these"
)
FPS = "fps"
SOURCES = ("video", "url", "path", "video_url")
"""The keys under which a mapping holds a video, as entries of chats do."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """A video that is to be encoded.

    Attributes:
        frames: the frames that the model is shown, all of one size.
        metadata: what the processor is told of their times, as transformers' `VideoMetadata` has it.
    """

    frames: Frames
    metadata: Mapping[str, Any]

    @property
    def array(self) -> np.ndarray:
        """`[frame, height, width, 3]` bytes."""
        return np.stack([np.asarray(as_rgb(frame)) for frame in self.frames])


def as_video(view: ModelView, given: Any) -> Video:
    """The video that something holds.

    Frames are shown as they are given, all of them. Of a file the model's video processor chooses some.

    Args:
        view: the model whose processor reads files.
        given: a list of pictures, see `as_picture`; an array or tensor `[frame, height, width, channel]` or `[frame,
            channel, height, width]`; the path or URL of a file; or one of these as `{"video": ..., "fps": ...}`, frames
            with the number of them in a second, for families that are told times. transformers takes 24 where nothing
            says it.

    Raises:
        SpecError: something else; frames of different sizes; no reader for a file.
    """
    video_spec(view)
    fps = None
    if isinstance(given, Mapping):
        given, fps = _of_mapping(given)
    if is_file(given):
        if fps is not None:
            raise SpecError(
                "fps= is that of frames which were given, and a file says its own; how many frames of a file are shown "
                "is set with model.processor.video_processor.fps or .num_frames"
            )
        return _of_file(view, os.fspath(given))
    frames = tuple(as_picture(frame) for frame in _frames_of(given))
    return Video(frames=_of_one_size(frames), metadata=_metadata(len(frames), fps, range(len(frames))))


def _of_mapping(given: Mapping[str, Any]) -> tuple[Any, float | None]:
    held = [key for key in SOURCES if given.get(key) is not None]
    unknown = [str(key) for key in given if key not in (*SOURCES, FPS, "type")]
    if len(held) != 1 or unknown:
        keys = ", ".join(map(repr, given)) or "none"
        raise SpecError(f"a video was given as a dict with the keys {keys}; write {WRITE}")
    video = given[held[0]]
    video = video["url"] if held[0] == "video_url" and isinstance(video, Mapping) else video
    fps = given.get(FPS)
    if fps is not None:
        fps = number(FPS, fps, above=0, kind="number of frames in a second")
    return video, fps


def _frames_of(given: Any) -> Sequence[Any]:
    """The frames of a list, an array or a tensor."""
    if isinstance(given, (np.ndarray, torch.Tensor)):
        if given.ndim != 4:
            raise SpecError(f"an array of shape {list(given.shape)} is no video; write {WRITE}")
        return list(given)
    if not isinstance(given, (list, tuple)):
        raise SpecError(f"{type(given).__name__} is no video; write {WRITE}")
    if not given:
        raise SpecError(f"a video without frames was given; write {WRITE}")
    return given


def _of_one_size(frames: Frames) -> Frames:
    if not frames:
        raise SpecError(f"a video without frames was given; write {WRITE}")
    sizes = sorted({frame.size for frame in frames})
    if len(sizes) > 1:
        raise SpecError(
            f"the frames of a video have {len(sizes)} sizes, {sizes[0]} and {sizes[1]}; give all of them in one size, "
            "or as images=[...] where the model takes several"
        )
    return frames


def _metadata(total: int, fps: float | None, shown: Sequence[int]) -> dict[str, Any]:
    return {
        "total_num_frames": total,
        "fps": fps,
        "duration": None if fps is None else total / fps,
        "frames_indices": [int(index) for index in shown],
    }


# files --------------------------------------------------------------------------------------------


def is_file(given: Any) -> bool:
    """Whether something names a file of a video, and not a picture."""
    return isinstance(given, (str, os.PathLike)) and not _is_picture_file(given)


def _is_picture_file(given: Any) -> bool:
    """Whether a name is that of a picture by its ending, or holds one itself (`data:`)."""
    name = os.fspath(given)
    return isinstance(name, str) and (name.startswith("data:image") or Path(name).suffix.lower() in _endings())


@lru_cache(maxsize=1)
def _endings() -> frozenset[str]:
    """The endings of the names of pictures' files; what moves is none."""
    Image.init()
    moving = {".gif", ".mpg", ".mpeg"}
    return frozenset(ending for ending in Image.registered_extensions() if ending not in moving)


def _of_file(view: ModelView, path: str) -> Video:
    """The frames that the video processor chooses of a file, by the reader that is installed."""
    from transformers.video_utils import load_video

    processor = require_video_processor(view)
    if "://" not in path and not Path(path).is_file():
        raise SpecError(f"no file {path!r}; write {WRITE}")
    reader = next((name for name, module in READERS.items() if can_import(module)), None)
    if reader is None:
        raise SpecError(
            f"reading the video {path!r} needs {', '.join(READERS)}, and none of them is installed; write pip install "
            "torchcodec or pip install av, or give the frames"
        )
    chosen = getattr(processor, "sample_frames", None) if getattr(processor, "do_sample_frames", False) else None
    try:
        options = {} if chosen is None else {"sample_indices_fn": lambda metadata, **_: chosen(metadata=metadata)}
        array, known = load_video(path, backend=reader, **options)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as error:
        said = str(error).strip().partition("\n")[0] or type(error).__name__
        raise SpecError(f"the video {path!r} cannot be read by {reader}: {said}") from error
    shown = known.frames_indices if known.frames_indices is not None else range(len(array))
    frames = tuple(Image.fromarray(np.ascontiguousarray(frame)) for frame in np.asarray(array))
    total = known.total_num_frames or len(array)
    return Video(frames=_of_one_size(frames), metadata=_metadata(total, known.fps, list(shown)))


def require_video_processor(view: ModelView) -> Any:
    """The video part of the model's processor.

    Raises:
        SpecError: there is none, or one that refuses videos, because torchvision is missing.
    """
    processor = getattr(view.processor, "video_processor", None)
    if callable(processor) and not isinstance(processor, NoVideos):
        return processor
    if not can_import("torchvision"):
        raise SpecError(f"videos need torchvision, which is not installed; {INSTALL}")
    raise SpecError(
        f"the processor of this model, {type(view.processor).__name__}, has no part for videos; load the model with "
        "one that has, nv.load(..., processor=...)"
    )


# rows ---------------------------------------------------------------------------------------------


def videos_per_row(given: Any, rows: int) -> tuple[tuple[Any, ...], ...]:
    """What was given for the videos of each row, not opened yet.

    Args:
        given: a video or several for one row; for several rows a list with an entry for each: None, a video or several.
        rows: how many rows there are.

    Raises:
        SpecError: the entries are not as many as the rows.
    """
    if given is None:
        return ((),) * rows
    if rows == 1:
        is_row = isinstance(given, (list, tuple)) and len(given) == 1 and not _is_video(given)
        is_nested = is_row and (given[0] is None or (isinstance(given[0], (list, tuple)) and not _is_video(given[0])))
        return (_as_videos(given[0] if is_nested else given),)
    if not isinstance(given, (list, tuple)) or len(given) != rows or _is_video(given):
        count = len(given) if isinstance(given, (list, tuple)) and not _is_video(given) else 1
        raise SpecError(f"videos for {count} row(s) were given, and there are {rows}; give one entry per row")
    return tuple(_as_videos(entry) for entry in given)


def _as_videos(given: Any) -> tuple[Any, ...]:
    """None, one video or several, as several."""
    if given is None:
        return ()
    if _is_video(given) or not (isinstance(given, (list, tuple)) or getattr(given, "ndim", 0) == 5):
        return (given,)
    return tuple(given)


def _is_video(given: Any) -> bool:
    """Whether something looks like one video, and not like several."""
    if isinstance(given, (list, tuple)):
        return bool(given) and all(_is_frame(part) for part in given)
    return isinstance(given, Mapping) or is_file(given) or getattr(given, "ndim", 0) == 4


def _is_frame(given: Any) -> bool:
    """Whether something looks like a picture."""
    if isinstance(given, (np.ndarray, torch.Tensor)):
        return given.ndim in (2, 3)
    if isinstance(given, (str, os.PathLike)):
        return _is_picture_file(given)
    return isinstance(given, (Image.Image, bytes, bytearray, memoryview))
