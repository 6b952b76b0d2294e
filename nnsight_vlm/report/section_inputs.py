"""What a further analysis of a report is given: a few pictures, and what is known of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..families import Model, view_of
from ..questions.item_lists import Items
from .config import ReportConfig
from .left_out import HOW
from .section import Section
from .sections import FEW_LAYERS
from .study import Study

ON_SERVERS = (
    "it needs gradients, which a server that runs requests apart from the model has not got; write --only to try"
)


def given_to(section: Section, model: Model, study: Study, config: ReportConfig) -> dict[str, Any] | str:
    """The arguments of a section's recipe, or why it cannot be run."""
    if section.needs_gradients and config.remote not in (False, "local") and section.name not in config.only:
        return ON_SERVERS
    measured = _measured(section, study, config.section_images)
    if isinstance(measured, str):
        return measured
    given = {**measured, **section.options, "seed": config.seed, "remote": config.remote}
    if section.layers:
        given["layers"] = few_layers(model)
    if section.of == "descriptions":
        given |= {"objects": study.objects, "max_new_tokens": config.max_new_tokens, "rows": config.rows}
    return given


def few_layers(model: Model) -> list[int]:
    """A few of the layers that attend, the first, the last and some between them.

    >>> import nnsight_vlm as nv
    >>> few_layers(nv.load("shapes"))
    [0, 3, 6, 9]
    """
    spec = view_of(model).stage()
    layers = list(spec.attention) or list(range(spec.layer_count))
    chosen = np.linspace(0, len(layers) - 1, min(FEW_LAYERS, len(layers))).round().astype(int)
    return [layers[number] for number in chosen]


def _measured(section: Section, study: Study, count: int) -> dict[str, Any] | str:
    """The first pictures with what is asked of them."""
    if section.of == "descriptions":
        return _described(study, count)
    if section.of == "pairs":
        pairs = study.pairs[:count] if isinstance(study.pairs, tuple) else _first(study.pairs, count)
        return {"pairs": pairs} if len(pairs) else study.lacks["pairs"]
    if study.answered is not None:
        return {"prompts": _first(study.answered, count)}
    if isinstance(study.pairs, Items) or not study.pairs:
        return study.lacks["questions"]
    asked = study.pairs[:count]
    known = {"answers": [pair.answer for pair in asked], "truths": study.pair_truths[:count], "pairs": asked}
    return {"prompts": [pair.prompt for pair in asked], **{name: known[name] for name in section.takes}}


def _described(study: Study, count: int) -> dict[str, Any] | str:
    if not study.knows_objects:
        return f"nothing says which objects are in the pictures; {HOW}"
    if isinstance(study.asked, Items):
        return {"prompts": _first(study.asked, count)}
    return {"prompts": study.asked[:count], "truths": (study.truths or ())[:count]}


def _first(items: Items, count: int) -> Items:
    return items.only(range(min(count, len(items))))
