"""The zoo: one tiny model of every family, with its own processor, built once a session."""

from __future__ import annotations

import functools
from typing import Any

import torch
from float64 import computing_in

import nnsight_vlm as nv
from nnsight_vlm import versions
from nnsight_vlm.families import FAMILIES, Family

from . import added, blocks, carried, experts, flexible, plain, recent, resampled, tiled
from .parts import Member, in_dtype, picture

ROOMS = (plain, tiled, flexible, blocks, resampled, added, experts, carried, recent)
EVERY = tuple(member for room in ROOMS for member in room.MEMBERS)

ALIKE = frozenset(
    (
        *(
            "llava-pixtral",
            "fast_vlm",
            "janus",
            "deepseek_vl",
            "chameleon",
            "vipllava",
            "llava_next_video",
            "video_llava",
        ),
        *(
            "llava_onevision",
            "got_ocr2-tiles",
            "perception_lm",
            "qwen2_vl",
            "gemma4",
            "gemma3",
            "idefics3-whole",
            "smolvlm",
        ),
        *("aya_vision", "cohere2_vision", "instructblip-t5", "idefics2-split", "aria", "lighton_ocr", "qwen3_vl_moe"),
        *("qwen3_5_moe", "glm4v_moe", "glm46v", "glm46v-moe", "molmo2-norms-after", "minicpmv4_6", "paddleocr_vl"),
        *("exaone4_5", "hunyuan_vl"),
    )
)
"""Members each of whose parts some other member has too.

`python -m pytest` leaves them out of tests over the zoo; `--members alike` runs these alone, `--members all` both.
"""


def row(name: str) -> Family:
    """The row of a member's family, whose name its own begins with; found without the model."""
    return FAMILIES[max((family for family in FAMILIES if name.startswith(family)), key=len)]


def runs_here(member: Member) -> bool:
    """Whether the member's family runs with the transformers that is installed."""
    family = row(member.name)
    return not family.transformers or versions.lies_in(versions.installed("transformers"), family.transformers)


ZOO: dict[str, Member] = {member.name: member for member in EVERY if runs_here(member)}
REFUSED: dict[str, Member] = {member.name: member for member in EVERY if not runs_here(member)}


def load(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> Any:
    """A member as `nv.load` gives it, the same for every test that asks; nobody may change it.

    Weights are the same in every `dtype`; what computes with those of float64 must run within `float64.float64`.
    """
    return _load(name, attention, dtype)


@functools.cache
def _load(name: str, attention: str, dtype: torch.dtype) -> Any:
    member = ZOO[name]
    with computing_in(dtype):
        module = in_dtype(member.module(attention), dtype)
        return nv.load(module, processor=member.processor())


def prompt(
    name: str, attention: str = "sdpa", seed: int = 1, size: int = 0, dtype: torch.dtype = torch.float32
) -> nv.Prompt:
    """The member's text about a picture of one of its sizes."""
    return _prompt(name, attention, seed, size, dtype)


@functools.cache
def _prompt(name: str, attention: str, seed: int, size: int, dtype: torch.dtype) -> nv.Prompt:
    member = ZOO[name]
    with computing_in(dtype):
        return nv.encode(load(name, attention, dtype), member.text, picture(seed, member.sizes[size]))
