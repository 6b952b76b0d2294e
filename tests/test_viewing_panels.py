"""Where a page draws each image token: on the pixels that its grid says, every token once, in every family."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import zoo
from PIL import Image
from zoo import videos
from zoo.parts import picture

import nnsight_vlm as nv
from nnsight_vlm import versions
from nnsight_vlm.studies.image_patches import patch_source, patch_stage
from nnsight_vlm.viewing.objects import objects_given
from nnsight_vlm.viewing.packing import values_of
from nnsight_vlm.viewing.panels import shown_in
from nnsight_vlm.viewing.shown_words import changed_words, shown_words

LATENTS = ("contribution", "gradient")


def kinds(page):
    return [panel["kind"] for panel in page["panels"]]


def placed(page):
    """The box of every token of the page, by its position in the prompt."""
    return {
        page["positions"][token]: tuple(box)
        for panel in page["panels"]
        for token, box in zip(panel["tokens"], panel["boxes"], strict=True)
    }


@pytest.mark.parametrize("name", zoo.ZOO)
def test_every_family_has_its_tokens_on_the_pixels_of_its_grid_or_is_refused_in_words(name):
    member = zoo.ZOO[name]
    sizes = range(len(member.sizes))
    for size in sizes:
        prompt = zoo.prompt(name, member.implementations[0], size=size)
        try:
            page = nv.view(prompt.model, prompt, max_new_tokens=2, layers="attention").payload
        except nv.SpecError as error:
            with pytest.raises(nv.SpecError):  # nothing tells where its patches are
                patch_source(prompt)
            assert len(str(error)) > 40
            continue
        grid = prompt.grid(0, patch_stage(prompt))
        has_pixels = grid.areas > 0
        boxes = {
            position: box for position, box, seen in zip(grid.positions, grid.boxes, has_pixels, strict=True) if seen
        }
        found = placed(page)
        assert sorted(found) == sorted(boxes)
        assert all(np.allclose(found[position], box, atol=0.006) for position, box in boxes.items())
        drawn = [token for panel in page["panels"] for token in panel["tokens"]]
        assert sorted([*drawn, *page["unplaced"]]) == list(range(page["tokens"]))
        assert page["pictures"][0]["width"] == prompt.image().width
        [clean] = page["columns"]
        weight = clean["quantities"]["weight"]
        values = values_of(weight["data"], signed=False)
        assert values.shape == (len(weight["layers"]), 1, weight["rows"], page["tokens"]) and values.max() > 0
        assert json.loads(json.dumps(page, allow_nan=False))["tokens"] == page["tokens"]


def test_tiles_lie_in_their_layout_and_thumbnails_apart():
    """LLaVA-NeXT puts its tiles together; Idefics3 and InternVL keep them and add the whole picture."""
    page = zoo_page("llava_next", size=1)
    assert kinds(page) == ["thumbnail", "picture"]
    assert page["panels"][1]["crop"] == union(page["panels"][1]["boxes"])
    assert page["unplaced"] and any("end rows" in note for note in page["notes"])
    page = zoo_page("idefics3")
    assert kinds(page) == ["tile"] * 4 + ["thumbnail"]
    crops = [panel["crop"] for panel in page["panels"]]
    width, height = page["pictures"][0]["width"], page["pictures"][0]["height"]
    assert crops[4] == [0, 0, width, height] == union(crops[:4])
    assert crops[0][0] == crops[2][0] < crops[1][0] == crops[3][0] and crops[0][1] == crops[1][1] < crops[2][1]
    assert [panel["label"] for panel in page["panels"]][:2] == ["tile 1 of 4", "tile 2 of 4"]
    assert kinds(zoo_page("llava")) == ["picture"]


def zoo_page(name, size=0):
    prompt = zoo.prompt(name, size=size)
    return nv.view(prompt.model, prompt, max_new_tokens=2).payload


def union(boxes):
    edges = np.array(boxes)
    return [*edges[:, :2].min(0), *edges[:, 2:].max(0)]


def test_several_pictures_have_panels_and_words_of_their_own():
    model = tiny.load("sdpa")
    prompt = nv.encode(
        model, "user : <image> or <image> ? assistant :", [tiny.picture(0), tiny.picture(1, (40, 20))], chat=False
    )
    page = nv.view(model, prompt, max_new_tokens=2, quantities=["weight", "gradient"]).payload
    assert [each["label"] for each in page["pictures"]] == ["picture 1", "picture 2"]
    assert [panel["picture"] for panel in page["panels"]] == [0, 1]
    words = page["columns"][0]["words"]
    assert [word["text"] for word in words if "picture" in word] == ["[picture 1]", "[picture 2]"]
    between = next(word for word in words if word["text"] == "or")
    row = values_of(page["columns"][0]["quantities"]["weight"]["data"], signed=False)[:, 0, between["row"]]
    assert (row[:, :25].max(-1) > 0).all() and (row[:, 25:] == 0).all()  # it has seen the first picture only


@pytest.mark.skipif(
    not versions.lies_in(versions.installed("transformers"), ">=5.23"),
    reason="the small video processors of the tests stand in for those of transformers 5.23",
)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_frames_are_pictures_of_their_own(name):
    """Qwen's tokens each show two neighbouring frames, of which the first is drawn; InternVL's one."""
    model = videos.load(name)
    prompt = nv.encode(model, "what happens then ?", videos=videos.film(name, 4))
    page, grid = nv.view(model, prompt, max_new_tokens=2).payload, prompt.grid(video=0)
    per_token = videos.VIDEO_ZOO[name].per_token
    assert kinds(page) == ["frame"] * (4 // per_token)
    assert page["pictures"][1]["label"] == ("frames 2-3" if per_token == 2 else "frame 1")
    for number, panel in enumerate(page["panels"]):
        shown = grid.frame(number * per_token)
        assert [page["positions"][token] for token in panel["tokens"]] == list(shown.positions)
        assert np.allclose(panel["boxes"], shown.boxes, atol=0.006) and panel["picture"] == number
    with pytest.raises(nv.SpecError, match="the prompt has a video"):
        nv.view(model, prompt, quantities="gradient")


def test_latents_have_the_patches_that_they_read_and_no_more_is_asked_of_them():
    prompt = zoo.prompt("blip-2-opt")
    page = nv.view(prompt.model, prompt, max_new_tokens=2, quantities=["weight", "causal"]).payload
    assert page["positions"] == list(prompt.grid(0, "qformer").placed.positions) and kinds(page) == ["picture"]
    assert "latents" in dict(page["facts"])["a row"]
    for quantity in LATENTS:
        with pytest.raises(nv.SpecError, match="here image tokens are latents"):
            nv.view(prompt.model, prompt, quantities=quantity)


def test_a_prompt_from_ready_inputs_without_its_picture_is_refused():
    model = tiny.load("sdpa")
    inputs = nv.encode(model, "what is red ?", tiny.picture(0)).inputs
    with pytest.raises(nv.SpecError, match="no picture 0"):
        nv.view(model, nv.encode(model, inputs=dict(inputs)))


# objects --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shown():
    return shown_in(nv.encode(tiny.load("sdpa"), "what is red ?", picture(0, (30, 20))))


def mask_of(*boxes, size=(30, 20)):
    mask = np.zeros((size[1], size[0]), bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask


def test_the_outline_of_a_rectangle_is_its_four_corners(shown):
    [found] = objects_given({"box": mask_of((4, 3, 11, 9))}, shown)
    assert found.box == (4, 3, 11, 9) and sorted(found.outline) == [(4, 3), (4, 9), (11, 3), (11, 9)]
    assert objects_given({"box": (4, 3, 11, 9)}, shown) == (found._replace(outline=None),)


def test_every_large_piece_has_an_outline_and_holes_have_none(shown):
    ring = mask_of((2, 2, 12, 12), (20, 5, 24, 9), (28, 18, 29, 19))
    ring[5:9, 5:9] = False
    found = objects_given([nv.recipes.Thing(name="ring", mask=ring)], shown)
    assert [each.box for each in found] == [(2, 2, 12, 12), (20, 5, 24, 9)] and {each.name for each in found} == {
        "ring"
    }


def test_objects_are_those_of_the_first_picture_or_of_each():
    chat = [nv.shapes.scene(seed).image for seed in (3, 4)]
    page = shown_in(nv.encode(tiny.load("sdpa"), "what is red ?", chat))
    first, second = {"box": (4, 3, 11, 9)}, nv.shapes.scene(4).objects
    alone = objects_given(second, page)
    assert {each.picture for each in alone} == {0} and len(alone) >= len(second)
    moved = tuple(each._replace(picture=1) for each in alone)
    assert objects_given([None, second], page) == moved
    assert objects_given([first, second], page) == (*objects_given(first, page), *moved)
    for given in ([first], [first, second, None], [[], [], []]):
        with pytest.raises(nv.SpecError, match=rf"objects of {len(given)} picture\(s\), and the page has 2; give one"):
            objects_given(given, page)


@pytest.mark.parametrize("seed", range(3))
def test_outlines_of_scenes_hold_the_pixels_of_their_objects(seed):
    """Counted by the crossings of a ray from each pixel's middle."""
    scene = nv.shapes.scene(seed)
    page = shown_in(nv.encode(nv.load("shapes"), "what is red ?", scene.image))
    for each in scene.objects:
        [found] = objects_given([each], page)
        corners = np.array(found.outline)
        x, y = corners.T
        after_x, after_y = np.roll(corners, -1, axis=0).T
        middle_y, middle_x = np.mgrid[:80, :80] + 0.5
        crossed = [
            (np.minimum(y[n], after_y[n]) < middle_y) & (middle_y < np.maximum(y[n], after_y[n])) & (middle_x < x[n])
            for n in range(len(x))
            if x[n] == after_x[n]
        ]
        inside = np.sum(crossed, axis=0) % 2 == 1
        assert (inside >= each.mask).all() and found.name == f"{each.color} {each.shape}"
        assert inside.sum() == each.mask.sum() or each.shape == "ring"


def test_outlines_of_large_masks_are_coarse_and_hold_all_of_them():
    photo = Image.new("RGB", (1500, 1000))
    page = shown_in(nv.encode(tiny.load("sdpa"), "what is red ?", photo))
    mask = np.hypot(*(np.mgrid[:1000, :1500] - np.array([500, 700])[:, None, None])) < 300
    [found] = objects_given({"disc": mask}, page)
    assert len(found.outline) < 600 and 0 <= 400 - found.box[0] <= 6 and 0 <= found.box[2] - 1000 <= 6


# words ----------------------------------------------------------------------------------------------


def test_changed_words_are_what_is_left_when_both_answers_are_aligned():
    model = tiny.load("sdpa")
    prompt = nv.encode(model, "what is red ?", tiny.picture(0))
    page = shown_in(prompt)

    def said(text):
        return shown_words(prompt.grown(model.tokenizer(text, add_special_tokens=False)["input_ids"]), page)

    first, second = said("a red circle and a star ."), said("a blue circle left of a star .")
    texts = [
        [words[number].text for number in sorted(changed)]
        for words, changed in ((first, changed_words(first, second)), (second, changed_words(second, first)))
    ]
    assert texts == [["red", "and"], ["blue", "left", "of"]]


def test_every_token_of_the_text_is_in_a_word():
    for name in ("llava", "qwen2_5_vl", "idefics3"):
        prompt = zoo.prompt(name)
        words = shown_words(prompt, shown_in(prompt))
        held = {position for word in words for position in word.positions}
        tokens = prompt.rows[0]
        stretch = {place for visual in tokens.visuals for place in visual.stretch}
        spelled = {
            place
            for place in range(tokens.start, tokens.stop)
            if place not in stretch and prompt.model.tokenizer.decode([tokens.tokens[place]]).strip()
        }
        assert spelled <= held
