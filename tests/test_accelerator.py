"""Models on a CUDA device give what they give on the CPU, and keep to their budget of its memory.

Numbers are compared in float64, which both compute; a machine without such a device skips the file.
"""

from __future__ import annotations

import copy
import functools
import re
import sys
from pathlib import Path

import pytest
import torch
import zoo
from float64 import LIMIT
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

from models import ModelSize, build_module, inputs_of
from test_peaks import SLACK

DEVICE = "cuda"
STEPS = 3
BIG = ModelSize(layers=4, width=256, heads=8, side=32)
"""1,064 tokens: enough that what a run takes is its prompt, and not what the device's libraries keep."""
CUTS = [nv.Knockout("image", "query", layers=layer) for layer in range(BIG.layers)]

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@functools.cache
def on_device(name):
    """A member of the zoo in float64, on the device."""
    member = zoo.ZOO[name]
    module = zoo.in_dtype(member.module(member.implementations[0]), torch.float64)
    return nv.load(module.to(DEVICE), processor=member.processor())


def both(name):
    """A member's prompt with the model on the device, and with the model on the CPU."""
    member, model = zoo.ZOO[name], on_device(name)
    here = nv.encode(model, member.text, picture(1, member.sizes[0]))
    return here, zoo.prompt(name, member.implementations[0], dtype=torch.float64)


def conditions():
    """A cut, a write, and both: what every family takes."""
    return [
        nv.Knockout("image", "last", layers="attention"),
        nv.Ablate("last", how="zero", layers=0),
        nv.Knockout("image", "last", layers="attention") | nv.Ablate("last", how="zero", layers=-1),
    ]


def close(found, expected):
    """Equality in float64, as a share of the scale; a word that a model never says is as unsaid."""
    found, expected = found.cpu(), expected.cpu()
    said = expected > torch.finfo(torch.float32).min
    assert torch.equal(found > torch.finfo(torch.float32).min, said)
    gap = (found - expected)[said].abs().max()
    assert gap <= LIMIT * expected[said].abs().max(), float(gap)


@pytest.mark.float64
@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_run_on_the_device_gives_the_logits_and_reads_of_the_cpu(name):
    reads = [nv.Residual("last", layers="all")]
    if not view_of(on_device(name)).family.decoder.attention.inner_norm:
        added = {"layers": "attention", "reduce": "contribution"}
        reads += [nv.Attention("last", "all", over=over, **added) for over in (None, "keys", "heads")]
    for condition in (None, *conditions()):
        found, expected = (nv.run(each.model, each, condition, reads=reads) for each in both(name))
        close(found.logits, expected.logits)
        for ours, theirs in zip(found.reads, expected.reads, strict=True):
            close(ours, theirs)


@pytest.mark.float64
@pytest.mark.parametrize("name", zoo.ZOO)
def test_a_sweep_on_the_device_gives_the_numbers_of_the_cpu(name):
    pair = both(name)
    found, expected = (nv.sweep(each.model, each, conditions(), answer=7) for each in pair)
    for column in ("logit", "logprob", "clean_logit", "clean_logprob"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), rel=LIMIT, abs=LIMIT)
    assert found["top_token"].tolist() == expected["top_token"].tolist()


@pytest.mark.float64
@pytest.mark.parametrize("name", zoo.ZOO)
def test_whole_answers_and_lenses_on_the_device_are_those_of_the_cpu(name):
    pair, lens = both(name), nv.Lens("last", layers=[0, -1], top=3)
    word = pair[1].rows[0].tokens[pair[1]["last"][0]]
    said = {"answer": [(word, word), word], "against": (word,) * 3, "reads": lens, "execution": "rows"}
    found, expected = (nv.sweep(each.model, each, [None, *conditions()[1:2]], **said) for each in pair)
    for column in ("logprob", "logprob_diff", "clean_logprob_diff"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), rel=LIMIT, abs=LIMIT)
    for ours, theirs in zip(found["read"], expected["read"], strict=True):
        assert torch.equal(ours[..., 0].cpu(), theirs[..., 0])
        close(ours[..., 2], theirs[..., 2])


@pytest.mark.float64
@pytest.mark.parametrize("name", zoo.ZOO)
def test_towers_and_gradients_on_the_device_are_those_of_the_cpu(name):
    pair, member = both(name), zoo.ZOO[name]
    here = nv.encode(on_device(name), member.text, picture(2, member.sizes[0]))
    others = here, zoo.prompt(name, member.implementations[0], 2, dtype=torch.float64)
    frames = [nv.attribute(*(other.model, one, other), answer=7) for one, other in zip(pair, others, strict=True)]
    close(*(torch.tensor(frame["estimate"].to_numpy()) for frame in frames))
    view = view_of(pair[1].model)
    if "vision" not in view.family.stages:
        return
    attending, where = view.stage("vision").attention, {"stage": "vision", "layers": view.stage("vision").taken[0]}
    read = [nv.Residual("image", **where)] if where["layers"] >= 0 else []
    read += [nv.Attention("image", "image", stage="vision", layers=attending[0])] if attending else []
    case = nv.Ablate("image", how="mean", site="embedding", stage="vision")
    if attending:
        some = pair[1].positions("image", stage="vision")
        case = nv.Knockout(some[:2], some[2:4], layers=attending[0], stage="vision")
    found, expected = (nv.run(each.model, each, case, reads=read) for each in pair)
    close(found.logits, expected.logits)
    for ours, theirs in zip(found.reads, expected.reads, strict=True):
        close(ours, theirs)


@pytest.mark.float64
@pytest.mark.parametrize("name", zoo.ZOO)
def test_answers_on_the_device_are_those_of_the_cpu(name):
    for condition in (None, nv.Knockout("image", "generated", layers="attention")):
        found, expected = (nv.generate(each.model, each, condition, max_new_tokens=STEPS).tokens for each in both(name))
        assert found == expected


@pytest.mark.float64
@pytest.mark.parametrize("name", zoo.ZOO)
def test_what_is_done_on_the_device_is_proved_there(name):
    prompt, _ = both(name)
    nv.verify(prompt.model, prompt, nv.Knockout("image", "last", layers="attention"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuts_are_proved_in_every_precision_and_answers_follow_one_run_each(dtype):
    model = nv.load("shapes", dtype=dtype, device_map=DEVICE)
    assert view_of(model).device.type == DEVICE
    scene = nv.shapes.scene(3)
    prompt = nv.encode(model, "describe the image.", scene.image)
    cut = nv.Knockout("image", "generated", layers=nv.window(2, 5))
    nv.verify(model, prompt, nv.Knockout("image", "text"), pixels=True)
    answers = list(nv.generations(model, [(prompt, None), (prompt, cut)], max_new_tokens=6))
    if dtype is torch.float32:
        assert [each.tokens for each in answers] == [
            nv.generate(model, prompt, each, max_new_tokens=6).tokens for each in (None, cut)
        ]


def peak_of(work):
    """Bytes that a call takes of the device's memory beside what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return torch.cuda.max_memory_allocated() - before


@pytest.fixture(scope="module")
def big():
    model = nv.load(copy.deepcopy(build_module(BIG)).to(DEVICE))
    prompt = nv.encode(model, inputs={name: value.to(DEVICE) for name, value in inputs_of(BIG).items()})
    nv.run(model, prompt)  # what the device's libraries keep is there before anything is measured
    return model, prompt


def test_a_sweep_keeps_to_its_budget_of_the_devices_memory(big):
    model, prompt = big

    def sweep(memory):
        return nv.sweep(model, prompt, CUTS * 4, answer=77, memory=memory)

    with pytest.raises(nv.SpecError, match=r"write memory=\d+ or more") as refused:
        sweep(1)
    least = int(re.findall(r"write memory=(\d+) or more", str(refused.value))[0])
    for budget in (least, 2 * least, 4 * least):
        assert peak_of(lambda: sweep(budget)) <= SLACK * budget  # noqa: B023 (called at once)


def test_where_the_devices_memory_runs_out_fewer_variants_share_a_forward(big):
    model, prompt = big
    expected = nv.sweep(model, prompt, CUTS * 8, answer=77, execution="single")["logit"].tolist()
    kept = torch.empty(int(torch.cuda.mem_get_info()[0]) - 2**30, dtype=torch.uint8, device=DEVICE)
    try:
        torch.cuda.empty_cache()
        found = nv.sweep(model, prompt, CUTS * 8, answer=77, memory=2**40)["logit"].tolist()
    finally:
        del kept
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
