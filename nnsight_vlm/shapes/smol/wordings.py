"""The same truth in the words of ordinary English: many ways to ask, and the answer that each way of asking calls for.

The questions of `language.py` are asked as they stand and with a capital letter, and answered in its words. The
wordings here are asked besides. A wording says which form its answer has (a word, a sentence, a list), so that every
question has exactly one right answer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from ..language import (
    FAMILIES,
    Place,
    QuestionFamily,
    ask,
    describe,
    describe_short,
    right_answer,
)
from .extra_families import EXTRA, EXTRA_FAMILIES, ExtraFamily

if TYPE_CHECKING:
    from ..world import Object, Scene

Family = Literal[QuestionFamily, ExtraFamily]
ALL_FAMILIES: tuple[Family, ...] = (*FAMILIES, *EXTRA_FAMILIES)
"""What is asked in the wordings below."""

SPOTS: Mapping[Place, str] = {
    "top-left": "in the top left corner",
    "top": "at the top",
    "top-right": "in the top right corner",
    "left": "on the left",
    "center": "in the center",
    "right": "on the right",
    "bottom-left": "in the bottom left corner",
    "bottom": "at the bottom",
    "bottom-right": "in the bottom right corner",
}
"""The places in prose."""


class Wording(NamedTuple):
    """A way to ask, and the answer that it calls for; fields in braces name the objects.

    Attributes:
        request: the question.
        answer: the right answer; `{answer}` is the answer in the words of `language.py`.
        no: the right answer where that is "no", if it reads otherwise.
    """

    request: str
    answer: str = "{answer}"
    no: str | None = None


class Turn(NamedTuple):
    """One question with its answer."""

    family: Family
    request: str
    answer: str


_IS = "Yes, it is."
_IS_NOT = "No, it is not."

WORDINGS: Mapping[Family, tuple[Wording, ...]] = {
    "describe": (
        Wording("Describe what is where in this picture.", "{answer}"),
        Wording("Describe this image in one sentence.", "There is {prose}."),
        Wording("Can you tell me what this picture shows?", "The picture shows {prose}."),
        Wording("Write a caption that says where everything is.", "{Prose}."),
        Wording("Go through the objects one by one, a sentence for each.", "{sentences}"),
        Wording("Make a list of everything you can see, with its position.", "{lines}"),
    ),
    "describe-short": (
        Wording("Summarize the image.", "{answer}"),
        Wording("Briefly, what does this picture show?", "The picture shows {names}."),
        Wording("Write a short caption for this image.", "{Names}."),
        Wording("What objects can you see here? Leave out their positions.", "I can see {names}."),
    ),
    "list": (
        Wording("Name the objects, separated by commas.", "{answer}"),
        Wording("List all objects as bullet points.", "{bullets}"),
        Wording("Give me a numbered list of the objects.", "{numbered}"),
    ),
    "color": (
        Wording("Which color does the {shape} have?"),
        Wording("Name the color of the {shape}."),
        Wording("What color is the {shape} in this picture? Answer with one word."),
        Wording("Look at the {shape}. Which color is it?"),
        Wording("In a full sentence: what color is the {shape}?", "The {shape} is {answer}."),
        Wording("Tell me about the color of the {shape}.", "The {shape} is {answer}."),
    ),
    "shape": (
        Wording("What shape do you see {spot}?"),
        Wording("Which shape is {spot} of the picture?"),
        Wording("Name the shape {spot}."),
        Wording("What is the shape of the object {spot}? Answer with one word."),
        Wording("In a full sentence: what shape is {spot}?", "The shape {spot} is a {answer}."),
    ),
    "size": (
        Wording("Is the {color} {shape} small or large?"),
        Wording("Tell me the size of the {color} {shape}."),
        Wording("How large is the {color} {shape}? Answer with one word."),
        Wording("In a full sentence: how big is the {color} {shape}?", "The {color} {shape} is {answer}."),
    ),
    "where": (
        Wording("Where can I find the {color} {shape}?"),
        Wording("Name the position of the {color} {shape}."),
        Wording("In which part of the picture is the {color} {shape}?"),
        Wording("In a full sentence: where is the {color} {shape}?", "The {color} {shape} is {spot}."),
        Wording("Tell me where the {color} {shape} is.", "The {color} {shape} is {spot}."),
    ),
    "count": (
        Wording("How many shapes does this picture show?"),
        Wording("What is the number of objects in this image?"),
        Wording("How many things can you see? Answer with one word."),
        Wording("In a full sentence: how many objects are there?", "There are {answer} objects."),
    ),
    "exists": (
        Wording("Does the picture show a {color} {shape}?"),
        Wording("Can you see a {color} {shape} here?"),
        Wording("Is a {color} {shape} in this image? Answer yes or no."),
        Wording("I am looking for a {color} {shape}. Is there one?"),
        Wording(
            "In a full sentence: is there a {color} {shape}?",
            "Yes, there is a {color} {shape}.",
            "No, there is no {color} {shape}.",
        ),
    ),
    "left-of": (
        Wording("Is the {color} {shape} to the left of the {other_color} {other_shape}?"),
        Wording("Is the {color} {shape} further left than the {other_color} {other_shape}?"),
        Wording("Answer in a sentence: is the {color} {shape} left of the {other_color} {other_shape}?", _IS, _IS_NOT),
    ),
    "above": (
        Wording("Is the {color} {shape} higher than the {other_color} {other_shape}?"),
        Wording("Does the {color} {shape} lie above the {other_color} {other_shape}?"),
        Wording("Answer in a sentence: is the {color} {shape} above the {other_color} {other_shape}?", _IS, _IS_NOT),
    ),
    "what-at": (
        Wording("What is {spot}?"),
        Wording("What can you see {spot}?"),
        Wording("Which object is {spot} of the image?"),
    ),
    "color-at": (
        Wording("What color is the object {spot}?"),
        Wording("What color is the object at {place}?"),
        Wording("Which color do you see {spot}?"),
    ),
    "empty": (
        Wording("Is there anything {spot}?"),
        Wording("Do you see an object {spot}?"),
        Wording(
            "In a full sentence: is there an object {spot}?",
            "Yes, there is an object {spot}.",
            "No, there is no object {spot}.",
        ),
    ),
    "count-of": (
        Wording("How many {kind} are there?"),
        Wording("Count the {kind}."),
        Wording("How many {kind} does the picture show? Answer with one word."),
    ),
    "is-color": (
        Wording("Is the {shape} {color}?"),
        Wording("Is it true that the {shape} is {color}?"),
        Wording("Does the {shape} have the color {color}?"),
    ),
    "right-of": (
        Wording("Is the {color} {shape} to the right of the {other_color} {other_shape}?"),
        Wording("Is the {color} {shape} right of the {other_color} {other_shape}?"),
        Wording("Answer in a sentence: is the {color} {shape} right of the {other_color} {other_shape}?", _IS, _IS_NOT),
    ),
    "below": (
        Wording("Is the {color} {shape} below the {other_color} {other_shape}?"),
        Wording("Does the {color} {shape} lie lower than the {other_color} {other_shape}?"),
        Wording("Answer in a sentence: is the {color} {shape} below the {other_color} {other_shape}?", _IS, _IS_NOT),
    ),
}
"""What is asked besides the wordings of `language.REQUESTS`; of the extra families, all that is asked."""


def plain(scene: Scene, family: QuestionFamily, rng: random.Random) -> Turn | None:
    """A question of `language.py` and its answer, in half of the cases with a capital letter."""
    question = ask(scene, family, rng)
    if question is None:
        return None
    request = question.text[0].upper() + question.text[1:] if rng.random() < 0.5 else question.text
    return Turn(family, request, question.answer)


def worded(scene: Scene, family: Family, rng: random.Random) -> Turn | None:
    """A question in one of the wordings of this module and its answer; None where the scene permits none."""
    found = EXTRA[family](scene.objects, rng) if family in EXTRA else right_answer(scene.objects, family, rng)  # type: ignore[index, arg-type]
    if found is None:
        return None
    wording = rng.choice(WORDINGS[family])
    fields = {"answer": found.text, **found.fields}
    if "place" in fields:
        fields["spot"] = SPOTS[fields["place"]]  # type: ignore[index]
    form = wording.answer if wording.no is None or found.text == "yes" else wording.no
    if family in DESCRIBING:
        fields |= _descriptions(scene.objects)
    return Turn(family, wording.request.format(**fields), form.format(**fields))


DESCRIBING: tuple[Family, ...] = ("describe", "describe-short", "list")


def _series(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + parts[-1]


def _descriptions(objects: Sequence[Object]) -> dict[str, str]:
    """The objects as prose and as lists."""
    full = [f"a {obj.size} {obj.color} {obj.shape}" for obj in objects]
    spots = [SPOTS[obj.place] for obj in objects]
    prose = _series([f"{name} {spot}" for name, spot in zip(full, spots, strict=True)])
    names = describe_short(objects).removesuffix(".")
    short = [f"{obj.color} {obj.shape}" for obj in objects]
    return {
        "prose": prose,
        "Prose": "A" + prose[1:],
        "sentences": " ".join(f"A{name[1:]} is {spot}." for name, spot in zip(full, spots, strict=True)),
        "lines": "\n".join("- " + part for part in describe(objects).removesuffix(".").split(", ")),
        "names": names,
        "Names": "A" + names[1:],
        "bullets": "\n".join("- " + name for name in short),
        "numbered": "\n".join(f"{number}. {name}" for number, name in enumerate(short, 1)),
    }
