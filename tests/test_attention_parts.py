"""Queries, keys, values and heads of attention: read, written and kept, as attention written by hand has them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from zoo import reference
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

SEEN = 1e-4
PARTS = ("query", "key", "value", "head")
FULL = (
    "llava", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3", "mllama", "blip-2-opt", "blip-2-t5", "idefics3", "qwen3_5",
)  # fmt: skip
STEPS = 5


@pytest.fixture(autouse=True)
def in_float64():
    with float64():
        yield


@functools.cache
def loaded(name: str, attention: str = "") -> tuple[Any, nv.Prompt, nv.Prompt]:
    """A member, and its text about two pictures."""
    attention = attention or zoo.ZOO[name].implementations[0]
    prompts = (zoo.prompt(name, attention, seed=seed, dtype=torch.float64) for seed in (1, 2))
    return zoo.load(name, attention, torch.float64), *prompts


@functools.cache
def by_hand(name: str) -> tuple[Any, Any]:
    return reference.load(name, torch.float64)


def forward(name: str, prompt: nv.Prompt, writes: Any = None) -> reference.Reference:
    return reference.forward(*by_hand(name), prompt.inputs, None, writes)


def gap(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Greatest difference as a share of the expected values' scale; words that a model never says are left out."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    said = expected > torch.finfo(torch.float32).min
    return float((found - expected)[said].abs().max() / expected[said].abs().max())


def heads_set(at: Sequence[int], heads: Sequence[int], values: torch.Tensor | float, row: int = 0) -> reference.Write:
    """A write of `[position, head, head_dim]` at some positions and heads."""

    def write(state: torch.Tensor) -> torch.Tensor:
        state[row, torch.tensor(at)[:, None], torch.tensor(heads)] = values
        return state

    return write


class Spot:
    """One attention of a stage in a layer: where its parts are, and as the reference indexes them."""

    def __init__(self, prompt: nv.Prompt, stage: str, kind: str, layer: int) -> None:
        tokens = prompt.rows[0].stage(stage)
        self.stage, self.kind, self.layer, self.outside = stage, kind, layer, tokens.outside
        readers = tokens.stop if kind == "attention" or tokens.readers is None else tokens.readers
        self.queries = sorted({tokens.start, readers - 1})
        self.keys = sorted({-tokens.outside, -1}) if kind == "cross" else self.queries

    def positions(self, part: str) -> list[int]:
        return self.keys if part in ("key", "value") else self.queries

    def at(self, part: str) -> list[int]:
        """The same positions as the reference counts them: keys outside the sequence from 0."""
        return [place + self.outside if place < 0 else place for place in self.positions(part)]

    def site(self, part: str) -> str:
        """What a user writes."""
        return f"cross {part}" if self.kind == "cross" and part in ("query", "head") else part

    def spot(self, part: str) -> reference.Spot:
        return self.stage, f"cross {part}" if self.kind == "cross" else part, self.layer

    def named(self, part: str) -> dict[str, Any]:
        return {"site": self.site(part), "stage": self.stage, "layers": self.layer}


def attentions(model: Any, prompt: nv.Prompt, stages: Sequence[str] = ()) -> list[Spot]:
    """Of every stage and kind of attention, one in the middle."""
    found = []
    for stage in stages or (*dict(prompt.rows[0].stages), "decoder"):
        spec = view_of(model).stage(stage)
        outside = prompt.rows[0].stage(stage).outside
        for kind, layers in (("attention", spec.attention), ("cross", spec.cross if outside else ())):
            found += [Spot(prompt, stage, kind, layers[len(layers) // 2])] if layers else []
    return found


# every family --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_all_parts_of_an_attention_are_read_and_written_as_the_reference_has_them(name):
    model, prompt, other = loaded(name)
    clean, source = forward(name, prompt), forward(name, other)
    for spot in attentions(model, prompt):
        reads = [nv.Residual(tuple(spot.positions(part)), **spot.named(part)) for part in PARTS]
        found = nv.run(model, prompt, reads=reads).reads
        changes, writes = [], {}
        for part, read in zip(PARTS, found, strict=True):
            states = clean.states[spot.spot(part)][0, spot.at(part)].transpose(0, 1)
            assert gap(read[0], states) < LIMIT, (spot.spot(part), "read")
            values = source.states[spot.spot(part)][0, spot.at(part)][:, [1]]
            head = {"heads": [1]} if part != "head" else {"heads": [(spot.layer, 1)]}
            change = nv.Patch(tuple(spot.positions(part)), source=other, **spot.named(part), **head)
            changes.append(change)
            writes[spot.spot(part)] = heads_set(spot.at(part), [1], values)
        query, key, value, head = changes
        run = nv.run(model, prompt, query | key | value | head, positions="all", reads=reads)
        expected = forward(name, prompt, writes)
        assert gap(run.logits, expected.logits[0]) < LIMIT, spot.spot("all")
        for part, read in zip(PARTS, run.reads, strict=True):
            states = expected.states[spot.spot(part)][0, spot.at(part)].transpose(0, 1)
            assert gap(read[0], states) < LIMIT, (spot.spot(part), "written")
