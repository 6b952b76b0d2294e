"""The language of the synthetic world: its words, its questions, and their answers.

Everything here is plain text. Objects are only read by attribute (`.shape`, `.color`, `.size`, `.place`, `.cell`), so
this module does not depend on the one that draws them (`world.py`).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from ..arguments import instance, one_of, refuse, whole_number

if TYPE_CHECKING:
    from .world import Object, Scene

Color = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Shape = Literal["circle", "square", "triangle", "cross", "ring"]
Size = Literal["small", "large"]
Place = Literal["top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right"]
Attribute = Literal["color", "shape", "size", "place"]
QuestionFamily = Literal[
    "describe", "describe-short", "list", "color", "shape", "size", "where", "count", "exists", "left-of", "above"
]
TrainingFamily = Literal[QuestionFamily, "facts"]
"""`facts` has many right answers, so it is only trained and never evaluated."""

COLORS: tuple[Color, ...] = get_args(Color)
SHAPES: tuple[Shape, ...] = get_args(Shape)
SIZES: tuple[Size, ...] = get_args(Size)
PLACES: tuple[Place, ...] = get_args(Place)
"""The cells of the 3 x 3 grid in reading order."""
ATTRIBUTES: tuple[Attribute, ...] = get_args(Attribute)
FAMILIES: tuple[QuestionFamily, ...] = get_args(QuestionFamily)
"""The kinds of questions: what each asks about is in its name."""
DESCRIPTIONS: tuple[QuestionFamily, ...] = ("describe", "describe-short", "list")
"""The question families whose answer names every object."""
NUMBERS = ("zero", "one", "two", "three", "four", "five")
MARKERS = ("user:", "assistant:")
SYSTEM = "you are a careful assistant and you answer questions about a picture."

REQUESTS: dict[TrainingFamily, tuple[str, ...]] = {
    "describe": (
        "describe the image.",
        "describe the picture in detail.",
        "what do you see in the image?",
        "what is in the picture?",
        "give a full description of the image.",
    ),
    "describe-short": (
        "describe the image briefly.",
        "give a short description of the picture.",
        "what do you see, in short?",
    ),
    "list": ("list the objects.", "name all objects in the image.", "which objects are there?"),
    "color": ("what color is the {shape}?", "what is the color of the {shape}?"),
    "shape": ("what shape is at {place}?", "which shape is at {place}?"),
    "size": ("what size is the {color} {shape}?", "how big is the {color} {shape}?"),
    "where": ("where is the {color} {shape}?", "in which place is the {color} {shape}?"),
    "count": ("how many objects are there?", "count the objects."),
    "exists": ("is there a {color} {shape}?", "do you see a {color} {shape}?"),
    "left-of": ("is the {color} {shape} left of the {other_color} {other_shape}?",),
    "above": ("is the {color} {shape} above the {other_color} {other_shape}?",),
    "facts": ("say what is true of the picture.", "say something about the objects."),
}
"""The wordings of each question family; the fields in braces name the objects asked about."""

_TOKEN = re.compile(r"[.,?!]|[^\s.,?!]+")


def tokens(text: str) -> list[str]:
    """The words and punctuation marks of a text in lower case, split as the checkpoints' tokenizer splits them."""
    return _TOKEN.findall(text.lower())


def words() -> tuple[str, ...]:
    """Every word that a question, an answer or the system text can contain, sorted and without repeats."""
    fixed = [*COLORS, *SHAPES, *SIZES, *PLACES, *NUMBERS, *MARKERS, ".", ",", "?", "!", "a", "at", "and", "yes", "no"]
    wordings = [wording.format_map(_EmptyFields()) for family in REQUESTS.values() for wording in family]
    return tuple(sorted({*fixed, *tokens(SYSTEM), *(word for text in wordings for word in tokens(text))}))


class _EmptyFields(dict[str, str]):
    """A mapping for `str.format_map` that replaces every field with the empty string."""

    def __missing__(self, key: str) -> str:
        return ""


# --- descriptions -----------------------------------------------------------------------------------------------------


def describe(objects: Sequence[Object]) -> str:
    """All attributes of every object: 'a small red circle at top-left, a large blue ring at center.'."""
    return ", ".join(f"a {obj.size} {obj.color} {obj.shape} at {obj.place}" for obj in objects) + "."


def describe_short(objects: Sequence[Object]) -> str:
    """Colours and shapes in a sentence: 'a red circle, a green cross and a blue ring.'."""
    names = [f"a {obj.color} {obj.shape}" for obj in objects]
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1] + "."


def list_objects(objects: Sequence[Object]) -> str:
    """Colours and shapes without articles: 'red circle, green cross, blue ring.'."""
    return ", ".join(f"{obj.color} {obj.shape}" for obj in objects) + "."


def facts(objects: Sequence[Object], rng: random.Random, count: int = 4) -> str:
    """Random true statements: 'the red circle is at top, at left is a blue ring, the ring at left is blue.'."""
    shape_counts = Counter(obj.shape for obj in objects)
    statements = []
    for obj in rng.choices(objects, k=count):
        forms = [
            f"the {obj.color} {obj.shape} is at {obj.place}",
            f"at {obj.place} is a {obj.color} {obj.shape}",
            f"the {obj.shape} at {obj.place} is {obj.color}",
            f"the {obj.color} {obj.shape} is {obj.size}",
        ]
        statements.append(rng.choice(forms + [f"the {obj.shape} is {obj.color}"] * (shape_counts[obj.shape] == 1)))
    return ", ".join(statements) + "."


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one scene.

    Attributes:
        family: what is asked for, a key of `REQUESTS`.
        text: the question.
        answer: its only right answer (of "facts": one of many).
    """

    family: TrainingFamily
    text: str
    answer: str


def ask(scene: Scene, family: TrainingFamily, rng: random.Random) -> Question | None:
    """One question of a family about a scene.

    Args:
        scene: what is asked about.
        family: what is asked for, one of `FAMILIES` or "facts".
        rng: chooses the wording and the objects asked about.

    Returns:
        The question, or None where the scene permits none: "above" needs two objects at different heights, for example.

    Raises:
        SpecError: an unknown family, no scene, or no generator of Python's `random`.
    """
    _check_scene(scene)
    one_of("family", family, list(REQUESTS), "question family")
    instance("rng", rng, random.Random, "rng=random.Random(0)")
    answer = right_answer(scene.objects, family, rng)
    if answer is None:
        return None
    return Question(family=family, text=rng.choice(REQUESTS[family]).format(**answer.fields), answer=answer.text)


def questions(scene: Scene, seed: int = 0) -> tuple[Question, ...]:
    """One question of every family that the scene permits; the seed chooses the wording and the objects asked about.

    >>> from nnsight_vlm.shapes import scene
    >>> [question.answer for question in questions(scene(3)) if question.family == "count"]
    ['four']
    """
    _check_scene(scene)
    rng = random.Random(f"{scene.seed}/{whole_number('seed', seed, least=0, kind='seed')}")
    asked = (ask(scene, family, rng) for family in FAMILIES)
    return tuple(question for question in asked if question is not None)


def _check_scene(given: Any) -> None:
    """Refuse what has no objects and no seed; scenes are drawn in a room that knows this one."""
    if not hasattr(given, "objects") or not hasattr(given, "seed"):
        refuse("scene", given, "scene", "scene=nv.shapes.scene(3)")


class Answer(NamedTuple):
    """A right answer, and the fields that its question's wording is filled with."""

    text: str
    fields: dict[str, str]


def right_answer(objects: Sequence[Object], family: TrainingFamily, rng: random.Random) -> Answer | None:
    """Choose what a question of this family asks about; None where the objects permit none."""
    return _ANSWERS[family](objects, rng)


_Answerer = Callable[["Sequence[Object]", random.Random], Answer | None]


def _fields(obj: Object) -> dict[str, str]:
    return {"color": obj.color, "shape": obj.shape, "size": obj.size, "place": obj.place}


def _description(describe_objects: Callable[[Sequence[Object]], str]) -> _Answerer:
    return lambda objects, _: Answer(describe_objects(objects), {})


def _attribute(name: Attribute) -> _Answerer:
    def answer(objects: Sequence[Object], rng: random.Random) -> Answer:
        obj = rng.choice(objects)
        return Answer(getattr(obj, name), _fields(obj))

    return answer


def _color(objects: Sequence[Object], rng: random.Random) -> Answer | None:
    """The question names an object by its shape alone, so that shape must occur once."""
    shape_counts = Counter(obj.shape for obj in objects)
    unique = [obj for obj in objects if shape_counts[obj.shape] == 1]
    if not unique:
        return None
    obj = rng.choice(unique)
    return Answer(obj.color, _fields(obj))


def _exists(objects: Sequence[Object], rng: random.Random) -> Answer:
    """Half yes, half no; most of the "no" combine a colour and a shape that are both present, on different objects."""
    if rng.random() < 0.5:
        return Answer("yes", _fields(rng.choice(objects)))
    present = {(obj.color, obj.shape) for obj in objects}
    colors, shapes = sorted({obj.color for obj in objects}), sorted({obj.shape for obj in objects})
    absent = [(color, shape) for color in colors for shape in shapes if (color, shape) not in present]
    if not absent or rng.random() < 0.3:
        half_present = [(c, s) for c in colors for s in SHAPES] + [(c, s) for c in COLORS for s in shapes]
        absent = [pair for pair in half_present if pair not in present]
    color, shape = rng.choice(absent)
    return Answer("no", {"color": color, "shape": shape})


def _relation(axis: int) -> _Answerer:
    """Half yes, half no; a "no" is a true pair asked the wrong way round. Pairs level with each other are not asked."""

    def answer(objects: Sequence[Object], rng: random.Random) -> Answer | None:
        ordered = [(a, b) for a in objects for b in objects if a.cell[axis] < b.cell[axis]]
        if not ordered:
            return None
        is_true, (first, second) = rng.random() < 0.5, rng.choice(ordered)
        obj, other = (first, second) if is_true else (second, first)
        fields = _fields(obj) | {"other_color": other.color, "other_shape": other.shape}
        return Answer("yes" if is_true else "no", fields)

    return answer


_ANSWERS: dict[TrainingFamily, _Answerer] = {
    "describe": _description(describe),
    "describe-short": _description(describe_short),
    "list": _description(list_objects),
    "color": _color,
    "shape": _attribute("shape"),
    "size": _attribute("size"),
    "where": _attribute("place"),
    "count": lambda objects, _: Answer(NUMBERS[len(objects)], {}),
    "exists": _exists,
    "left-of": _relation(1),
    "above": _relation(0),
    "facts": lambda objects, rng: Answer(facts(objects, rng), {}),
}
