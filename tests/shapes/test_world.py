"""The synthetic world: what a seed fixes, what a pair changes, and that words and pixels agree."""

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from nnsight_vlm import shapes
from nnsight_vlm.shapes import CHANGES, FAMILIES, Mention, ask, pair, parse, questions, scene, score
from nnsight_vlm.shapes.language import ATTRIBUTES, COLORS, PLACES, REQUESTS, SHAPES, tokens, words
from nnsight_vlm.shapes.world import PIXELS

SEEDS = range(60)


def test_a_seed_fixes_image_objects_and_description():
    first, second = scene(7), scene(7)
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert first == second
    assert first.description == second.description
    assert scene(8) != first


def test_scenes_vary_in_every_attribute_and_background():
    scenes = [scene(seed) for seed in SEEDS]
    objects = [obj for each in scenes for obj in each.objects]
    assert {obj.color for obj in objects} == set(COLORS)
    assert {obj.shape for obj in objects} == set(SHAPES)
    assert {obj.place for obj in objects} == set(PLACES)
    assert {len(each.objects) for each in scenes} == {2, 3, 4}
    assert len({each.background for each in scenes}) == 4
    assert all(each.image.size == (PIXELS, PIXELS) and each.image.mode == "RGB" for each in scenes)


def test_boxes_are_the_tight_bounds_of_masks_and_masks_do_not_overlap():
    for seed in SEEDS:
        objects_at = np.zeros((PIXELS, PIXELS), int)
        for obj in scene(seed).objects:
            x0, y0, x1, y1 = obj.box
            inside = obj.mask[y0:y1, x0:x1]
            assert inside.sum() == obj.mask.sum() > 20
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            objects_at += obj.mask
        assert objects_at.max() == 1


def test_an_object_lies_in_the_cell_that_its_place_names():
    for seed in SEEDS:
        for obj in scene(seed).objects:
            x0, y0, x1, y1 = obj.box
            assert obj.cell == (int((y0 + y1) / 2 / PIXELS * 3), int((x0 + x1) / 2 / PIXELS * 3))


def test_pixels_of_a_mask_have_the_color_of_the_object():
    strongest = {"red": [0], "green": [1], "blue": [2], "yellow": [0, 1], "purple": [0, 2], "cyan": [1, 2]}
    for seed in SEEDS:
        example = scene(seed)
        for obj in example.objects:
            mean = np.asarray(example.image)[obj.mask].mean(0)
            assert set(np.argsort(mean)[-len(strongest[obj.color]) :]) == set(strongest[obj.color]), (seed, obj)


@pytest.mark.parametrize("change", CHANGES)
def test_a_pair_differs_in_one_attribute_of_one_object_and_in_no_other_pixel(change):
    for seed in SEEDS:
        first, second = pair(seed, change=change)
        assert first == scene(seed)
        assert first.background == second.background
        only_first = [obj for obj in first.objects if obj not in second.objects]
        only_second = [obj for obj in second.objects if obj not in first.objects]
        assert len(only_first) == len(only_second) == 1
        a, b = only_first[0], only_second[0]
        assert [name for name in ATTRIBUTES if getattr(a, name) != getattr(b, name)] == [change]
        near = np.zeros((PIXELS, PIXELS), bool)
        for x0, y0, x1, y1 in (a.box, b.box):
            near[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = True
        differs = (np.asarray(first.image) != np.asarray(second.image)).any(-1)
        assert differs.any()
        assert not (differs & ~near).any()
        assert len({(obj.color, obj.shape) for obj in second.objects}) == len(second.objects)
        assert [obj.cell for obj in second.objects] == sorted({obj.cell for obj in second.objects})


@pytest.mark.parametrize(
    "call", [lambda: scene(-1), lambda: scene("7"), lambda: pair(3, change="colour"), lambda: scene(True)]
)
def test_errors_say_what_was_given_and_what_to_write(call):
    with pytest.raises(ValueError, match="write"):
        call()


def test_a_description_read_back_gives_the_objects():
    for seed in SEEDS:
        example = scene(seed)
        assert [(m.size, m.color, m.shape, m.place) for m in parse(example.description)] == [
            (obj.size, obj.color, obj.shape, obj.place) for obj in example.objects
        ]
        assert score(example.description, example, by=ATTRIBUTES).f1 == 1.0


def test_every_answer_is_true_of_the_objects():
    rng = random.Random(0)
    for seed in SEEDS:
        example = scene(seed)
        for family in FAMILIES:
            question = ask(example, family, rng)
            if question is not None:
                assert question.answer == right_answer(question, example), question


def right_answer(question, example):
    """The answer worked out from the question's words and the objects of the scene."""
    family, asked = question.family, tokens(question.text)
    names = [(color, shape) for color, shape in pairwise(asked) if color in COLORS and shape in SHAPES]
    by_name = {(obj.color, obj.shape): obj for obj in example.objects}
    if family in ("describe", "describe-short", "list"):
        mentioned = ATTRIBUTES if family == "describe" else ("color", "shape")
        assert score(question.answer, example, by=mentioned).f1 == 1.0
        return question.answer
    if family == "color":
        return next(obj.color for obj in example.objects if obj.shape in asked)
    if family == "shape":
        return next(obj.shape for obj in example.objects if obj.place in asked)
    if family == "count":
        return {2: "two", 3: "three", 4: "four"}[len(example.objects)]
    if family == "exists":
        return "yes" if names[0] in by_name else "no"
    if family in ("left-of", "above"):
        a, b = (by_name[name].cell for name in names)
        return "yes" if (a[1] < b[1] if family == "left-of" else a[0] < b[0]) else "no"
    return getattr(by_name[names[0]], {"size": "size", "where": "place"}[family])


def test_yes_and_no_are_balanced():
    rng = random.Random(1)
    scenes = [scene(seed) for seed in SEEDS] * 10
    for family in ("exists", "left-of", "above"):
        asked = [ask(example, family, rng) for example in scenes]
        share = np.mean([question.answer == "yes" for question in asked if question is not None])
        assert 0.42 < share < 0.58


def test_f1_counts_wrong_missing_and_repeated_objects():
    truth = "red circle, blue ring."
    assert score("red circle, blue ring.", truth).f1 == 1.0
    assert score("red circle.", truth).precision == 1.0
    assert score("red circle.", truth).recall == 0.5
    assert score("red circle, red circle.", truth).precision == 0.5
    assert score("nothing at all.", truth).f1 == 0.0
    assert score("a small red circle at top", "a small red circle at top-left", by=("color", "place")).f1 == 0.0
    with pytest.raises(ValueError, match="write by="):
        score("", truth, by=("hue",))
    assert parse("a large red ring at bottom-left.") == (
        Mention(size="large", color="red", shape="ring", place="bottom-left"),
    )


def test_every_word_of_the_world_is_in_the_vocabulary():
    known = set(words())
    for seed in SEEDS:
        for question in questions(scene(seed)):
            assert set(tokens(question.text) + tokens(question.answer)) <= known
    assert len(REQUESTS["describe"]) >= 4


def test_an_unknown_question_family_is_refused_with_the_names_to_write():
    with pytest.raises(ValueError, match="'colour': write one of describe, "):
        ask(scene(0), "colour", random.Random(0))


DRAW_WITHOUT_THE_PACKAGE = """
import sys, types
package = types.ModuleType("nnsight_vlm")
package.__path__ = [sys.argv[1]]
sys.modules["nnsight_vlm"] = package
from nnsight_vlm import shapes
print(shapes.scene(3).description)
print(*sorted({"torch", "transformers", "nnsight", "pandas", "scipy", "matplotlib"} & sys.modules.keys()))
"""


def test_drawing_a_scene_loads_no_heavy_library():
    folder = str(Path(shapes.__file__).parents[1])
    command = [sys.executable, "-c", DRAW_WITHOUT_THE_PACKAGE, folder]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.splitlines() == [scene(3).description, ""]
