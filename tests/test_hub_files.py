"""Which files of a repository or folder are read is said once, and holds for the model and for its processor.

The repository lies in a cache on this machine, as the hub's own client lays it out; nothing may reach for the network.
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import torch

import nnsight_vlm as nv
from nnsight_vlm.shapes.embedded import checkpoint

FOLDER = Path(checkpoint("shapes"))
NAME = "someone/shapes"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def cache(tmp_path):
    """Makes a cache that holds the embedded model as a repository."""

    def make(below=".", revision="main"):
        repository = tmp_path / "cache" / f"models--{NAME.replace('/', '--')}"
        (repository / "refs").mkdir(parents=True)
        (repository / "refs" / revision).write_text("a" * 40)
        shutil.copytree(FOLDER, repository / "snapshots" / ("a" * 40) / below)
        return tmp_path / "cache"

    return make


@pytest.fixture(scope="module")
def expected():
    return logits(nv.load("shapes"))


def logits(model):
    return nv.run(model, nv.encode(model, "describe the image .", nv.shapes.scene(3).image)).logits


PLACES = {
    "cache": ({}, {}),
    "subfolder": ({"below": "inner"}, {"subfolder": "inner"}),
    "revision": ({"revision": "v2"}, {"revision": "v2"}),
    "token": ({}, {"token": "of mine"}),
}


@pytest.mark.parametrize("dispatch", [True, False])
@pytest.mark.parametrize("place", PLACES)
def test_a_repository_is_read_where_the_options_say(place, dispatch, cache, expected):
    made, options = PLACES[place]
    where = {"cache_dir": cache(**made), "local_files_only": True, **options}
    model = nv.load(NAME, dtype=torch.float32, dispatch=dispatch, **where)
    assert torch.equal(logits(model), expected)


def test_settings_of_pictures_are_put_into_the_processor_that_lies_there(cache):
    where = {"cache_dir": cache(below="inner"), "local_files_only": True, "subfolder": "inner"}
    model = nv.load(NAME, dtype=torch.float32, dispatch=False, do_normalize=False, **where)
    prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    assert float(prompt.inputs["pixel_values"].min()) >= 0


def test_values_of_the_config_are_overridden_there_too(cache):
    model = nv.load(NAME, dispatch=False, cache_dir=cache(), local_files_only=True, vision_feature_layer=-2)
    assert model.config.vision_feature_layer == -2


def test_a_repository_that_is_not_in_the_cache_is_told_in_words(tmp_path):
    with pytest.raises(nv.SpecError, match="'someone/shapes' cannot be opened: "):
        nv.load(NAME, cache_dir=tmp_path, local_files_only=True)


def test_a_folder_inside_a_folder_is_opened_whole(tmp_path, expected):
    shutil.copytree(FOLDER, tmp_path / "inner")
    assert torch.equal(logits(nv.load(tmp_path, dtype=torch.float32, subfolder="inner")), expected)


@pytest.mark.parametrize("given", ["other", 3])
def test_a_folder_that_is_not_in_the_folder_is_refused_with_those_that_are(given, tmp_path):
    (tmp_path / "inner").mkdir()
    with pytest.raises(nv.SpecError, match=r"has no folder .* \(subfolder=\), but 'inner'"):
        nv.load(tmp_path, subfolder=given)
