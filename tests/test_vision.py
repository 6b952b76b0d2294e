"""The vision tower as a stage: cuts, writes and reads of CLIP's in LLaVA, against a tower written by hand."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
import vision_reference
from float64 import LIMIT

import nnsight_vlm as nv

pytestmark = pytest.mark.float64

LAYERS, HEADS, EACH = 4, 2, tiny.IMAGE_TOKENS + 1
TAKEN = 2
"""Of four layers, the last but one gives what the projector takes."""
IN_VISION: dict[str, Any] = {"stage": "vision"}


@pytest.fixture(params=["sdpa", "eager"])
def model(request, dtype):
    return tiny.load(request.param, dtype=dtype, tower=LAYERS)


@pytest.fixture
def batch(model):
    """Three rows with one, one and two pictures."""
    return tiny.several(model)


@pytest.fixture
def pair(batch):
    """The row with two pictures, alone."""
    return batch.row(2)


def places(kind: str, pictures: Any = range(4)) -> list[int]:
    """Positions in the line of all pictures."""
    inside = {"cls": [0], "image": range(1, EACH), "all": range(EACH)}[kind]
    return [picture * EACH + place for picture in pictures for place in inside]


def closed(sources: Any, targets: Any, layers: Any, heads: Any = range(HEADS), pictures: int = 4) -> torch.Tensor:
    """`cut[layer, head, position, position]`."""
    cut = torch.zeros(LAYERS, HEADS, pictures * EACH, pictures * EACH, dtype=torch.bool)
    for layer in layers:
        for head in heads:
            for target in targets:
                cut[layer, head, target, list(sources)] = True
    return cut


def zeroed(sources: Any, targets: Any, heads: Any = range(HEADS)) -> Any:
    def change(weights: torch.Tensor) -> torch.Tensor:
        for head in heads:
            for target in targets:
                weights[head, target, list(sources)] = 0
        return weights

    return change


def limited(sources: Any, targets: Any, top: int) -> Any:
    def change(weights: torch.Tensor) -> torch.Tensor:
        for head in range(HEADS):
            for target in targets:
                line, of = weights[head, target], target // EACH
                total = line.sum()
                own = [source for source in sources if source // EACH == of]
                line[sorted(own, key=lambda source, line=line: -float(line[source]))[top:]] = 0
                line *= total / line.sum()
        return weights

    return change


def compare(model: Any, prompt: nv.Prompt, case: nv.Intervention | None, **by_hand: Any) -> None:
    """Logits of all rows, attention of all layers and states of all sites are those of the tower written by hand."""
    expected = vision_reference.tower(model._module, prompt.inputs["pixel_values"], **by_hand)
    sites = ("embedding", "attention", "mlp", "residual", "head", "query", "key", "value")
    reads = [nv.Attention("all", "all", **IN_VISION), *(nv.Residual("all", site=site, **IN_VISION) for site in sites)]
    reads.append(nv.Residual("image", site="features"))
    found = nv.run(model, prompt, case, reads=reads, positions="last")
    wanted = vision_reference.logits(model._module, prompt.inputs, expected.features)[:, -1]
    rows = [found.reads] if len(prompt) == 1 else list(zip(*found.reads, strict=True))
    assert tiny.gap(torch.stack(list(found.logits)).reshape(wanted.shape), wanted) < LIMIT
    first = 0
    assert tiny.gap(torch.cat([features for *_, features in rows]), expected.features) < LIMIT
    for tokens, (weights, *states, _) in zip(prompt.rows, rows, strict=True):
        own = slice(first, first := first + len(tokens.images) * EACH)
        assert tiny.gap(weights, expected.weights[:, :, own, own]) < LIMIT
        for site, held in zip(sites, states, strict=True):
            layers = [-1] if site == "embedding" else range(LAYERS)
            there = torch.stack([expected.states[site, layer][own] for layer in layers])
            flat = held[None] if held.dim() == 2 else held.transpose(1, 2).flatten(2) if held.dim() == 4 else held
            assert tiny.gap(flat, there) < LIMIT, site


def test_a_clean_run_reads_what_the_tower_computes(model, batch):
    compare(model, batch, None)


CUTS = {
    "class tokens": (
        nv.Knockout("cls", "image", **IN_VISION),
        {"cut": closed(places("cls"), places("image"), range(LAYERS))},
    ),
    "heads and layers": (
        nv.Knockout("image", ["image", "cls"], layers=[0, 2], heads=[(0, 1), (2, 0)], **IN_VISION)
        | nv.Knockout("cls", "cls", layers=[1], **IN_VISION),
        {
            "cut": closed(places("image"), places("all"), [0], [1])
            | closed(places("image"), places("all"), [2], [0])
            | closed(places("cls"), places("cls"), [1])
        },
    ),
    "allowed": (
        nv.Allow("image", "cls", layers=nv.window(1, 3), heads=[0], **IN_VISION),
        {"cut": closed(places("image"), places("cls"), [0, 3], [0])},
    ),
    "zero": (
        nv.Knockout("image", "image", layers=1, how="zero", heads=[1], **IN_VISION),
        {"changes": {1: zeroed(places("image"), places("image"), [1])}},
    ),
    "limit": (
        nv.Limit("image", "cls", top=3, **IN_VISION),
        {"changes": dict.fromkeys(range(LAYERS), limited(places("image"), places("cls"), 3))},
    ),
    "both": (
        nv.Knockout("cls", "image", layers=0, **IN_VISION) | nv.Knockout("image", "cls", how="zero", **IN_VISION),
        {
            "cut": closed(places("cls"), places("image"), [0]),
            "changes": dict.fromkeys(range(LAYERS), zeroed(places("image"), places("cls"))),
        },
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_edges_of_all_pictures_are_closed_as_by_hand(model, batch, name):
    case, by_hand = CUTS[name]
    compare(model, batch, case, **by_hand)


def written(where: Any, change: Any, heads: Any = None) -> Any:
    """A state with some positions, or the columns of some heads there, changed by a function."""

    def write(state: torch.Tensor) -> torch.Tensor:
        columns = torch.arange(state.shape[1]).reshape(HEADS, -1)[list(range(HEADS) if heads is None else heads)]
        at = torch.tensor(list(where))[:, None], columns.flatten()
        state[at] = change(state[at])
        return state

    return write


@pytest.mark.parametrize("site", ["embedding", "attention", "mlp", "residual", "head", "query", "key", "value"])
def test_states_are_written_at_every_site_as_by_hand(model, batch, pair, site):
    width, layers = 24, [-1] if site == "embedding" else [0, TAKEN]
    of_heads = site in ("head", "query", "key", "value")
    given, some = torch.linspace(-1, 1, width, dtype=torch.float64), {"layers": [0, TAKEN], "site": site, **IN_VISION}
    half = width // HEADS
    at = ([1], given[:half]) if of_heads else (None, given)
    vector = {"heads": at[0]} if of_heads else {}

    def by_hand(where: Any, change: Any, heads: Any = None) -> dict[str, Any]:
        return {"writes": {(site, layer): written(where, change, heads) for layer in layers}}

    compare(model, batch, nv.Scale("cls", 0.5, **some), **by_hand(places("cls"), lambda state: state * 0.5))
    compare(model, batch, nv.Add("image", at[1], **some, **vector), **by_hand(places("image"), at[1].add, at[0]))
    patch = nv.Patch([0, 30, 51], source=at[1], **some, **vector)
    compare(model, pair, patch, **by_hand([0, 30, 51], lambda state: state * 0 + at[1], at[0]))
    mean = nv.Ablate("image", how="mean", **some)
    compare(model, pair, mean, **by_hand(places("image", [0, 1]), lambda state: state.mean(0).expand_as(state)))
    compare(model, pair, nv.Ablate("image.1", **some), **by_hand(places("image", [1]), torch.zeros_like))


def test_states_come_from_a_run_with_other_pictures(model, batch, pair):
    """One of two pictures of the source, for the only picture of a row; under an intervention of its own."""
    under = nv.Knockout("cls", "image", **IN_VISION)
    cut = closed(places("cls", [0, 1]), places("image", [0, 1]), range(LAYERS), pictures=2)
    source = vision_reference.tower(model._module, pair.inputs["pixel_values"], cut=cut).states
    case = nv.Patch("image", source=pair, source_where="image.1", under=under, layers=[1], **IN_VISION)
    values = source["residual", 1][places("image", [1])]
    row = batch.row(1)
    compare(model, row, case, writes={("residual", 1): written(places("image", [0]), lambda _: values)})
    cases = [None, case, nv.Ablate("image.1", layers=1, **IN_VISION)]
    found = nv.run(model, batch, cases, positions="last").logits
    for number, own in enumerate(cases):
        alone = nv.run(model, batch.row(number), own, positions="last").logits
        assert tiny.gap(found[number], alone) < LIMIT


def test_attention_is_reduced_over_the_keys_of_all_pictures(model, pair):
    expected = vision_reference.tower(model._module, pair.inputs["pixel_values"]).weights
    queries, keys = places("cls", [0, 1]), places("image", [0, 1])
    rows = expected[:, :, queries][..., keys]
    read = {
        how: nv.run(model, pair, reads=nv.Attention("cls", "image", reduce=how, **IN_VISION)).reads[0]
        for how in ("rows", "mean", "mass", "entropy", "top")
    }
    share = rows / rows.sum(-1, keepdim=True)
    assert tiny.gap(read["rows"], rows) < LIMIT and tiny.gap(read["mean"], rows.mean(1)) < LIMIT
    assert tiny.gap(read["mass"], rows.sum(-1)) < LIMIT
    assert tiny.gap(read["entropy"], torch.special.entr(share).sum(-1)) < LIMIT
    most = rows.topk(10, dim=-1)
    assert torch.equal(read["top"][..., 0].long(), torch.tensor(keys)[most.indices])
    assert tiny.gap(read["top"][..., 1], most.values) < LIMIT


def test_an_answer_is_generated_behind_one_run_of_the_tower(model, pair):
    case = nv.Knockout("cls", "image", layers=[0, 1], **IN_VISION) | nv.Scale("image.0", 0.5, layers=1, **IN_VISION)
    by_hand = {
        "cut": closed(places("cls", [0, 1]), places("image", [0, 1]), [0, 1], pictures=2),
        "writes": {("residual", 1): written(places("image", [0]), lambda state: state * 0.5)},
    }
    features = vision_reference.tower(model._module, pair.inputs["pixel_values"], **by_hand).features
    ids, runs = pair.inputs["input_ids"], []
    handle = model._module.model.vision_tower.register_forward_hook(lambda *_: runs.append(1))
    answer = nv.generate(model, pair, case, max_new_tokens=5).tokens
    handle.remove()
    for token in answer:
        inputs = {"input_ids": ids, "pixel_values": pair.inputs["pixel_values"]}
        assert int(vision_reference.logits(model._module, inputs, features)[0, -1].argmax()) == token
        ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
    assert len(runs) == 1
    assert nv.generate(model, pair, None, max_new_tokens=5).tokens != answer


def test_answers_to_several_prompts_under_cuts_of_their_own_equal_those_one_by_one(model, batch):
    cases = [
        (batch.row(0), nv.Scale("image", 0.5, layers=1, site="value", **IN_VISION)),
        (batch.row(2), nv.Ablate("image.1", layers=0, **IN_VISION)),
        (batch.row(2), nv.Knockout([1, 2], [EACH - 1, 30], layers=2, **IN_VISION)),
        (batch.row(1), nv.Knockout("image", "generated")),
        (batch.row(2), None),
    ]
    found = [generation.tokens for generation in nv.generations(model, cases, max_new_tokens=4)]
    assert found == [nv.generate(model, *case, max_new_tokens=4).tokens for case in cases]
    with nv.reuse(model):
        again = [nv.sweep(model, prompt, [case, None], answer="dog").logit[0] for prompt, case in cases[:3]]
    dog = tiny.vocabulary()["dog"]
    assert all(
        abs(logit - float(nv.run(model, *case).logits[dog])) < 1e-9 for logit, case in zip(again, cases, strict=False)
    )


def test_a_sweep_equals_runs_one_by_one_and_leaves_decoder_variants_packed(model, pair, batch):
    cases = [
        nv.Knockout("cls", "image", **IN_VISION),
        nv.Patch("image.0", source=batch.row(0), source_where="image", layers=1, **IN_VISION),
        nv.Knockout("image", "last"),
        nv.Knockout("image.0", "image.1") | nv.Add("cls", torch.ones(24), layers=0, **IN_VISION),
        nv.Knockout("image.1", "query", layers=[1, 2]),
        None,
    ]
    table = nv.sweep(model, pair, cases, answer="dog")
    for number, case in enumerate(cases):
        logits = nv.run(model, pair, case).logits
        assert abs(float(logits[tiny.vocabulary()["dog"]]) - table.logit[number]) < LIMIT * float(logits.abs().max())
    with pytest.raises(nv.SpecError, match="cannot be shared"):
        nv.sweep(model, pair, cases, answer="dog", execution="packed")
    runs = []
    handle = model._module.model.language_model.layers[0].register_forward_hook(lambda *_: runs.append(1))
    counts = []
    for some in (cases[2:3] + cases[4:], cases):
        nv.sweep(model, pair, some, answer="dog")
        counts.append(len(runs))
        runs.clear()
    handle.remove()
    assert counts[1] == counts[0] + 2  # one forward of the patch's source, one of all variants of the tower
