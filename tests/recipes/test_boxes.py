"""Boxes in answers: every format on answers written by hand, malformed ones, and scores by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import zoo
from zoo.parts import picture as noise

import nnsight_vlm as nv
from nnsight_vlm.recipes import Thing, box_scores, boxes_in
from nnsight_vlm.recipes.token_answers import BoxReading, box_rows, resized_size
from nnsight_vlm.recipes.token_variants import Target, Variant
from nnsight_vlm.studies.box_formats import BOX_FORMATS, box_iou, box_of, format_of
from nnsight_vlm.studies.image_token_sets import ObjectTokens

SIZE = (200, 100)
WRITTEN = {
    "fractions": ("The dog is at [0.25, 0.5, 0.75, 1.0].", (50, 50, 150, 100)),
    "qwen2_vl": (
        "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(250,500),(750,1000)<|box_end|>",
        (50, 50, 150, 100),
    ),
    "qwen2_5_vl": ('```json\n[{"bbox_2d": [28, 14, 84, 28], "label": "dog"}]\n```', (50, 50, 150, 100)),
    "qwen3_vl": ('[{"bbox_2d": [250, 500, 750, 1000], "label": "dog"}]', (50, 50, 150, 100)),
    "internvl": ("<ref>dog</ref><box>[[250, 500, 750, 1000]]</box>", (50, 50, 150, 100)),
    "cogvlm": ("A dog [[250,500,750,1000]] sits.", (50, 50, 150, 100)),
    "paligemma": ("<loc0512><loc0256><loc1024><loc0768> dog", (50, 50, 150, 100)),
    "florence2": ("dog<loc_250><loc_500><loc_750><loc_1000>", (50, 50, 150, 100)),
    "kosmos-2": (
        "<phrase> a dog</phrase><object><patch_index_0519><patch_index_0888></object>",
        ((7 + 0.5) / 32 * 200, (16 + 0.5) / 32 * 100, (24 + 0.5) / 32 * 200, (27 + 0.5) / 32 * 100),
    ),
    "molmo": ('<point x="25.0" y="50.5" alt="dog">dog</point>', (50, 50.5, 50, 50.5)),
}


def read(text, format):
    return boxes_in(text, format, SIZE, resized=(112, 28))


def test_every_format_has_an_answer_here():
    assert set(WRITTEN) == set(BOX_FORMATS)


@pytest.mark.parametrize("format", WRITTEN)
def test_an_answer_is_read_in_pixels_of_the_picture(format):
    text, box = WRITTEN[format]
    assert read(text, format) == (pytest.approx(box),)


def test_answers_without_their_special_tokens_and_with_several_boxes_are_read():
    assert read("(250,500),(750,1000) and (0,0),(500, 500)", "qwen2_vl") == ((50, 50, 150, 100), (0, 0, 100, 50))
    points = '<points x1="10.0" y1="20.0" x2="30.0" y2="40.0" alt="dogs">dogs</points>'
    assert [box[:2] for box in read(points, "molmo")] == [(20, 20), (60, 40)]


@pytest.mark.parametrize("first", [0, 37, 519])
@pytest.mark.parametrize("last", [37, 519, 888, 1023])
def test_cells_are_those_of_the_code_of_kosmos(first, last):
    from transformers.models.kosmos2.processing_kosmos2 import patch_index_to_coordinate

    expected = np.array(patch_index_to_coordinate(first, last, 32)) * (200, 100, 200, 100)
    text = f"<patch_index_{first:04d}><patch_index_{last:04d}>"
    right = expected[0] < expected[2] and expected[1] < expected[3]
    assert read(text, "kosmos-2") == ((pytest.approx(tuple(expected)),) if right else ())


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("fractions", ""),
        ("fractions", "I see no dog."),
        ("fractions", "[0.1, 0.2, 0.3]"),
        ("fractions", "[0.1, 0.2, 0.3, 0.4"),
        ("fractions", "[0.1, 0.2, 0.3, dog]"),
        ("fractions", "[0.7, 0.2, 0.3, 0.4]"),
        ("fractions", "[0.3, 0.2, 0.3, 0.4]"),
        ("fractions", "[1.3, 0.2, 1.5, 0.4]"),
        ("fractions", "[nan, 0.2, 0.5, 0.4]"),
        ("qwen2_vl", "<|box_start|>(250,500),(750<|box_end|>"),
        ("qwen2_5_vl", '{"bbox_2d": [28, 14, 84]}'),
        ("qwen2_5_vl", "[28, 14, 84, 28]"),
        ("internvl", "<box>[250, 500, 750, 1000]</box>"),
        ("paligemma", "<loc0512><loc0256><loc1024> dog"),
        ("paligemma", "<loc1024><loc0256><loc0512><loc0768> dog"),
        ("kosmos-2", "<object><patch_index_0519></object>"),
        ("kosmos-2", "<patch_index_0519><patch_index_1024>"),
        ("molmo", '<point x="125.0" y="50.0">'),
        ("molmo", '<point x="25.0">'),
    ],
)
def test_what_is_malformed_or_has_no_area_is_no_box(format, text):
    assert read(text, format) == ()
    score = box_scores(text, (0, 0, 200, 100), format=format, size=SIZE, resized=(112, 28))
    assert not score.hit and score.boxes == 0 and (score.iou == 0 or format == "molmo")


def test_a_box_that_sticks_out_is_cut_at_the_edge():
    assert read("[-0.5, 0.5, 1.5, 2]", "fractions") == ((0, 50, 200, 100),)


@pytest.mark.parametrize("seed", range(5))
def test_iou_is_that_of_the_pixels(seed):
    """Counted on masks, pixel by pixel."""
    rng = np.random.default_rng(seed)
    masks, boxes = [], []
    for _ in range(2):
        x0, x1 = sorted(rng.choice(40, 2, replace=False))
        y0, y1 = sorted(rng.choice(30, 2, replace=False))
        mask = np.zeros((30, 40), bool)
        mask[y0:y1, x0:x1] = True
        masks.append(mask)
        boxes.append((x0, y0, x1, y1))
    assert [box_of(mask) for mask in masks] == boxes
    assert box_iou(*boxes) == pytest.approx((masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum())


def test_the_first_box_counts_against_the_object_that_it_fits_best():
    text = "[0.0, 0.0, 0.5, 1.0] [0.5, 0.0, 1.0, 1.0]"
    one = box_scores(text, (100, 0, 200, 100), format="fractions", size=SIZE)
    assert (one.boxes, one.iou, one.hit) == (2, 0.0, False)
    two = box_scores(text, [(100, 0, 200, 100), (0, 0, 100, 50)], format="fractions", size=SIZE)
    assert (two.iou, two.hit) == (0.5, True)
    below = box_scores("[0.0, 0.0, 0.5, 1.0]", (0, 0, 100, 49), format="fractions", size=SIZE)
    assert below.iou == pytest.approx(0.49) and not below.hit


def test_a_point_hits_where_it_lies_in_the_box_and_has_no_iou():
    for box, hit in (((40, 40, 60, 60), True), ((60, 40, 80, 60), False)):
        score = box_scores('<point x="25" y="50">', box, format="molmo", size=SIZE)
        assert score.hit == hit and math.isnan(score.iou)


def test_the_resized_picture_is_that_of_the_inputs():
    member, model = zoo.ZOO["qwen2_5_vl"], zoo.load("qwen2_5_vl")
    prompt = nv.encode(model, member.text, noise(1, member.sizes[0]))
    pixels, side = prompt.inputs["pixel_values"], model.processor.image_processor.patch_size
    width, height = resized_size(prompt)
    assert width % side == height % side == 0 and (width // side) * (height // side) == len(pixels)
    assert (width > height) == (member.sizes[0][0] > member.sizes[0][1])
    fixed = zoo.ZOO["llava"]
    assert resized_size(nv.encode(zoo.load("llava"), fixed.text, noise(1, fixed.sizes[0]))) is None


def test_families_answer_in_their_own_format():
    assert [format_of(name) for name in ("qwen2_5_vl", "internvl", "kosmos-2", "llava")] == [
        "qwen2_5_vl",
        "internvl",
        "kosmos-2",
        "fractions",
    ]


def test_rows_of_boxes_are_those_of_answers_by_hand():
    mask = np.zeros((100, 200), bool)
    mask[50:, 50:150] = True
    target = Target(7, ObjectTokens(thing="dog", grid=None, own=None, others=None), None, None)
    variants = [Variant({"tokens": tokens}, None) for tokens in ("nothing", "object")]
    texts = [WRITTEN["internvl"][0], "There is none."]
    truth = [Thing(name="dog", mask=mask), Thing(name="cat", mask=~mask)]
    rows = list(box_rows(target, variants, texts, truth, BoxReading("internvl", SIZE, None)))
    assert [(row["image"], row["tokens"], row["box_iou"], row["box_hit"], row["boxes"]) for row in rows] == [
        (7, "nothing", 1.0, 1.0, 1.0),
        (7, "object", 0.0, 0.0, 0.0),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"format": "yolo"}, "format of boxes"),
        ({"size": (0, 5)}, "size"),
        ({"size": 3}, "size"),
        ({"format": "qwen2_5_vl"}, "resized"),
        ({"truth": (0, 0, 0, 5)}, "truth"),
        ({"truth": (0, 0, 5)}, "truth"),
        ({"truth": []}, "truth"),
        ({"text": None}, "text"),
    ],
)
def test_bad_input_is_refused(options, words):
    given = {"text": "", "truth": (0, 0, 5, 5), "format": "fractions", "size": SIZE, **options}
    with pytest.raises(nv.SpecError, match=words):
        box_scores(given.pop("text"), given.pop("truth"), **given)
