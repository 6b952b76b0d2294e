"""What `verify` says of faults and of what works, in every precision: neither certifies the one nor refuses the other.

Faults are planted in kernels, in the prompt's forward or in that of decoded tokens only, of decoders, of a T5 that
reads an encoder, and of a Mllama that reads its image through cross-attention. What works is taken from models loaded
in each precision as a user loads them, without the tests' own float64.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
import zoo
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.execution import proof_rounding
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering import resolve, sites

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}
MODELS = ("llava", "mllama", "blip-2-t5")
ATTENTIONS = ("mask", "cross mask")


@functools.cache
def loaded(name: str, dtype: str = "float32", attention: str = "sdpa") -> Any:
    member = zoo.ZOO[name]
    return nv.load(member.module(attention).to(TYPES[dtype]), processor=member.processor())


@functools.cache
def asked(name: str, dtype: str = "float32", attention: str = "sdpa") -> nv.Prompt:
    member = zoo.ZOO[name]
    return nv.encode(loaded(name, dtype, attention), member.text, picture(1, member.sizes[0]))


@functools.cache
def batch(name: str, dtype: str = "float32", attention: str = "sdpa") -> nv.Prompt:
    member = zoo.ZOO[name]
    long = nv.encode(
        loaded(name, dtype, attention), member.text + " red dog on the left ?", picture(2, member.sizes[0])
    )
    return nv.stack([asked(name, dtype, attention), long])


@pytest.fixture
def plant(monkeypatch):
    """A function that puts `fault(kernel)` in place of the kernels of some sites."""

    def replace(names: tuple[str, ...], fault: Callable[[Any], Any]) -> None:
        for name in names:
            site = sites.SITES[name]
            monkeypatch.setitem(sites.SITES, name, dataclasses.replace(site, kernel=fault(site.kernel)))

    return replace


def caught(model: Any, prompt: nv.Prompt, change: nv.Intervention, match: str) -> None:
    with pytest.raises(nv.InterventionError, match=match):
        nv.verify(model, prompt, change)


# faults ---------------------------------------------------------------------------------------------


def idle(when: Callable[[int, int], bool]) -> Callable[[Any], Any]:
    """A kernel that does nothing in some calls: where the first query is at some place, or the n-th of a forward."""

    def fault(kernel: Any) -> Any:
        def faulty(value: Any, writes: Any, window: Any, mask_spec: Any, memo: Any) -> Any:
            memo["call"] = memo.get("call", -1) + 1
            if when(window[0], memo["call"]):
                return value
            return kernel(value, writes, window, mask_spec, memo)

        return faulty

    return fault


def with_writes(changed: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A kernel that does other writes than it is told."""
    return lambda kernel: lambda value, writes, *rest: kernel(value, changed(writes), *rest)


def times(factor: float) -> Callable[[Any], Any]:
    """A kernel that writes slightly wrong states, everywhere."""

    def fault(kernel: Any) -> Any:
        def faulty(value: Any, *rest: Any) -> Any:
            written = kernel(value, *rest)
            if isinstance(written, tuple):
                return (written[0] * factor, *written[1:])
            return written * factor

        return faulty

    return fault


PRECISIONS = ("float32", "bfloat16", "float16")
IN_DECODING = {
    "at no decoded token": lambda width: lambda place, _: place >= width,
    "not from the second token on": lambda width: lambda place, _: place > width,
    "in all layers but one": lambda width: lambda place, call: place >= width and call == 1,
}


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fault", IN_DECODING)
def test_a_cut_that_does_not_act_on_decoded_tokens_is_caught(plant, name, dtype, fault):
    model, prompt = loaded(name, dtype), asked(name, dtype)
    seen = "first" if name == "blip-2-t5" else "query"
    change = nv.Knockout(seen, "generated", layers="attention")
    assert nv.verify(model, prompt, change).tokens == 4
    plant(("mask",), idle(IN_DECODING[fault](prompt.width)))
    caught(model, prompt, change, "not the same in cached generation")


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("fault", ["at no decoded token", "not from the second token on"])
def test_an_ablation_that_does_not_act_on_decoded_tokens_is_caught(plant, name, dtype, fault):
    model, prompt = loaded(name, dtype), batch(name, dtype)
    change = nv.Ablate("generated", layers=[1])
    assert nv.verify(model, prompt, change).tokens == 8
    plant(("residual",), idle(IN_DECODING[fault](prompt.width)))
    caught(model, prompt, change, "not the same in cached generation")


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
def test_a_cut_in_the_wrong_row_or_layer_or_of_less_than_was_named_is_caught(monkeypatch, name, dtype):
    model, prompt = loaded(name, dtype), batch(name, dtype)
    change = nv.Knockout("image", "last", layers="attention")
    faults: dict[str, Callable[[Any], Any]] = {
        "one row": with_writes(lambda writes: tuple(write for write in writes if write[0] == 0)),
        "another row": with_writes(lambda writes: tuple((0, *write[1:]) for write in writes)),
        "no layer but": idle(lambda _, call: call == 0),
        "one key less": with_writes(
            lambda writes: tuple((row, to, ((of[0][0] + 1, of[0][1]), *of[1:]), heads) for row, to, of, heads in writes)
        ),
    }
    assert nv.verify(model, prompt, change).edges > 0
    for fault in faults.values():
        with monkeypatch.context() as planted:
            for site in ATTENTIONS:
                kernel = fault(sites.SITES[site].kernel)
                planted.setitem(sites.SITES, site, dataclasses.replace(sites.SITES[site], kernel=kernel))
            caught(model, prompt, change, "layer")


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("how", ["zero", "mean"])
@pytest.mark.parametrize("wrong", ["another row", "one row", "by a hundredth"])
def test_states_that_are_not_what_was_to_be_written_are_caught(plant, name, dtype, how, wrong):
    model, prompt = loaded(name, dtype), batch(name, dtype)
    where, stage = ("all", "decoder") if name != "blip-2-t5" else ("text", "encoder")
    change = nv.Ablate(where, how=how, layers=[1], stage=stage)
    assert nv.verify(model, prompt, change).writes == 1
    plant(
        ("residual",),
        {
            "another row": with_writes(lambda writes: tuple((0, *write[1:]) for write in writes)),
            "one row": with_writes(lambda writes: tuple(write for write in writes if write[0] == 1)),
            "by a hundredth": times(1.01),
        }[wrong],
    )
    caught(model, prompt, change, "does not hold what was to be written")


@pytest.mark.parametrize("name", ["llava", "llava_next", "blip-2-opt", "blip-2-t5", "gemma3", "kosmos-2", "florence2"])
def test_features_of_another_image_or_token_are_caught(monkeypatch, name):
    """The plan and the proof of states would agree: both take the rows from the same lowering."""
    model, prompt = (
        loaded(name, attention=zoo.ZOO[name].implementations[0]),
        asked(name, attention=zoo.ZOO[name].implementations[0]),
    )
    change = nv.Ablate(prompt["image"][:3], site="features")
    assert nv.verify(model, prompt, change).writes == 1
    counted = resolve.Resolver.feature_places
    monkeypatch.setattr(resolve.Resolver, "feature_places", lambda self, where: counted(self, where).shifted(1))
    caught(model, prompt, change, "is not among the tokens named|features that were written are those of no token")


def test_a_word_that_is_never_said_hides_no_fault():
    """Chameleon's logits of image words are the least number of their type, next to which every gap is small."""
    for dtype in PRECISIONS:
        model, prompt = loaded("chameleon", dtype), asked("chameleon", dtype)
        rounding = proof_rounding.rounding_of(model)
        least = torch.finfo(TYPES[dtype]).min
        expected = torch.tensor([[1.0, -2.0, least]])
        assert float(rounding.gap(torch.tensor([[1.0, -1.5, least]]), expected)) == 0.25
        assert float(rounding.gap(torch.tensor([[1.0, -2.0, 0.0]]), expected)) == float("inf")
        assert rounding.moved(expected, torch.tensor([[1.5, -2.0, least]])) == 0.5
        with pytest.MonkeyPatch.context() as planted:
            kernel = idle(lambda place, _, width=prompt.width: place >= width)
            site = sites.SITES["mask"]
            planted.setitem(sites.SITES, "mask", dataclasses.replace(site, kernel=kernel(site.kernel)))
            caught(model, prompt, nv.Knockout("image", "generated"), "not the same in cached generation")


# what works -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("attention, dtype", [*(("sdpa", dtype) for dtype in TYPES), ("eager", "float32")])
@pytest.mark.parametrize("name", [*MODELS, "idefics2"])
def test_what_works_is_proven_in_every_precision(name, attention, dtype):
    model, prompt = loaded(name, dtype, attention), asked(name, dtype, attention)
    both = [prompt] if attention == "eager" else [prompt, batch(name, dtype, attention)]
    for each in both:
        cut = nv.Knockout("image", ("last", "generated"), layers="attention")
        # in a longer row of the batch, the image may lie beyond a window
        assert nv.verify(model, each, cut, empty="ignore").tokens == 4 * len(each)
        assert nv.verify(model, each, nv.Ablate(("last", "generated"), layers=[0])).tokens == 4 * len(each)
        assert nv.verify(model, each, nv.Ablate("last", site="mlp", layers=[0], how="mean")).writes == 1
    ablated = nv.Ablate("image", site="features")
    assert nv.verify(model, prompt, ablated, pixels=name != "mllama").writes == 1


@pytest.mark.parametrize("name", ["blip-2-t5", "instructblip-t5", "florence2", "llava"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_grown_prompt_is_proven(name, dtype):
    """A model without `logits_to_keep` gives the logits of every position, the prompt's own answer among them."""
    model, prompt = loaded(name, dtype), asked(name, dtype).grown([12, 13, 14])
    for change in (
        nv.Knockout("image", ("last", "generated"), layers="attention"),
        nv.Ablate("generated", layers=[1]),
        nv.Ablate("generated", layers=[1]) | nv.Knockout("image", "last", layers=[0]),
    ):
        proof = nv.verify(model, prompt, change)
        assert proof.tokens == 4 and proof.moved > 0


@pytest.mark.parametrize("how", ["zero", "mean"])
def test_two_sites_that_are_one_modules_output_are_proven_together(how):
    model = loaded("kosmos-2")
    for prompt in (asked("kosmos-2"), batch("kosmos-2")):
        features = nv.Ablate("image", site="features", how="mean" if how == "zero" else "zero")
        latents = nv.Ablate("query", stage="resampler", how=how)
        for change in (features | latents, latents | features):
            assert nv.verify(model, prompt, change).writes == 2


def test_answers_are_made_of_words_only():
    """Ovis2 puts other states in place of its indicators, but only in a forward that is given pixels."""
    model, indicators = loaded("ovis2"), view_of(loaded("ovis2")).config.visual_indicator_token_ids
    assert {*indicators, view_of(model).config.image_token_id} <= set(view_of(model).placeholders)
    prompt = asked("ovis2").grown([12, 13, 14])
    assert nv.verify(model, prompt, nv.Knockout("image", ("last", "generated"))).tokens == 4
    assert view_of(loaded("llava")).placeholders == (view_of(loaded("llava")).config.image_token_id,)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_given_as_a_mask_are_proven_in_a_batch(side):
    model = tiny.load("sdpa")
    prompt = tiny.several(model, side)
    last = [row.stop - 1 for row in prompt.rows]
    mask = torch.zeros(prompt.width, dtype=torch.bool)
    mask[min(last) - 1 : min(last) + 1] = True
    assert nv.verify(model, prompt, nv.Ablate(mask, layers=[1])).writes == 1
    assert nv.verify(model, prompt, nv.Ablate("query", layers=[1]) | nv.Ablate(mask, layers=[1], how="mean")).writes


def test_a_model_that_gives_no_numbers_is_said_to_be_at_fault():
    model, prompt = loaded("llava", "float64", "eager"), batch("llava", "float64", "eager")
    for change in (None, nv.Ablate("last", layers=[0]), nv.Ablate("generated", layers=[0])):
        caught(model, prompt, change, r"even without an intervention .* no numbers \(NaN\).*sdpa")


# bounds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TYPES)
def test_a_bound_excludes_something_in_every_precision(dtype):
    rounding = proof_rounding.rounding_of(loaded("llava", dtype))
    assert rounding.unit == max(torch.finfo(TYPES[dtype]).eps, torch.finfo(torch.float32).eps)
    assert rounding.allowed([0.0], "off by {}") <= (0.07 if rounding.unit > 1e-6 else 1e-4)
    with pytest.raises(nv.InterventionError, match=r"row 1: even without an intervention .* nothing can be proved"):
        rounding.allowed([0.0, 0.2], "the logits are off by {}")
    with pytest.raises(nv.InterventionError, match=r"row 1: .* no numbers"):
        rounding.allowed([0.1 * rounding.unit, float("nan")], "the logits are off by {}")


def test_weights_of_several_types_are_as_precise_as_the_coarsest():
    module = tiny.build_module()
    module.model.multi_modal_projector.to(torch.bfloat16)
    rounding = proof_rounding.rounding_of(nv.load(module, processor=tiny.build_processor()))
    assert rounding.unit == torch.finfo(torch.bfloat16).eps
