"""Recipes of one prompt, run on every item of a table; finished items are kept, as chunks of other recipes are."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from ..errors import SpecError
from ..families import Model
from ..prompts.prompt import Prompt
from ..questions.item_lists import Items
from ..studies.clusters import picture_keys
from ..studies.journal import Journal
from ..studies.provenance import provenance
from ..studies.registry import Recipe
from ..studies.work import Work


def measured_one_by_one(
    recipe: Recipe, model: Model, items: Items, given: Mapping[str, Any], work: Work
) -> pd.DataFrame:
    """The frames of all items in one, with the column `item` before the recipe's own.

    Args:
        recipe: takes `prompt`, and `answer` where it needs one.
        model: an nnsight model from `load`.
        items: what is asked.
        given: further arguments of the recipe.
        work: journal, progress bar and memory.

    Raises:
        SpecError: naming the item; the recipe needs an answer, and neither the items nor the user have one.
    """
    parameters = inspect.signature(recipe.function).parameters
    needs_answer = "answer" in parameters and "answer" not in given
    if needs_answer and not items.has_answers:
        raise SpecError(f"{recipe.name} needs an answer; give the table a column answer, or write --answer red")
    if "memory" in parameters:
        given = {**given, "memory": work.memory}
    frames, keys = list[pd.DataFrame](), set[Any]()
    bar = tqdm(items, desc=recipe.name, unit="item", disable=not work.progress)
    for item in bar:
        prompt = item.encode(model)
        arguments = {**given, "answer": item.answer} if needs_answer else dict(given)
        keys.add(item.cluster if items.has_clusters else picture_keys([prompt])[0])
        rows = _rows(recipe, model, prompt, arguments, work)
        frames.append(rows.assign(item=item.id)[["item", *rows.columns]])
    frame = pd.concat(frames, ignore_index=True)
    said = {
        "prompts": len(items),
        "images": len(keys),
        "ids": list(items.ids),
        "left_out": [list(each) for each in items.left_out],
    }
    shown = {"model": model, "prompt": None, **({"answer": "each item's own"} if needs_answer else {}), **given}
    bound = {name: shown.get(name, parameter.default) for name, parameter in parameters.items()}
    frame.attrs = provenance(recipe.name, recipe.shows, recipe.method, bound, parameters, said)
    return frame


def _rows(recipe: Recipe, model: Model, prompt: Prompt, arguments: Mapping[str, Any], work: Work) -> pd.DataFrame:
    """The frame of one item, measured or read from the journal."""

    def measure(_: range) -> Iterator[dict[str, Any]]:
        frame = recipe.function(model, prompt, **arguments)
        yield from ({str(name): value for name, value in row.items()} for row in frame.to_dict("records"))

    if work.journal is None:
        return pd.DataFrame(list(measure(range(1))))
    numbers = {name: value for name, value in arguments.items() if name not in ("remote", "memory")}
    journal = Journal.open(work.journal, recipe.name, model, [prompt], numbers, arguments.get("remote", False))
    return journal.rows(range(1), measure)
