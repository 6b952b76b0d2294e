"""Every family: what attribution estimates is the gradient of plain torch hooks times the difference of states."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from test_attention_parts import by_hand, loaded
from zoo import reference
from zoo.reference import FEATURES

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

FULL = ("llava", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3", "mllama", "blip-2-t5", "idefics3", "qwen3_5")
SITES = ("residual", "attention", "mlp", "head", "query", "key", "value", "embedding", "features")


@pytest.fixture(autouse=True)
def in_float64():
    with float64():
        yield


class ByHand:
    """Both runs' states, and the gradient of a difference of logits with respect to every state of the corrupt one."""

    def __init__(self, name: str, clean: nv.Prompt, corrupt: nv.Prompt, answer: int, against: int) -> None:
        module, family = by_hand(name)
        self.clean = reference.forward(module, family, clean.inputs).states
        self.corrupt = reference.forward(module, family, corrupt.inputs).states
        moved = {spot: torch.zeros_like(state, requires_grad=True) for spot, state in self.corrupt.items()}
        writes = {spot: functools.partial(torch.add, zeros) for spot, zeros in moved.items()}
        with torch.enable_grad():
            logits = reference.forward.__wrapped__(module, family, corrupt.inputs, None, writes).logits[0, -1]
            value = logits[answer] - logits[against]
            slopes = torch.autograd.grad(value, list(moved.values()), allow_unused=True)
        self.value = float(value.detach())
        self.slopes = {
            spot: torch.zeros_like(zeros) if slope is None else slope
            for (spot, zeros), slope in zip(moved.items(), slopes, strict=True)
        }

    def effect(self, row: Any, corrupt: nv.Prompt) -> float:
        """The sum over the positions, and the head, of one row of the frame."""
        if row.site == "features":
            return float(((self.clean[FEATURES] - self.corrupt[FEATURES]) * self.slopes[FEATURES]).sum())
        at = list(corrupt[row.group])
        outside = at[0] < 0
        at = [place + corrupt.rows[0].outside for place in at] if outside else at
        spot = "decoder", f"cross {row.site}" if outside else row.site, -1 if row.layer != row.layer else int(row.layer)
        moved = ((self.clean[spot] - self.corrupt[spot]) * self.slopes[spot])[0, at]
        return float((moved if row.head != row.head else moved[:, int(row.head)]).sum())


def compared(name: str, attention: str, sites: tuple[str, ...]) -> int:
    """Compare a frame with what is computed by hand; how many estimates there were."""
    model, corrupt, clean = loaded(name, attention)
    answer, against = nv.run(model, corrupt).logits.topk(2).indices.tolist()
    hand = ByHand(name, clean, corrupt, answer, against)
    frame = nv.attribute(model, clean, corrupt, answer=answer, against=against, at=sites)
    assert abs(frame.attrs["corrupt"] - hand.value) < LIMIT * abs(hand.value)
    plain = frame.astype({"layer": float, "head": float})
    expected = torch.tensor([hand.effect(row, corrupt) for row in plain.itertuples()], dtype=torch.float64)
    found = torch.tensor(frame["estimate"].to_numpy())
    for site in sites:
        chosen = torch.tensor((frame["site"] == site).to_numpy())
        scale = expected[chosen].abs().max()
        still = name == "mllama" and site == "embedding"  # the same words, and the image is read elsewhere
        still |= name == "blip-2-t5" and site in ("query", "key", "embedding")  # one token attends to itself
        assert float((found[chosen] - expected[chosen]).abs().max()) < LIMIT * (1 if still else scale), site
        assert still or scale > 1e-6, site
    return len(frame)


def usable(name: str) -> tuple[str, ...]:
    """The sites that a family has."""
    family = view_of(loaded(name)[0]).family
    stage = family.stages["decoder"]
    missing = {site for site in SITES if family.limitation(site)}
    parts = {"mlp": stage.mlp, "embedding": stage.embedding, "features": family.projector}
    missing |= {site for site, module in parts.items() if module is None}
    return tuple(site for site in SITES if site not in missing)


@pytest.mark.parametrize("name", FULL)
def test_estimates_at_every_site_equal_gradients_of_plain_hooks(name):
    for attention in zoo.ZOO[name].implementations:
        assert compared(name, attention, usable(name)) > 40


@pytest.mark.parametrize("name", [name for name in zoo.ZOO if name not in FULL])
def test_estimates_of_residual_states_and_heads_equal_gradients_of_plain_hooks(name):
    compared(name, zoo.ZOO[name].implementations[0], ("residual", "head"))
