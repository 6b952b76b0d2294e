"""A grid is that of the pictures and of the processor that the prompt's pixels are made by, or it is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import zoo
from PIL import Image, ImageOps

import nnsight_vlm as nv

OTHER = r"the processor makes other pixels of this prompt's picture\(s\) than the prompt has"
PLACED = [name for name in zoo.ZOO if "grid" not in zoo.row(name).limitations]


def opened(name):
    return zoo.load(name, zoo.ZOO[name].implementations[0])


def of_inputs(model, name, shown):
    """A ready encoding of one picture, beside another."""
    inputs = nv.encode(model, zoo.ZOO[name].text, picture(name)).inputs
    return nv.encode(model, inputs=inputs, images=shown)


def picture(name):
    return zoo.picture(1, zoo.ZOO[name].sizes[-1])


@pytest.mark.parametrize("name", PLACED)
def test_a_ready_encoding_of_another_picture_has_no_grid(name):
    model, shown = opened(name), picture(name)
    assert of_inputs(model, name, shown).grid().size == shown.size
    for other in (ImageOps.mirror(shown), shown.crop((0, 0, shown.width - 2, shown.height - 2)).resize(shown.size)):
        prompt = of_inputs(model, name, other)
        with pytest.raises(nv.SpecError, match=OTHER):
            prompt.grid()


def test_a_picture_that_was_not_turned_upright_for_the_processor_has_no_grid(tmp_path):
    model, shown = opened("qwen2_vl"), picture("qwen2_vl")
    turned = Image.Exif()
    turned[0x0112] = 3
    shown.save(tmp_path / "turned.png", exif=turned)
    with pytest.raises(nv.SpecError, match=OTHER):
        of_inputs(model, "qwen2_vl", tmp_path / "turned.png").grid()


def test_pictures_in_another_order_have_no_grid():
    model, pair = opened("llava"), [zoo.picture(number, (24, 20)) for number in range(2)]
    inputs = nv.encode(model, f"{zoo.ZOO['llava'].text} {zoo.ZOO['llava'].text}", pair).inputs
    right, wrong = (nv.encode(model, inputs=inputs, images=shown) for shown in (pair, pair[::-1]))
    assert right.grid(1).size == (24, 20)
    with pytest.raises(nv.SpecError, match=OTHER):
        wrong.grid(1)


CHANGES = {
    "qwen2_vl": {"size": {"shortest_edge": 256, "longest_edge": 256}},
    "llava": {"do_center_crop": False},
    "idefics3": {"do_image_splitting": False},
    "florence2": {"do_resize": True, "size": {"height": 8, "width": 8}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_processor_with_other_options_has_no_grid_of_earlier_prompts(name, monkeypatch):
    model = opened(name)
    prompt = nv.encode(model, zoo.ZOO[name].text, zoo.picture(2, (60, 36)))
    before = prompt.grid()
    for option, value in CHANGES[name].items():
        monkeypatch.setattr(model.processor.image_processor, option, value)
    for each in (prompt, pickle.loads(pickle.dumps(prompt))):
        with pytest.raises(nv.SpecError, match=OTHER):
            each.grid()
    monkeypatch.undo()
    assert np.array_equal(prompt.grid().boxes, before.boxes, equal_nan=True)


def test_an_option_that_changes_nothing_in_this_picture_leaves_its_grid(monkeypatch):
    model = opened("qwen2_vl")
    prompt = nv.encode(model, zoo.ZOO["qwen2_vl"].text, picture("qwen2_vl"))
    images = model.processor.image_processor
    monkeypatch.setattr(images, "size", {**dict(images.size), "longest_edge": 2 * images.size["longest_edge"]})
    assert prompt.grid().positions == prompt["image"]


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_next", "idefics3", "mistral3"])
def test_a_row_of_a_batch_has_the_grid_that_it_has_alone(name):
    model = opened(name)
    shown = [zoo.picture(number, size) for number, size in enumerate([(24, 20), (60, 30)])]
    batch = nv.encode(model, [zoo.ZOO[name].text] * 2, shown)
    for number, each in enumerate(shown):
        alone = nv.encode(model, zoo.ZOO[name].text, each).grid()
        assert (batch.row(number).grid().boxes == alone.boxes)[alone.areas > 0].all()
