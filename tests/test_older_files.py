"""Folders as older versions of transformers wrote them open with the numbers of today's."""

from __future__ import annotations

import json
from functools import partial

import published
import pytest
import torch
import zoo
from transformers.utils import is_torchvision_available

import nnsight_vlm as nv

TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} : {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>"
    "{% else %} {{ c['text'] }}{% endif %}{% endfor %} {% endfor %}{% if add_generation_prompt %}assistant :{% endif %}"
)
BY_NAME = [{"name": "default", "template": TEMPLATE}, {"name": "tool_use", "template": "no"}]
COUNTED = dict.fromkeys(("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"))


def edited(file, folder, **values):
    """A JSON file of a folder with other values; None takes one away."""
    path = folder / file
    kept = {**(json.loads(path.read_text()) if path.is_file() else {}), **values}
    path.write_text(json.dumps({name: value for name, value in kept.items() if value is not None}))


def template_in(file, value, folder):
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    edited(file, folder, chat_template=value)


def token_id(folder):
    token = json.loads((folder / "config.json").read_text())["image_token_index"]
    edited("config.json", folder, image_token_index=None, image_token_id=token, architectures=None)


def pixels_named(folder):
    edited("preprocessor_config.json", folder, size=None, min_pixels=256, max_pixels=4096)


def no_class_named(folder):
    for file in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        edited(file, folder, processor_class=None)


COUNTS = {
    "llava": COUNTED,
    "vipllava": COUNTED,
    "llava_next": COUNTED,
    "llava_onevision": dict.fromkeys(("num_image_tokens", "vision_feature_select_strategy")),
    "blip-2-opt": {"num_query_tokens": None},
    "instructblip-llama": {"num_query_tokens": None},
}
OTHERS = {
    "no class tokens": ("llava", partial(edited, "processor_config.json", num_additional_image_tokens=None)),
    "no processor file": ("llava", lambda folder: (folder / "processor_config.json").unlink()),
    "a token's later name": ("llava", token_id),
    "a processor's later name": (
        "llava",
        partial(edited, "preprocessor_config.json", image_processor_type="CLIPImageProcessorFast"),
    ),
    "a template with the tokenizer": ("llava", partial(template_in, "tokenizer_config.json", TEMPLATE)),
    "templates by name": ("llava", partial(template_in, "tokenizer_config.json", BY_NAME)),
    "a template of its own": ("llava", partial(template_in, "chat_template.json", TEMPLATE)),
    "no class named": ("qwen2_vl", no_class_named),
    "a class of another package": ("llava", partial(edited, "processor_config.json", processor_class="OurProcessor")),
    "a class of another package, with videos": (
        "qwen2_vl",
        partial(edited, "processor_config.json", processor_class="OurProcessor"),
    ),
    "code of its own beside": (
        "qwen2_vl",
        partial(edited, "preprocessor_config.json", auto_map={"AutoProcessor": "code.OurProcessor"}),
    ),
    "pixels named": ("qwen2_vl", pixels_named),
}
CASES = {name: (name, partial(edited, "processor_config.json", **values)) for name, values in COUNTS.items()} | OTHERS


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision resizes pictures otherwise than the zoo's Pillow")
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_folder_as_it_was_written_once_gives_the_same_numbers(case, tmp_path):
    name, change = CASES[case]
    made = published.write(name, tmp_path)
    change(tmp_path)
    model = nv.load(tmp_path, dtype=torch.float32)
    picture = zoo.picture(1, zoo.ZOO[name].sizes[-1])
    expected, prompt = (nv.encode(each, zoo.ZOO[name].text, picture) for each in (made, model))
    assert torch.equal(prompt.inputs["input_ids"], expected.inputs["input_ids"])
    torch.testing.assert_close(nv.run(model, prompt).logits, nv.run(made, expected).logits)
    if "template" in case:
        asked = nv.encode(model, "what is red ?", picture)
        assert len(asked["image"]) == len(prompt["image"]) and "what is red" in model.tokenizer.decode(
            [asked.rows[0].tokens[place] for place in asked["question"]]
        )
