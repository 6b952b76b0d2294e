"""The questions of `shapes-smol` in ordinary English: one right answer each, and it is true of the scene."""

from __future__ import annotations

import random
import re

import pytest

from nnsight_vlm.shapes import parse, scene, score
from nnsight_vlm.shapes.language import COLORS, FAMILIES, NUMBERS, PLACES, SHAPES
from nnsight_vlm.shapes.smol.wordings import ALL_FAMILIES, DESCRIBING, SPOTS, WORDINGS, plain, worded

SCENES = [scene(seed) for seed in range(40)]
PLACE_OF = {spot: place for place, spot in SPOTS.items()}


def turns(family, draws=12):
    """Every question that is drawn about the scenes."""
    for shown in SCENES:
        for draw in range(draws):
            turn = worded(shown, family, random.Random(f"{shown.seed}/{draw}"))
            if turn is not None:
                yield shown, turn


@pytest.mark.parametrize("family", ALL_FAMILIES)
def test_a_question_has_one_right_answer(family):
    """However it is drawn, and beside the plain questions, which may use the same words."""
    known, asked = {}, set()
    for shown, turn in turns(family):
        assert "{" not in turn.request + turn.answer and turn.answer.strip() == turn.answer != ""
        assert known.setdefault((shown.seed, turn.request), turn.answer) == turn.answer
        asked.add(turn.request)
    assert len(asked) >= len(WORDINGS[family])
    for shown in SCENES if family in FAMILIES else ():
        for draw in range(6):
            turn = plain(shown, family, random.Random(draw))
            if turn is not None:
                assert known.setdefault((shown.seed, turn.request), turn.answer) == turn.answer


@pytest.mark.parametrize("family", DESCRIBING)
def test_descriptions_name_every_object_once_and_in_order(family):
    for shown, turn in turns(family):
        assert [(each.color, each.shape) for each in parse(turn.answer)] == [
            (each.color, each.shape) for each in shown.objects
        ]
        assert score(turn.answer, shown).f1 == 1
        spots = re.findall("|".join(sorted(SPOTS.values(), key=len, reverse=True)), turn.answer)
        assert not spots or [PLACE_OF[spot] for spot in spots] == [each.place for each in shown.objects]


def value_of(text):
    """The answer without its sentence: the last word that decides something."""
    words = re.findall("|".join((*COLORS, *SHAPES, *NUMBERS, "small", "large", "yes", "no")), text.lower())
    return words[0] if words[0] in ("yes", "no") else words[-1]


def named(shown, text):
    """The objects whose colour and shape a text names, in its order."""
    names = re.findall(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", text)
    return [next((each for each in shown.objects if (each.color, each.shape) == name), None) for name in names]


def at(shown, text):
    """The object at the place that a text names, in prose or as a word."""
    spot = re.search("|".join(sorted(SPOTS.values(), key=len, reverse=True)), text)
    place = PLACE_OF[spot[0]] if spot else re.search("|".join(sorted(PLACES, key=len, reverse=True)), text)[0]
    return next((each for each in shown.objects if each.place == place), None)


def truth(shown, family, request):
    """The right value, read off the objects by the words of the question."""
    objects = shown.objects
    if family in ("color", "is-color"):
        (found,) = [each for each in objects if each.shape in request]
        return found.color if family == "color" else "yes" if found.color in request else "no"
    if family == "count":
        return NUMBERS[len(objects)]
    if family == "count-of":
        words = re.findall(rf"({'|'.join(SHAPES)})e?s", request) or re.findall(
            "|".join((*COLORS, "small", "large")), request
        )
        return NUMBERS[sum(words[0] in (each.color, each.shape, each.size) for each in objects)]
    if family == "exists":
        return "no" if None in named(shown, request) else "yes"
    if family in ("left-of", "right-of", "above", "below"):
        first, second = named(shown, request)
        axis, sign = {"left-of": (1, 1), "right-of": (1, -1), "above": (0, 1), "below": (0, -1)}[family]
        return "yes" if (second.cell[axis] - first.cell[axis]) * sign > 0 else "no"
    if family == "empty":
        return "no" if at(shown, request) is None else "yes"
    if family in ("shape", "color-at", "what-at"):
        return getattr(at(shown, request), "color" if family == "color-at" else "shape")
    (found,) = named(shown, request)
    return found.size if family == "size" else found.place


@pytest.mark.parametrize("family", [each for each in ALL_FAMILIES if each not in (*DESCRIBING, "where")])
def test_the_answer_is_true(family):
    said = set()
    for shown, turn in turns(family):
        assert value_of(turn.answer) == truth(shown, family, turn.request), turn
        said.add(value_of(turn.answer))
    assert len(said) > 1


def test_places_are_true_in_prose_and_as_words():
    for shown, turn in turns("where"):
        place = truth(shown, "where", turn.request)
        assert turn.answer == place or turn.answer.endswith(f" is {SPOTS[place]}.")


def test_half_of_the_decisions_are_yes():
    for family in ("exists", "left-of", "above", "is-color", "right-of", "below", "empty"):
        answers = [value_of(turn.answer) for _, turn in turns(family, draws=20)]
        assert 0.4 < answers.count("yes") / len(answers) < 0.6, family
