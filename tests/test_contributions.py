"""What keys add through the output projection equals weights, values and projection multiplied by hand."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import tiny
import torch
import zoo
from float64 import LIMIT, float64
from test_attention_parts import by_hand, forward, gap, loaded
from test_weights_in_families import both, limited, zeroed
from zoo import reference

import nnsight_vlm as nv
from nnsight_vlm.device import contributions, runner
from nnsight_vlm.families import VISION, view_of
from nnsight_vlm.families.stage_spec import stage_spec

FULL = ("llava", "qwen2_5_vl", "gemma3", "mllama", "blip-2-t5", "idefics2", "qwen3_5", "lfm3_vl", "kimi_k25")
"""Plain; several keys a head; a norm behind; cross-attention; biases of positions and an encoder; a resampler; gates of
columns; gates of heads; heads whose values are of another width than their keys."""
CASES = [(name, zoo.ZOO[name].implementations[0]) for name in FULL] + [(name, "eager") for name in FULL[:4]]
FORMS: tuple[Any, ...] = (None, "keys", "heads", ["heads", "keys"])
NORMED = [("kosmos-2", "decoder")]
"""Stages in which a norm lies between the heads and the projection."""


@pytest.fixture
def wide():
    with float64():
        yield


class Spot:
    """One attention of a stage: its layers, some of its queries, and its keys as a user names them."""

    def __init__(self, model: Any, prompt: nv.Prompt, stage: str, kind: str):
        tokens, spec = prompt.rows[0].stage(stage), view_of(model).stage(stage)
        self.stage, self.kind, self.layers = stage, kind, spec.cross if kind == "cross" else spec.attention
        self.layers = self.layers if kind == "attention" or tokens.outside else ()
        readers = tokens.stop if kind == "attention" or tokens.readers is None else tokens.readers
        self.queries = tuple(sorted({tokens.start, (tokens.start + readers) // 2, readers - 1}))
        self.keys = tuple(range(-tokens.outside, 0)) if kind == "cross" else tuple(range(tokens.stop))
        self.name = "cross " if kind == "cross" else ""

    def reads(self, keys: Sequence[int] = (), **more: Any) -> list[nv.Attention]:
        """One of each form."""
        where = {"layers": self.layers, "stage": self.stage, "reduce": "contribution", **more}
        return [nv.Attention(self.queries, tuple(keys) or self.keys, over=over, **where) for over in FORMS]


def spots(model: Any, prompt: nv.Prompt) -> list[Spot]:
    names = (*(name for name in dict(prompt.rows[0].stages) if name != VISION), "decoder")
    every = [Spot(model, prompt, stage, kind) for stage in names for kind in ("attention", "cross")]
    return [spot for spot in every if spot.layers]


def vectors(name: str, run: reference.Reference, spot: Spot, layer: int) -> torch.Tensor:
    """`[head, query, key, width]`; the sum of all, and the bias, are checked to be the projection's output."""
    module, family = by_hand(name)
    stage = family.stages[spot.stage]
    block = reference.layers(module, stage)[layer]
    which = stage.cross if spot.kind == "cross" else stage.attention
    projection = block.get_submodule(reference.plain(which.projection))
    weights = run.weights[spot.stage, spot.kind, layer][0][:, list(spot.queries)]
    values, heads = (run.states[spot.stage, spot.name + part, layer][0].transpose(0, 1) for part in ("value", "head"))
    values = values.repeat_interleave(len(weights) // len(values), 0)
    heads = heads[:, list(spot.queries)]
    gates = heads / (weights @ values)  # what else happens to the outputs of the heads
    assert which.gate or float((gates - 1).abs().max()) < LIMIT
    by_head = projection.weight.unflatten(1, (len(weights), -1))
    added = torch.einsum("hqk,hkd,hqd,whd->hqkw", weights, values, gates, by_head)
    given = projection(heads.transpose(0, 1).flatten(1))
    bias = 0 if projection.bias is None else projection.bias
    assert gap(added.sum((0, 2)) + bias, given) < LIMIT, "the identity"
    return added


def norms(added: torch.Tensor, over: Any) -> torch.Tensor:
    """Of `[head, query, key, width]`, as `nv.Attention` gives them."""
    summed = added.sum(0) if over is not None and "heads" in over else added
    return (summed.sum(-2) if over is not None and "keys" in over else summed).norm(dim=-1)


def expect(name: str, run: reference.Reference, spot: Spot, found: Sequence[torch.Tensor], **some: Any) -> None:
    """All forms of a spot are what was computed by hand, of some heads and keys."""
    heads, keys = some.get("heads", slice(None)), list(some.get("keys", range(len(spot.keys))))
    for number, layer in enumerate(spot.layers):
        added = vectors(name, run, spot, layer)[heads][:, :, keys]
        for over, form in zip(FORMS, found, strict=True):
            assert gap(form[number], norms(added, over)) < LIMIT, (name, spot.stage, spot.kind, layer, over)


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_every_form_equals_the_one_computed_by_hand_and_all_add_up_to_the_output(wide, name):
    model, prompt, _ = loaded(name)
    run, there = forward(name, prompt), spots(model, prompt)
    summed = [spot for spot in there if (name, spot.stage) not in NORMED]
    assert summed
    reads = iter(nv.run(model, prompt, reads=[read for spot in summed for read in spot.reads()]).reads)
    for spot in summed:
        expect(name, run, spot, [next(reads) for _ in FORMS])
    for spot in (spot for spot in there if spot not in summed):
        with pytest.raises(nv.SpecError, match="a norm lies between the heads and the output projection"):
            nv.run(model, prompt, reads=spot.reads()[:1])


@pytest.mark.parametrize(("name", "attention"), CASES, ids=map("-".join, CASES))
def test_under_interventions_they_are_those_of_the_changed_run(wide, monkeypatch, name, attention):
    monkeypatch.setattr(contributions, "NUMBERS_PER_BLOCK", 300)
    model, prompt, other = loaded(name, attention)
    decoder = [spot for spot in spots(model, prompt) if spot.stage == "decoder" and len(spot.keys) > 4]
    for spot in decoder:
        layer, tokens = spot.layers[-1], prompt.rows[0].stage("decoder")
        last, clean = spot.queries[-1], forward(name, prompt).weights["decoder", spot.kind, layer][0, 0]
        cut, *columns = clean[last].nonzero()[-5:-1, 0].tolist()  # keys that the query looks at
        at = -tokens.outside if spot.kind == "cross" else 0
        closed, *source = (column + at for column in (cut, *columns))
        where = {"layers": layer, "heads": [1]}
        change = nv.Knockout(source[0], last, how="zero", **where) | nv.Limit(source, last, layers=layer, top=1)
        value = nv.Patch(source, source=other, site="value", layers=layer)
        intervention = nv.Knockout(closed, last, layers=layer) | value | change
        states = forward(name, other).states["decoder", spot.name + "value", layer][0, columns]
        run = reference.forward(
            *by_hand(name),
            prompt.inputs,
            reference.cuts([layer], [last], [cut], kind=spot.kind),
            {("decoder", spot.name + "value", layer): reference.setter(0, columns, states)},
            {("decoder", spot.kind, layer): both(zeroed([last], columns[:1], [1]), limited([last], columns, 1))},
        )
        chosen = spot.reads(spot.keys[2:], heads=[0, 2])
        found = nv.run(model, prompt, intervention, reads=[*spot.reads(), *chosen]).reads
        expect(name, run, spot, found[: len(FORMS)])
        expect(name, run, spot, found[len(FORMS) :], heads=[0, 2], keys=range(2, len(spot.keys)))
        assert found[0][-1][1, -1, [cut, columns[0]]].tolist() == [0, 0], "what is cut adds nothing"
    assert decoder


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_of_different_length_have_the_contributions_of_each_alone(wide, side):
    model = tiny.load("sdpa", dtype=torch.float64)
    prompt = tiny.several(model, side)
    reads = [nv.Attention("query", "image", reduce="contribution", over=over) for over in FORMS]
    for read, of_rows in zip(reads, nv.run(model, prompt, reads=reads).reads, strict=True):
        for number, found in enumerate(of_rows):
            assert gap(found, nv.run(model, prompt.row(number), reads=read).reads[0]) < LIMIT, read.over


@pytest.mark.parametrize("name", ["llava", "mllama", "qwen3_5"])
def test_in_a_sandbox_they_are_the_same_and_no_weight_is_looked_at(wide, monkeypatch, name):
    model, prompt, _ = loaded(name, "sdpa")
    reads = [read for spot in spots(model, prompt) for read in spot.reads()]
    expected, taken, fetch = nv.run(model, prompt, reads=reads).reads, [], runner.fetch

    def watched(*args: Any) -> Any:
        taken.append(fetch(*args))
        return taken[-1]

    monkeypatch.setattr(runner, "is_sandboxed", lambda _: True)
    monkeypatch.setattr(runner, "fetch", watched)
    for found, same in zip(nv.run(model, prompt, reads=reads).reads, expected, strict=True):
        assert gap(found, same) < LIMIT
    parts = [part for args, kwargs in taken for part in (*args, *kwargs.values())]
    assert parts and not any(isinstance(part, torch.nn.Module) for part in parts)


def test_reading_them_changes_nothing(model, prompt):
    reads = [nv.Attention("all", "all", reduce="contribution", over=over) for over in FORMS]
    cut = nv.Knockout("image", "query", layers=1) | nv.Limit("system", "last", top=1, layers=2)
    assert torch.equal(nv.run(model, prompt, cut, reads=reads).logits, nv.run(model, prompt, cut).logits)


def test_a_gate_that_the_config_leaves_out_is_not_looked_for():
    view = view_of(zoo.load("lfm3_vl", zoo.ZOO["lfm3_vl"].implementations[0]))
    config, stage = copy.deepcopy(view.config), view.family.decoder
    assert stage_spec(config, stage).head_gates == {"attention": "torch_sigmoid_0"}
    config.text_config.use_attention_gate = False
    assert stage_spec(config, stage).head_gates == {"attention": ""}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [3, 40])
def test_small_values_are_not_rounded_away_beside_a_bias_nor_in_half_precision(dtype, number):
    torch.manual_seed(0)
    heads, width = 4, 8
    projection = torch.nn.Linear(heads * width, 24).to(dtype)
    torch.nn.init.constant_(projection.bias, 0.25)
    values = (1e-6 * torch.randn(2, number, width)).to(torch.bfloat16).float()
    with torch.inference_mode():
        found = contributions.head_norms((projection, [1, 3], heads, dtype), values)
    exact = projection.weight.detach().float().unflatten(1, (heads, width))[:, [1, 3]]
    expected = torch.einsum("hnd,whd->hnw", values, exact).norm(dim=-1)
    assert float(((found - expected) / expected).abs().max()) < 0.03
