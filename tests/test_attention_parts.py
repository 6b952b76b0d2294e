"""Queries, keys, values and heads of attention: read, written and kept, as attention written by hand has them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import zoo
from float64 import LIMIT, float64
from zoo import reference
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.device import runner
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
    """Of every stage and kind of attention, one in the middle; vision towers are tested by themselves."""
    found = []
    for stage in stages or (*(name for name in dict(prompt.rows[0].stages) if name != "vision"), "decoder"):
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


# in full --------------------------------------------------------------------------------------------------


@pytest.fixture(params=[(name, attention) for name in FULL for attention in ("sdpa", "eager")], ids="-".join)
def case(request):
    return request.param


def group(prompt: nv.Prompt, name: str) -> list[int]:
    return list(prompt[name])


def mean_of(at: Sequence[int], heads: Sequence[int]) -> reference.Write:
    """A write of the mean over some positions, of some heads."""

    def write(state: torch.Tensor) -> torch.Tensor:
        index = 0, torch.tensor(at)[:, None], torch.tensor(heads)
        state[index] = state[index].mean(0)
        return state

    return write


def in_order(*writes: reference.Write) -> reference.Write:
    return lambda state: functools.reduce(lambda held, write: write(held), writes, state)


def test_patches_and_ablations_equal_the_reference(case):
    name, attention = case
    model, prompt, other = loaded(name, attention)
    clean, source = forward(name, prompt), forward(name, other)
    for spot in attentions(model, prompt, ["decoder"]):
        for part in PARTS:
            at, where, how = spot.at(part), tuple(spot.positions(part)), spot.named(part)
            own = source.states[spot.spot(part)][0, at]
            given = torch.randn(2, len(at), own.shape[-1], dtype=torch.float64)
            zero = nv.Ablate(where, **how, heads=0) | nv.Ablate(where, **how, heads=1, how="mean")
            for change, write in (
                (nv.Patch(where, source=other, **how), heads_set(at, range(own.shape[1]), own)),
                (nv.Patch(where, source=given, **how, heads=[0, 1]), heads_set(at, [0, 1], given.transpose(0, 1))),
                (zero, in_order(heads_set(at, [0], 0.0), mean_of(at, [1]))),
            ):
                expected = forward(name, prompt, {spot.spot(part): write})
                found = nv.run(model, prompt, change, positions="all").logits
                assert gap(found, expected.logits[0]) < LIMIT, change
                alone = spot.kind == "attention" and prompt.width == 1  # one token attends to itself
                assert alone or gap(expected.logits, clean.logits) > SEEN, change


def kept(model: Any, prompt: nv.Prompt, other: nv.Prompt) -> tuple[nv.Intervention, Any]:
    """A change that acts in every decoded token, and the writes of the reference behind so many tokens."""
    tokens = prompt.rows[0]
    spec, image, stop = view_of(model).stage(), group(prompt, "image"), prompt.width
    cross = image[0] < 0
    at = [place + tokens.outside if cross else place for place in image]
    layer = (spec.cross if cross else spec.attention)[1 if len(spec.cross if cross else spec.attention) > 1 else 0]
    own = (spec.attention or spec.cross)[-1]
    last = "head" if spec.attention else "cross head"
    change = (
        nv.Patch("image", source=other, site="key", layers=layer, heads=[1])
        | nv.Ablate("image", how="mean", site="value", layers=layer, heads=[0])
        | nv.Ablate(["last", "generated"], site=last, layers=own, heads=[(own, 1)])
    )
    return change, (layer, own, last, cross, at, stop)


def test_cached_generation_keeps_what_was_written(case):
    name, attention = case
    model, prompt, other = loaded(name, attention)
    module, family = by_hand(name)
    source = forward(name, other)
    change, (layer, own, last, cross, at, stop) = kept(model, prompt, other)
    key, value = (("decoder", f"cross {part}" if cross else part, layer) for part in ("key", "value"))
    keys = heads_set(at, [1], source.states[key][0, at][:, [1]])

    def planned(step: int) -> tuple[Any, Any]:
        heads = heads_set(range(stop - 1, stop + step), [1], 0.0)
        return {}, {key: keys, value: mean_of(at, [0]), ("decoder", last, own): heads}

    tokens, logits = reference.greedy(module, family, STEPS, lambda more: prompt.grown(more).inputs, planned)
    unchanged = reference.greedy(module, family, STEPS, lambda more: prompt.grown(more).inputs, lambda _: ({}, {}))[1]
    assert gap(logits, unchanged) > SEEN
    static = "static cache" not in family.limitations
    for options in ({}, {"cache_implementation": "static"})[: 1 + static]:
        assert list(nv.generate(model, prompt, change, max_new_tokens=STEPS, **options).tokens) == tokens
        assert gap(step_logits(model, prompt, change, **options), logits) < LIMIT, options
    whole = nv.run(model, prompt.grown(tokens[:-1]), change, positions="all").logits[stop - 1 :]
    assert gap(whole, logits) < LIMIT


@pytest.mark.parametrize("name", ["llava-mistral", "gemma3"])
def test_a_mean_of_values_that_a_sliding_window_forgets_stays_what_it_was(name):
    model, prompt, _ = loaded(name)
    module, family = by_hand(name)
    layers, stop = range(view_of(model).stage().layer_count), prompt.width
    at = list(range(2, stop))
    change = nv.Ablate(tuple(at), how="mean", site="value", heads=0)
    writes = {("decoder", "value", layer): mean_of(at, [0]) for layer in layers}
    tokens, logits = reference.greedy(
        module, family, STEPS, lambda more: prompt.grown(more).inputs, lambda _: ({}, writes)
    )
    for options in ({}, {"cache_implementation": "static"}):
        assert gap(step_logits(model, prompt, change, **options), logits) < LIMIT, options
    assert list(nv.generate(model, prompt, change, max_new_tokens=STEPS).tokens) == tokens


def step_logits(model: Any, prompt: nv.Prompt, change: nv.Intervention, **options: Any) -> torch.Tensor:
    """Logits `[step, vocabulary]` of an installed model's cached generation."""
    edited = nv.install(model, prompt, change)
    options = {"max_new_tokens": STEPS, "do_sample": False, **view_of(model).family.generate_with, **options}
    options |= {"output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad(), edited.generate(**prompt.inputs, **options) as tracer:
        result = tracer.result.save()
    return torch.stack(result.logits)[:, 0]


@pytest.mark.parametrize("name", FULL)
def test_rows_behind_padding_are_what_they_are_alone(name):
    model, prompt, other = loaded(name, "sdpa")
    member = zoo.ZOO[name]
    long = nv.encode(model, member.text + " red dog on the left ?", picture(3, member.sizes[0]))
    change, _ = kept(model, prompt, other)
    cases = [change, nv.Ablate("image", how="mean", site="key", layers="attention", heads=1)]
    if prompt["image"][0] < 0:
        cases[1] = nv.Ablate("image", how="mean", site="value", layers=view_of(model).stage().cross, heads=1)
    batch = nv.run(model, nv.stack([prompt, long]), cases).logits
    alone = [nv.run(model, *each).logits for each in ((prompt, cases[0]), (long, cases[1]))]
    for found, expected in zip(batch, alone, strict=True):
        assert gap(found, expected) < LIMIT


def test_at_one_site_the_left_of_two_changes_acts_first():
    model, prompt, other = loaded("llava")
    image = group(prompt, "image")
    source = forward("llava", other).states["decoder", "key", 1][0, image]
    swap, mean = (
        nv.Patch("image", source=other, site="key", layers=1),
        nv.Ablate("image", how="mean", site="key", layers=1),
    )
    both = heads_set(image, [0, 1], source), mean_of(image, [0, 1])
    for change, writes in ((swap | mean, both), (mean | swap, both[::-1])):
        expected = forward("llava", prompt, {("decoder", "key", 1): in_order(*writes)})
        assert gap(nv.run(model, prompt, change, positions="all").logits, expected.logits[0]) < LIMIT
        assert nv.verify(model, prompt, change).tokens == 4


@pytest.mark.parametrize("name", FULL)
def test_what_is_written_is_proved(name):
    model, prompt, other = loaded(name)
    change, _ = kept(model, prompt, other)
    proof = nv.verify(model, prompt, change)
    assert proof.writes == 3 and proof.tokens == 4 and proof.moved > 0


@pytest.mark.parametrize("name", ["blip-2-t5", "mllama", "idefics2"])
def test_what_is_written_in_other_stages_and_in_cross_attention_is_proved(name):
    model, prompt, _ = loaded(name)
    changes = [
        nv.Ablate(tuple(spot.positions(part)), **spot.named(part), heads=1)
        for spot in attentions(model, prompt)
        for part in PARTS
    ]
    assert nv.verify(model, prompt, functools.reduce(operator.or_, changes)).writes == len(changes)


# where weights must not cross ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FULL if name not in ("blip-2-t5",)])
def test_reads_of_attention_in_a_sandbox_are_the_same_and_take_no_module(monkeypatch, name):
    model, prompt, _ = loaded(name, "sdpa")
    reads = [nv.Residual("all", site=part, layers="attention", heads=[0, 1]) for part in PARTS]
    reads += [nv.Attention("last", "image", layers="attention")]
    reads += [nv.Attention("all", "image", reduce="mass", layers="attention")]
    if prompt["image"][0] < 0:
        reads += [nv.Residual("image", site=part, layers="all") for part in ("key", "value")]
        reads += [nv.Residual("all", site="cross query", layers="all")]
    expected = nv.run(model, prompt, reads=reads).reads
    taken, fetch = [], runner.fetch

    def watched(*args: Any) -> Any:
        taken.append(fetch(*args))
        return taken[-1]

    monkeypatch.setattr(runner, "is_sandboxed", lambda _: True)
    monkeypatch.setattr(runner, "fetch", watched)
    for found, same in zip(nv.run(model, prompt, reads=reads).reads, expected, strict=True):
        assert gap(found, same) < LIMIT
    parts = [part for args, kwargs in taken for part in (*args, *kwargs.values())]
    assert parts and not any(isinstance(part, torch.nn.Module) for part in parts)


# identities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FULL)
def test_the_heads_through_the_output_projection_are_the_attention(name):
    model, prompt, _ = loaded(name)
    module, family = by_hand(name)
    spec = view_of(model).stage()
    layer, stage = spec.attention[-1], family.decoder
    reads = [nv.Residual("all", site=site, layers=layer) for site in ("head", "attention")]
    heads, attention = (read[0] for read in nv.run(model, prompt, reads=reads).reads)
    block = reference.layers(module, stage)[layer]
    projection = block.get_submodule(reference.plain(stage.attention.projection))
    by_head = projection.weight.unflatten(1, (spec.head_count, -1))  # [width, head, head_dim]
    added = torch.einsum("hpd,whd->pw", heads, by_head)
    added = added if projection.bias is None else added + projection.bias
    if stage.attention.output not in (stage.attention.module, stage.attention.projection):
        added = block.get_submodule(stage.attention.output)(added)  # a norm behind the projection
    assert gap(added, attention) < LIMIT


@pytest.mark.parametrize("name", FULL)
def test_patching_all_heads_is_patching_the_attention(name):
    model, prompt, other = loaded(name)
    layer = view_of(model).stage().attention[1 if view_of(model).stage().attention[1:] else 0]
    heads, whole = (
        nv.run(model, prompt, nv.Patch("all", source=other, site=site, layers=layer)).logits
        for site in ("head", "attention")
    )
    assert gap(heads, whole) < LIMIT


@pytest.mark.parametrize("name", [name for name in FULL if name != "qwen3_5"])  # its heads pass a gate of their own
def test_keys_and_values_of_another_run_give_its_attention_for_the_same_queries(name):
    model, prompt, other = loaded(name)
    layer = view_of(model).stage().attention[-1]
    named = {"layers": layer}
    theirs = [nv.Patch("all", source=other, site=site, **named) for site in ("key", "value")]
    mine = nv.Patch("all", source=prompt, site="query", **named)
    read = nv.Residual("all", site="head", **named)
    here = nv.run(model, prompt, theirs[0] | theirs[1], reads=read).reads[0]
    there = nv.run(model, other, mine, reads=read).reads[0]
    assert gap(here, there) < LIMIT
    assert name == "blip-2-t5" or gap(nv.run(model, prompt, reads=read).reads[0], there) > SEEN


# sweeps, refusals, faults ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llava", "llava-mistral", "qwen2_5_vl", "gemma3", "qwen3_5"])
def test_a_sweep_of_heads_is_the_same_however_it_is_run(name):
    model, prompt, other = loaded(name)
    layers = view_of(model).stage().attention
    variants = [nv.Patch("query", source=other, site="head", layers=layer, heads=1) for layer in layers]
    variants += [nv.Ablate("query", site=site, layers=layers[-1], heads=[0]) for site in PARTS]
    variants += [nv.Patch("image", source=other, site=site, layers=layers[0]) for site in ("key", "value")]
    frames = [nv.sweep(model, prompt, variants, answer="a", execution=way) for way in ("auto", "single")]
    together, alone = (torch.tensor(frame["logit"].to_numpy()) for frame in frames)
    assert gap(together, alone) < LIMIT
    assert list(frames[0]["heads"])[:2] == ["1", "1"]


def test_positions_rotate_keys_so_they_are_taken_from_equal_positions_only():
    model, prompt, other = loaded("llava")
    one, two = prompt["query"][0], prompt["query"][1]
    for site in ("key", "query"):
        with pytest.raises(
            nv.SpecError, match=rf"a {site} of the source at position {two} would be written at .* {one}"
        ):
            nv.run(model, prompt, nv.Patch(one, source=other, source_where=two, site=site, layers=1))
    moved = nv.Patch(one, source=other, source_where=two, site="value", layers=1)
    assert gap(nv.run(model, prompt, moved).logits, nv.run(model, prompt).logits) > 0
    padded = nv.stack([prompt, nv.encode(model, zoo.ZOO["llava"].text + " red dog ?", picture(3))])
    assert padded.rows[0].start > 0  # the same position ids, behind padding
    found = nv.run(model, padded, [nv.Patch("image", source=other, site="key", layers=1), None]).logits[0]
    alone = nv.run(model, prompt, nv.Patch("image", source=other, site="key", layers=1)).logits
    assert gap(found, alone) < LIMIT


def test_what_heads_cannot_be_is_refused_in_words():
    model, prompt, other = loaded("llava")
    two = {"site": "key", "layers": [1, 2]}
    for match, change in (
        (r"key heads 0\.\.1", lambda: nv.Ablate("image", site="key", layers=1, heads=2)),
        ("have none", lambda: nv.Ablate("image", layers=1, heads=2)),
        ("heads names layer 3", lambda: nv.Ablate("image", **two, heads=[(3, 1)])),
        ("heads .* must ascend", lambda: nv.Patch("image", source=other, **two, heads=[1, 0])),
        ("of width 8; give", lambda: nv.Patch("image", source=torch.zeros(3, 7, 8), site="head", heads=[0, 1])),
        ("no site 'cross head'", lambda: nv.Ablate("image", site="cross head")),
        (r"heads=\(\) names no head", lambda: nv.Ablate("image", site="head", heads=[])),
    ):
        with pytest.raises(nv.SpecError, match=match):
            nv.run(model, prompt, change())
    with pytest.raises(nv.SpecError, match="more heads in one of the layers"):
        nv.run(model, prompt, reads=nv.Residual("last", site="head", layers=[1, 2], heads=[(1, 0), (1, 1), (2, 0)]))
    hybrid, asked, _ = loaded("qwen3_5")
    with pytest.raises(nv.SpecError, match='Write layers="attention"'):
        nv.run(hybrid, asked, nv.Ablate("image", site="key"))
    mixed, asked, _ = loaded("gemma4")
    with pytest.raises(nv.SpecError, match=r"not equally many and wide.*layers=\[0, 1, 3, 4\]"):
        nv.run(mixed, asked, reads=nv.Residual("last", site="head"))
    crossing, asked, _ = loaded("mllama")
    with pytest.raises(nv.SpecError, match="lies in the sequence of the decoder and outside it"):
        nv.run(crossing, asked, nv.Ablate(("image", "last"), site="key"))


def not_at_all(value: Any, written: Any, window: Any) -> Any:
    return value


def at_no_decoded_token(value: Any, written: Any, window: Any) -> Any:
    return value if window[0] else written


def at_every_head(value: Any, written: Any, window: Any) -> Any:
    (module, query, key, *others), kwargs = written
    return (module, query, key * 1.01, *others), kwargs


FAULTS = (not_at_all, at_no_decoded_token, at_every_head)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_key_that_is_not_written_as_planned_is_caught(monkeypatch, fault):
    import dataclasses

    from nnsight_vlm.lowering import sites

    site = sites.SITES["key"]

    def faulty(value, writes, window, *rest):
        return fault(value, site.kernel(value, writes, window, *rest), window)

    monkeypatch.setitem(sites.SITES, "key", dataclasses.replace(site, kernel=faulty))
    model, prompt, other = loaded("llava")
    with pytest.raises(nv.InterventionError):
        nv.verify(model, prompt, nv.Patch("image", source=other, site="key", layers=1, heads=[1]))
