"""What is the same, in this process and in a later one: values, functions, weights, models and prompts."""

from __future__ import annotations

import enum
import functools
import gc
import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import zoo
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import ModelHook, add_hook_to_module
from PIL import Image
from torch import nn
from transformers import LlavaForConditionalGeneration

import nnsight_vlm as nv
from nnsight_vlm.device import kernels, runner
from nnsight_vlm.identity import (
    digest,
    journal_digest,
    model_digest,
    prompt_digest,
    same_model,
    setting_digest,
    weight_versions,
    weights,
)
from nnsight_vlm.identity.weights import weights_digest
from nnsight_vlm.recipes import Work
from nnsight_vlm.shapes.embedded import checkpoint
from nnsight_vlm.studies.words import Thing


class Color(enum.Enum):
    RED = 1
    ALSO_ONE = 2


class Size(enum.IntEnum):
    SMALL = 1


@dataclass(frozen=True)
class Point:
    x: object


@dataclass(frozen=True)
class Vector:
    x: object


def picture(mode="RGB", size=(2, 3), value=7):
    return Image.new(mode, size, value if mode in ("L", "P", "I", "F") else (value,) * len(mode))


def words(text):
    return text.split()


DIFFERENT = [
    *(None, True, False, 1, 0, 2**70, 1.0, 0.0, -0.0, float("nan"), float("inf"), 1j, "1", "", b"1", b"", Ellipsis),
    *((), (1,), (1, 2), (2, 1), (True,), ("1",), ((1,),), ((1, 2), 3), (1, (2, 3)), ("a", "b"), ("ab",), ("a", ("b",))),
    *(
        {},
        {"a": 1},
        {1: 1},
        {"1": 1},
        {True: 1},
        {"a": 1, "b": 2},
        {"a": {"b": 2}},
        set(),
        {1},
        {1, 2},
        {"a"},
        {(1, 2)},
    ),
    *(Color.RED, Color.ALSO_ONE, Size.SMALL, "RED", Path("a"), "a", PurePosixPath("a/b"), slice(1, 2), slice(2)),
    *(
        np.int64(1),
        np.int32(1),
        np.float64(1),
        np.float32(1),
        np.bool_(True),
        np.str_("a"),
        np.datetime64("2024-01-01"),
    ),
    *(
        np.zeros(4),
        np.zeros(4, np.float32),
        np.zeros(4, int),
        np.zeros((2, 2)),
        np.zeros((4, 1)),
        np.zeros(0),
        np.ones(4),
    ),
    *(np.array(["a", None], object), np.array([None, "a"], object), np.zeros(4, ">f8"), np.zeros(1, [("a", "f8")])),
    *(
        np.zeros(1, [("b", "f8")]),
        torch.zeros(4),
        torch.zeros(4).double(),
        torch.zeros(4).bfloat16(),
        torch.zeros(4).half(),
    ),
    *(torch.zeros(2, 2), torch.zeros(4, 1), torch.zeros(0), torch.zeros(()), -torch.zeros(4), torch.zeros(4).int()),
    *(
        torch.float32,
        torch.float16,
        torch.device("cpu"),
        "torch.float32",
        re.compile("a"),
        re.compile("a", re.IGNORECASE),
    ),
    *(picture(), picture(value=8), picture(size=(3, 2)), picture("RGBA"), picture("L"), picture("F"), picture("P")),
    *(pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]}), pd.DataFrame({"a": [1.0]}), pd.DataFrame({"a": ["1"]})),
    *(pd.DataFrame({"a": [1]}, index=[5]), pd.DataFrame({"a": [1, 1]}), pd.DataFrame({"a": [None]}), pd.Series([1])),
    *(
        pd.Series(["a", "b"], dtype="category"),
        pd.Series(pd.Categorical(["a", "b"], ["b", "a"])),
        pd.Series(["a", "b"]),
    ),
    *(pd.DataFrame({"a": [1], "b": [2]}), pd.DataFrame({"b": [2], "a": [1]}), pd.NA, pd.Timestamp("2024-01-01")),
    *(pd.Timestamp("2024-01-01", tz="UTC"), pd.Timedelta(1, "s"), pd.Series([pd.Timestamp("2024-01-01")])),
    *(Point(1), Vector(1), Point(2), Point("1"), Point(np.zeros(2)), Point(np.zeros(2, bool)), nv.window(0, 1)),
    *(
        nv.depth(0, 1),
        Thing(name="a"),
        Thing(name="a", mask=np.zeros((2, 2), bool)),
        Thing(name="a", mask=np.zeros((4, 1), bool)),
    ),
    *(
        words,
        tiny.picture,
        nv.recipes.shape_objects,
        nv.recipes.coco_objects,
        nv.recipes.content_words,
        len,
        str.split,
        str.lower,
        Point,
        Vector,
    ),
    *(
        nv.recipes.object_names(["a"]),
        nv.recipes.object_names(["a"], counts=True),
        nv.recipes.object_names({"a": ["b"]}),
    ),
    *(nv.recipes.vocabulary(["a"]), nv.recipes.vocabulary(["a", "b"]), runner.forward, kernels.is_open),
]


@pytest.mark.parametrize("name_of", [digest, setting_digest])
def test_values_that_differ_in_anything_have_different_digests(name_of):
    names = [name_of(value) for value in DIFFERENT]
    twice = [
        (DIFFERENT[one], DIFFERENT[other])
        for one, other in itertools.combinations(range(len(names)), 2)
        if names[one] == names[other]
    ]
    assert not twice


def frame_of(values):
    return pd.DataFrame({"a": values, "b": ["x", None, "y"]})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1, 2], (1, 2)),
        (range(3), [0, 1, 2]),
        ({1, "a", (2,)}, {(2,), "a", 1}),
        (float("nan"), -float("nan")),
        (torch.arange(6).reshape(2, 3).T, torch.tensor([[0, 3], [1, 4], [2, 5]])),
        (np.arange(6).reshape(2, 3).T, np.array([[0, 3], [1, 4], [2, 5]])),
        (torch.zeros(3, requires_grad=True), torch.zeros(3)),
        (picture(), picture().copy()),
        (frame_of([1.0, float("nan"), 2.0]), frame_of([1.0, float("nan"), 2.0])),
        ([[], []], ((), ())),
        ([[]] * 2, [[], []]),
    ],
)
def test_values_that_are_equal_have_one_digest(one, other):
    assert setting_digest(one) == setting_digest(other)


def test_the_order_of_a_mapping_counts_in_settings_and_not_in_requests():
    one, other = {"a": 1, "b": 2}, {"b": 2, "a": 1}
    assert digest(one) == digest(other) and setting_digest(one) != setting_digest(other)


def test_slots_are_told_apart_by_their_order_and_empty_mappings_are_no_slots():
    shared, own = [], []
    assert digest(shared, shared) != digest(shared, own) == digest([], [])
    assert digest({}, shared, own) == digest({}, [], []) != digest({}, [], shared, own)
    assert digest({"a": {}, "b": shared}, shared) == digest({"b": own, "a": {}}, own)


def test_no_digest_depends_on_the_process(tmp_path, monkeypatch):
    """This process and one that hashes strings with another seed."""
    (tmp_path / "mine.py").write_text(MODULE)
    script = (
        "import torch, numpy as np, pandas as pd, mine\n"
        "from nnsight_vlm.device import runner\n"
        "from nnsight_vlm.identity import digest\n"
        "found = digest({'a', 'b', 1}, {'x': torch.ones(3)}, np.arange(3), pd.DataFrame({'a': ['b']}), [],\n"
        "               runner.forward, mine.objects, mine.Parser(3))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    here = {}
    exec(script, here)
    del sys.modules["mine"]
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    paths = os.pathsep.join([str(tmp_path), str(Path(nv.__file__).parent.parent)])
    setting = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
    command = [sys.executable, "-c", f"{script}print(found)"]
    there = subprocess.run(command, env=setting, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == str(here["found"]) != ""


# functions ------------------------------------------------------------------------------------------


def nested():
    def inner(text):
        return text

    return inner


def repeated(function):
    @functools.wraps(function)
    def wrapper(text):
        return function(text)

    return wrapper


@repeated
def wrapped(text):
    return text


class Named:
    def method(self, text):
        return text


def local_class():
    @dataclass
    class Local:
        x: int = 0

    return Local


NO_IDENTITY = {
    "lambda": lambda _: (),
    "nested function": nested(),
    "partial": functools.partial(words, "a"),
    "bound method": Named().method,
    "bound method of a value": "a".split,
    "closure": wrapped,
    "object": object(),
    "object of the user's": Named(),
    "generator": (number for number in range(3)),
    "local class": local_class(),
    "instance of a local class": local_class()(),
    "cached function": functools.cache(words),
    "module": nn.Linear(1, 1),
    "tensor without values": torch.empty(2, device="meta"),
    "sparse tensor": torch.eye(2).to_sparse(),
    "masked array": np.ma.masked_array([1, 2], [True, False]),
    "random generator": np.random.default_rng(0),
}


@pytest.mark.parametrize("kind", NO_IDENTITY)
@pytest.mark.parametrize("within", [lambda value: value, lambda value: {"a": [value]}, Point])
def test_what_has_no_identity_is_refused_wherever_it_stands(kind, within):
    for name_of in (digest, setting_digest):
        with pytest.raises(nv.SpecError) as refused:
            name_of(within(NO_IDENTITY[kind]))
        assert not re.search(r"0x[0-9a-f]{4}", str(refused.value))


MODULE = """
import re

PATTERN = re.compile("[a-z]+")
NAMES = ["dog", "cat"]


def helper(text):
    return PATTERN.findall(text)


def objects(text, most=3):
    return [word for word in helper(text) if word in NAMES][:most]


class Base:
    def clean(self, text):
        return text.lower()


class Parser(Base):
    def __call__(self, text):
        return objects(self.clean(text))


from dataclasses import dataclass
Parser = dataclass(type("Parser", (Parser,), {"__annotations__": {"most": int}, "__module__": __name__}))
"""


@pytest.mark.parametrize(
    ("old", "new", "parser_only"),
    [
        ("[a-z]+", "[a-z]{2,}", False),
        ('"cat"', '"cow"', False),
        ("most=3", "most=4", False),
        ("findall(text)", "findall(text)[1:]", False),
        ("word in NAMES", "word not in NAMES", False),
        ("text.lower()", "text.upper()", True),
    ],
)
def test_a_function_that_was_edited_or_reads_something_else_is_another_one(
    tmp_path, monkeypatch, old, new, parser_only
):
    monkeypatch.syspath_prepend(tmp_path)

    def names(text):
        (tmp_path / "edited.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop("edited", None)
        module = importlib.import_module("edited")
        return setting_digest(module.objects), setting_digest(module.Parser(3))

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, changed = names(MODULE), names(MODULE.replace(old, new))
    assert first == names("# a comment\n\n" + MODULE)
    assert changed[1] != first[1] and (changed[0] == first[0]) is parser_only


HELPERS = """
from helpers_of_helpers import split

WORDS = ["dog", "cat"]


def clean(text):
    return [word for word in split(text) if word in WORDS]


def unused(text):
    return text
"""
READER = """
from dataclasses import dataclass
import helpers
from functools import cached_property


class Base:
    WORDS = ("dog", "cat")

    @cached_property
    def most(self):
        return 3


@dataclass
class Parser(Base):
    limits = {"least": 1}
    least: int = 1

    def __call__(self, text):
        return [word for word in helpers.clean(text) if word in self.WORDS][: self.most]


def attribute(text):
    return Parser.WORDS


def through_module(text):
    return helpers.clean(text)


def through_table(text):
    return TABLE["through_table"], Parser.limits


TABLE = {"through_table": through_table, "parser": Parser}
"""
READERS = ("Parser", "attribute", "through_module", "through_table")


@pytest.fixture
def digests_of(tmp_path, monkeypatch):
    """The digests of `READER`'s functions, by name, with a text replaced in one of its modules."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    texts = {"helpers_of_helpers": "def split(text):\n    return text.split()\n", "helpers": HELPERS, "reader": READER}

    def digests(module="reader", old="", new=""):
        for name, text in texts.items():
            (tmp_path / f"{name}.py").write_text(text.replace(old, new) if name == module else text)
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        reader = importlib.import_module("reader")
        return {name: setting_digest(getattr(reader, name)) for name in READERS}

    return digests


@pytest.mark.parametrize(
    ("module", "old", "new", "changed"),
    [
        ("reader", '("dog", "cat")', '("dog", "cow")', {"Parser", "attribute", "through_table"}),
        ("reader", "return 3", "return 4", {"Parser", "attribute", "through_table"}),
        ("reader", '{"least": 1}', '{"least": 2}', {"Parser", "attribute", "through_table"}),
        ("helpers", '["dog", "cat"]', '["dog", "cow"]', set(READERS)),
        ("helpers", "if word in WORDS", "if word not in WORDS", set(READERS)),
        ("helpers_of_helpers", "text.split()", "text.split()[:1]", set(READERS)),
        ("helpers", "return text\n", "return text + text\n", set()),
    ],
)
def test_class_attributes_and_helper_modules_of_the_users_are_part_of_a_function(digests_of, module, old, new, changed):
    first, second = digests_of(), digests_of(module, old, new)
    assert first == digests_of()
    assert {name for name in READERS if first[name] != second[name]} == changed


@pytest.mark.parametrize("line", ["import helpers", "from helpers import clean", "import helpers.deep as helpers"])
def test_a_function_that_imports_the_users_modules_when_it_runs_is_refused(digests_of, line):
    for body in (f"{line}; return text", f"def inner():\n        {line}\n    return inner"):
        with pytest.raises(nv.SpecError, match=r"imports 'helpers.*' when it runs.*at the top"):
            digests_of(old="return Parser.WORDS", new=body)
    digests_of(old="return Parser.WORDS", new="import json, numpy.linalg; from torch import nn; return json")


# weights --------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, layers=3, width=300, name="layer"):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for number in range(layers):
            layer = nn.Linear(width, width, bias=False)
            layer.weight = nn.Parameter(torch.randn(width, width, generator=generator), requires_grad=False)
            self.add_module(f"{name}{number}", layer)
        self.register_buffer("scale", torch.ones(3))
        self.register_buffer("inverse", torch.ones(3), persistent=False)


def swap_layers(net):
    net.layer0, net.layer1 = net.layer1, net.layer0


def swap_rows(net):
    net.layer1.weight.data[[3, 7]] = net.layer1.weight.data[[7, 3]]


def edit_row(net):
    net.layer1.weight[-1] += 1e-3


def edit_row_through_data(net):
    net.layer1.weight.data[-1] += 1e-3


def edit_last_bit(net):
    net.layer1.weight.data.view(torch.int32)[150, 150] ^= 1


def replace_weight(net):
    net.layer1.weight = nn.Parameter(net.layer1.weight + 1, requires_grad=False)


def replace_data(net):
    net.layer1.weight.data = net.layer1.weight.data * 2


def edit_buffer(net):
    net.scale[1] = 2


def edit_lost_buffer(net):
    net.inverse[1] = 2


def change_dtype(net):
    net.layer1.weight.data = net.layer1.weight.data.double()


def change_shape(net):
    net.layer1.weight.data = net.layer1.weight.data.reshape(150, 600)


CHANGES = [
    *(swap_layers, swap_rows, edit_row, edit_row_through_data, edit_last_bit, replace_weight, replace_data),
    *(edit_buffer, edit_lost_buffer, change_dtype, change_shape),
]


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_of_the_weights_changes_their_digest_before_and_after_they_were_read(change):
    known, fresh = Net(), Net()
    before = weights_digest(known)[0]
    assert before == weights_digest(fresh)[0]
    for net in (known, unread := Net()):
        with torch.no_grad():
            change(net)
    assert weights_digest(known)[0] == weights_digest(unread)[0] != before


def test_weights_have_names():
    assert weights_digest(Net())[0] != weights_digest(Net(name="block"))[0]


def test_a_view_of_other_memory_and_a_weight_of_another_layout_are_the_weights_that_they_show():
    net, plain = Net(), weights_digest(Net())[0]
    weight = net.layer0.weight
    weight.data = weight.data.T.contiguous().T
    assert not weight.is_contiguous() and weights_digest(net)[0] == plain
    storage = torch.zeros(weight.numel() + 1)
    storage[1:] = weight.data.flatten()
    weight.data = storage[1:].view(weight.shape)  # no multiple of 8 bytes from the start of its memory
    assert weights_digest(net)[0] == plain
    with torch.no_grad():
        weight.data[0, 0] += 1
    assert weights_digest(net)[0] != plain


def test_weights_are_read_once_and_go_when_the_model_goes(monkeypatch):
    read = []
    stock = weights._hash
    monkeypatch.setattr(weights, "_hash", lambda tensor: read.append(tuple(tensor.shape)) or stock(tensor))
    net, kept = Net(), len(weights._KNOWN)
    first = weights_digest(net)
    assert len(read) == 5 and weights_digest(net) == first and len(read) == 5
    with torch.no_grad():
        net.layer2.weight[0] += 1
    assert weights_digest(net) != first and read[5:] == [(300, 300)]
    del net
    gc.collect()
    assert len(weights._KNOWN) <= kept


def test_weights_made_in_inference_mode_have_a_digest_and_versions():
    with torch.inference_mode():
        net = Net()
    assert weights_digest(net)[0] == weights_digest(Net())[0]
    before = weight_versions(net.modules())
    net.layer0.weight = nn.Parameter(torch.zeros(300, 300), requires_grad=False)
    assert weight_versions(net.modules()) != before


def test_weights_that_are_large_are_read_in_chunks(monkeypatch):
    plain = weights_digest(Net())[0]
    monkeypatch.setattr(weights, "CHUNK", 1000)
    sizes = []
    stock = weights._chunks
    monkeypatch.setattr(weights, "_chunks", lambda tensor: (sizes.append(len(part)) or part for part in stock(tensor)))
    net = Net()
    net.layer1.weight.data = net.layer1.weight.data.T.contiguous().T
    assert weights_digest(net)[0] == plain and max(sizes) <= 1200


def test_a_weight_whose_bytes_cannot_be_read_is_refused():
    net = Net()
    net.layer0.weight = nn.Parameter(torch.eye(3).to_sparse(), requires_grad=False)
    with pytest.raises(nv.SpecError, match=r"no bytes that can be compared.*Work\(journal=None\)"):
        weights_digest(net)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_offloaded_weights_are_read_from_where_they_lie(tmp_path, where):
    plain, net = weights_digest(Net())[0], Net()
    offload = cpu_offload(net) if where == "memory" else disk_offload(net, str(tmp_path))
    assert offload.layer0.weight.device.type == "meta"
    assert weights_digest(offload) == (plain, True)
    if where == "disk":
        path = next(tmp_path.glob("layer1*.dat"))
        content = bytearray(path.read_bytes())
        content[5] ^= 1
        path.write_bytes(bytes(content))
        os.utime(path, ns=(0, 1))
    else:
        offload.layer1._hf_hook.weights_map["weight"].data[3] += 1
    assert weights_digest(offload)[0] != plain


def test_weights_that_were_never_loaded_have_names_and_shapes_only():
    with torch.device("meta"):
        net, other = Net(), Net(width=200)
    first, loaded = weights_digest(net)
    assert not loaded and first != weights_digest(other)[0] and first != weights_digest(Net())[0]


# models ---------------------------------------------------------------------------------------------


@pytest.fixture
def fresh():
    """A tiny model that a test may change."""
    return tiny.build("sdpa")


@pytest.fixture
def asked(fresh):
    return nv.encode(fresh, "what is the red square ?", tiny.picture(0))


def test_a_model_is_the_same_in_memory_from_disk_and_after_it_has_run(folder):
    first, second = (nv.load(str(folder)) for _ in range(2))
    name = model_digest(first)
    nv.generate(first, nv.encode(first, "see the dog", tiny.picture(0)), max_new_tokens=2)
    assert model_digest(first) == name == model_digest(second)
    assert model_digest(nv.load(str(folder), attn_implementation="eager")) != name
    assert model_digest(nv.load(str(folder), dtype=torch.float64)) != name


def test_one_row_of_one_weight_a_token_that_ends_answers_and_the_path_make_another_model(fresh, folder):
    name = model_digest(fresh)
    assert model_digest(tiny.build("sdpa")) == name != model_digest(tiny.build("sdpa", seed=1))
    assert model_digest(nv.load(str(folder))) != name
    fresh._module.generation_config.eos_token_id = 7
    assert model_digest(fresh) != name
    fresh._module.generation_config.eos_token_id = None
    assert model_digest(fresh) == name
    with torch.no_grad():
        fresh._module.lm_head.weight[-1] += 1e-3  # row 68 of a matrix of which 64 numbers were read once
    assert model_digest(fresh) != name


def test_checkpoints_of_one_architecture_differ_before_they_are_loaded(folder, tmp_path):
    other = tmp_path / "other"
    tiny.build_module(seed=1).save_pretrained(other)
    tiny.build_processor().save_pretrained(other)
    first, again, second = (nv.load(str(path), dispatch=False) for path in (folder, folder, other))
    assert model_digest(first) == model_digest(again) != model_digest(second)
    before, file = model_digest(second), next(other.glob("*.safetensors"))
    os.utime(file, ns=(0, 1))  # copied, with the same content
    assert model_digest(nv.load(str(other), dispatch=False)) == before
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(bytes(content))  # trained further, in the same folder, with size and time as they were
    os.utime(file, ns=(0, 1))
    assert model_digest(nv.load(str(other), dispatch=False)) != before
    first.revision = "v2"
    assert model_digest(first) != model_digest(again)


def scale_attention(module):
    module.model.language_model.layers[1].self_attn.scaling *= 3


def start_training(module):
    module.model.language_model.layers[1].train()


def change_a_size(module):
    module.model.vision_tower.embeddings.patch_size += 1


def take_an_activation_out(module):
    module.model.language_model.layers[1].mlp.act_fn = nn.Identity()


class Halving(nn.Module):
    def forward(self, states):
        return states / 2


def put_an_own_module_in(module):
    module.model.language_model.layers[1].mlp.act_fn = Halving()


@pytest.mark.parametrize(
    "change",
    [scale_attention, start_training, change_a_size, take_an_activation_out, put_an_own_module_in],
)
def test_a_change_of_a_module_that_changes_no_weight_makes_another_model(change, fresh):
    name = model_digest(fresh)
    change(fresh._module)
    assert model_digest(fresh) != name


def test_a_function_that_a_module_was_given_is_part_of_the_model(fresh):
    act = fresh._module.model.language_model.layers[1].mlp.act_fn
    names = []
    for function in (torch.tanh, torch.sigmoid, functools.partial(nn.functional.gelu, approximate="tanh"), words):
        act.act = function
        names.append(model_digest(fresh))
    act.act = functools.partial(nn.functional.gelu, approximate="none")
    assert len({*names, model_digest(fresh)}) == 5


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3n", "mllama", "florence2", "blip-2-t5"])
def test_a_model_is_the_same_after_it_has_run(name):
    member = zoo.ZOO[name]
    model = nv.load(member.module("eager"), processor=member.processor())
    before = model_digest(model)
    prompt = nv.encode(model, member.text, tiny.picture(1, member.sizes[0]))
    nv.run(model, prompt)
    nv.generate(model, prompt, max_new_tokens=2)
    assert model_digest(model) == before
    journal_digest(1, "trial", model, [prompt], {})


def test_a_model_with_neither_weights_nor_a_name_is_refused(fresh):
    fresh._module.to("meta")
    with pytest.raises(nv.SpecError, match=r"neither weights nor a name.*nv.load"):
        model_digest(fresh)


def test_the_adapter_that_is_active_is_part_of_the_model(fresh):
    layer = fresh._module.lm_head  # peft is not needed: its layers are known by these attributes
    name = model_digest(fresh)
    layer._active_adapter, layer._disable_adapters, layer.merged_adapters = ["one"], False, []
    layer.scaling = {"one": 1.0, "two": 2.0}
    seen = [name, model_digest(fresh)]
    for attribute, value in [
        ("_active_adapter", ["two"]),
        ("_disable_adapters", True),
        ("merged_adapters", ["two"]),
        ("scaling", {"one": 1.0, "two": 3.0}),
    ]:
        setattr(layer, attribute, value)
        seen.append(model_digest(fresh))
    assert len(set(seen)) == 6


# prompts --------------------------------------------------------------------------------------------


def test_a_prompt_is_its_family_tokens_inputs_and_pictures(fresh, asked):
    text, name = "what is the red square ?", prompt_digest(asked)
    inputs = dict(asked.inputs)
    places = torch.arange(asked.width)[None]
    assert prompt_digest(nv.encode(fresh, text, tiny.picture(0))) == name
    others = [
        nv.encode(fresh, "what is the red circle ?", tiny.picture(0)),
        nv.encode(fresh, text, tiny.picture(1)),
        nv.encode(fresh, inputs=inputs),  # without its picture: no grid
        nv.encode(fresh, inputs=inputs, images=tiny.picture(0, (40, 20))),
        nv.encode(fresh, inputs={**inputs, "pixel_values": 2 * inputs["pixel_values"]}, images=tiny.picture(0)),
        nv.encode(fresh, inputs={**inputs, "position_ids": places}, images=tiny.picture(0)),
        nv.encode(fresh, inputs={**inputs, "position_ids": 1 + places}, images=tiny.picture(0)),
        asked.grown((20,)),
    ]
    assert len({name, *map(prompt_digest, others)}) == 1 + len(others)
    with_token = {key: torch.cat([value, value.new_full((1, 1), fill)], 1) for key, value, fill in grown(inputs)}
    spelled_out = nv.encode(fresh, inputs={**inputs, **with_token}, images=tiny.picture(0))
    assert spelled_out.rows[0].tokens == asked.grown((20,)).rows[0].tokens
    assert prompt_digest(spelled_out) != prompt_digest(asked.grown((20,)))  # where the answer begins differs


def grown(inputs):
    return [("input_ids", inputs["input_ids"], 20), ("attention_mask", inputs["attention_mask"], 1)]


STRANGER = {
    "run": lambda model, _own, other: nv.run(model, other),
    "run with reads": lambda model, _own, other: nv.run(model, other, reads=[nv.Attention("last", "image")]),
    "generate": lambda model, _own, other: nv.generate(model, other, max_new_tokens=1),
    "generations": lambda model, own, other: list(
        nv.generations(model, [(own, None), (other, None)], max_new_tokens=1)
    ),
    "sweep": lambda model, _own, other: nv.sweep(model, other, [nv.Knockout("image", "last")], answer=20),
    "verify": lambda model, _own, other: nv.verify(model, other, nv.Knockout("image", "last")),
    "install": lambda model, _own, other: nv.install(model, other, nv.Knockout("image", "last")),
    "source": lambda model, own, other: nv.run(model, own, nv.Patch("last", source=other, layers=1)),
    "source in a sweep": lambda model, own, other: nv.sweep(
        model, own, [nv.Patch("last", source=other, layers=1), nv.Ablate("last", layers=0)], answer=20
    ),
    "source of a source": lambda model, own, other: nv.run(
        model, own, nv.Patch("last", source=own, layers=1, under=nv.Patch("last", source=other, layers=0))
    ),
    "installed source": lambda model, own, other: nv.install(model, own, nv.Patch("last", source=other, layers=1)),
    "stack": lambda _model, own, other: nv.stack([own, other]),
    "ablation": lambda model, own, other: nv.recipes.ablation(
        model,
        [own, other],
        truths=[[nv.recipes.Thing(name="dog", mask=np.ones((tiny.SIDE, tiny.SIDE), bool))]] * 2,
        answers=[20, 20],
        work=QUIET,
    ),
    "knockout_windows": lambda model, own, other: nv.recipes.knockout_windows(model, [own, other], work=QUIET),
    "knockout_windows of answers": lambda model, own, other: nv.recipes.knockout_windows(
        model, [own, other], answers=[20, 20], work=QUIET
    ),
    "heads": lambda model, own, other: nv.recipes.heads(
        model,
        [own, other],
        truths=[[nv.recipes.Thing(name="dog", mask=np.ones((tiny.SIDE, tiny.SIDE), bool))]] * 2,
        work=QUIET,
    ),
    "compressed_context": lambda model, own, other: nv.recipes.compressed_context(
        model, [own, other], answers=[20, 20], request=None, keep=[4, 100], timed=0, work=QUIET
    ),
    "image_lens": lambda model, own, other: nv.recipes.image_lens(model, [own, other], work=QUIET),
    "attention_share": lambda model, own, other: nv.recipes.attention_share(model, [own, other], work=QUIET),
    "patch_grounding": lambda model, own, other: nv.recipes.patch_grounding(model, [own, other], work=QUIET),
    "prompt_ablation": lambda model, own, other: nv.recipes.prompt_ablation(model, [own, other], work=QUIET),
    "query_patching": lambda model, _own, other: nv.recipes.query_patching(
        model, [(other, other2(other), 20, 21)], work=QUIET
    ),
    "query_patching, the other prompt": lambda model, own, other: nv.recipes.query_patching(
        model, [(own, other2(other), 20, 21)], work=QUIET
    ),
    "attribution_map": lambda model, _own, other: nv.recipes.attribution_map(
        model, [(other, other2(other), 20, 21)], work=QUIET
    ),
    "patching_map": lambda model, _own, other: nv.recipes.patching_map(
        model, [(other, other2(other), 20, 21)], work=QUIET
    ),
    "pair_routes": lambda model, own, other: nv.recipes.pair_routes(model, [(own, other2(other), 20, 21)], work=QUIET),
    "causal_trace": lambda model, own, other: nv.recipes.causal_trace(
        model, [own, other], answers=[20, 20], work=QUIET
    ),
    "causal_trace, the corrupted prompt": lambda model, own, other: nv.recipes.causal_trace(
        model, [own], answers=[20], corrupt=[other2(other)], work=QUIET
    ),
    "information_flow": lambda model, own, other: nv.recipes.information_flow(
        model, [own, other], answers=[20, 20], work=QUIET
    ),
    "patch_knockout of several": lambda model, own, other: nv.recipes.patch_knockout(
        model, [own, other], answers=[20, 20], work=QUIET
    ),
    "patch_knockout": lambda model, _own, other: nv.recipes.patch_knockout(model, other, answer=20),
}
QUIET = Work(progress=False)


def other2(prompt):
    """Another picture, for the same model as a prompt."""
    return nv.encode(prompt.model, "what is the red square ?", tiny.picture(1))


@pytest.mark.parametrize("call", STRANGER)
def test_a_prompt_of_another_model_is_refused_before_any_forward(call, fresh, asked):
    other = nv.encode(tiny.load("sdpa", "qwen2"), "what is the red square ?", tiny.picture(0))
    assert other.rows[0].tokens == asked.rows[0].tokens  # nothing else would show that it is another model's
    ran = []
    hooks = [prompt.model._module.register_forward_pre_hook(lambda *_: ran.append(1)) for prompt in (asked, other)]
    try:
        with pytest.raises(nv.SpecError, match=r"encoded for another model.*nv.encode\(model, \.\.\.\)"):
            STRANGER[call](fresh, asked, other)
    finally:
        for hook in hooks:
            hook.remove()
    assert not ran


def test_prompts_of_one_model_under_two_attentions_and_far_away_are_of_one_model(folder):
    near, eager, far = (
        nv.load(str(folder)),
        nv.load(str(folder), attn_implementation="eager"),
        nv.load(str(folder), dispatch=False),
    )
    prompts = [nv.encode(model, "see the dog", tiny.picture(0)) for model in (near, eager, far)]
    assert same_model(near, eager) and same_model(near, far) and len(nv.stack(prompts)) == 3
    assert tiny.gap(nv.run(near, prompts[2]).logits, nv.run(near, prompts[0]).logits) == 0


def test_one_model_by_several_spellings_of_its_path_and_in_memory_is_one_model(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    spellings = [str(folder), folder.name, f"./{folder.name}", f"{folder}/../{folder.name}/"]
    models = [nv.load(spelling) for spelling in spellings]
    module = LlavaForConditionalGeneration.from_pretrained(folder.name)
    in_memory = nv.load(module, processor=tiny.build_processor())
    prompts = [nv.encode(model, "see the dog", tiny.picture(0)) for model in (*models, in_memory)]
    assert all(same_model(models[0], model) for model in (*models, in_memory))
    assert len(nv.stack(prompts)) == 5
    assert len({model_digest(model) for model in models}) == 1


def test_models_of_two_folders_are_two_models(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "other")
    assert not same_model(nv.load(str(folder)), nv.load(str(tmp_path / "other")))


# journals -------------------------------------------------------------------------------------------


def name_of_journal(model, prompt, **settings):
    return journal_digest(1, "trial", model, [prompt], settings)


def test_a_journal_is_its_recipe_format_model_prompts_and_settings(fresh, asked):
    name = name_of_journal(fresh, asked, objects=words, top=3)
    assert name == name_of_journal(tiny.build("sdpa"), asked, objects=words, top=3)
    others = [
        journal_digest(2, "trial", fresh, [asked], {"objects": words, "top": 3}),
        journal_digest(1, "other", fresh, [asked], {"objects": words, "top": 3}),
        journal_digest(1, "trial", fresh, [asked, asked], {"objects": words, "top": 3}),
        name_of_journal(tiny.build("sdpa", seed=1), asked, objects=words, top=3),
        name_of_journal(fresh, other2(asked), objects=words, top=3),
        name_of_journal(fresh, asked, objects=len, top=3),
        name_of_journal(fresh, asked, objects=words, top=3.0),
        name_of_journal(fresh, asked, objects=words, size=3),
        name_of_journal(fresh, asked, truths=[Thing(name="a", mask=np.zeros((4, 1), bool))]),
        name_of_journal(fresh, asked, truths=[Thing(name="a", mask=np.zeros((2, 2), bool))]),
    ]
    assert len({name, *others}) == 1 + len(others)


@pytest.mark.parametrize("kind", ["lambda", "nested function", "partial", "bound method", "closure"])
def test_a_function_without_identity_is_refused_where_a_journal_is_asked_for_and_only_there(
    kind, fresh, asked, tmp_path
):
    options = {"objects": NO_IDENTITY[kind] if kind != "partial" else functools.partial(str.split, maxsplit=2)}
    options |= {"max_new_tokens": 2, "parts": {"system": "system"}}
    with pytest.raises(nv.SpecError, match=r"objects= cannot be kept in a journal: .*Work\(journal=None\)"):
        nv.recipes.prompt_ablation(fresh, [asked], work=Work(journal=tmp_path, progress=False), **options)
    assert not list(tmp_path.iterdir())
    assert len(nv.recipes.prompt_ablation(fresh, [asked], work=QUIET, per_image=True, **options))


def hook_forward(model, prompt):
    model._module.lm_head.register_forward_hook(lambda *_: None)
    return model


def hook_before(model, prompt):
    model._module.lm_head.register_forward_pre_hook(lambda *_: None)
    return model


def hook_backward(model, prompt):
    model._module.lm_head.register_full_backward_hook(lambda *_: None)
    return model


def hook_before_backward(model, prompt):
    model._module.lm_head.register_full_backward_pre_hook(lambda *_: None)
    return model


def replace_forward(model, prompt):
    stock = model._module.lm_head.forward
    model._module.lm_head.forward = lambda states: stock(states) * 2
    return model


def replace_forward_before_it_is_wrapped(model, prompt):
    module = tiny.build_module()
    stock = module.lm_head.forward
    module.lm_head.forward = lambda states: stock(states) * 2
    return nv.load(module, processor=model.processor)


def replace_method(model, prompt):
    model._module.model.get_placeholder_mask = lambda *_: None
    return model


def replace_forward_below_accelerate(model, prompt):
    replace_forward(model, prompt)
    cpu_offload(model._module)
    return model


def hook_of_accelerates_form(model, prompt):
    class Doubling(ModelHook):
        def post_forward(self, _module, output):
            return output * 2

    add_hook_to_module(model._module.lm_head, Doubling())
    return model


def install(model, prompt):
    return nv.install(model, prompt, nv.Knockout("image", "last"))


def edit(model, prompt):
    with model.edit() as (_, edited):
        model.lm_head.output[:] = 0
    return edited


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (hook_forward, "1 hook"),
        (hook_before, "1 hook"),
        (hook_backward, "1 hook"),
        (hook_before_backward, "1 hook"),
        (replace_forward, "1 replaced method.*lm_head.forward"),
        (replace_forward_before_it_is_wrapped, "1 replaced method.*lm_head.forward"),
        (replace_forward_below_accelerate, "1 replaced method.*lm_head.forward"),
        (replace_method, "1 replaced method.*get_placeholder_mask"),
        (hook_of_accelerates_form, "1 hook"),
        (install, "edit"),
        (edit, "edit"),
    ],
)
def test_a_journal_of_a_model_with_hooks_replaced_methods_or_edits_is_refused(change, what, fresh, asked):
    nv.run(fresh, asked)  # transformers registers hooks of its own in the first run, and they do not count
    name_of_journal(fresh, asked)
    changed = change(fresh, asked)
    with pytest.raises(nv.SpecError, match=rf"the model has .*{what}.*Work\(journal=None\)"):
        name_of_journal(changed, asked)


def test_hooks_on_all_modules_of_the_process_count_and_those_of_accelerate_do_not(fresh, asked):
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    with pytest.raises(nv.SpecError, match=r"1 hook"):
        name_of_journal(fresh, asked)
    hook.remove()
    name = name_of_journal(fresh, asked)
    cpu_offload(fresh._module)
    assert name_of_journal(fresh, asked) == name


def test_a_journal_is_that_of_the_precision_that_autocast_makes(fresh, asked):
    name = name_of_journal(fresh, asked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert name_of_journal(fresh, asked) != name
    assert name_of_journal(fresh, asked) == name


def test_a_model_that_is_spread_over_memory_and_disk_has_a_journal(tmp_path):
    spread = {"device_map": "auto", "max_memory": {"cpu": "1MB"}}
    names = []
    for place in ("one", "other"):
        model = nv.load(checkpoint("shapes"), dtype=torch.float32, offload_folder=tmp_path / place, **spread)
        prompt = nv.encode(model, "what is red ?", nv.shapes.scene(3).image)
        names.append(name_of_journal(model, prompt))
    assert any(weight.is_meta for weight in model._module.parameters()) and names[0] == names[1]
    model._module.to = lambda *_: model._module
    with pytest.raises(nv.SpecError, match=r"1 replaced method.*such as to"):
        name_of_journal(model, prompt)
