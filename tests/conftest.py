"""Models and prompts that the tests share."""

from __future__ import annotations

import gc
import os

import pytest
import read_once
import tiny
import torch
import zoo
from float64 import float64

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

THREADS = os.environ.get("NNSIGHT_VLM_TEST_THREADS", "1")
torch.set_num_threads(int(THREADS))
os.environ.setdefault("OMP_NUM_THREADS", THREADS)  # of child processes: more threads than cores wait for each other
read_once.install()


def pytest_addoption(parser):
    parser.addoption(
        "--members",
        choices=("usual", "alike", "all"),
        default="usual",
        help="members of the zoo on which tests run: all but those of zoo.ALIKE, only these, or both",
    )


def pytest_collection_modifyitems(config, items):
    """Leave out tests of members that were not asked for; a test that is called by its name runs."""
    asked = config.getoption("--members")
    if asked == "all" or any("::" in str(argument) for argument in config.args):
        return
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        chosen[is_alike(item) == (asked == "alike")].append(item)
    config.hook.pytest_deselected(items=chosen[False])
    items[:] = chosen[True]


def pytest_collection_finish():
    """Libraries and thousands of tests stay to the end: the garbage collector need not look through them each time."""
    gc.freeze()


def is_alike(item):
    """Whether a test is one of a member of `zoo.ALIKE`."""
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    flat = [part for value in values for part in (value if isinstance(value, tuple) else (value,))]
    return any(isinstance(part, str) and part in zoo.ALIKE for part in flat)


def pytest_configure(config):
    config.addinivalue_line("markers", "float64: the shared models are in float64, and all that runs in the test")


@pytest.fixture(autouse=True)
def dtype(request):
    """The type of the shared models: float32, or float64 in tests that compare two computations of one thing."""
    if request.node.get_closest_marker("float64") is None:
        yield torch.float32
    else:
        with float64():
            yield torch.float64


@pytest.fixture(params=["sdpa", "eager"])
def model(request, dtype):
    """The tiny LLaVA with each attention implementation; both have the same weights."""
    return tiny.load(request.param, dtype=dtype)


@pytest.fixture
def sdpa(dtype):
    """The tiny LLaVA, for tests in which the attention implementation makes no difference."""
    return tiny.load("sdpa", dtype=dtype)


@pytest.fixture(params=["mistral", "qwen2"])
def other(request, dtype):
    """A LLaVA with another decoder: sliding attention (Mistral), biases (Qwen2)."""
    return tiny.load("sdpa", request.param, dtype)


@pytest.fixture
def prompt(model):
    return nv.encode(model, "what is the red square ?", tiny.picture(0))


@pytest.fixture
def twin(model):
    """A prompt as long as `prompt`, with another picture and other words."""
    return nv.encode(model, "where is a blue circle ?", tiny.picture(1))


@pytest.fixture
def rows(model):
    """A prompt of three rows of different length, padded on the left; the last row has two pictures."""
    return tiny.several(model)


@pytest.fixture
def forwards(model):
    """A list that gets one entry for every forward that the model runs."""
    calls = []
    hook = view_of(model).module.register_forward_pre_hook(lambda module, _: calls.append(module))
    yield calls
    hook.remove()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The tiny model as a user or a server loads it: a folder with weights and processor."""
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny.save(folder)
    return folder
