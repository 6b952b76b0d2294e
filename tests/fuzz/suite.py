"""How much is asked: two minutes on two cores; `FUZZ_SEEDS=1000` asks more, `FUZZ_ONLY="llava run 17"` one thing."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import zoo

from .asking import ask
from .worlds import world

SEEDS = int(os.environ.get("FUZZ_SEEDS", "1"))
"""How many cases of every mode and member."""
START = int(os.environ.get("FUZZ_START", "0"))
"""The first seed, so that a longer run can go on where another ended."""
ONLY = os.environ.get("FUZZ_ONLY", "").split()
"""A member, a mode and a seed, or their first one or two."""


def parameters(*modes: str) -> list[object]:
    """Member, mode and seed of every case."""
    return list(_parameters(*modes))


def _parameters(*modes: str) -> Iterator[object]:
    for name in zoo.ZOO:
        for mode in modes:
            for seed in range(START, START + SEEDS) if len(ONLY) < 3 else [int(ONLY[2])]:
                if ONLY[:2] == [name, mode][: len(ONLY)]:
                    yield pytest.param(name, mode, seed, id=f"{name}-{mode}-{seed}")


def asked(name: str, mode: str, seed: int) -> None:
    """One case under one of the member's attentions."""
    implementations = zoo.ZOO[name].implementations
    try:
        ask(world(name, implementations[seed % len(implementations)]), mode, seed)
    except AssertionError as error:
        again = f'FUZZ_ONLY="{name} {mode} {seed}" python -m pytest -n0 tests/fuzz'
        raise AssertionError(f"{error}\nagain: {again}") from error
