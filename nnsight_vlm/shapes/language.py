"""What is said about a scene: the words, the questions, their answers, and how a text is scored.

Everything here is plain text and tuples. Objects are read by attribute (`.shape`, `.color`, `.size`, `.place`), so the
drawing of a scene (`world.py`) and the talking about it stay apart.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .world import Object, Scene

COLORS = ("red", "green", "blue", "yellow", "purple", "cyan")
SHAPES = ("circle", "square", "triangle", "cross", "ring")
SIZES = ("small", "large")
PLACES = ("top-left", "top", "top-right", "left", "center", "right", "bottom-left", "bottom", "bottom-right")
NUMBERS = ("zero", "one", "two", "three", "four", "five")
MARKERS = ("user:", "assistant:")
SYSTEM = "you are a careful assistant and you answer questions about a picture."

REQUESTS: dict[str, tuple[str, ...]] = {
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
FAMILIES = tuple(family for family in REQUESTS if family != "facts")  # "facts" has many right answers: training only
DESCRIPTIONS = ("describe", "describe-short", "list")

_TOKEN = re.compile(r"[.,?!]|[^\s.,?!]+")


def tokens(text: str) -> list[str]:
    """The words and punctuation marks of a text, lower case, as the checkpoint's tokenizer splits them."""
    return _TOKEN.findall(text.lower())


def words() -> tuple[str, ...]:
    """Every word that a question, an answer or the system text can hold, sorted and without repeats."""
    fixed = [*COLORS, *SHAPES, *SIZES, *PLACES, *NUMBERS, *MARKERS, ".", ",", "?", "!", "a", "at", "and", "yes", "no"]
    spoken = [request.format_map(_Blank()) for family in REQUESTS.values() for request in family]
    return tuple(sorted({*fixed, *tokens(SYSTEM), *(word for text in spoken for word in tokens(text))}))


class _Blank(dict[str, str]):
    """A mapping that fills every field of a request with nothing."""

    def __missing__(self, key: str) -> str:
        return ""


# --- descriptions -----------------------------------------------------------------------------------------------------


def describe(objects: Sequence[Object]) -> str:
    """Say all there is, in reading order: 'a small red circle at top-left, a large blue ring at center'."""
    return ", ".join(f"a {o.size} {o.color} {o.shape} at {o.place}" for o in objects) + "."


def describe_short(objects: Sequence[Object]) -> str:
    """Say colours and shapes in a sentence: 'a red circle, a green cross and a blue ring'."""
    names = [f"a {o.color} {o.shape}" for o in objects]
    return ", ".join(names[:-1]) + " and " * (len(names) > 1) + names[-1] + "."


def list_objects(objects: Sequence[Object]) -> str:
    """Say colours and shapes alone: 'red circle, green cross, blue ring'."""
    return ", ".join(f"{o.color} {o.shape}" for o in objects) + "."


def facts(objects: Sequence[Object], rng: random.Random, count: int = 4) -> str:
    """Say true things in any order: 'the red circle is at top, at left is a blue ring, the ring at left is blue'."""
    shapes = Counter(o.shape for o in objects)
    said = []
    for it in rng.choices(objects, k=count):
        forms = [
            f"the {it.color} {it.shape} is at {it.place}",
            f"at {it.place} is a {it.color} {it.shape}",
            f"the {it.shape} at {it.place} is {it.color}",
            f"the {it.color} {it.shape} is {it.size}",
        ]
        said.append(rng.choice(forms + [f"the {it.shape} is {it.color}"] * (shapes[it.shape] == 1)))
    return ", ".join(said) + "."


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question about one scene: its family (a key of ``REQUESTS``), its words, and the only right answer."""

    family: str
    text: str
    answer: str


def ask(scene: Scene, family: str, rng: random.Random) -> Question | None:
    """One question of a family about a scene, or None where the scene permits none (no object below another, ...)."""
    if family not in REQUESTS:
        raise ValueError(f"There is no question family {family!r}: write one of {', '.join(REQUESTS)}.")
    found = _ANSWERS[family](scene.objects, rng)
    if found is None:
        return None
    answer, fields = found
    return Question(family=family, text=rng.choice(REQUESTS[family]).format(**fields), answer=answer)


def questions(scene: Scene, seed: int = 0) -> tuple[Question, ...]:
    """One question of every family that the scene permits; the seed chooses the wording and the objects asked about.

    >>> from nnsight_vlm.shapes import scene
    >>> [question.answer for question in questions(scene(3)) if question.family == "count"]
    ['four']
    """
    rng = random.Random(f"{scene.seed}/{seed}")
    asked = (ask(scene, family, rng) for family in FAMILIES)
    return tuple(question for question in asked if question is not None)


_Answer = tuple[str, dict[str, str]]


def _fields(it: Object) -> dict[str, str]:
    return {"color": it.color, "shape": it.shape, "size": it.size, "place": it.place}


def _told(tell: Callable[[Sequence[Object]], str]) -> Callable[..., _Answer]:
    return lambda objects, _: (tell(objects), {})


def _facts(objects: Sequence[Object], rng: random.Random) -> _Answer:
    return facts(objects, rng), {}


def _attribute(name: str) -> Callable[..., _Answer]:
    def answer(objects: Sequence[Object], rng: random.Random) -> _Answer:
        it = rng.choice(objects)
        return getattr(it, name), _fields(it)

    return answer


def _color(objects: Sequence[Object], rng: random.Random) -> _Answer | None:
    shapes = Counter(o.shape for o in objects)
    alone = [o for o in objects if shapes[o.shape] == 1]
    if not alone:
        return None
    it = rng.choice(alone)
    return it.color, _fields(it)


def _count(objects: Sequence[Object], _: random.Random) -> _Answer:
    return NUMBERS[len(objects)], {}


def _exists(objects: Sequence[Object], rng: random.Random) -> _Answer:
    """Half yes, half no; most of the "no" name a colour that is there with a shape that is there, not together."""
    if rng.random() < 0.5:
        return "yes", _fields(rng.choice(objects))
    there = {(o.color, o.shape) for o in objects}
    colors, shapes = sorted({o.color for o in objects}), sorted({o.shape for o in objects})
    mixed = [(c, s) for c in colors for s in shapes if (c, s) not in there]
    if not mixed or rng.random() < 0.3:
        half = [(c, s) for c in colors for s in SHAPES] + [(c, s) for c in COLORS for s in shapes]
        mixed = [pair for pair in half if pair not in there]
    color, shape = rng.choice(mixed)
    return "no", {"color": color, "shape": shape}


def _relation(axis: int) -> Callable[..., _Answer | None]:
    """Half yes, half no; a "no" is a true pair asked the wrong way round. Pairs level with each other are not asked."""

    def answer(objects: Sequence[Object], rng: random.Random) -> _Answer | None:
        pairs = [(a, b) for a in objects for b in objects if a.cell[axis] < b.cell[axis]]
        if not pairs:
            return None
        yes, (first, second) = rng.random() < 0.5, rng.choice(pairs)
        one, other = (first, second) if yes else (second, first)
        fields = _fields(one) | {"other_color": other.color, "other_shape": other.shape}
        return ("yes" if yes else "no"), fields

    return answer


_ANSWERS: dict[str, Callable[..., _Answer | None]] = {
    "describe": _told(describe),
    "describe-short": _told(describe_short),
    "list": _told(list_objects),
    "color": _color,
    "shape": _attribute("shape"),
    "size": _attribute("size"),
    "where": _attribute("place"),
    "count": _count,
    "exists": _exists,
    "left-of": _relation(1),
    "above": _relation(0),
    "facts": _facts,
}


# --- scoring ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Mention:
    """An object as a text names it; ``size`` and ``place`` are None where the text does not say."""

    color: str
    shape: str
    size: str | None = None
    place: str | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a text names the objects of a scene, each in [0, 1]."""

    precision: float
    recall: float
    f1: float


_MENTION = re.compile(
    rf"(?:\b({'|'.join(SIZES)})\s+)?\b({'|'.join(COLORS)})\s+({'|'.join(SHAPES)})\b"
    rf"(?:\s+at\s+({'|'.join(sorted(PLACES, key=len, reverse=True))})\b(?!-))?"
)


def parse(description: str) -> tuple[Mention, ...]:
    """The objects that a text mentions, in its order: each a colour and a shape, with size and place where given.

    >>> parse("a small red circle at top-left and a blue ring.")[1]
    Mention(color='blue', shape='ring', size=None, place=None)
    """
    found = (match.groups() for match in _MENTION.finditer(description.lower()))
    return tuple(Mention(size=size, color=color, shape=shape, place=place) for size, color, shape, place in found)


def score(text: str, truth: Scene | str, by: Sequence[str] = ("color", "shape")) -> Score:
    """Object precision, recall and F1 of a text against a scene, or against another text.

    Two objects are the same when all attributes in ``by`` agree; an object named twice counts twice, once as wrong.

    >>> score("a red circle and a blue ring.", "red circle, green cross.").f1
    0.5
    """
    unknown = set(by) - {"color", "shape", "size", "place"}
    if unknown or not by:
        raise ValueError(
            f"by={tuple(by)!r} must name attributes: write by=('color', 'shape', 'size', 'place') or fewer."
        )
    true_objects = parse(truth) if isinstance(truth, str) else truth.objects
    said, true = (
        Counter(tuple(getattr(o, name) for name in by) for o in objects) for objects in (parse(text), true_objects)
    )
    hits = (said & true).total()
    precision, recall = hits / max(said.total(), 1), hits / max(true.total(), 1)
    return Score(precision=precision, recall=recall, f1=2 * hits / max(said.total() + true.total(), 1))
