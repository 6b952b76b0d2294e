"""Reading a description back: which objects a text mentions, and how many of them are right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from ..arguments import listed, refuse
from ..arguments import text as text_given
from .language import ATTRIBUTES, COLORS, PLACES, SHAPES, SIZES, Attribute, Color, Place, Shape, Size

if TYPE_CHECKING:
    from .world import Object, Scene


@dataclass(frozen=True, kw_only=True)
class Mention:
    """An object as a text names it; `size` and `place` are None where the text does not give them."""

    color: Color
    shape: Shape
    size: Size | None = None
    place: Place | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """How well a text names the objects of a scene; all three lie in [0, 1]."""

    precision: float
    recall: float
    f1: float


_MENTION = re.compile(
    rf"(?:\b(?P<size>{'|'.join(SIZES)})\s+)?\b(?P<color>{'|'.join(COLORS)})\s+(?P<shape>{'|'.join(SHAPES)})\b"
    rf"(?:\s+at\s+(?P<place>{'|'.join(sorted(PLACES, key=len, reverse=True))})\b(?!-))?"
)


def parse(description: str) -> tuple[Mention, ...]:
    """The objects that a text mentions, in order: colour and shape of each, size and place where the text gives them.

    >>> parse("a small red circle at top-left and a blue ring.")[1]
    Mention(color='blue', shape='ring', size=None, place=None)
    """
    matches = _MENTION.finditer(text_given("description", description).lower())
    return tuple(Mention(**cast(dict[str, Any], match.groupdict())) for match in matches)


def score(text: str, truth: Scene | str, by: Sequence[Attribute] = ("color", "shape")) -> Score:
    """Object precision, recall and F1 of a text against a scene or against another text.

    Two objects are the same when they agree in all attributes in `by`. Of an object that is named twice, the second
    mention counts as wrong.

    Args:
        text: the description to score.
        truth: the scene that it describes, or a text that names the right objects.
        by: which attributes have to agree.

    Raises:
        SpecError: `by` is empty or names an unknown attribute; no text, or no scene.

    >>> score("a red circle and a blue ring.", "red circle, green cross.").f1
    0.5
    """
    write = f"by={ATTRIBUTES!r} or fewer of them"
    by = listed("by", by, write)
    if not by or not all(isinstance(name, str) and name in ATTRIBUTES for name in by):
        refuse("by", by, "choice of attributes of objects", write)
    named = _counted(parse(text), by)
    if not isinstance(truth, str) and not hasattr(truth, "objects"):
        refuse("truth", truth, "scene or text", "score(text, nv.shapes.scene(3))")
    present = _counted(parse(truth) if isinstance(truth, str) else truth.objects, by)
    hits = (named & present).total()
    precision, recall = hits / max(named.total(), 1), hits / max(present.total(), 1)
    return Score(precision=precision, recall=recall, f1=2 * hits / max(named.total() + present.total(), 1))


def _counted(objects: Sequence[Mention] | Sequence[Object], by: Sequence[Attribute]) -> Counter[tuple[str, ...]]:
    """How often each combination of these attributes occurs."""
    return Counter(tuple(getattr(obj, name) for name in by) for obj in objects)
