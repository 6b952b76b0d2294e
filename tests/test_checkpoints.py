"""Weights in files that are not those of the model: refused by `load`, and by the first run of a model without any."""

from __future__ import annotations

import json
import shutil

import pytest
import tiny
import torch
from float64 import LIMIT
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration, modeling_utils

import nnsight_vlm as nv
from nnsight_vlm.families import view_of

FILE, INDEX = "model.safetensors", "model.safetensors.index.json"


def without_tower(weights):
    return {name: weight for name, weight in weights.items() if "vision_tower" not in name}


def foreign_names(weights):
    """The projector under the names that LLaVA's authors gave it."""
    return {name.replace("multi_modal_projector.linear_", "mm_projector."): weight for name, weight in weights.items()}


def wider_projector(weights):
    wider = torch.zeros(tiny.WIDTH + 1)
    return {name: wider if name.endswith("linear_1.bias") else weight for name, weight in weights.items()}


def one_more(weights):
    more = {name: weight for name, weight in weights.items() if name.endswith("layers.3.mlp.up_proj.weight")}
    return {**weights, **{name.replace("layers.3", "layers.4"): weight + 0 for name, weight in more.items()}}


CHANGES = {
    "missing": (without_tower, r": \d+ \(model\.vision_tower\.\S+, .*, \.\.\.\) missing\. Weights"),
    "renamed": (foreign_names, r": 4 \(.*linear_1\.bias.*\) missing; 4 \(.*mm_projector\.1\.bias.*\) without a place"),
    "shape": (wider_projector, r": 1 \(.*linear_1\.bias \[33\] in the files, \[32\] in the model\) of another shape\."),
    "extra": (one_more, r": 1 \(.*layers\.4\.mlp\.up_proj\.weight\) without a place in the model\. Weights"),
}


@pytest.fixture(params=["one file", "shards"])
def saved(request, folder, tmp_path):
    """A folder with the tiny model, in one file or in several."""
    copy = shutil.copytree(folder, tmp_path / "checkpoint")
    if request.param == "shards":
        (copy / FILE).unlink()
        tiny.build_module().save_pretrained(copy, max_shard_size="100KB")
        assert len(list(copy.glob("*.safetensors"))) > 2
    return copy


def rewrite(folder, change):
    """Change the weights in every file of a folder, and the index of the files."""
    for path in folder.glob("*.safetensors"):
        save_file(change(load_file(path)), path, metadata={"format": "pt"})
    if (folder / INDEX).exists():
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] = {name: path.name for path in folder.glob("*.safetensors") for name in load_file(path)}
        (folder / INDEX).write_text(json.dumps(index))


@pytest.fixture
def opened(monkeypatch):
    """The files of weights that transformers has opened."""
    files, plain = [], modeling_utils.safe_open

    def counted(path, **options):
        files.append(path)
        return plain(path, **options)

    monkeypatch.setattr(modeling_utils, "safe_open", counted)
    return files


def weights_of(model):
    return {name: weight.clone() for name, weight in view_of(model).module.state_dict().items()}


def expect_weights(model, expected):
    found = weights_of(model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in found.items())


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", [{}, {"dtype": torch.bfloat16}], ids=["float32", "bfloat16"])
def test_weights_that_do_not_match_are_refused_by_name_and_read_once(saved, change, options, opened):
    rewrite(saved, CHANGES[change][0])
    with pytest.raises(nv.SpecError, match=CHANGES[change][1]) as error:
        nv.load(str(saved), **options)
    assert str(saved) in str(error.value) and "nv.load(module, processor=processor)" in str(error.value)
    assert opened and len(opened) == len(set(opened))


def test_weights_that_match_are_read_once(saved, opened):
    expect_weights(nv.load(str(saved)), weights_of(tiny.load()))
    assert len(opened) == len(set(opened)) == len(list(saved.glob("*.safetensors")))


@pytest.mark.float64
def test_a_model_without_weights_gets_them_once_when_it_first_runs(saved, opened, sdpa, dtype):
    text, cut = "what is the red square ?", nv.Knockout("image", "last", layers=1)
    model = nv.load(str(saved), dispatch=False, dtype=dtype)
    prompt = nv.encode(model, text, tiny.picture(0))
    other = nv.encode(sdpa, inputs=prompt.inputs)
    assert not opened and {weight.device.type for weight in view_of(model).module.parameters()} == {"meta"}
    assert tiny.gap(nv.run(model, prompt, cut).logits, nv.run(sdpa, other, cut).logits) < LIMIT
    assert len(opened) == len(set(opened)) == len(list(saved.glob("*.safetensors")))
    opened.clear()
    expected = nv.generate(sdpa, other, cut, max_new_tokens=3).tokens
    assert nv.generate(model, prompt, cut, max_new_tokens=3).tokens == expected
    assert nv.verify(model, prompt, cut).edges > 0
    expect_weights(model, weights_of(sdpa))
    assert not opened


@pytest.mark.parametrize(
    "first",
    [
        nv.run,
        lambda model, prompt: nv.generate(model, prompt, max_new_tokens=2),
        lambda model, prompt: nv.sweep(model, prompt, [nv.Knockout("image", "last")], answer=20),
        lambda model, prompt: nv.verify(model, prompt, nv.Knockout("image", "last")),
    ],
    ids=["run", "generate", "sweep", "verify"],
)
def test_the_first_run_of_a_model_without_weights_refuses_those_that_do_not_match(folder, tmp_path, first):
    copy = shutil.copytree(folder, tmp_path / "checkpoint")
    rewrite(copy, foreign_names)
    model = nv.load(str(copy), dispatch=False)  # for a server, which has the weights
    prompt = nv.encode(model, "what is the red square ?", tiny.picture(0))
    with pytest.raises(nv.SpecError, match=r"mm_projector\.1\.bias"):
        first(model, prompt)


# what is no mismatch -------------------------------------------------------------------------------


def test_tied_weights_are_in_the_files_once(tmp_path):
    module = tiny.build_module()
    module.config.tie_word_embeddings = module.config.text_config.tie_word_embeddings = True
    module.tie_weights()
    module.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / FILE) if "lm_head" in name]
    loaded = view_of(nv.load(str(tmp_path), processor=tiny.build_processor())).module
    assert torch.equal(loaded.lm_head.weight, module.lm_head.weight)
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight


def test_weights_that_a_class_declares_to_be_ignored_are_no_mismatch(folder, tmp_path, monkeypatch):
    copy = shutil.copytree(folder, tmp_path / "checkpoint")
    rewrite(copy, lambda weights: {**without(weights, "linear_2.bias"), "talker.weight": torch.ones(2)})
    with pytest.raises(nv.SpecError, match=r"linear_2\.bias\) missing; 1 \(talker\.weight\) without a place"):
        nv.load(str(copy))
    monkeypatch.setattr(LlavaForConditionalGeneration, "_keys_to_ignore_on_load_unexpected", [r"^talker\."])
    monkeypatch.setattr(LlavaForConditionalGeneration, "_keys_to_ignore_on_load_missing", [r"linear_2\.bias"])
    expected = weights_of(tiny.load())
    found = weights_of(nv.load(str(copy)))
    assert all(torch.equal(found[name], expected[name]) for name in without(expected, "linear_2.bias"))


def without(weights, ending):
    return {name: weight for name, weight in weights.items() if not name.endswith(ending)}


def test_other_models_may_be_loaded_as_before(folder, tmp_path):
    """What stands in for transformers' function while a model is loaded is gone afterwards, an error or none."""
    plain = modeling_utils.PreTrainedModel.from_pretrained
    copy = shutil.copytree(folder, tmp_path / "checkpoint")
    rewrite(copy, without_tower)
    with pytest.raises(nv.SpecError):
        nv.load(str(copy))
    assert modeling_utils.PreTrainedModel.from_pretrained == plain
    assert LlavaForConditionalGeneration.from_pretrained(copy).config.model_type == "llava"


@pytest.mark.parametrize("name", nv.shapes.CHECKPOINTS)
def test_the_weights_inside_the_package_arrive_in_the_model(name):
    files = load_file(nv.shapes.checkpoint(name) / FILE)
    module = view_of(nv.load(name)).module
    tower = module.model.vision_tower.state_dict()
    stored = {key.split("vision_tower.")[1]: weight for key, weight in files.items() if "vision_tower." in key}
    assert {key.removeprefix("vision_model.") for key in tower} == {key.removeprefix("vision_model.") for key in stored}
    for key, weight in tower.items():
        assert torch.equal(weight, stored.get(key, stored.get(f"vision_model.{key}")).float())
