"""Every family loads from a folder, with weights and without, and its requests run in a process without this package.

Remote runs start from `nv.load(folder, dispatch=False)`, which must encode, check and lower as the model with weights
does. A process in which this package cannot be imported must run the requests and give the same numbers.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from functools import reduce
from operator import or_
from pathlib import Path
from types import ModuleType

import pytest
import torch
import travel
import zoo
from float64 import LIMIT, float64
from nnsight import TransformersModel
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

import nnsight_vlm as nv
from nnsight_vlm.execution.checking import check
from nnsight_vlm.execution.preparing import prepare
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering.layouts import one_case_per_row
from nnsight_vlm.lowering.resolve import resolver

NEEDS_TORCHVISION = "equires the Torchvision library"
NO_VIDEO_PROCESSOR = "has no attribute '_auto_class'"
SUBSTITUTE = "Unrecognized image processor"
NOT_READABLE = {
    "mistral3": NEEDS_TORCHVISION,
    "llava-pixtral": NEEDS_TORCHVISION,
    "lfm2_vl": "torchvision: Lfm2VlImageProcessor",
    "fuyu": SUBSTITUTE,
    "cohere2_vision": SUBSTITUTE,
    "llama4": SUBSTITUTE,
    **dict.fromkeys(("llava_onevision", "internvl", "perception_lm", "smolvlm"), NO_VIDEO_PROCESSOR),
    **dict.fromkeys(("molmo2", "molmo2-norms-after", "kimi_k25"), NO_VIDEO_PROCESSOR),
    **dict.fromkeys(("llava_next_video", "video_llava"), NO_VIDEO_PROCESSOR),
    **dict.fromkeys(
        (
            "qwen2_vl",
            "qwen2_5_vl",
            "qwen3_vl",
            "qwen3_5",
            "glm4v",
            "gemma4",
            "gemma4-causal-shared",
            "minicpmv4_6",
            "exaone4_5",
            "lfm3_vl",
        ),
        NO_VIDEO_PROCESSOR,
    ),
    **dict.fromkeys(("qwen3_vl_moe", "qwen3_5_moe", "glm4v_moe", "glm46v", "glm46v-moe"), NO_VIDEO_PROCESSOR),
    "ernie4_5_vl_moe": "has no attribute 'font'",
}
"""Without torchvision: processors that cannot be saved to a folder and read again, and the error.

The reason is never the family itself. Either the processor's module imports torchvision; or the processor has a video
part that needs it, which the zoo leaves out; or the zoo uses another image processor in place of one that needs it.
"""


NOT_SAVED_COMPLETELY = ("got_ocr2", "got_ocr2-tiles", "kosmos-2", "aria", "aria-split")
"""The zoo makes a setting of these processors smaller, and `save_pretrained` does not save that setting."""

MEMBERS = list(zoo.ZOO)


def in_memory(name, dtype=torch.float32):
    """The member as the zoo builds it."""
    return zoo.load(name, zoo.ZOO[name].implementations[0], dtype)


def prompt_for(name, model=None, seed=1):
    """The member's prompt, encoded for a model; by default for the member in memory."""
    member = zoo.ZOO[name]
    return nv.encode(model or in_memory(name), member.text, zoo.picture(seed, member.sizes[0]))


def attentions(name):
    """The attention implementation of each part of the member, as transformers takes it."""
    config = view_of(in_memory(name)).config
    parts = {part: getattr(config, part) for part in config.sub_configs if getattr(config, part, None) is not None}
    return {"": config._attn_implementation, **{part: inner._attn_implementation for part, inner in parts.items()}}


def cut_and_patch(name, dtype=torch.float32):
    """A knockout in every layer that attends, and a patch from another prompt in the first of them."""
    model = in_memory(name, dtype)
    twin = prompt_for(name, model, seed=2)
    first = resolver(model, one_case_per_row(twin).placements[0]).spec.attention[0]
    return nv.Knockout("image", "last", layers="attention") | nv.Patch("last", source=twin, layers=first)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Member name to the folder that holds its weights."""
    folders = {}

    def save(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("zoo") / name
            view_of(in_memory(name)).module.save_pretrained(folders[name])
        return str(folders[name])

    return save


@pytest.mark.parametrize("name", MEMBERS)
def test_a_model_without_weights_encodes_checks_and_lowers_as_with_weights(name, folder):
    empty, real = nv.load(folder(name), dispatch=False, processor=zoo.ZOO[name].processor()), in_memory(name)
    assert {weight.device.type for weight in view_of(empty).module.parameters()} == {"meta"}
    assert view_of(empty).family == view_of(real).family
    prompt, expected = prompt_for(name, empty), prompt_for(name)
    assert prompt.rows == expected.rows
    assert prompt.inputs.keys() == expected.inputs.keys()
    for value, other in zip(prompt.inputs.values(), expected.inputs.values(), strict=True):
        assert not isinstance(value, torch.Tensor) or torch.equal(value, other)
    check(empty, prompt, cut_and_patch(name))
    cut = nv.Knockout("image", "last", layers="attention")
    plans = [
        prepare(model, one_case_per_row(prompt), [cut], {}) for model, prompt in ((empty, prompt), (real, expected))
    ]
    assert plans[0] == plans[1]
    assert plans[0].every_token or plans[0].once
    with pytest.raises(nv.SpecError):
        check(empty, prompt, nv.Knockout("image", "last", layers=999))


def expect_same_logits(name, saved):
    """A model from a folder computes what the member in memory computes, once both are converted to float64."""
    member = zoo.ZOO[name]
    modules = view_of(saved).module, member.module(member.implementations[0])
    with float64():
        models = [nv.load(module.double(), processor=member.processor()) for module in modules]
        logits, expected = (nv.run(model, prompt_for(name, model)).logits for model in models)
    assert logits.dtype == torch.float64
    assert torch.allclose(logits, expected, rtol=0, atol=LIMIT * float(expected.abs().max()))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_folder_gives_the_model_that_was_saved_in_it(name, folder):
    member, real = zoo.ZOO[name], in_memory(name)
    saved = nv.load(folder(name), processor=member.processor(), attn_implementation=attentions(name))
    weights, expected = view_of(saved).module.state_dict(), view_of(real).module.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[path]) for path, value in weights.items())
    expect_same_logits(name, saved)


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in NOT_SAVED_COMPLETELY])
def test_a_folder_that_holds_the_processor_too_needs_nothing_else(name, folder):
    def save_and_read():
        zoo.ZOO[name].processor().save_pretrained(folder(name))
        return AutoProcessor.from_pretrained(folder(name))

    if name in NOT_READABLE:
        if is_torchvision_available():
            pytest.skip("torchvision is there")
        with pytest.raises((ImportError, AttributeError, ValueError), match=NOT_READABLE[name]):
            save_and_read()
        return
    save_and_read()
    saved = nv.load(folder(name))  # with sdpa, where the member in memory may have eager
    assert prompt_for(name, saved).rows == prompt_for(name).rows
    expect_same_logits(name, saved)


# what travels ---------------------------------------------------------------------------------


def requests_to(name):
    """`{request: (its bytes, what it saves in this process)}`, for the member in float64.

    The requests are a forward with reads, two decoding steps, a write of image features, and cuts and reads in stages
    before the decoder.
    """
    model = in_memory(name, torch.float64)
    prompt, case = prompt_for(name, model), cut_and_patch(name, torch.float64)
    reads = [nv.Attention("last", "image", layers="attention"), nv.Residual("last")]
    calls = {
        "run": lambda: nv.run(model, prompt, case, reads=reads, remote="local"),
        "generate": lambda: nv.generate(model, prompt, case, max_new_tokens=2, remote="local"),
    }
    family = view_of(model).family
    if family.projector and "features" not in family.limitations:
        mean = nv.Ablate("image", how="mean", site="features")
        calls["features"] = lambda: nv.run(
            model, prompt, mean, reads=[nv.Residual("image", site="features")], remote="local"
        )
    specs = {stage: view_of(model).stage(stage) for stage, _ in prompt.rows[0].stages}
    stages = {stage: its for stage, its in prompt.rows[0].stages if specs[stage].attention or specs[stage].cross}
    if stages:
        layers = {stage: specs[stage].attention[:1] or specs[stage].cross[:1] for stage in stages}
        cuts = [
            nv.Knockout(tokens.images[0][:2], "first", stage=stage, layers=layers[stage])
            for stage, tokens in stages.items()
        ]
        weights = [nv.Attention("first", "image", stage=stage, layers=layers[stage]) for stage in stages]
        calls["stages"] = lambda: nv.run(model, prompt, reduce(or_, cuts), reads=weights, remote="local")
    requests = {}
    with pytest.MonkeyPatch.context() as patch:
        for label, call in calls.items():
            backend = travel.CapturingBackend()
            patch.setattr(TransformersModel, "_remote_backend", lambda *_, backend=backend: backend)
            call()
            requests |= {f"{label} {number}": request for number, request in enumerate(backend.requests)}
    return requests


@pytest.fixture(scope="module")
def journeys(tmp_path_factory):
    """`{member: {request: (what it saves here, what it saves in another process)}}`; one process for all members."""
    with float64():
        here = {name: requests_to(name) for name in MEMBERS}
    jobs = {
        (zoo_module(name), name): (
            zoo.ZOO[name].implementations[0],
            {label: payload for label, (payload, _) in requests.items()},
        )
        for name, requests in here.items()
    }
    _, first = next(iter(jobs.values()))
    first["ours"] = b"cnnsight_vlm.lowering.plan\nwindow\n."
    folder = tmp_path_factory.mktemp("elsewhere")
    asked, answered = folder / "requests.pickle", folder / "answers.pt"
    asked.write_bytes(pickle.dumps(jobs))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).with_name("travel_zoo.py")), str(asked), str(answered)]
    finished = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    there = torch.load(answered, weights_only=False)
    assert "No module named 'nnsight_vlm'" in next(iter(there.values())).pop("ours")
    return {
        name: {label: (saved, there[zoo_module(name), name][label]) for label, (_, saved) in requests.items()}
        for name, requests in here.items()
    }


def zoo_module(name):
    """The name of the zoo's module that has the member."""
    modules = (part for part in vars(zoo).values() if isinstance(part, ModuleType) and hasattr(part, "MEMBERS"))
    return next(module.__name__ for module in modules if zoo.ZOO[name] in module.MEMBERS)


def tensors_in(value):
    """The tensors in nested lists and dictionaries, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in tensors_in(part)] if isinstance(parts, (list, tuple)) else []


@pytest.mark.parametrize("name", MEMBERS)
def test_a_process_without_the_package_gets_the_same_numbers(name, journeys):
    assert {label.split()[0] for label in journeys[name]} >= {"run", "generate"}
    for label, (here, there) in journeys[name].items():
        assert not isinstance(there, str), f"{label}: {there}"
        assert here.keys() == there.keys() and tensors_in(here)
        for one, two in zip(tensors_in(here), tensors_in(there), strict=True):
            scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
            assert one.dtype == two.dtype and torch.allclose(one, two, rtol=0, atol=LIMIT * scale), label
