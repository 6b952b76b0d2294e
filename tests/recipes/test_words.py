"""From a text to objects, and how two lists of them agree."""

from __future__ import annotations

import math

import numpy as np
import pytest

import nnsight_vlm as nv
from nnsight_vlm.recipes import Thing, content_words, shape_objects, shape_truth, vocabulary
from nnsight_vlm.shapes import scene, score
from nnsight_vlm.studies.words import agreement


def test_a_scenes_own_description_names_its_objects_and_agrees_with_them_fully():
    one = scene(3)
    said, true = shape_objects(one.description), [thing.name for thing in shape_truth(one)]
    assert list(said) == true
    assert agreement(said, true) == {"precision": 1, "recall": 1, "f1": 1}


def test_agreement_is_the_score_of_the_synthetic_world():
    text, one = "a red circle, a red circle and a small blue triangle.", scene(3)
    scores, expected = agreement(shape_objects(text), [thing.name for thing in shape_truth(one)]), score(text, one)
    assert (scores["precision"], scores["recall"], scores["f1"]) == (expected.precision, expected.recall, expected.f1)


def test_saying_nothing_is_wrong_and_having_nothing_to_find_is_unknown():
    assert agreement([], ["dog"]) == {"precision": 0, "recall": 0, "f1": 0}
    assert all(math.isnan(value) for value in agreement(["dog"], []).values())


def test_content_words_and_a_vocabulary_read_free_text():
    assert content_words("There is a dog, and the Dog sees a mid-size cat!") == ("dog", "sees", "mid-size", "cat")
    assert vocabulary([" Dog", "traffic light"])("Dogs at traffic lights, doggedly.") == ("dog", "traffic light")


@pytest.mark.parametrize("names", [[], ["  "], "dog"])
def test_a_vocabulary_without_names_is_refused(names):
    with pytest.raises(nv.SpecError, match="list of names"):
        vocabulary(names)


def test_things_are_equal_by_name_so_that_masks_do_not_matter():
    assert Thing(name="dog", mask=np.ones((2, 2), bool)) == Thing(name="dog")
