"""Tiny models of the families that take videos, with processors whose video part needs no torchvision.

transformers' video processors import torchvision, so here are small ones of our own with the same output: `Patches` as
the Qwen-VLs want it, `Squares` as the others do. What is around them, the text that a video becomes, is transformers'.
tests/real_video.py runs transformers' own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from einops import rearrange
from float64 import computing_in
from PIL import Image
from torch.nn.functional import interpolate
from transformers.image_processing_utils import BatchFeature
from transformers.models.smolvlm import processing_smolvlm
from transformers.video_utils import make_batched_metadata

import nnsight_vlm as nv

from . import blocks, flexible, parts, tiled

MORE = "video frames frame from seconds following provided series < [ what happens then"
DIGITS = [f"{joined}{sign}" for sign in "0123456789.:>]" for joined in ("", "##")]
"""What the text around frames is made of: `Frame1: `, `<0.0 seconds>`, `Frame from 00:01:`."""


class _Processor:
    """A video processor: frames of one size, normalised like the zoo's pictures."""

    model_input_names: tuple[str, ...] = ()
    num_frames, fps, do_sample_frames = 4, 2, False

    def frames(self, video: np.ndarray, do_rescale: bool, do_normalize: bool) -> torch.Tensor:
        """`[frame, channel, height, width]` at the size that the model wants."""
        pixels = torch.as_tensor(video).permute(0, 3, 1, 2).float()
        size = self.size_of(*pixels.shape[-2:])
        if size != tuple(pixels.shape[-2:]):
            pixels = interpolate(pixels, size, mode="bilinear", antialias=True)
        pixels = pixels / 255 if do_rescale else pixels
        return (pixels - 0.5) / 0.25 if do_normalize else pixels

    def __call__(
        self,
        videos: list[np.ndarray],
        do_rescale: bool = True,
        do_normalize: bool = True,
        return_metadata: bool = False,
        video_metadata: Any = None,
        **_: Any,
    ) -> BatchFeature:
        made = self.made([self.frames(video, do_rescale, do_normalize) for video in videos])
        if return_metadata:
            made["video_metadata"] = make_batched_metadata(videos, video_metadata=video_metadata)
        return BatchFeature(made)

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        raise NotImplementedError

    def made(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        raise NotImplementedError


class Patches(_Processor):
    """Flat patches that hold two frames each, merged token by merged token; an odd last frame is there twice."""

    patch_size, merge_size, temporal_patch_size = flexible.PATCH, flexible.MERGE, 2
    longest = 24
    """Pixels that the longer side of a frame has at most."""

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        step, scale = self.patch_size * self.merge_size, min(self.longest / max(height, width), 1)
        return max(round(height * scale / step), 1) * step, max(round(width * scale / step), 1) * step

    def made(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        even = [torch.cat([video, video[-1:]]) if len(video) % 2 else video for video in videos]
        patches = [
            rearrange(
                video,
                "(time p) c (row down y) (column across x) -> (time row column down across) (c p y x)",
                p=self.temporal_patch_size,
                down=self.merge_size,
                across=self.merge_size,
                y=self.patch_size,
                x=self.patch_size,
            )
            for video in even
        ]
        table = [[len(v) // 2, v.shape[-2] // self.patch_size, v.shape[-1] // self.patch_size] for v in even]
        return {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(table)}


class Squares(_Processor):
    """Frames as squares of one side, `[video, frame, channel, height, width]`."""

    def __init__(self, side: int, name: str = "pixel_values_videos", *, masked: bool = False) -> None:
        self.side, self.name, self.masked = side, name, masked

    def size_of(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002
        return self.side, self.side

    def made(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        pixels = torch.stack(videos)
        mask = {"pixel_attention_mask": torch.ones_like(pixels[:, :, 0], dtype=torch.long)} if self.masked else {}
        return {self.name: pixels, **mask}


@dataclass(frozen=True, kw_only=True)
class VideoMember:
    """One of the families that take videos.

    Attributes:
        module, processor, local: see `parts.Member`.
        video: what makes its video processor.
        placeholders: what stands for an image and for a video in a text.
        size: `(width, height)` of frames that are not resized.
        tokens: how many tokens show a frame of this size.
        per_token: how many frames a token shows.
    """

    module: Callable[[str], Any]
    processor: Callable[[], Any]
    local: Callable[[Any], None]
    video: Callable[[], Any]
    placeholders: tuple[str, str]
    size: tuple[int, int]
    tokens: int
    per_token: int = 1


def _member(name: str, room: Any, **named: Any) -> VideoMember:
    own = next(member for member in room.MEMBERS if member.name == name)
    return VideoMember(module=own.module, processor=own.processor, local=own.local, **named)


QWEN = {
    "video": Patches,
    "placeholders": ("<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"),
    "size": (24, 16),
    "tokens": 6,
    "per_token": 2,
}
VIDEO_ZOO: dict[str, VideoMember] = {
    "qwen2_vl": _member("qwen2_vl", flexible, **QWEN),
    "qwen2_5_vl": _member("qwen2_5_vl", flexible, **QWEN),
    "qwen3_vl": _member("qwen3_vl", flexible, **QWEN),
    "llava_onevision": _member(
        "llava_onevision",
        tiled,
        video=lambda: Squares(tiled.ODD),
        placeholders=("<image>", "<video>"),
        size=(tiled.ODD, tiled.ODD),
        tokens=4,
    ),
    "internvl": _member(
        "internvl",
        tiled,
        video=lambda: Squares(32),
        placeholders=("<IMG_CONTEXT>", "<video>"),
        size=(32, 32),
        tokens=16,
    ),
    "smolvlm": _member(
        "smolvlm",
        blocks,
        video=lambda: Squares(blocks.IDEFICS_SIDE, "pixel_values", masked=True),
        placeholders=("<image>", "<video>"),
        size=(blocks.IDEFICS_SIDE, blocks.IDEFICS_SIDE),
        tokens=blocks.IDEFICS_TOKENS,
    ),
}


@contextmanager
def _with_words() -> Any:
    """The zoo's tokenizers with the words that stand around frames."""
    words = list(dict.fromkeys([*parts.WORDS, *MORE.split(), *DIGITS]))
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(parts, "WORDS", words))
        stack.enter_context(mock.patch.object(flexible, "_qwen_words", lambda: parts.tokenizer(flexible.QWEN)))
        if processing_smolvlm.num2words is None:
            stack.enter_context(mock.patch.object(processing_smolvlm, "num2words", str))
        yield


def template(member: VideoMember) -> str:
    """A chat template that writes images and videos where they stand."""
    image, video = member.placeholders
    return (
        "<s>{% for message in messages %}{{ message['role'] }} : "
        "{% if message['content'] is string %}{{ message['content'] }} {% else %}"
        "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}" + image + " {% elif part['type'] == 'video' %}" + video + " "
        "{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant :{% endif %}"
    )


def processor(name: str) -> Any:
    """A member's processor, with a video part."""
    member = VIDEO_ZOO[name]
    with _with_words():
        made = member.processor()
    made.video_processor, made.chat_template = member.video(), template(member)
    return made


def module(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32, *, local: bool = False) -> Any:
    """A member's module; `local`: every feature of it sees its own pixels only."""
    with _with_words():
        made = VIDEO_ZOO[name].module(attention)
    if local:
        with torch.no_grad():
            VIDEO_ZOO[name].local(made)
    return parts.in_dtype(made, dtype)


@functools.cache
def load(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32, *, local: bool = False) -> Any:
    """A member as `nv.load` gives it, the same for every test that asks; nobody may change it."""
    with computing_in(dtype):
        return nv.load(module(name, attention, dtype, local=local), processor=processor(name))


def film(name: str, frames: int = 4, seed: int = 0, size: tuple[int, int] | None = None) -> list[Image.Image]:
    """Frames of noise; by default of a size that is not resized."""
    return [parts.picture(100 * seed + number, size or VIDEO_ZOO[name].size) for number in range(frames)]
