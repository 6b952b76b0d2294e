"""The objects that a free text names: by name, synonym and plural, what is denied, and how many."""

from __future__ import annotations

import pickle

import pytest

import nnsight_vlm as nv
from nnsight_vlm.identity import setting_digest
from nnsight_vlm.recipes import coco_objects, object_names
from nnsight_vlm.studies.coco_names import COCO

COCO_NAMES = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe,
backpack, umbrella, handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball
bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair,
couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard, cell phone,
microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush"""
ANIMALS = object_names({"dog": ["puppy"], "cat": ["kitten"], "bird": [], "person": ["man", "woman"]}, counts=True)


def test_the_names_are_those_of_coco_in_its_order():
    assert [" ".join(name.split()) for name in COCO_NAMES.split(",")] == list(COCO.names)


@pytest.mark.parametrize("name", COCO.names)
def test_every_name_is_found_alone_in_capitals_and_among_others(name):
    assert coco_objects(name) == coco_objects(name.upper()) == (name,)
    assert coco_objects(f"I see a {name}, and so on.") == (name,)


@pytest.mark.parametrize("name", COCO.names)
def test_every_synonym_and_plural_stands_for_its_name_alone(name):
    for words in dict(COCO.synonyms)[name]:
        assert coco_objects(f"Here: {words}.") == (name,), words


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Two men, a boy and people", ["person"]),
        ("a bike, a sofa and a television", ["bicycle", "couch", "tv"]),
        ("A puppy with her cellphone and his mobile phone", ["dog", "cell phone"]),
        ("knives, mice, geese, buses and wolves", ["knife", "mouse", "bird", "bus"]),
        ("children eat sandwiches near benches", ["person", "sandwich", "bench"]),
        ("glasses of wine and cups of coffee", ["wine glass", "cup"]),
        ("hot dogs, a hot-dog, and a HOTDOG", ["hot dog"]),
        ("a teddy bear", ["teddy bear"]),
        ("a teddy bear and a bear", ["teddy bear", "bear"]),
        ("a baseball bat and a baseball glove", ["baseball bat", "baseball glove"]),
        ("a fire hydrant by a fire truck", ["fire hydrant", "truck"]),
        ("a table, a dining table and a coffee table", ["dining table"]),
        ("the train station by the bus stop", []),
        ("an orange shirt, an orange cat", ["cat"]),
        ("an orange, oranges and a slice of orange on a plate", ["orange"]),
        ("a dog-friendly, cat-like scarecrow with a carpet and a catalogue", []),
        ("the dog's ball", ["dog", "sports ball"]),
        ("", []),
        ("Nothing of that kind.", []),
    ],
)
def test_free_text_names_these_objects_of_coco(text, names):
    assert coco_objects(text) == tuple(names)


DENIED = [
    "no dog",
    "There is no dog.",
    "No dogs are here",
    "without a dog",
    "without any big brown dogs",
    "there are no dogs",
    "there aren't any dogs",
    "there aren\u2019t any dogs",
    "this isn't a dog",
    "it is not a dog",
    "not a single dog",
    "I cannot see a dog",
    "It does not show any dogs",
    "zero dogs",
    "no sign of a dog",
    "no cat or dog",
    "no cats, birds or dogs",
    "neither a cat nor a dog",
    "a cat instead of a dog".replace("a cat", "it"),
    "a dog is not visible",
    "The dog is absent",
    "dogs are not in the picture",
    "the absence of dogs",
    "no cats and dogs.",
    "without light, cars or dogs",
]
NAMED = [
    "not only a dog",
    "not just a dog",
    "no longer hungry, the dog",
    "The dog is no longer hungry",
    "No, it is a dog",
    "No one walks the dog",
    "not on the dog",
    "The dog is not brown",
    "no doubt a dog",
    "without doubt a dog",
    "no cat but a dog",
    "no cat. A dog!",
    "There is no cat, a dog is here",
    "no cat and a dog",
    "There are no cats and the dog sleeps",
    "no cat on the dog",
    "no cats\n- a dog",
    "It isn't the dog that I know",
    "There is no dog on the left. On the right a dog runs",
    "no cat chasing a dog",
    "no light, a cat or dog",
    "no light, and the dog",
    "not bright, and a dog",
    "no fewer than two dogs",
]


@pytest.mark.parametrize("text", DENIED)
def test_what_is_denied_is_not_named_unless_that_is_wanted(text):
    find = object_names(["dog"])
    assert find(text) == () and object_names(["dog"], negation=False)(text) == ("dog",)
    assert "dog" not in object_names(["dog", "cat", "bird"])(text)


@pytest.mark.parametrize("text", NAMED)
def test_what_only_looks_denied_is_named(text):
    assert object_names(["dog", "cat"])(text)[-1:] == ("dog",)


@pytest.mark.parametrize(
    ("text", "dogs"),
    [
        ("a dog", 1),
        ("two dogs", 2),
        ("2 dogs", 2),
        ("Twenty big brown dogs", 20),
        ("300 dogs", 20),
        ("a pair of dogs", 2),
        ("a couple of puppies", 2),
        ("a dozen dogs", 12),
        ("dogs", 2),
        ("several dogs", 2),
        ("a dog and another dog", 2),
        ("a dog. The dog runs.", 1),
        ("three dogs. One dog is black, and two of the dogs sleep.", 3),
        ("a dog and a puppy", 2),
        ("no dogs", 0),
        ("two cats and a dog", 1),
        ("the 12 dog", 1),
        ("both dogs", 2),
    ],
)
def test_a_name_comes_as_often_as_the_text_says_it_is_there(text, dogs):
    assert ANIMALS(text).count("dog") == dogs
    once = object_names({"dog": ["puppy"]})(text)
    assert once == (("dog",) if dogs else ())


def test_names_come_in_the_order_of_the_text():
    assert ANIMALS("a bird, two men and a cat beside another bird") == ("bird", "bird", "person", "person", "cat")


def test_a_pair_of_what_is_always_plural_is_one():
    assert object_names(["scissors"], counts=True)("a pair of scissors") == ("scissors",)
    assert object_names(["sheep"], counts=True)("a sheep, several sheep, five sheep") == ("sheep",) * 8


def test_names_in_other_scripts_and_accents_are_found():
    find = object_names({"狗": [], "café": [], "собака": ["собаки"]})
    assert find("一只狗, un cafe\u0301, СОБАКИ") == ("狗", "café", "собака")


def test_words_may_hold_a_name_and_name_nothing():
    assert object_names(["dog"], ignored=["dog house"])("a dog house, dog houses") == ()
    assert object_names(["dog"])("a dog house") == ("dog",)


def test_a_list_is_a_value_that_survives_pickling_and_has_an_identity():
    made = object_names({"dog": ["puppy"]}, counts=True)
    again = pickle.loads(pickle.dumps(made))
    assert made == again and again("puppies") == ("dog", "dog")
    assert setting_digest(made) == setting_digest(object_names({"Dog ": ["puppy"]}, counts=True))
    assert setting_digest(made) != setting_digest(object_names({"dog": ["puppy"]}))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "list of names"),
        ("dog", "names='dog' is no list"),
        ({"dog": "puppy"}, r"names\['dog'\]='puppy'"),
        ({"dog": ["cat"], "cat": []}, "'cat' that it is 'dog' and 'cat'"),
        ({"Dog": [], "dog": []}, "twice"),
        (["..."], "letters"),
    ],
)
def test_what_is_no_list_of_names_is_refused(names, message):
    with pytest.raises(nv.SpecError, match=message):
        object_names(names)
