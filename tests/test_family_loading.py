"""Every family loads from a folder, with weights and without, and what is asked of it travels.

`nv.load(folder, dispatch=False)` is what a remote run starts from: it must encode, check and lower as the model does.
A process without this package must open the requests and find the same numbers.
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
from nnsight import TransformersModel
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

import nnsight_vlm as nv
from nnsight_vlm.execution.checking import check
from nnsight_vlm.execution.preparing import prepare
from nnsight_vlm.families import view_of
from nnsight_vlm.lowering.layouts import one_case_per_row
from nnsight_vlm.lowering.resolve import resolver

EXACT = 5e-6
ELSEWHERE = 1e-5

MODULE_OF_TORCHVISION = "equires the Torchvision library"
NO_VIDEO = "has no attribute '_auto_class'"
STAND_IN = "Unrecognized image processor"
UNREADABLE = {
    "mistral3": MODULE_OF_TORCHVISION,
    "llava-pixtral": MODULE_OF_TORCHVISION,
    "lfm2_vl": "torchvision: Lfm2VlImageProcessor",
    "fuyu": STAND_IN,
    "cohere2_vision": STAND_IN,
    "llama4": STAND_IN,
    **dict.fromkeys(("llava_onevision", "internvl", "perception_lm", "smolvlm"), NO_VIDEO),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "glm4v", "gemma4", "gemma4-shared"), NO_VIDEO),
}
"""Where torchvision is missing: processors that cannot be written to a folder and read again, and the error.

None of this is about the families: their modules import torchvision; or there is a video part, which needs it, and the
zoo makes the processor without; or the zoo's image processor stands in for one that needs it.
"""


NOT_SAVED = ("got_ocr2", "got_ocr2-tiles", "kosmos-2", "aria", "aria-split")
"""The zoo shrinks a number of their processors that `save_pretrained` does not write down."""

MEMBERS = list(zoo.ZOO)


def kept(name):
    """The member in memory."""
    return zoo.load(name, zoo.ZOO[name].implementations[0])


def ask(name, model=None, seed=1):
    """The member's prompt, encoded for a model."""
    member = zoo.ZOO[name]
    return nv.encode(model or kept(name), member.text, zoo.picture(seed, member.sizes[0]))


def attentions(name):
    """The attention of each part of the member, as transformers takes it."""
    config = kept(name)._module.config
    parts = {part: getattr(config, part) for part in config.sub_configs if getattr(config, part, None) is not None}
    return {"": config._attn_implementation, **{part: inner._attn_implementation for part, inner in parts.items()}}


def cuts(name):
    """A cut in every layer that attends, and the state of another run in one of them."""
    model, twin = kept(name), ask(name, seed=2)
    first = resolver(model, one_case_per_row(twin).placements[0]).spec.attention[0]
    return nv.Knockout("image", "last", layers="attention") | nv.Patch("last", source=twin, layers=first)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Member name to the folder that holds its weights."""
    made = {}

    def save(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp("zoo") / name
            kept(name)._module.save_pretrained(made[name])
        return str(made[name])

    return save


@pytest.mark.parametrize("name", MEMBERS)
def test_a_model_without_weights_encodes_checks_and_lowers_as_the_real_one(name, folder):
    empty, real = nv.load(folder(name), dispatch=False, processor=zoo.ZOO[name].processor()), kept(name)
    assert {weight.device.type for weight in empty._module.parameters()} == {"meta"}
    assert view_of(empty).family is view_of(real).family
    bare, whole = ask(name, empty), ask(name)
    assert bare.rows == whole.rows
    assert bare.inputs.keys() == whole.inputs.keys()
    for value, other in zip(bare.inputs.values(), whole.inputs.values(), strict=True):
        assert not isinstance(value, torch.Tensor) or torch.equal(value, other)
    check(empty, bare, cuts(name))
    cut = nv.Knockout("image", "last", layers="attention")
    plans = [prepare(model, one_case_per_row(prompt), [cut], {}) for model, prompt in ((empty, bare), (real, whole))]
    assert plans[0] == plans[1]
    assert plans[0].every_token or plans[0].once
    with pytest.raises(nv.SpecError):
        check(empty, bare, nv.Knockout("image", "last", layers=999))


@pytest.mark.parametrize("name", MEMBERS)
def test_a_folder_gives_the_model_that_was_saved_in_it(name, folder):
    member, real = zoo.ZOO[name], kept(name)
    saved = nv.load(folder(name), processor=member.processor(), attn_implementation=attentions(name))
    weights, expected = saved._module.state_dict(), real._module.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(value, expected[path]) for path, value in weights.items())
    got, wanted = (nv.run(model, ask(name, model)).logits for model in (saved, real))
    assert torch.allclose(got, wanted, rtol=0, atol=EXACT * float(wanted.abs().max()))


@pytest.mark.parametrize("name", [name for name in MEMBERS if name not in NOT_SAVED])
def test_a_folder_that_holds_the_processor_too_needs_nothing_else(name, folder):
    def put_there():
        zoo.ZOO[name].processor().save_pretrained(folder(name))
        return AutoProcessor.from_pretrained(folder(name))

    if name in UNREADABLE:
        if is_torchvision_available():
            pytest.skip("torchvision is there")
        with pytest.raises((ImportError, AttributeError, ValueError), match=UNREADABLE[name]):
            put_there()
        return
    put_there()
    alone = nv.load(folder(name))
    mine, whole = ask(name, alone), ask(name)
    assert mine.rows == whole.rows
    got, wanted = nv.run(alone, mine).logits, nv.run(kept(name), whole).logits
    assert torch.allclose(got, wanted, rtol=0, atol=ELSEWHERE * float(wanted.abs().max()))  # its own attention


# what travels ---------------------------------------------------------------------------------


def requests_to(name):
    """`{request: (its bytes, what it saves here)}`: a forward, two decode steps, writes elsewhere, and reads."""
    model, prompt, both = kept(name), ask(name), cuts(name)
    reads = [nv.Attention("last", "image", layers="attention"), nv.Residual("last")]
    asks = {
        "run": lambda: nv.run(model, prompt, both, reads=reads, remote="local"),
        "generate": lambda: nv.generate(model, prompt, both, max_new_tokens=2, remote="local"),
    }
    row = view_of(model).family
    if row.projector and "features" not in row.limitations:
        mean = nv.Ablate("image", how="mean", site="features")
        asks["features"] = lambda: nv.run(
            model, prompt, mean, reads=[nv.Residual("image", site="features")], remote="local"
        )
    before = dict(prompt.rows[0].stages)
    if before:
        cut = [nv.Knockout(line.images[0][:2], "first", stage=stage, layers=0) for stage, line in before.items()]
        seen = [nv.Attention("first", "image", stage=stage, layers=0) for stage in before]
        asks["stages"] = lambda: nv.run(model, prompt, reduce(or_, cut), reads=seen, remote="local")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for label, asked in asks.items():
            backend = travel.CapturingBackend()
            patch.setattr(TransformersModel, "_remote_backend", lambda *_, backend=backend: backend)
            asked()
            found |= {f"{label} {number}": request for number, request in enumerate(backend.requests)}
    return found


@pytest.fixture(scope="module")
def journeys(tmp_path_factory):
    """`{member: {request: (what it saves here, what it saved in another process)}}`; one process for all members."""
    here = {name: requests_to(name) for name in MEMBERS}
    orders = {
        (room_of(name), name): (
            zoo.ZOO[name].implementations[0],
            {label: payload for label, (payload, _) in found.items()},
        )
        for name, found in here.items()
    }
    _, first = next(iter(orders.values()))
    first["ours"] = b"cnnsight_vlm.lowering.plan\nwindow\n."
    work = tmp_path_factory.mktemp("elsewhere")
    asked, answered = work / "requests.pickle", work / "answers.pt"
    asked.write_bytes(pickle.dumps(orders))
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).with_name("travel_zoo.py")), str(asked), str(answered)]
    finished = subprocess.run(command, cwd=work, env=clean, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    there = torch.load(answered, weights_only=False)
    assert "No module named 'nnsight_vlm'" in next(iter(there.values())).pop("ours")
    return {
        name: {label: (saved, there[room_of(name), name][label]) for label, (_, saved) in found.items()}
        for name, found in here.items()
    }


def room_of(name):
    """The module of the zoo that has the member."""
    rooms = (room for room in vars(zoo).values() if isinstance(room, ModuleType) and hasattr(room, "MEMBERS"))
    return next(room.__name__ for room in rooms if zoo.ZOO[name] in room.MEMBERS)


def flat(value):
    """The tensors in nested lists and dictionaries, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = [value[key] for key in sorted(value)] if isinstance(value, dict) else value
    return [leaf for part in parts for leaf in flat(part)] if isinstance(parts, (list, tuple)) else []


@pytest.mark.parametrize("name", MEMBERS)
def test_a_process_without_the_package_gets_the_same_numbers(name, journeys):
    assert {label.split()[0] for label in journeys[name]} >= {"run", "generate"}
    for label, (here, there) in journeys[name].items():
        assert not isinstance(there, str), f"{label}: {there}"
        assert here.keys() == there.keys() and flat(here)
        for one, two in zip(flat(here), flat(there), strict=True):
            scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
            assert one.dtype == two.dtype and torch.allclose(one, two, rtol=0, atol=ELSEWHERE * scale), label
