"""Questions beyond those of `language.py`, which only `shapes-smol` was trained on, and their right answers."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, get_args

from ..language import COLORS, NUMBERS, PLACES, SHAPES, SIZES, Answer, right_answer

if TYPE_CHECKING:
    from ..world import Object

ExtraFamily = Literal["what-at", "color-at", "empty", "count-of", "is-color", "right-of", "below"]
EXTRA_FAMILIES: tuple[ExtraFamily, ...] = get_args(ExtraFamily)


def _object_fields(obj: Object) -> dict[str, str]:
    return {"color": obj.color, "shape": obj.shape, "size": obj.size, "place": obj.place}


def _what_at(objects: Sequence[Object], rng: random.Random) -> Answer:
    obj = rng.choice(objects)
    return Answer(f"a {obj.size} {obj.color} {obj.shape}", _object_fields(obj))


def _color_at(objects: Sequence[Object], rng: random.Random) -> Answer:
    obj = rng.choice(objects)
    return Answer(obj.color, _object_fields(obj))


def _empty(objects: Sequence[Object], rng: random.Random) -> Answer:
    taken = [obj.place for obj in objects]
    is_taken = rng.random() < 0.5
    place = rng.choice(taken if is_taken else [place for place in PLACES if place not in taken])
    return Answer("yes" if is_taken else "no", {"place": place})


def _count_of(objects: Sequence[Object], rng: random.Random) -> Answer:
    """Objects of one colour, one shape or one size; one that is there in three of four cases."""
    attribute = rng.choice(("color", "shape", "size"))
    present = [getattr(obj, attribute) for obj in objects]
    every = {"color": COLORS, "shape": SHAPES, "size": SIZES}[attribute]
    value = rng.choice(present) if rng.random() < 0.75 else rng.choice(every)
    plural = {"cross": "crosses"}.get(value, value + "s")
    return Answer(NUMBERS[present.count(value)], {"kind": plural if attribute == "shape" else f"{value} objects"})


def _is_color(objects: Sequence[Object], rng: random.Random) -> Answer | None:
    """Half yes, half no; a "no" names a colour of another object in three of four cases."""
    counts = Counter(obj.shape for obj in objects)
    unique = [obj for obj in objects if counts[obj.shape] == 1]
    if not unique:
        return None
    obj = rng.choice(unique)
    if rng.random() < 0.5:
        return Answer("yes", {"shape": obj.shape, "color": obj.color})
    present = sorted({other.color for other in objects} - {obj.color})
    others = [color for color in COLORS if color != obj.color]
    return Answer(
        "no", {"shape": obj.shape, "color": rng.choice(present if present and rng.random() < 0.75 else others)}
    )


def _mirrored(family: Literal["left-of", "above"]) -> Callable[[Sequence[Object], random.Random], Answer | None]:
    """The relation the other way round: "a is left of b" and "a is right of b" are never both true."""

    def answer(objects: Sequence[Object], rng: random.Random) -> Answer | None:
        found = right_answer(objects, family, rng)
        return found and Answer({"yes": "no", "no": "yes"}[found.text], found.fields)

    return answer


EXTRA: Mapping[ExtraFamily, Callable[[Sequence[Object], random.Random], Answer | None]] = {
    "what-at": _what_at,
    "color-at": _color_at,
    "empty": _empty,
    "count-of": _count_of,
    "is-color": _is_color,
    "right-of": _mirrored("left-of"),
    "below": _mirrored("above"),
}
