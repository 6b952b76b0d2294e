"""Models and prompts that the tests share."""

from __future__ import annotations

import os

import pytest
import tiny
import torch
from float64 import float64

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

torch.set_num_threads(int(os.environ.get("NNSIGHT_VLM_TEST_THREADS", "1")))


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
    tiny.build_module().save_pretrained(folder)
    tiny.build_processor().save_pretrained(folder)
    return folder
