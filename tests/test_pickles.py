"""Prompts, answers, grids and interventions as copies and pickles: the model is never in them, and never mistaken."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import zoo
from zoo.parts import draw, in_dtype

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.identity import weights

CUT = nv.Knockout("image", "last", layers=1)
WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["llava", "mllama", "blip-2-t5"])
def test_a_prompt_goes_through_a_copy_or_a_pickle_whole(name, way):
    prompt = zoo.prompt(name, zoo.ZOO[name].implementations[0])
    model, other = prompt.model, WAYS[way](prompt)
    assert type(other) is nv.Prompt and other is not prompt and other.model is model
    assert other.rows == prompt.rows and other.groups == prompt.groups and repr(other) == repr(prompt)
    assert other.text == prompt.text
    assert np.array_equal(np.asarray(other.image(0)), np.asarray(prompt.image(0)))
    assert torch.equal(nv.run(model, other).logits, nv.run(model, prompt).logits)
    grown = other.grown([7])
    assert torch.equal(nv.run(model, grown).logits, nv.run(model, prompt.grown([7])).logits)


@pytest.mark.parametrize("way", WAYS)
def test_what_holds_prompts_does_so_too(way):
    prompt = zoo.prompt("llava")
    model, through = prompt.model, WAYS[way]
    batch = nv.stack([prompt, nv.encode(model, "a red dog", chat=False)])
    assert type(through(batch)) is nv.PromptBatch
    assert torch.equal(nv.run(model, through(batch)).logits, nv.run(model, batch).logits)
    answer = nv.generate(model, prompt, CUT, max_new_tokens=3)
    assert (through(answer).text, through(answer).tokens) == (answer.text, answer.tokens)
    assert nv.verify(model, through(answer).prompt, CUT) == nv.verify(model, answer.prompt, CUT)
    answers = through(nv.generate(model, batch, max_new_tokens=2))
    assert [each.model is model for each in answers.prompt] == [True, True]


@pytest.mark.parametrize("way", WAYS)
def test_runs_proofs_grids_and_interventions_do_so_too(way):
    prompt = zoo.prompt("llava", size=1)
    model, through = prompt.model, WAYS[way]
    run = nv.run(model, prompt, reads=[nv.Attention("last", "image")])
    assert torch.equal(through(run).logits, run.logits) and torch.equal(through(run).reads[0], run.reads[0])
    rows = nv.run(model, nv.stack([prompt, prompt]))
    assert torch.equal(through(rows).logits, rows.logits)
    proof = nv.verify(model, prompt, CUT)
    assert through(proof) == proof
    grid, other = prompt.grid(), through(prompt.grid())
    assert (other.positions, other.cells, other.shapes) == (grid.positions, grid.cells, grid.shapes)
    assert np.array_equal(other.boxes, grid.boxes) and other._repr_html_() == grid._repr_html_()
    assert other.tokens_in((0, 0, 8, 8)) == grid.tokens_in((0, 0, 8, 8))
    source = zoo.prompt("llava", seed=2, size=1)
    values = nv.run(model, source, reads=nv.Residual("last", layers=0)).reads[0]
    cases = [
        CUT,
        nv.Allow("image", "text", layers=nv.depth(0.25, 0.75)),
        nv.Patch("last", source=source, layers=nv.window(0, 2)) | CUT,
        nv.Patch("last", source=values, layers=0),
        nv.Ablate("image", how="resample", source=source),
    ]
    for case in cases:
        assert torch.equal(nv.run(model, prompt, through(case)).logits, nv.run(model, prompt, case).logits)


def test_a_deep_copy_has_its_own_tensors_and_the_same_model():
    prompt = zoo.prompt("llava")
    other = copy.deepcopy({"one": prompt, "two": prompt})
    assert other["one"] is other["two"] is not prompt and other["one"].model is prompt.model
    assert other["one"].inputs["input_ids"].data_ptr() != prompt.inputs["input_ids"].data_ptr()
    assert copy.copy(prompt).inputs is prompt.inputs


def test_no_weights_are_in_a_pickle_and_none_are_read_through_for_it(monkeypatch):
    prompt = zoo.prompt("llava")
    monkeypatch.setattr(weights, "weights_digest", None)
    monkeypatch.setattr(weights, "_digest_of", None)
    data = pickle.dumps(prompt)
    held = sum(value.nbytes for value in prompt.inputs.values()) + len(prompt.image(0).tobytes())
    assert len(data) < held + 6_000 < sum(weight.nbytes for weight in view_of(prompt.model).module.parameters())
    other = pickle.loads(data)
    nv.run(prompt.model, other, CUT)
    assert pickle.loads(pickle.dumps(other)).model is prompt.model


# with the model gone, and loaded again ----------------------------------------------------------------


def made(seed: int, dtype: torch.dtype = torch.float32, folder: Any = None) -> Any:
    """A llava whose weights follow from a seed, none of which other tests have."""
    member = zoo.ZOO["llava"]
    module = in_dtype(draw(member.module("sdpa"), seed=seed), dtype)
    if folder is not None:
        module.config._name_or_path = str(folder)
    return nv.load(module, processor=member.processor())


def pickled(model: Any) -> bytes:
    prompt = nv.encode(model, zoo.ZOO["llava"].text, zoo.picture(1, (24, 20)))
    return pickle.dumps(prompt)


def gone(seed: int, **options: Any) -> bytes:
    """A prompt of a model that is no more."""
    data = pickled(made(seed, **options))
    gc.collect()
    return data


def test_a_prompt_finds_its_model_when_that_is_loaded_again_and_takes_no_other():
    prompt = pickle.loads(gone(101))
    assert "not loaded here" in repr(prompt) and "llava" in repr(prompt) and "image 16" in repr(prompt)
    assert "not loaded here" in prompt._repr_html_()
    assert prompt["image"] == tuple(range(3, 19))  # no group needs the model
    other = made(102)
    for ask in (lambda: prompt.text, lambda: nv.run(other, prompt), lambda: nv.generate(other, prompt), prompt.grid):
        with pytest.raises(nv.SpecError, match=r"comes out of a pickle.*'llava'.*Load that model first"):
            ask()
    again = nv.encode(other, inputs=dict(prompt.inputs), images=prompt.images)  # what the message says to write
    assert torch.isfinite(nv.run(other, again).logits).all()
    same = made(101)
    assert torch.equal(nv.run(same, prompt).logits, nv.run(same, nv.encode(same, inputs=dict(prompt.inputs))).logits)
    assert prompt.model is same and prompt.grid().positions == prompt["image"]


def test_a_pickle_of_an_unpickled_prompt_still_says_which_model_it_is_of():
    again = pickle.loads(pickle.dumps(pickle.loads(gone(103))))
    with pytest.raises(nv.SpecError, match="comes out of a pickle"):
        _ = again.model
    same = made(103)
    assert copy.deepcopy(again).model is same and again.model is same


def test_one_weight_that_was_trained_further_is_another_model():
    prompt, model = pickle.loads(gone(104)), made(104)
    with torch.no_grad():
        view_of(model).module.model.language_model.layers[1].mlp.down_proj.weight.mul_(1.01)
    with pytest.raises(nv.SpecError, match="comes out of a pickle"):
        nv.run(model, prompt)


def test_another_precision_is_told_by_the_name_alone(tmp_path):
    named, nameless = pickle.loads(gone(105, folder=tmp_path)), pickle.loads(gone(105))
    double = made(105, torch.float64, tmp_path)
    assert named.model is double
    with pytest.raises(nv.SpecError, match="comes out of a pickle"):
        _ = nameless.model


def test_a_prompt_as_the_source_of_a_patch_is_not_taken_for_one_of_another_model():
    source, model = pickle.loads(gone(106)), made(107)
    prompt = nv.encode(model, zoo.ZOO["llava"].text, zoo.picture(3, (24, 20)))
    with pytest.raises(nv.SpecError, match="comes out of a pickle"):
        nv.run(model, prompt, nv.Patch("last", source=source))


ELSEWHERE = """
import pickle, sys, torch
import nnsight_vlm as nv
prompt, answer, cut, logits = pickle.load(open(sys.argv[1], "rb"))
gist = nv.load("shapes-gist")
try:
    nv.run(gist, prompt, cut)
except nv.SpecError as error:
    print("refused:", error)
model = nv.load("shapes")
assert torch.equal(nv.run(model, prompt, cut).logits, logits)
assert prompt.model is model and answer.prompt.model is model
assert nv.generate(model, prompt, max_new_tokens=4).tokens == answer.tokens == answer.prompt.rows[0].tokens[-4:]
print("the same")
"""


def test_another_process_runs_it_with_the_model_that_it_loads_itself(tmp_path):
    model = nv.load("shapes")
    prompt = nv.encode(model, "describe the image .", nv.shapes.scene(3).image)
    cut = nv.Knockout("image", "last", layers=2)
    values = prompt, nv.generate(model, prompt, max_new_tokens=4), cut, nv.run(model, prompt, cut).logits
    file = tmp_path / "prompt.pickle"
    file.write_bytes(pickle.dumps(values))
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "refused: this prompt comes out of a pickle" in done.stdout and done.stdout.endswith("the same\n")
