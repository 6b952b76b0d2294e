"""Sinks, lens words and heads of `shapes-smol`, against what is computed by hand on a tiny model."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from nnsight_vlm.shapes.smol import assembly, findings
from nnsight_vlm.shapes.smol.beginning import Settings, new_learner
from nnsight_vlm.shapes.smol.measure import first_scenes
from nnsight_vlm.shapes.world import scene

sys.path.insert(0, str(Path(__file__).parent))
tiny = importlib.import_module("smol_tiny")


@pytest.fixture(scope="module")
def file():
    return tiny.file()


@pytest.fixture(scope="module")
def processor(file):
    return assembly.processor(file)


@pytest.fixture(scope="module")
def model(file, tmp_path_factory):
    learner = new_learner(file, Settings(rank=2), torch.device("cpu"))
    parts = tmp_path_factory.mktemp("parts") / "parts.safetensors"
    assembled = assembly.assemble(file, assembly.save_parts(parts, learner.tower, learner.projector, learner.updates))
    assembled.set_attn_implementation("eager")
    return assembled


def test_patches_of_objects_lie_in_their_boxes():
    shown = scene(3)
    patches = findings.object_at(shown)
    assert len(patches) == 100 and set(patches) == {-1, 0, 1, 2, 3}
    for number, patch in enumerate(patches):
        if patch >= 0:
            x0, y0, x1, y1 = shown.objects[patch].box
            row, column = divmod(number, 10)
            assert x0 - 8 < column * 8 < x1 and y0 - 8 < row * 8 < y1


def test_attention_is_shared_out(model, processor):
    lines = findings.sinks(model, processor, first_scenes(2))
    assert [line["layer"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert 0 < line["first"] < 1 and line["largest"] < line["image"] < 1
        assert line["first"] + line["image"] < 1
    # at the first layer, where the states are embeddings, the first token's length is known
    inputs = findings.inputs_of(processor, first_scenes(1), ["describe the image."], torch.device("cpu"))
    with torch.no_grad():
        states = model(**inputs, output_hidden_states=True).hidden_states[0][0].norm(dim=-1)
    only = findings.sinks(model, processor, first_scenes(1))
    assert only[0]["first_state"] == pytest.approx(float(states[0] / states.median()), abs=1e-3)


def test_the_last_lens_words_are_the_models_own(model, processor):
    scenes = first_scenes(1)
    line = findings.lens_words(model, processor, scenes)[-1]
    inputs = findings.inputs_of(processor, scenes, ["describe the image."], torch.device("cpu"))
    said = model(**inputs).logits[0, inputs["input_ids"][0] == model.config.image_token_id].argmax(-1)
    words = [processor.tokenizer.decode([token]).strip().lower() for token in said]
    on_objects = [word for word, patch in zip(words, findings.object_at(scenes[0]), strict=True) if patch >= 0]
    assert line["layer"] == 3
    assert set(line["on objects"]) <= set(on_objects) and line["on objects"][0] == max(on_objects, key=on_objects.count)


def test_a_head_that_is_gone_gives_zeros(model, processor):
    inputs = findings.inputs_of(processor, first_scenes(1), ["count the objects."], torch.device("cpu"))
    projection = model.model.language_model.layers[1].self_attn.o_proj
    with torch.no_grad():
        plain = model(**inputs).logits
        with findings.without(model, [(1, 2)]):
            cut = model(**inputs).logits
        weight, width = projection.weight.clone(), model.model.language_model.layers[1].self_attn.head_dim
        projection.weight[:, 2 * width : 3 * width] = 0
        by_weights = model(**inputs).logits
        projection.weight.copy_(weight)
        assert torch.equal(model(**inputs).logits, plain)
    torch.testing.assert_close(cut, by_weights)
    assert not torch.equal(cut, plain)


def test_heads_are_counted_and_removed(model, processor, monkeypatch):
    monkeypatch.setattr(findings, "DRAWS", 2)
    monkeypatch.setattr(findings, "REMOVED", (0.25, 1.0))
    found = findings.heads(model, processor, first_scenes(1))
    assert found["heads"] == len(found["loss without one"]) == tiny.LAYERS * tiny.HEADS
    assert 6 <= found["questions"] <= 8
    assert [line["share"] for line in found["together"]] == list(findings.REMOVED)
    all_gone = found["together"][-1]
    assert all_gone["random"] == [all_gone["least needed"]] * 2
