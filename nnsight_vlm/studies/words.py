"""From a text to the objects it names, and how well two lists of objects agree.

Recipes work on any model and any picture, so what counts as an object is a function `text -> names of objects` that
the user may give. This module has three: the parser of the synthetic world, a fixed vocabulary, and, where nothing is
known about the pictures, every content word.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import regex

from ..arguments import instance, listed, refuse
from ..arguments import text as text_given
from ..families import Model, view_of
from ..prompts.writing import Writing
from ..questions.things import Thing
from ..shapes.embedded import is_embedded
from ..shapes.scoring import parse
from ..shapes.world import Scene
from .labels import AGREEMENT

__all__ = [
    "PLURALS",
    "Objects",
    "Thing",
    "Vocabulary",
    "agreement",
    "content_words",
    "default_objects",
    "shape_objects",
    "shape_truth",
    "vocabulary",
]

Objects = Callable[[str], Sequence[str]]
"""The objects that a text names: one string an object, in the order of the text."""

_FUNCTION_WORDS = """
a an the this that these those it its is are was were be been being am has have had do does did in on at of to by
for with from and or but as into over under near next there here which who what while also very some any each both
their his her he she they them i you we our your my not no yes can could may might will would appears appear seems
image picture photo shows show features feature scene user assistant
"""
"""Words that are never objects: function words, and words about the picture as such."""
PLURALS = ("", "s", "es")
"""What a text may write at the end of an object's name."""


def shape_truth(scene: Scene) -> tuple[Thing, ...]:
    """The objects of a synthetic scene, named by colour and shape.

    Raises:
        SpecError: no scene.
    """
    instance("scene", scene, Scene, "shape_truth(nv.shapes.scene(3))")
    return tuple(Thing(name=f"{shape.color} {shape.shape}", mask=shape.mask) for shape in scene.objects)


def shape_objects(text: str) -> tuple[str, ...]:
    """The objects that a description of a synthetic scene names, by colour and shape.

    >>> shape_objects("a small red circle at top-left and a blue ring.")
    ('red circle', 'blue ring')
    """
    return tuple(f"{shape.color} {shape.shape}" for shape in parse(text))


def content_words(text: str) -> tuple[str, ...]:
    """Every word once, without function words: a stand-in for the objects of a free text.

    Where a script has no spaces between words (Han, Kana, Thai), all between two punctuation marks is taken for one
    word, because only a dictionary could divide it; `vocabulary` finds names in any script.

    >>> content_words("A dog is on the sofa, a red sofa.")
    ('dog', 'sofa', 'red')
    """
    ignored = set(_FUNCTION_WORDS.split())
    words = regex.findall(r"[\p{L}\p{M}]+(?:-[\p{L}\p{M}]+)*", text_given("text", text).lower())
    return tuple(dict.fromkeys(word for word in words if len(word) > 1 and word not in ignored))


@dataclass(frozen=True)
class Vocabulary:
    """The names of a fixed list that occur in a text, each once, plurals in -s included; made by `vocabulary`.

    Where names begin and end is what `Prompt.find_all` says, in any script.
    """

    names: tuple[str, ...]

    def __call__(self, text: str) -> tuple[str, ...]:
        writing = Writing(text)
        return tuple(name for name in self.names if any(writing.find(name + end, ignore_case=True) for end in PLURALS))


def vocabulary(names: Sequence[str]) -> Vocabulary:
    """Only the names of this list are objects.

    >>> vocabulary(["dog", "cat"])("Two dogs on a sofa.")
    ('dog',)

    Raises:
        SpecError: no names.
    """
    write = 'a list of names, such as vocabulary(["dog", "cat"])'
    given = listed("names", names, write, kind=str)
    unique = tuple(dict.fromkeys(name.strip().lower() for name in given if name.strip()))
    if not unique:
        refuse("names", names, "vocabulary", write)
    return Vocabulary(unique)


def default_objects(model: Model) -> Objects:
    """The parser of the synthetic world for an embedded model, content words for any other."""
    name = str(getattr(view_of(model).config, "_name_or_path", ""))
    return shape_objects if name and is_embedded(Path(name)) else content_words


def agreement(named: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Precision, recall and F1 of the objects that a text names against those that it should name.

    An object that is named twice counts twice, once as wrong. All are NaN where no object is expected; precision is 0
    where none is named.

    >>> agreement(["red circle", "blue ring"], ["red circle", "green cross"])["f1"]
    0.5
    """
    if not expected:
        return dict.fromkeys(AGREEMENT, float("nan"))
    hits = (Counter(named) & Counter(expected)).total()
    return {
        "precision": hits / max(len(named), 1),
        "recall": hits / len(expected),
        "f1": 2 * hits / (len(named) + len(expected)),
    }
