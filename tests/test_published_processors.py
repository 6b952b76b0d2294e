"""The processors of folders as they are published are made without torchvision, and give the pictures their pixels."""

from __future__ import annotations

import numpy as np
import published
import pytest
import torch
import zoo
from transformers.utils import is_torchvision_available

import nnsight_vlm as nv
from nnsight_vlm.families import view_of
from nnsight_vlm.opening import processors
from nnsight_vlm.opening.processors import NoVideos

VIDEO = ("llava_onevision", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "smolvlm")
VIDEO += ("llava_next_video", "video_llava", "minicpmv4_6", "exaone4_5", "lfm3_vl")
"""Families whose processors have a video part."""
EXPERTS = ("qwen3_vl_moe", "glm4v_moe", "glm46v", "ernie4_5_vl_moe")
PIXTRAL = ("mistral3", "llava-pixtral", "lighton_ocr")
OTHERS = ("llava", "llava_next", "idefics3", "mllama", "instructblip-t5", "gemma3", "ovis2", "paligemma", "florence2")
OTHERS += ("granite4_vision", "paddleocr_vl", "hunyuan_vl")
FURTHER = ("fuyu", "chameleon", "vipllava", "deepseek_vl", "janus", "gemma3n", "aya_vision", "idefics2")
pytestmark = pytest.mark.skipif(is_torchvision_available(), reason="torchvision carries these processors")


def opened(name, folder):
    """A member of the zoo, and the same from a folder."""
    made = published.write(name, folder)
    return made, nv.load(folder, dtype=torch.float32, attn_implementation=zoo.ZOO[name].implementations[0])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", VIDEO + EXPERTS + PIXTRAL + OTHERS + FURTHER)
def test_a_folder_opens_with_its_own_processor(name, tmp_path):
    made, model = opened(name, tmp_path)
    for number, size in enumerate(zoo.ZOO[name].sizes):
        picture = zoo.picture(number, size)
        expected, prompt = (nv.encode(each, zoo.ZOO[name].text, picture) for each in (made, model))
        assert set(prompt.inputs) == set(expected.inputs)
        for key, value in expected.inputs.items():
            assert torch.equal(prompt.inputs[key], value) if isinstance(value, torch.Tensor) else True, key
        assert prompt.groups == expected.groups
        for boxes, same in zip(_boxes(prompt), _boxes(expected), strict=True):
            np.testing.assert_allclose(boxes, same, atol=1e-9)
    torch.testing.assert_close(nv.run(model, prompt).logits, nv.run(made, expected).logits)


def _boxes(prompt):
    if "grid" in view_of(prompt.model).family.limitations:
        return []
    return [prompt.grid(number).boxes for number in range(len(prompt.rows[0].images))]


@pytest.mark.parametrize("name", ["qwen2_vl", "smolvlm"])
def test_a_video_is_refused_with_what_to_install(name, tmp_path):
    _, model = opened(name, tmp_path)
    assert type(model.processor.video_processor) is NoVideos
    with pytest.raises(nv.SpecError, match=r"videos need torchvision.*pip install \"nnsight-vlm\[hub\]\""):
        model.processor.video_processor([])


@pytest.mark.parametrize("name, kind", [("qwen2_vl", "Qwen2VL"), ("ernie4_5_vl_moe", "Ernie4_5_VLMoe")])
def test_a_processor_without_its_video_part_is_saved_and_read_again(name, kind, tmp_path):
    _, model = opened(name, tmp_path)
    model.processor.save_pretrained(tmp_path)
    again = nv.load(tmp_path, dtype=torch.float32)
    assert type(model.processor).__name__ == type(again.processor).__name__ == f"{kind}Processor"


@pytest.mark.parametrize("name", ["lfm2_vl", "molmo2", "kimi_k25"])
def test_where_torchvision_carries_pictures_too_the_extra_is_named(name, tmp_path):
    published.write(name, tmp_path)
    with pytest.raises(nv.SpecError, match=r"needs the package 'torchvision'.*pip install \"nnsight-vlm\[hub\]\""):
        nv.load(tmp_path)


def test_pixels_of_a_checkpoint_are_counted_as_the_user_asks(tmp_path):
    _, model = opened("qwen2_vl", tmp_path)
    fewer = nv.load(tmp_path, dtype=torch.float32, min_pixels=256, max_pixels=16 * 16)
    counts = [
        len(nv.encode(each, zoo.ZOO["qwen2_vl"].text, zoo.picture(1, (48, 48)))["image"]) for each in (model, fewer)
    ]
    assert counts[1] < counts[0]


CROPS = {
    "pan_and_scan_min_crop_size": 8,
    "pan_and_scan_max_num_crops": 4,
    "pan_and_scan_min_ratio_to_activate": 1.2,
}
SETTINGS = {
    "gemma3": ({"do_pan_and_scan": True, **CROPS}, 4),
    "internvl": ({"crop_to_patches": False}, 1),
    "aya_vision": ({"crop_to_patches": False}, 1),
    "idefics3": ({"do_image_splitting": False}, 1),
    "mllama": ({"max_image_tiles": 1}, 1),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_count_although_the_processor_itself_has_others(name, tmp_path):
    """A processor's own settings come before those of its image processor."""
    published.write(name, tmp_path)
    settings, tiles = SETTINGS[name]
    model = nv.load(tmp_path, dtype=torch.float32, **settings)
    grid = nv.encode(model, zoo.ZOO[name].text, zoo.picture(1, (200, 60))).grid()
    assert len(grid.shapes) == tiles
    plain = nv.load(tmp_path, dtype=torch.float32)
    assert len(nv.encode(plain, zoo.ZOO[name].text, zoo.picture(1, (200, 60))).grid().shapes) != tiles


def test_a_setting_that_a_version_of_transformers_fixes_is_refused(tmp_path, monkeypatch):
    published.write("gemma3", tmp_path)
    monkeypatch.setattr(processors, "_fixed_settings", lambda _: {"do_pan_and_scan": False})
    with pytest.raises(nv.SpecError, match=r"has do_pan_and_scan=False whatever its settings say"):
        nv.load(tmp_path, dtype=torch.float32, do_pan_and_scan=True)
