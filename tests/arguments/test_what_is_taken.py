"""What is meant is taken: layers from the end, numbers of other libraries; and what would be dropped is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tiny
import torch
import zoo
from PIL import Image

import nnsight_vlm as nv
from nnsight_vlm.lowering.layers import layer_numbers
from nnsight_vlm.recipes import Work, query_patching

from .calls import QUESTION, world

LAST = tiny.LAYERS - 1
QUIET = Work(progress=False)


@pytest.mark.parametrize(
    "one, other",
    [
        (nv.Knockout("image", "last", layers=-1), nv.Knockout("image", "last", layers=LAST)),
        (nv.Knockout("image", "last", layers=[-4, 1]), nv.Knockout("image", "last", layers=[0, 1])),
        (nv.Allow("image", "last", layers=[-1, 0]), nv.Allow("image", "last", layers=[0, LAST])),
        (
            nv.Knockout("image", "last", heads=[(-1, 2), (0, 1)]),
            nv.Knockout("image", "last", heads=[(LAST, 2), (0, 1)]),
        ),
        (
            nv.Knockout("image", "last", layers=-1, heads=[(LAST, 2)]),
            nv.Knockout("image", "last", layers=LAST, heads=[(-1, 2)]),
        ),
        (nv.Ablate("last", layers=np.int64(-2)), nv.Ablate("last", layers=2)),
        (nv.Knockout("image", "last", layers=torch.tensor([-1])), nv.Knockout("image", "last", layers=nv.window(3, 4))),
        (
            nv.Knockout("image", np.int64(40), layers=1),
            nv.Knockout("image", torch.tensor(40), layers=nv.depth(0.25, 0.5)),
        ),
    ],
)
def test_layers_count_from_the_end_where_they_are_negative(one, other):
    here = world()
    runs = [nv.run(here.model, here.prompt, case, positions="all").logits for case in (one, other)]
    assert torch.equal(*runs) and not torch.equal(runs[0], nv.run(here.model, here.prompt, positions="all").logits)


def test_states_go_with_layers_that_are_counted_from_the_end():
    here = world()
    both, first, last = (
        nv.run(here.model, here.twin, reads=nv.Residual("last", layers=layers)).reads[0]
        for layers in ([0, -1], 0, LAST)
    )
    assert torch.equal(both, torch.cat([first, last]))
    patched, named = (
        nv.run(here.model, here.prompt, nv.Patch("last", source=both, layers=layers)).logits
        for layers in ([0, -1], [0, LAST])
    )
    assert torch.equal(patched, named)
    rows = nv.run(here.model, here.prompt, reads=nv.Attention("last", "image", layers=[-2, -1])).reads[0]
    assert torch.equal(
        rows, nv.run(here.model, here.prompt, reads=nv.Attention("last", "image", layers=[2, 3])).reads[0]
    )
    for layers in ([-1, 0], [LAST, -1], [2, -3]):  # the last, then the first; one twice; the third, then the second
        for asked in (
            {"reads": nv.Residual("last", layers=layers)},
            {"reads": nv.Attention("last", "image", layers=layers)},
            {"intervention": nv.Patch("last", source=both, layers=layers)},
        ):
            with pytest.raises(nv.SpecError, match="must ascend"):
                nv.run(here.model, here.prompt, **asked)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_layer_has_two_numbers(count):
    for layer in range(count):
        assert layer_numbers(layer, count) == layer_numbers(layer - count, count) == (layer,)
        assert layer_numbers([layer, layer - count], count) == (layer,)
    for beyond in (count, -count - 1):
        with pytest.raises(nv.SpecError, match=f"layer {beyond} is out of range: the model has layers 0"):
            layer_numbers(beyond, count)


def test_layers_of_a_recipe_count_from_the_end():
    here = world()
    answers = [int(nv.run(here.model, prompt).logits.argmax()) for prompt in (here.prompt, here.twin)]
    pairs = [(here.prompt, here.twin, *answers)]
    one, other = (
        query_patching(here.model, pairs, layers=layers, groups=["last"], work=QUIET)
        for layers in (-1, [np.int64(LAST)])
    )
    assert one.equals(other) and set(one["layer"]) == {LAST}


def test_pairs_of_which_none_counts_are_told_and_not_left_out():
    here = world()
    right = [int(nv.run(here.model, prompt).logits.argmax()) for prompt in (here.prompt, here.twin)]
    wrong = [next(token for token in (20, 21, 22) if token not in right) for _ in right]
    frame = query_patching(here.model, [(here.prompt, here.twin, wrong[0], right[1])], layers=1, work=QUIET)
    assert len(frame) and (frame["images"] == 0).all() and frame["mean"].isna().all()
    said = {text.get_text() for axis in nv.plots.query_patching(frame) for text in axis.texts}
    assert said == {"no pair counts: the model answers none right"}


@pytest.mark.parametrize("kind", [np.array, torch.tensor, lambda ids: list(map(np.int64, ids)), tuple])
def test_what_ends_an_answer_may_be_an_array(kind):
    here = world()
    said = nv.generate(here.model, here.prompt, max_new_tokens=4).tokens
    plain, arrays = (
        nv.generate(here.model, here.prompt, max_new_tokens=np.int64(4), eos_token_id=ids).tokens
        for ids in ([said[1], 7], kind([said[1], 7]))
    )
    assert plain == arrays == said[: said.index(said[1]) + 1]
    single = nv.generate(here.model, here.prompt, max_new_tokens=4, eos_token_id=torch.tensor(said[1])).tokens
    assert single == arrays


def test_a_whole_factor_is_a_factor():
    here = world()
    one, other = (
        nv.generate(here.model, here.prompt, max_new_tokens=4, repetition_penalty=factor).tokens for factor in (2, 2.0)
    )
    assert one == other


def test_fractions_of_a_picture_are_no_pixels():
    prompt = world().prompt
    with pytest.raises(nv.SpecError, match=r"looks like fractions .* write \(4.0, 0.0, 20.0, 10.0\)"):
        prompt.region((0.2, 0.0, 1.0, 0.5))
    assert prompt.region((0, 0, 1, 1)) == prompt["image.0"][:1]
    assert prompt.region(np.array([4.0, 0.0, 20.0, 10.0])) == prompt.region((4, 0, 20, 10))


def test_a_mask_of_torch_is_a_mask():
    grid, mask = world().prompt.grid(), np.zeros((tiny.SIDE, tiny.SIDE), bool)
    mask[3:9, 5:14] = True
    assert grid.tokens_in(torch.from_numpy(mask)) == grid.tokens_in(mask) == grid.tokens_in((5, 3, 14, 9))


def test_labels_are_refused_unless_the_processor_makes_them_every_time():
    here = world()
    with pytest.raises(nv.SpecError, match="labels, which only a loss reads"):
        nv.encode(here.model, inputs={**here.prompt.inputs, "labels": here.prompt.inputs["input_ids"]})
    model, text = zoo.load("paligemma", "sdpa"), zoo.ZOO["paligemma"].text
    picture = tiny.picture(0, zoo.ZOO["paligemma"].sizes[0])
    made = model.processor(text=[text], images=[picture], return_tensors="pt")
    assert "labels" in model.processor.model_input_names
    assert "labels" not in nv.encode(model, inputs=dict(made)).inputs


def test_pictures_that_a_processor_cannot_put_together_are_refused_in_words():
    model, text = zoo.load("perception_lm", "sdpa"), zoo.ZOO["perception_lm"].text
    one, other = (Image.new("RGB", size, "red") for size in ((16, 16), (96, 16)))
    with pytest.raises(nv.SpecError, match=r"processor .* 2 picture\(s\), 16 x 16 and 96 x 16 pixels"):
        nv.encode(model, f"{text} {text}", [one, other])


def test_a_cross_attention_mask_that_was_not_padded_with_its_tokens_is_refused():
    model, text = zoo.load("mllama", "sdpa"), zoo.ZOO["mllama"].text
    picture = tiny.picture(0, zoo.ZOO["mllama"].sizes[0])
    made = dict(model.processor(text=[text], images=[picture], return_tensors="pt"))
    ids = torch.nn.functional.pad(made["input_ids"], (2, 0))
    mask = torch.nn.functional.pad(made["attention_mask"], (2, 0))
    with pytest.raises(nv.SpecError, match="cross_attention_mask has shape"):
        nv.encode(model, inputs={**made, "input_ids": ids, "attention_mask": mask})


def test_a_prompt_is_no_list_and_a_batch_says_how_it_becomes_one():
    here = world()
    for given, write in ((here.prompt, r"prompts=\[prompt\]"), (here.batch, r"prompt.row\(number\) for number")):
        with pytest.raises(nv.SpecError, match=write):
            nv.recipes.attention_share(here.model, given, work=QUIET)


def test_a_number_is_shown_as_it_was_given():
    with pytest.raises(nv.SpecError, match="memory='4GB' is no number of bytes"):
        nv.sweep(world().model, world().prompt, [world().cut], answer="red", memory="4GB")
    with pytest.raises(nv.SpecError, match=re.escape(repr(QUESTION))):
        nv.run(world().model, QUESTION)
