"""What the numbers of a citation can show: a frame may hold numbers that were read beside numbers of cuts."""

from __future__ import annotations

import pandas as pd

from ..studies.labels import COULD, DOES
from ..studies.registry import Recipe

METHOD = "method"
SHOWN = {
    "could": "The result shows what the model could do without what was taken away, and not what it does with it.",
    "does": "States were interchanged and every route was left open, so the result shows what the model does.",
    "reads": "Nothing in the model was changed, so the result shows no cause.",
    "estimates": (
        "No state was interchanged: the result is a first-order estimate by gradients of what that would do, and holds "
        "as far as patches agree with it."
    ),
    METHOD: "The result describes the method, and not the model.",
}


def what_is_shown(recipe: Recipe, cited: pd.DataFrame) -> str:
    """What the cited numbers can show; where a recipe's measures differ in this, each kind names its measures.

    Args:
        recipe: that made the frame.
        cited: the rows that are cited, with a column `measure`, or all rows where there are no means.
    """
    kinds = dict[str, list[str]]()
    for measure, kind in kinds_of(recipe, cited):
        names = kinds.setdefault(kind, [])
        names += [measure] if measure not in names else []
    is_mixed = len(kinds) > 1 or any(kind != METHOD for kind in recipe.shows_of.values())
    if not kinds or not is_mixed:
        return SHOWN[next(iter(kinds), recipe.shows)]
    return " ".join(f"Of {' and '.join(names)}: {_continued(SHOWN[kind])}" for kind, names in kinds.items())


def kinds_of(recipe: Recipe, rows: pd.DataFrame) -> list[tuple[str, str]]:
    """The measures of some rows, each with what it shows: by the rows' column `shows` where they have one."""
    has_means = "measure" in rows
    if "shows" in rows:
        names = rows["measure"] if has_means else "rows that show '" + rows["shows"].astype(str) + "'"
        said = zip(map(str, names), rows["shows"], strict=True)
        return list(dict.fromkeys((name, kind) for name, kind in said if kind in (COULD, DOES)))
    measures = dict.fromkeys(rows["measure"]) if has_means else [name for name in rows if rows[name].notna().any()]
    known = {*recipe.measures, *recipe.shows_of}
    return [(str(name), recipe.shows_of.get(name, recipe.shows)) for name in measures if has_means or name in known]


def _continued(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]
