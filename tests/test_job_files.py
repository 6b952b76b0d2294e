"""Background jobs on disk: every argument comes back as it was, and no file can make the package run code."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import io
import json
import os
import pickle
import shutil
import sys
import threading
import types
import typing
from collections import OrderedDict, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath, PureWindowsPath

import nnsight
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.identity import bytes_of
from nnsight_vlm.prompts.ranges import Ranges
from nnsight_vlm.questions.annotations import Lookup
from nnsight_vlm.questions.masks import Size
from nnsight_vlm.questions.object_cells import Outline
from nnsight_vlm.remote import job_files, value_table
from nnsight_vlm.remote.job_files import StoredCall, read_job, write_job
from nnsight_vlm.studies.kept_tokens import LaterCut


@pytest.fixture(scope="module")
def client(folder):
    """The tiny model without weights, as a client has it."""
    return nv.load(str(folder), dispatch=False)


@pytest.fixture(scope="module")
def prompts(client):
    return [nv.encode(client, "what is the red square ?", tiny.picture(seed)) for seed in range(2)]


def restored(value, folder, **options):
    """A value after a job that has it as an argument was written and read again."""
    shutil.rmtree(folder, ignore_errors=True)
    write_job(folder, StoredCall(nv.run, (value,), {"remote": True}))
    call = read_job(folder, **options)
    assert call.function is nv.run and call.kwargs == {"remote": True}
    return call.args[0]


def assert_same(one, other):
    """Types, structure and contents are equal to the bit. Models are compared by name."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape) == (other.dtype, other.shape) and bytes_of(one) == bytes_of(other.resolve_conj())
    elif isinstance(one, (np.ndarray, np.generic)):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    elif isinstance(one, Image.Image):
        assert (one.mode, one.size, one.tobytes(), one.info) == (other.mode, other.size, other.tobytes(), other.info)
        assert one.getpalette("RGBA") == other.getpalette("RGBA") if one.mode in ("P", "PA") else True
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for part, other_part in zip(one, other, strict=True):
            assert_same(part, other_part)
    elif isinstance(one, dict):
        assert_same(list(one.items()), list(other.items()))
    elif isinstance(one, (float, complex)):
        assert repr(one) == repr(other)
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name))
    elif isinstance(one, nnsight.TransformersModel):
        assert (one.repo_id, one.revision) == (other.repo_id, other.revision)
    else:
        assert one == other


# what comes back ------------------------------------------------------------------------------

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers()
    | st.builds(range, st.integers(), st.integers(), st.integers().filter(bool))
    | st.builds(slice, st.none() | st.integers(), st.none() | st.integers(), st.none() | st.integers())
    | st.sampled_from([Path("a/b"), PurePosixPath("/c"), PureWindowsPath("d:/e"), torch.float16, torch.Size([2, 3])])
    | st.sampled_from(
        [np.dtype("M8[ns]"), torch.device("cuda:1"), np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("")]
    )
)
HASHABLE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False),
    lambda parts: st.lists(parts, max_size=3).map(tuple) | st.frozensets(parts, max_size=3),
    max_leaves=4,
)
VALUES = st.recursive(
    LEAVES,
    lambda parts: (
        st.lists(parts, max_size=4)
        | st.lists(parts, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, parts, max_size=4)
        | st.dictionaries(st.text(), parts, max_size=3).map(OrderedDict)
        | st.sets(HASHABLE, max_size=4)
        | st.frozensets(HASHABLE, max_size=4)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(VALUES)
def test_plain_data_comes_back_as_it_was(tmp_path, value):
    assert_same(restored(value, tmp_path / "job"), value)


DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool)
TENSORS = {str(dtype): torch.arange(-6, 6).reshape(3, 4).to(dtype) for dtype in DTYPES} | {
    "complex": torch.tensor([1 + 2j, complex("nan")]),
    "conjugate": torch.tensor([1 + 2j]).conj(),
    "8 bits": torch.tensor([0.5, -2.0]).to(torch.float8_e4m3fn),
    "one number": torch.tensor(3),
    "no numbers": torch.zeros(0, 3),
    "a view": torch.arange(12.0).reshape(3, 4).t()[1:],
    "expanded": torch.tensor([[1.0], [2.0]]).expand(2, 3),
    "signs and nans": torch.tensor([0.0, -0.0, float("nan"), float("inf")]),
}
ARRAYS = {
    "floats": np.linspace(0, 1, 6).reshape(2, 3),
    "big-endian": np.arange(3, dtype=">i2"),
    "mask": np.array([[True, False]]),
    "words": np.array(["ab", "c"]),
    "times": np.array(["2024-01-01"], dtype="M8[D]"),
    "no dimensions": np.array(2.5),
    "empty": np.zeros((0, 2), np.int32),
    "columns first": np.asfortranarray(np.arange(6).reshape(2, 3)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back_as_they_were(name, tmp_path):
    assert_same(restored(TENSORS[name], tmp_path / "job"), TENSORS[name])


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_come_back_as_they_were(name, tmp_path):
    assert_same(restored(ARRAYS[name], tmp_path / "job"), ARRAYS[name])


def picture(mode):
    noise = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    image = Image.fromarray(noise, "RGBA")
    if mode == "P":
        image = image.convert("RGB").quantize(9)
        image.info["transparency"] = 3
        return image
    if mode in ("I;16", "F", "I"):
        return Image.fromarray(noise[..., 0].astype({"I;16": np.uint16, "F": np.float32, "I": np.int32}[mode]))
    return Image.new("LAB", (3, 2), (1, 2, 3)) if mode == "LAB" else image.convert("RGB").convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16"])
def test_pictures_come_back_as_they_were(mode, tmp_path):
    assert picture(mode).mode == mode
    assert_same(restored(picture(mode), tmp_path / "job"), picture(mode))


def test_a_picture_of_a_file_comes_back_with_its_pixels(tmp_path):
    picture("RGB").save(tmp_path / "a.jpg", dpi=(72, 72))
    opened = Image.open(tmp_path / "a.jpg")
    again = restored(opened, tmp_path / "job")
    assert type(again) is Image.Image and again.tobytes() == opened.tobytes() and again.info == opened.info


def package_values(prompts):
    """One value of every class, and more of those that have several forms."""
    cut = nv.Knockout(["image", 3], "query", layers=nv.window(1, 3), heads=[(1, 0), 2])
    mask = np.zeros((4, 4), bool)
    mask[1:3] = True
    return [
        cut,
        nv.Allow("image", "last", layers=nv.depth(0.0, 0.5)),
        nv.Ablate("query", how="mean"),
        cut | nv.Ablate("image", how="resample", source=prompts[1]),
        nv.Patch("query", source=prompts[1], under=cut, source_where="query"),
        nv.Patch("last", source=torch.ones(2, 1, tiny.WIDTH), layers=[1, 2], site="mlp"),
        nv.Attention("last", "image", reduce="top", top=np.int64(3)),
        nv.Residual("image", layers=[0]),
        nv.recipes.Work(journal=Path("somewhere"), chunk=2),
        nv.recipes.Pair(*prompts, "red", 7),
        nv.recipes.Thing(name="dog", mask=mask),
        nv.recipes.vocabulary(["dog", "cat"]),
        nv.recipes.object_names({"dog": ["puppy"], "cat": []}, counts=True),
        nv.recipes.coco_objects,
        nv.recipes.content_words,
        nv.recipes.shape_objects,
        nv.stack(prompts),
        prompts[0].grown([5, 6]),
        nv.Add("query", torch.ones(tiny.WIDTH), layers=[1, 2], scale=np.float64(0.5)),
        nv.Scale("generated", 2),
        nv.Limit("image", "query", top=np.int64(3), heads=[1]) | nv.Knockout("image", "last", how="zero"),
        nv.Limit("image", "last", top=1),
        LaterCut(((1, Ranges(((30, None),)), Ranges(((5, 8), (9, 10)))),)),
        nv.Lens("image", layers=[1, 2], tokens=torch.tensor([3, 4])),
        nv.recipes.Place("query", site="head", layers=[1]),
        nv.Generation(text="dog", tokens=(5, 6), prompt=prompts[0].grown([5, 6])),
        nv.shapes.scene(3).objects[0],
        *items_of_every_kind(),
    ]


def items_of_every_kind():
    """Items whose cells are those of dicts, some of them left out, and items whose objects lie beside a DataFrame."""
    frame = pd.DataFrame([{"image": tiny.picture(0), "question": "what ?", "id": "a"}])
    of_dicts = nv.items([{"image": tiny.picture(0), "question": each} for each in ("what ?", "")], unusable="leave out")
    objects = {"dog": (Outline("dog", "box", (0.0, 0.0, 5.0, 5.0), Size(20, 20)),)}
    table = of_dicts.source.table
    looked_up = dataclasses.replace(of_dicts.source, annotations=Lookup(objects, "boxes", table, "image"))
    return [of_dicts, nv.items(frame), dataclasses.replace(of_dicts, source=looked_up)]


def test_values_of_this_package_come_back_as_they_were(prompts, tmp_path):
    values = package_values(prompts)
    again = restored(values, tmp_path / "job")
    assert_same(again, values)
    assert all(again[number] == values[number] for number in (0, 1, 6, 7, 8, 10, 11))
    assert {type(value).__name__ for value in values} > set(value_table.VALUES) - {
        *("Line", "LeftOut", "Source", "Table", "Outline", "Size", "DictCells", "FrameCells", "Lookup"),  # of Items
        *("DataSetCells", "ParquetRows"),  # see test_items.py
        *("Prompt", "PromptBatch", "TokenMap", "Ranges", "Cells", "GridShape", "Depth", "Window"),  # parts
        *("Composed", "Conversation", "MaskedPositions", "Turn"),
    }


def test_prompts_come_back_with_the_same_rows_inputs_and_pictures(prompts, client, tmp_path):
    prompt = prompts[0]
    again = restored(prompt, tmp_path / "job", model=client)
    assert again.rows == prompt.rows and again.model is client and again["query"] == prompt["query"]
    assert_same(dict(again.inputs), dict(prompt.inputs))
    assert_same(again.images, prompt.images)


def test_what_is_one_object_is_one_object_again(prompts, tmp_path):
    rows = [1, 2]
    first, (second, third), patch, (one, two) = restored(
        (prompts[0], [prompts[0], prompts[1]], nv.Patch("query", source=prompts[1]), [rows, rows]), tmp_path / "job"
    )
    assert first is second and first is not third and patch.source is third and first.model is third.model
    one.append(3)
    assert two == [1, 2, 3]


def test_what_holds_itself_comes_back(prompts, tmp_path):
    value = [1]
    value.append(value)
    pair = ({}, [])
    pair[0]["pair"] = pair[1]
    pair[1].append(pair)
    prompt = dataclasses.replace(prompts[0], images=(set(),))
    prompt.images[0].add(prompt)
    value, pair, prompt = restored((value, pair, prompt), tmp_path / "job")
    assert value[1] is value and pair[0]["pair"] is pair[1] and pair[1][0] is pair
    assert prompt.images[0] == {prompt}


def test_a_model_is_loaded_once_by_name_revision_dtype_and_attention(folder, tmp_path):
    model = nv.load(str(folder), dispatch=False, attn_implementation="eager", dtype=torch.bfloat16)
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    again, prompts = restored((model, [prompt, prompt]), tmp_path / "job")
    assert all(prompt.model is again for prompt in prompts)
    assert again.repo_id == str(folder) and again.attn_implementation == "eager"
    assert again._module.dtype == torch.bfloat16
    assert {parameter.device.type for parameter in again._module.parameters()} == {"meta"}


# the tables -----------------------------------------------------------------------------------


def test_every_function_that_can_run_in_the_background_is_in_the_table():
    public = [(space, name) for space in (nv, nv.recipes) for name in space.__all__]
    functions = {
        name
        for space, name in public
        if inspect.isfunction(getattr(space, name)) and "blocking" in inspect.signature(getattr(space, name)).parameters
    }
    assert functions == set(value_table.FUNCTIONS)
    assert all(value_table.job_function(name).__name__ == name for name in functions)


def classes_in(hint, known):
    """The package's classes that a type speaks of, with their subclasses and the types of their fields."""
    for part in typing.get_args(hint):
        if not isinstance(part, (str, int)):
            classes_in(part, known)
    is_ours = isinstance(hint, type) and hint.__module__.startswith("nnsight_vlm.") and hint not in known
    if is_ours and not typing.get_origin(hint):
        known.add(hint)
        for field in typing.get_type_hints(hint).values():
            classes_in(field, known)
        for subclass in hint.__subclasses__():
            classes_in(subclass, known)


def test_every_class_that_these_functions_take_is_in_the_table():
    known = set()
    for name in value_table.FUNCTIONS:
        hints = typing.get_type_hints(value_table.job_function(name))
        for parameter in set(hints) - {"return"}:
            classes_in(hints[parameter], known)
    concrete = {kind.__name__ for kind in known if not inspect.isabstract(kind)}
    by_hand = {"ObjectNames", "Vocabulary", "MaskedPositions"}  # callables, and what a mask of booleans becomes
    by_hand |= {"DataSetCells", "DictCells", "FrameCells", "Lookup", "ParquetRows"}  # behind protocols
    assert concrete | by_hand == set(value_table.VALUES)
    assert all(value_table.value_class(name).__name__ == name for name in value_table.VALUES)


# what cannot be kept --------------------------------------------------------------------------


class Own(nv.Knockout):
    """A user's class, which another process may not have."""


def own_function(text):
    return (text,)


UNKEEPABLE = {
    "lambda": lambda: lambda _: (),
    "function of one's own": lambda: own_function,
    "partial": lambda: functools.partial(own_function, "a"),
    "bound method": lambda: nv.recipes.vocabulary(["dog"]).__call__,
    "builtin": lambda: os.system,
    "function of the package that is no argument": lambda: nv.load,
    "subclass": lambda: Own("image", "last"),
    "class": lambda: nv.Knockout,
    "module": lambda: os,
    "generator": lambda: (number for number in range(3)),
    "array of objects": lambda: np.array([object()]),
    "records": lambda: np.zeros(2, dtype=[("a", "i4")]),
    "sparse tensor": lambda: torch.eye(3).to_sparse(),
    "tensor without values": lambda: torch.zeros(3, device="meta"),
    "dictionary with a default": lambda: defaultdict(list),
    "object": object,
}


@pytest.mark.parametrize("name", UNKEEPABLE)
def test_what_cannot_be_kept_is_refused_when_it_is_submitted(name, tmp_path):
    with pytest.raises(nv.SpecError, match="a job on disk cannot hold"):
        write_job(tmp_path / "job", StoredCall(nv.run, ([{"deep": UNKEEPABLE[name]()}],), {"remote": True}))
    assert not (tmp_path / "job").exists()


@pytest.mark.parametrize("name", ["trust_remote_code", "custom_generate"])
def test_options_that_run_code_are_refused_when_they_are_submitted(name, client, prompts):
    with pytest.raises(nv.SpecError, match=f"{name}= is code that runs between tokens"):
        nv.generate(client, prompts[0], remote=True, blocking=False, **{name: True})


def test_models_that_could_not_be_loaded_again_are_refused_when_they_are_submitted(folder, tmp_path):
    models = {
        "made in memory": tiny.load(),
        "cannot hold trust_remote_code=": nv.load(str(folder), dispatch=False, trust_remote_code=True),
        "cannot hold a model described as": nv.load(
            str(folder), dispatch=False, attn_implementation={"": "sdpa", "v": 3}
        ),
    }
    for words, model in models.items():
        with pytest.raises(nv.SpecError, match=words):
            write_job(tmp_path / "job", StoredCall(nv.run, (model,), {"remote": True}))
    with pytest.raises(nv.SpecError, match=r"'load' cannot run as a job; functions that can are .*attention_share"):
        write_job(tmp_path / "job", StoredCall(nv.load, (str(folder),), {"remote": True}))
    assert not (tmp_path / "job").exists()


# folders that somebody else wrote -------------------------------------------------------------


@pytest.fixture
def job(client, prompts, tmp_path, monkeypatch):
    """The folder of a job, inside the working directory."""
    monkeypatch.chdir(tmp_path)
    call = StoredCall(nv.generate, (client, prompts[0]), {"remote": True, "do_sample": False, "seen": Path("a")})
    write_job(tmp_path / "job", call)
    return tmp_path / "job"


def changed(job, change):
    """Change what `job.json` says."""
    content = json.loads((job / "job.json").read_text())
    change(content)
    (job / "job.json").write_text(json.dumps(content))


def data_of(job):
    """The file with the bytes of tensors and pictures."""
    [path] = job.glob("data-*.safetensors")
    return path


def entry_of(content, kind):
    return next(entry for entry in content["entries"] if entry["type"] == kind)


def assert_refused(job, words, **options):
    before = sorted(Path.cwd().rglob("*"))
    with pytest.raises(nv.SpecError, match=words):
        nv.remote.resume(job, **options)
    assert sorted(Path.cwd().rglob("*")) == before  # the command that the file names did not run


def calling(module, name):
    """A pickle that calls a global with a shell command; the name may be dotted."""
    texts = [b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name, "touch evil")]
    return b"\x80\x04" + texts[0] + texts[1] + b"\x93" + texts[2] + b"\x85R."


GLOBALS = {
    "dotted global": ("PIL", "Image.os.system"),
    "module imported by a module of the package": ("nnsight_vlm.shapes.shells", "os.system"),
}


@pytest.mark.parametrize("kind", GLOBALS)
def test_a_pickle_is_never_opened(kind, job, monkeypatch):
    imported = types.ModuleType("nnsight_vlm.shapes.shells")
    imported.os = os
    monkeypatch.setitem(sys.modules, imported.__name__, imported)
    evil = calling(*GLOBALS[kind])
    pickle.loads(evil)
    assert Path("evil").exists()  # so it would have run
    Path("evil").unlink()
    data_of(job).write_bytes(evil)
    assert_refused(job, "is broken")
    (job / "job.json").write_bytes(evil)
    assert_refused(job, "is broken")
    (job / "job.json").unlink()
    (job / "plan.pickle").write_bytes(evil)
    assert_refused(job, "written by an older version of nnsight_vlm, as a pickle")


@pytest.mark.parametrize(
    "name", ["os.system", "PIL.Image.os.system", "storage.shutil.rmtree", "remote.value_table.importlib.import_module"]
)
@pytest.mark.parametrize("place", ["class", "argument", "function"])
def test_names_in_a_file_are_looked_up_in_the_tables_only(name, place, job):
    def change(content):
        if place == "function":
            content["function"] = name
            return
        entry = {"type": "function", "name": name}
        if place == "class":
            entry = {"type": "value", "class": name, "fields": {"command": "touch evil"}}
        entry_of(content, "path").clear()
        next(entry for entry in content["entries"] if not entry).update(entry)

    changed(job, change)
    assert_refused(job, "is broken")


def test_a_file_cannot_ask_for_code_of_a_repository(job, client):
    changed(job, lambda content: entry_of(content, "model").update(trust_remote_code=True))
    assert_refused(job, "cannot hold trust_remote_code=")
    assert_refused(job, "cannot hold trust_remote_code=", model=client)


@pytest.mark.parametrize("name", ["trust_remote_code", "custom_generate"])
def test_a_file_cannot_ask_for_code_in_an_option(name, job, client):
    def change(content):
        options = next(entry for entry in content["entries"] if ["remote", True] in entry.get("items", ()))
        options["items"].append([name, True])

    changed(job, change)
    assert_refused(job, f"cannot hold {name}=", model=client)


@pytest.mark.parametrize(("name", "value"), [("remote", "http://elsewhere"), ("remote", True), ("mode", "a text")])
def test_a_prompt_cannot_hand_options_to_nnsight(name, value, job, prompts, client):
    def change(content):
        inputs = next(entry for entry in content["entries"] if entry["type"] == "dict" and "input_ids" in str(entry))
        inputs["items"].append([name, value])

    with pytest.raises(nv.SpecError, match=f"with the input '{name}' of type"):
        prompt = dataclasses.replace(prompts[0], inputs={**prompts[0].inputs, name: value})
        write_job(job / "other", StoredCall(nv.run, (client, prompt), {"remote": "local"}))
    changed(job, change)
    assert_refused(job, f"with the input '{name}' of type", model=client)


def test_a_file_cannot_ask_for_an_attention_from_a_repository(job):
    changed(job, lambda content: entry_of(content, "model").update(attention="kernels-community/flash-attn"))
    assert_refused(job, "cannot hold a model described as")


def test_code_in_the_folder_of_a_model_is_not_run(job, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    evil = tmp_path / "model"
    shutil.copytree(folder, evil)
    (evil / "code.py").write_text("import os\nos.mkdir('evil')\n")
    for file in ("config.json", "processor_config.json", "tokenizer_config.json"):
        settings = json.loads((evil / file).read_text())
        names = ("AutoConfig", "AutoProcessor", "AutoTokenizer", "AutoModelForImageTextToText", "AutoImageProcessor")
        settings["auto_map"] = dict.fromkeys(names, "code.Evil")
        (evil / file).write_text(json.dumps(settings))
    changed(job, lambda content: entry_of(content, "model").update(name=str(evil)))
    nv.remote.resume(job)  # with the classes of transformers
    assert not Path("evil").exists()
    with pytest.raises(AttributeError):
        nv.load(str(evil), dispatch=False, trust_remote_code=True)
    assert Path("evil").exists()  # so it would have run


def test_a_model_that_cannot_be_loaded_by_name_can_be_handed_over(job, client):
    changed(job, lambda content: entry_of(content, "model").update(name="/no/such/folder", path="/no/such/folder"))
    assert_refused(job, r"cannot be loaded by its name alone [\s\S]* write nv.remote.resume\(path, model=model\)")
    assert nv.remote.resume(job, model=client).path == job


def test_another_model_cannot_be_handed_over(job, folder, client, tmp_path):
    other = tmp_path / "other"
    tiny.build_module(seed=1).save_pretrained(other)
    tiny.build_processor().save_pretrained(other)
    assert_refused(job, r"with the path .*has .*other", model=nv.load(str(other), dispatch=False))
    assert_refused(job, "with the dtype", model=nv.load(str(folder), dispatch=False, dtype=torch.bfloat16))
    assert_refused(job, "with the attention", model=nv.load(str(folder), dispatch=False, attn_implementation="eager"))
    assert_refused(job, "with the revision", model=nv.load(str(folder), dispatch=False, revision="v2"))
    assert_refused(job, "made in memory", model=tiny.load())
    Path("again").symlink_to(folder)
    assert nv.remote.resume(job, model=nv.load("again", dispatch=False)).path == job
    assert nv.remote.resume(job, model=nv.load(str(folder))).path == job


def test_a_model_whose_folder_moved_can_be_handed_over_if_its_configuration_is_equal(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, moved, other = tmp_path / "first", tmp_path / "moved", tmp_path / "other"
    shutil.copytree(folder, first)
    client = nv.load(str(first), dispatch=False)
    prompt = nv.encode(client, "what is the red square ?", tiny.picture(0))
    write_job(tmp_path / "job", StoredCall(nv.run, (client, prompt), {"remote": True}))
    tiny.build_module(text="mistral").save_pretrained(other)
    tiny.build_processor().save_pretrained(other)
    first.rename(moved)
    again = nv.load(str(moved), dispatch=False)
    assert read_job(tmp_path / "job", model=again).args[1].model is again
    assert_refused(tmp_path / "job", "with the configuration", model=nv.load(str(other), dispatch=False))


def test_a_model_whose_configuration_was_changed_is_refused_when_it_is_submitted(folder, tmp_path):
    for dispatch in (True, False):
        model = nv.load(str(folder), dispatch=dispatch)
        write_job(tmp_path / f"{dispatch}", StoredCall(nv.run, (model,), {"remote": True}))
        model._module.generation_config.eos_token_id = 7
        with pytest.raises(nv.SpecError, match=r"configuration was changed .*\(eos_token_id\).*save the model"):
            write_job(tmp_path / "job", StoredCall(nv.run, (model,), {"remote": True}))
        with pytest.raises(nv.SpecError, match=r"configuration was changed .*\(eos_token_id\)"):
            read_job(tmp_path / f"{dispatch}", model=model)
        model = nv.load(str(folder), dispatch=dispatch)
        model._module.config.text_config.rms_norm_eps *= 2
        with pytest.raises(nv.SpecError, match=r"configuration was changed .*\(text_config\)"):
            write_job(tmp_path / "job", StoredCall(nv.run, (model,), {"remote": True}))
    assert not (tmp_path / "job").exists()


def test_a_model_whose_checkpoint_cannot_be_read_is_not_compared(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "gone")
    model = nv.load(str(tmp_path / "gone"), dispatch=False)
    shutil.rmtree(tmp_path / "gone")
    model._module.generation_config.eos_token_id = 7
    write_job(tmp_path / "job", StoredCall(nv.run, (model,), {"remote": True}))


@pytest.mark.parametrize("links", [True, False])
def test_of_two_processes_that_submit_to_one_folder_one_is_refused_and_the_other_is_kept(
    client, prompts, tmp_path, monkeypatch, links
):
    """Both see an empty folder first. Without links the last one stays, with its own data."""
    first, second = (StoredCall(nv.run, (client, prompt), {"remote": True}) for prompt in prompts)
    stock = job_files._write_once

    def write_second_before(path, text):
        monkeypatch.setattr(job_files, "_write_once", stock)
        write_job(path.parent, second)
        return stock(path, text)

    monkeypatch.setattr(job_files, "_write_once", write_second_before)
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError("no links here")))
        write_job(tmp_path / "job", first)
        assert_same(dict(read_job(tmp_path / "job").args[1].inputs), dict(prompts[0].inputs))
        return
    with pytest.raises(nv.SpecError, match="holds a job already"):
        write_job(tmp_path / "job", first)
    assert_same(dict(read_job(tmp_path / "job").args[1].inputs), dict(prompts[1].inputs))
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == [data_of(tmp_path / "job").name, "job.json"]


def test_processes_that_submit_to_one_folder_at_the_same_time_leave_one_job(client, prompts, tmp_path):
    calls = [StoredCall(nv.run, (client, prompt), {"remote": True}) for prompt in prompts]
    for number in range(10):
        place = tmp_path / str(number)
        start = threading.Barrier(4)

        def submit(call, place=place, start=start):
            start.wait()
            try:
                write_job(place, call)
            except nv.SpecError:
                return 0
            return 1

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(submit, calls * 2)) == 1
        kept = read_job(place, model=client).args[1]
        assert any(bytes_of(kept.inputs["pixel_values"]) == bytes_of(p.inputs["pixel_values"]) for p in prompts)


def test_a_file_cannot_name_data_outside_its_folder(job):
    (job.parent / "data-evil.safetensors").write_bytes(data_of(job).read_bytes())
    for name in ("/../../data-evil", "evil", 5, None, "../" * 21 + "x"):
        changed(job, lambda content, name=name: content.update(data=name))
        assert_refused(job, "is broken .*not the digest of its data")


def test_a_file_does_not_decide_where_the_api_key_is_sent(client, prompts, tmp_path):
    write_job(tmp_path / "job", StoredCall(nv.run, (client, prompts[0]), {"remote": "http://elsewhere"}))
    assert_refused(tmp_path / "job", r"trust that server with your API key, .*host='http://elsewhere'")
    assert nv.remote.resume(tmp_path / "job", model=client, host="http://elsewhere").status == "not sent yet"


def test_a_server_on_this_computer_is_trusted(client, prompts, tmp_path):
    write_job(tmp_path / "job", StoredCall(nv.run, (client, prompts[0]), {"remote": "http://127.0.0.1:8001"}))
    assert nv.remote.resume(tmp_path / "job", model=client).status == "not sent yet"


def without_remote(content):
    options = next(entry for entry in content["entries"] if ["remote", True] in entry.get("items", ()))
    options["items"].remove(["remote", True])


BROKEN = {
    "no file": lambda job: data_of(job).unlink(),
    "truncated json": lambda job: (job / "job.json").write_bytes((job / "job.json").read_bytes()[:-40]),
    "truncated data": lambda job: data_of(job).write_bytes(data_of(job).read_bytes()[:-9]),
    "a flipped bit": lambda job: data_of(job).write_bytes(data_of(job).read_bytes()[:-1] + b"\x7f"),
    "another format": lambda job: changed(job, lambda content: content.update(format=99)),
    "a list": lambda job: (job / "job.json").write_text("[]"),
    "an entry that is missing": lambda job: changed(job, lambda content: content["entries"].pop()),
    "an entry of no kind": lambda job: changed(job, lambda content: entry_of(content, "path").update(type="code")),
    "a field too many": lambda job: changed(job, lambda content: entry_of(content, "value")["fields"].update(x=1)),
    "a huge picture": lambda job: changed(
        job, lambda content: entry_of(content, "picture").update(size=[10**6, 10**6])
    ),
    "a huge tensor": lambda job: changed(job, lambda content: entry_of(content, "tensor").update(shape=[10**9, 10**9])),
    "a call here": lambda job: changed(job, without_remote),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_job_is_an_error_in_one_sentence(how, job, client):
    BROKEN[how](job)
    assert_refused(job, r"is broken|cannot be resumed|by another version", model=client)


def test_an_immutable_value_that_holds_itself_is_an_error(job, client):
    def change(content):
        number = content["entries"].index(entry_of(content, "path"))
        content["entries"][number] = {"type": "tuple", "items": [{"at": number}]}

    changed(job, change)
    assert_refused(job, "is missing or holds itself", model=client)


def test_a_folder_without_a_job_and_one_of_an_older_version(job, client, prompts):
    with pytest.raises(nv.SpecError, match="there is no job in 'nowhere'"):
        nv.remote.resume("nowhere")
    Path("old").mkdir()
    file = io.BytesIO()
    pickle.dump((), file)
    Path("old/plan.pickle").write_bytes(file.getvalue())
    with pytest.raises(nv.SpecError, match="holds a job of an older version of nnsight_vlm; choose another path"):
        write_job(Path("old"), StoredCall(nv.run, (client, prompts[0]), {"remote": True}))
