"""The synthetic world: what a seed fixes, what a pair changes, and that words and pixels agree."""

import random
from itertools import pairwise

import numpy as np
import pytest

from nnsight_vlm.shapes import ask, pair, parse, questions, scene, score
from nnsight_vlm.shapes.language import COLORS, FAMILIES, PLACES, REQUESTS, SHAPES, Mention, tokens, words
from nnsight_vlm.shapes.world import CHANGES, PIXELS

SEEDS = range(60)
FULL = ("color", "shape", "size", "place")


def test_a_seed_fixes_image_objects_and_description():
    first, second = scene(7), scene(7)
    assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert first == second
    assert first.description == second.description
    assert scene(8) != first


def test_scenes_vary_in_every_attribute_and_background():
    scenes = [scene(seed) for seed in SEEDS]
    objects = [o for it in scenes for o in it.objects]
    assert {o.color for o in objects} == set(COLORS)
    assert {o.shape for o in objects} == set(SHAPES)
    assert {o.place for o in objects} == set(PLACES)
    assert {len(it.objects) for it in scenes} == {2, 3, 4}
    assert len({it.background for it in scenes}) == 4
    assert all(it.image.size == (PIXELS, PIXELS) and it.image.mode == "RGB" for it in scenes)


def test_boxes_are_the_tight_bounds_of_masks_and_masks_do_not_overlap():
    for seed in SEEDS:
        together = np.zeros((PIXELS, PIXELS), int)
        for o in scene(seed).objects:
            x0, y0, x1, y1 = o.box
            inside = o.mask[y0:y1, x0:x1]
            assert inside.sum() == o.mask.sum() > 20
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            together += o.mask
        assert together.max() == 1


def test_an_object_lies_in_the_cell_that_its_place_names():
    for seed in SEEDS:
        for o in scene(seed).objects:
            x0, y0, x1, y1 = o.box
            assert o.cell == (int((y0 + y1) / 2 / PIXELS * 3), int((x0 + x1) / 2 / PIXELS * 3))


def test_pixels_of_a_mask_have_the_color_of_the_object():
    strongest = {"red": [0], "green": [1], "blue": [2], "yellow": [0, 1], "purple": [0, 2], "cyan": [1, 2]}
    for seed in SEEDS:
        it = scene(seed)
        for o in it.objects:
            mean = np.asarray(it.image)[o.mask].mean(0)
            assert set(np.argsort(mean)[-len(strongest[o.color]) :]) == set(strongest[o.color]), (seed, o)


@pytest.mark.parametrize("change", CHANGES)
def test_a_pair_differs_in_one_attribute_of_one_object_and_in_no_other_pixel(change):
    for seed in SEEDS:
        first, second = pair(seed, change=change)
        assert first == scene(seed)
        assert first.background == second.background
        only_first = [o for o in first.objects if o not in second.objects]
        only_second = [o for o in second.objects if o not in first.objects]
        assert len(only_first) == len(only_second) == 1
        a, b = only_first[0], only_second[0]
        assert [name for name in FULL if getattr(a, name) != getattr(b, name)] == [change]
        near = np.zeros((PIXELS, PIXELS), bool)
        for x0, y0, x1, y1 in (a.box, b.box):
            near[max(y0 - 2, 0) : y1 + 2, max(x0 - 2, 0) : x1 + 2] = True
        differs = (np.asarray(first.image) != np.asarray(second.image)).any(-1)
        assert differs.any()
        assert not (differs & ~near).any()
        assert len({(o.color, o.shape) for o in second.objects}) == len(second.objects)
        assert [o.cell for o in second.objects] == sorted({o.cell for o in second.objects})


@pytest.mark.parametrize(
    "call", [lambda: scene(-1), lambda: scene("7"), lambda: pair(3, change="colour"), lambda: scene(True)]
)
def test_errors_say_what_was_given_and_what_to_write(call):
    with pytest.raises(ValueError, match="write"):
        call()


def test_a_description_read_back_gives_the_objects():
    for seed in SEEDS:
        it = scene(seed)
        assert [(m.size, m.color, m.shape, m.place) for m in parse(it.description)] == [
            (o.size, o.color, o.shape, o.place) for o in it.objects
        ]
        assert score(it.description, it, by=FULL).f1 == 1.0


def test_every_answer_is_true_of_the_objects():
    rng = random.Random(0)
    for seed in SEEDS:
        it = scene(seed)
        by_name = {(o.color, o.shape): o for o in it.objects}
        for family in FAMILIES:
            question = ask(it, family, rng)
            if question is not None:
                assert question.answer == _truth(family, parse_words(question.text), it, by_name), question


def parse_words(text):
    said = tokens(text)
    names = [(c, s) for c, s in pairwise(said) if c in COLORS and s in SHAPES]
    return said, names


def _truth(family, asked, it, by_name):
    said, names = asked
    if family in ("describe", "describe-short", "list"):
        wanted = {"describe": FULL, "describe-short": ("color", "shape"), "list": ("color", "shape")}[family]
        answer = next(q.answer for q in questions(it) if q.family == family)
        assert score(answer, it, by=wanted).f1 == 1.0
        return answer
    if family == "color":
        return next(o.color for o in it.objects if o.shape in said)
    if family == "shape":
        return next(o.shape for o in it.objects if o.place in said)
    if family == "count":
        return {2: "two", 3: "three", 4: "four"}[len(it.objects)]
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
        asked = [ask(it, family, rng) for it in scenes]
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
