"""The zoo: one tiny model of every family, with its own processor, built once a session."""

from __future__ import annotations

import functools
from typing import Any

import nnsight_vlm as nv

from . import added, blocks, flexible, plain, resampled, tiled
from .parts import Member, picture

ZOO: dict[str, Member] = {
    member.name: member for room in (plain, tiled, flexible, blocks, resampled, added) for member in room.MEMBERS
}


@functools.cache
def load(name: str, attention: str = "sdpa") -> Any:
    """A member as `nv.load` gives it, the same for every test that asks; nobody may change it."""
    member = ZOO[name]
    return nv.load(member.module(attention), processor=member.processor())


@functools.cache
def prompt(name: str, attention: str = "sdpa", seed: int = 1, size: int = 0) -> nv.Prompt:
    """The member's text about a picture of one of its sizes."""
    member = ZOO[name]
    return nv.encode(load(name, attention), member.text, picture(seed, member.sizes[size]))
