"""Towers whose batch has a row for every tile or picture, at every site and in batches, against plain hooks in float64.

Positions count the tokens of all rows of the tower one after the other; the reference knows its rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from tiny import gap
from zoo import reference
from zoo.parts import in_dtype, picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.families.lookup import family_of

MEMBERS = {
    "internvl": ((20, 20), (44, 20)),  # one tile, several
    "gemma3-crops": ((16, 16), (60, 20)),  # the picture alone, with crops
    "idefics3": ((20, 20), (60, 20)),  # unequally many tiles
    "idefics2-split": ((16, 9), (20, 40)),  # tiles of several sizes, padded to the largest
    "mllama": ((16, 16), (40, 20)),  # tiles of a picture in one row, gates and a second encoder behind it
}
"""The sizes of two pictures of each member: the second gives more tiles than the first, where there are tiles."""
SITES = ("embedding", "residual", "attention", "mlp", "head", "query", "key", "value")
VISION: dict[str, Any] = {"stage": "vision"}
Change = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture(autouse=True)
def in_float64():
    with float64():
        yield


@functools.cache
def plain(name: str) -> tuple[Any, Any]:
    """The member for the reference, with its tower."""
    module = in_dtype(zoo.ZOO[name].module(zoo.ZOO[name].implementations[0]), torch.float64)
    family = family_of(module.config)
    return reference.prepare(module, family), family


@functools.cache
def prompts(name: str) -> tuple[Any, nv.Prompt, nv.Prompt]:
    """The member, and two prompts with a picture of another size each."""
    model = zoo.load(name, zoo.ZOO[name].implementations[0], torch.float64)
    text = zoo.ZOO[name].text
    return model, *(nv.encode(model, text, picture(n, size)) for n, size in enumerate(MEMBERS[name]))


def by_hand(name: str, prompt: nv.Prompt, **changes: Any) -> reference.Reference:
    """The reference's run of a prompt, whose padding does not count as positions."""
    module, family = plain(name)
    inputs = dict(prompt.inputs)
    if len(prompt) > 1:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    return reference.forward(module, family, inputs, **changes)


def in_line(change: Change) -> Change:
    """A change of all tokens one after the other, `[position, ...]`, of the states of the tower's rows."""
    return lambda states: change(states.flatten(0, 1)).reshape(states.shape)


def at(places: Sequence[int], change: Change) -> Change:
    def write(states: torch.Tensor) -> torch.Tensor:
        states[list(places)] = change(states[list(places)])
        return states

    return in_line(write)


def cuts(targets: Sequence[int], sources: Sequence[int], length: int, heads: Sequence[int] | None) -> list[Any]:
    """Edges row by row, as the reference takes them."""
    rows = sorted({place // length for place in targets})
    own = [
        [[place % length for place in some if place // length == row] for some in (targets, sources)] for row in rows
    ]
    return [(row, heads, *edges) for row, edges in zip(rows, own, strict=True) if all(edges)]


def weightless(targets: Sequence[int], sources: Sequence[int], length: int, top: int) -> Change:
    """Probabilities `[row, head, query, key]` without some edges, or with the `top` greatest of them only."""

    def change(weights: torch.Tensor) -> torch.Tensor:
        for target in targets:
            row, query = divmod(target, length)
            keys = [source % length for source in sources if source // length == row]
            for line in weights[row, :, query]:
                total, lost = line.sum(), sorted(keys, key=lambda key, line=line: -float(line[key]))[top:]
                line[lost] = 0
                line.mul_(total / line.sum() if top else 1)
        return weights

    return change


def compare(name: str, prompt: nv.Prompt, case: Any, expected: reference.Reference, model: Any, layer: int) -> None:
    """Logits, attention and states of a run of one row or several are the reference's."""
    lacks = view_of(model).family.stages["vision"].lacks
    sites = [site for site in SITES if site not in lacks]
    reads = [nv.Residual("all", site=site, layers=layer, **VISION) for site in sites]
    found = nv.run(model, prompt, case, reads=[*reads, nv.Attention("all", "all", layers=layer, **VISION)])
    logits = found.logits if len(prompt) > 1 else found.logits[None]
    assert gap(logits, expected.logits[:, -1]) < LIMIT
    rows = list(zip(*found.reads, strict=True)) if len(prompt) > 1 else [found.reads]
    first = 0
    for tokens, (*states, weights) in zip(prompt.rows, rows, strict=True):
        tower = tokens.stage("vision")
        own = [first + place for place in tower.group("all").positions(tower.stop)]
        first += tower.stop
        for site, held in zip(sites, states, strict=True):
            there = expected.states["vision", site, -1 if site == "embedding" else layer].flatten(0, 1)[own]
            state = held if site == "embedding" else held[0]
            assert gap(state.transpose(0, 1) if state.dim() == 3 else state, there) < LIMIT, site
        all_rows = expected.weights["vision", "attention", layer]
        blocks = [torch.block_diag(*all_rows[:, head])[own][:, own] for head in range(all_rows.shape[1])]
        assert gap(weights[0], torch.stack(blocks)) < LIMIT


@pytest.mark.parametrize("name", MEMBERS)
def test_cuts_and_writes_at_every_site_equal_plain_hooks(name):
    model, _, prompt = prompts(name)
    layer, lacks = view_of(model).stage("vision").taken[0], view_of(model).family.stages["vision"].lacks
    clean = by_hand(name, prompt)
    length = clean.states["vision", "residual", 0].shape[1]
    image, own = (prompt.positions(group, **VISION) for group in ("image", "all"))
    sources, targets = image[::2], tuple(sorted({*image[1::3], *prompt.positions("cls", **VISION)}))
    spot = "vision", "attention", layer
    some = {"layers": layer, **VISION}
    for case, changes in (
        (None, {}),
        (
            nv.Knockout(sources, targets, heads=[1], **some),
            {"cuts": {spot: cuts(targets, sources, length, [1])}},
        ),
        (
            nv.Knockout(sources, targets, how="zero", **some),
            {"changes": {spot: weightless(targets, sources, length, 0)}},
        ),
        (nv.Limit(own, targets, top=2, **some), {"changes": {spot: weightless(targets, own, length, 2)}}),
    ):
        expected = by_hand(name, prompt, **changes)
        compare(name, prompt, case, expected, model, layer)
        assert (gap(expected.logits, clean.logits) > 1e-4) == (case is not None)
    for site in SITES:
        site_of = "vision", site, -1 if site == "embedding" else layer
        if site in lacks:
            with pytest.raises(nv.SpecError, match="multiplies it by a learned vector"):
                nv.run(model, prompt, nv.Scale(targets, 0.5, site=site, **some))
            continue
        case, change = nv.Scale(targets, 0.5, site=site, **some), lambda states: states * 0.5
        if site in ("embedding", "residual"):  # a norm follows, which undoes a factor
            vector = torch.linspace(-1, 1, clean.states[site_of].shape[-1], dtype=torch.float64)
            case, change = nv.Add(targets, vector, site=site, **some), vector.add
        written = by_hand(name, prompt, writes={site_of: at(targets, change)})
        compare(name, prompt, case, written, model, layer)
        assert gap(written.logits, clean.logits) > 1e-5, site
    mean = by_hand(
        name, prompt, writes={("vision", "residual", layer): at(image, lambda states: states * 0 + states.mean(0))}
    )
    compare(name, prompt, nv.Ablate("image", how="mean", **some), mean, model, layer)


@pytest.mark.parametrize("name", MEMBERS)
def test_rows_of_a_batch_with_unequally_many_tiles_equal_plain_hooks(name):
    model, *alone = prompts(name)
    batch = nv.stack(alone)
    layer = view_of(model).stage("vision").taken[0]
    clean = by_hand(name, batch)
    length = clean.states["vision", "residual", 0].shape[1]
    towers = [tokens.stage("vision") for tokens in batch.rows]
    first = towers[0].stop
    image = [towers[0].group("image").positions(first), towers[1].group("image").positions(towers[1].stop)]
    moved = [first + place for place in image[1]]
    cut = nv.Knockout(image[1][::2], image[1][1::2], layers=layer, **VISION)
    half = nv.Scale("image", 0.5, layers=layer, site="value", **VISION)
    expected = by_hand(
        name,
        batch,
        cuts={("vision", "attention", layer): cuts(moved[1::2], moved[::2], length, None)},
        writes={("vision", "value", layer): at(image[0], lambda states: states * 0.5)},
    )
    compare(name, batch, [half, cut], expected, model, layer)
    donor = nv.run(model, alone[0], nv.Patch("image", source=alone[0], layers=layer, **VISION), positions="all")
    assert gap(donor.logits, nv.run(model, alone[0], positions="all").logits) < LIMIT
    variants = [half, nv.Knockout(image[1][0], image[1][1], layers=layer, **VISION), None]
    table = nv.sweep(model, alone[1], variants, answer=5)
    for variant, logit in zip(variants, table.logit, strict=True):
        assert abs(float(nv.run(model, alone[1], variant).logits[5]) - logit) < LIMIT * 10
    answers = nv.generate(model, batch, half, max_new_tokens=3).tokens
    for row, prompt in enumerate(alone):
        assert list(answers[row]) == list(nv.generate(model, prompt, half, max_new_tokens=3).tokens)


@pytest.mark.parametrize("name", MEMBERS)
def test_what_is_done_in_rows_of_a_tower_is_proved(name):
    model, *alone = prompts(name)
    layer = view_of(model).stage("vision").taken[0]
    case = nv.Limit("image", "image", top=1, layers=layer, **VISION) | nv.Scale("image", 0.5, layers=layer, **VISION)
    proof = nv.verify(model, nv.stack(alone), case | nv.Knockout("image", "last", layers="attention"))
    assert proof.edges > 0 and proof.writes == 1 and proof.moved > 0
