"""Models and prompts that the tests share."""

from __future__ import annotations

import pytest
import tiny
import torch

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

torch.set_num_threads(1)


@pytest.fixture(params=["sdpa", "eager"])
def model(request):
    """The tiny LLaVA with each attention implementation; both have the same weights."""
    return tiny.load(request.param)


@pytest.fixture
def sdpa():
    """The tiny LLaVA, for tests in which the attention implementation makes no difference."""
    return tiny.load("sdpa")


@pytest.fixture(params=["mistral", "qwen2"])
def other(request):
    """A LLaVA with another decoder: sliding attention (Mistral), biases (Qwen2)."""
    return tiny.load("sdpa", request.param)


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
