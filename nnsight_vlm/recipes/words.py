"""From a text to the objects it names, and how well two lists of objects agree.

Recipes work on any model and picture, so what counts as an object is a function `text -> names`
that the user may give. Three are here: the parser of the synthetic world, a fixed vocabulary, and,
where nothing is known, every content word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SpecError
from ..families import view_of
from ..shapes.model import checkpoint
from ..shapes.scoring import parse
from ..shapes.world import Scene

Objects = Callable[[str], Sequence[str]]
"""What a text names: one string an object, in the order of the text."""

MEASURES = ("precision", "recall", "f1")

_PLAIN = """
a an the this that these those it its is are was were be been being am has have had do does did in on at of to by
for with from and or but as into over under near next there here which who what while also very some any each both
their his her he she they them i you we our your my not no yes can could may might will would appears appear seems
image picture photo shows show features feature scene user assistant
"""


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object that is truly in a picture.

    Attributes:
        name: what a text calls it, such as `"red circle"` or `"dog"`.
        mask: its own pixels, bool `[height, width]`, or None where only the name is known.
    """

    name: str
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)


def shape_truth(scene: Scene) -> tuple[Thing, ...]:
    """The objects of a synthetic scene, named by colour and shape."""
    return tuple(Thing(name=f"{it.color} {it.shape}", mask=it.mask) for it in scene.objects)


def shape_objects(text: str) -> tuple[str, ...]:
    """The objects that a description of a synthetic scene names, by colour and shape.

    >>> shape_objects("a small red circle at top-left and a blue ring.")
    ('red circle', 'blue ring')
    """
    return tuple(f"{it.color} {it.shape}" for it in parse(text))


def content_words(text: str) -> tuple[str, ...]:
    """Every word once, common function words left out: a stand-in for objects in free text.

    >>> content_words("A dog is on the sofa, a red sofa.")
    ('dog', 'sofa', 'red')
    """
    plain = set(_PLAIN.split())
    found = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*", text.lower())
    return tuple(dict.fromkeys(word for word in found if len(word) > 1 and word not in plain))


@dataclass(frozen=True)
class Vocabulary:
    """The names of a fixed list that a text holds, each once, plural in -s included; made by `vocabulary`."""

    names: tuple[str, ...]

    def __call__(self, text: str) -> tuple[str, ...]:
        return tuple(name for name in self.names if re.search(rf"\b{re.escape(name)}(?:s|es)?\b", text.lower()))


def vocabulary(names: Sequence[str]) -> Vocabulary:
    """Objects are the names of this list and nothing else.

    >>> vocabulary(["dog", "cat"])("Two dogs on a sofa.")
    ('dog',)

    Raises:
        SpecError: no names.
    """
    known = tuple(dict.fromkeys(name.strip().lower() for name in names if name.strip()))
    if isinstance(names, str) or not known:
        raise SpecError('a vocabulary is a list of names, such as vocabulary(["dog", "cat"])')
    return Vocabulary(known)


def default_objects(model: Any) -> Objects:
    """The parser of the synthetic world for an embedded model, content words for any other."""
    name = str(getattr(view_of(model).config, "_name_or_path", ""))
    return shape_objects if name and Path(name).parent == checkpoint("shapes").parent else content_words


def agreement(said: Sequence[str], true: Sequence[str]) -> dict[str, float]:
    """Object precision, recall and F1; an object named twice counts twice, once as wrong.

    NaN where there is nothing to find, and precision 0 where nothing was said.

    >>> agreement(["red circle", "blue ring"], ["red circle", "green cross"])["f1"]
    0.5
    """
    if not true:
        return dict.fromkeys(MEASURES, float("nan"))
    hits = (Counter(said) & Counter(true)).total()
    return {
        "precision": hits / max(len(said), 1),
        "recall": hits / len(true),
        "f1": 2 * hits / (len(said) + len(true)),
    }
