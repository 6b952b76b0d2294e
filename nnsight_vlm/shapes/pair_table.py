"""A table of pairs of scenes, as interchange patching takes them: one question about two pictures, and two answers."""

from __future__ import annotations

from itertools import count as counted
from typing import Any

from ..arguments import whole_number
from .world import pair


def color_pairs(count: int, *, first: int = 0) -> list[dict[str, Any]]:
    """Pairs of scenes that differ in the colour of one object, each with the question for this colour.

    Args:
        count: how many pairs; 1 or more.
        first: the seed of the first scene that is tried. Scenes in which two objects have the shape that is asked about
            are left out.

    Returns:
        For each pair the columns `image, question, answer, other_image, other_answer`, which `nv.items` and every
        recipe of pairs take: `nv.recipes.pair_routes(model, items=nv.shapes.color_pairs(3))`.

    Raises:
        SpecError: no such number.

    >>> [row] = color_pairs(1, first=3)
    >>> row["question"], row["answer"], row["other_answer"]
    ('what color is the square?', 'red', 'purple')
    """
    count = whole_number("count", count, least=1, kind="number of pairs")
    first = whole_number("first", first, least=0, kind="seed")
    found = list[dict[str, Any]]()
    for seed in counted(first):
        if len(found) == count:
            break
        row = color_pair(seed)
        found += [row] if row is not None else []
    return found


def color_pair(seed: int) -> dict[str, Any] | None:
    """The pair of one seed; None where two objects have the shape that is asked about."""
    one, other = pair(seed, "color")
    before, after = next((a, b) for a, b in zip(one.objects, other.objects, strict=True) if a.color != b.color)
    if sum(each.shape == before.shape for each in one.objects) != 1:
        return None
    return {
        "image": one.image,
        "question": f"what color is the {before.shape}?",
        "answer": before.color,
        "other_image": other.image,
        "other_answer": after.color,
    }
