"""One route carries another picture, all else is this prompt's: what the answer follows when every route is open.

Path-specific interchange, after path patching (Goldowsky-Dill et al. 2023, arXiv 2304.05969).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import reduce
from operator import or_
from typing import Any

from ..errors import SpecError
from ..execution.checking import check
from ..families import Model
from ..lowering.layers import Layers
from ..prompts.prompt import Prompt
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from ..specs.states import Patch
from ..studies.controls import same_pictures
from ..studies.labels import ANOTHER_IMAGE, DOES, NONE, Control
from ..studies.layer_sets import layers_reading, other_layers
from ..studies.pair_scores import Condition, pair_rows
from ..studies.pair_sources import third_picture
from ..studies.pairs import Pair
from ..studies.work import Work, one_for_each
from .route_cuts import RouteInPrompt, Step, alone_and_all, routes_in, steps_of

MEASURES = ("restoration", "flipped")


def swap(
    model: Model, prompt: Prompt, donor: Prompt, routes: Sequence[RouteInPrompt], swapped: Collection[str]
) -> Intervention:
    """The targets of some routes read the donor's source, and everything else is as in the prompt's own run.

    In a run on the donor, every token but the source and the routes' targets is held at the states that it has in the
    prompt's run. There, the targets' states differ by what they read from the source, and by nothing else. They are
    written into the prompt's run.

    Args:
        model: an nnsight model.
        prompt: whose run is changed.
        donor: the same text about another picture.
        routes: all routes of the study, with one source.
        swapped: names of those that carry the donor's picture.
    """
    source = routes[0].edges.source
    targets = sorted({p for route in routes if route.name in swapped for p in route.edges.target})
    held = tuple(p for p in prompt["all"] if p not in {*source, *targets})
    inside = tuple(p for p in source if p >= 0)
    parts: list[Intervention] = [Patch(held, source=prompt)] if held else []
    if inside:
        parts.append(Patch(inside, source=donor))
    reading = layers_reading(model, prompt, source)
    own = other_layers(reading, routes[0].layers)
    if own:
        parts += [Patch(source, source=prompt, site="key", layers=own)]
        parts += [Patch(source, source=prompt, site="value", layers=own)]
    return Patch(tuple(targets), source=donor, under=reduce(or_, parts) if parts else None)


def check_pairs(prompts: Sequence[Prompt], pairs: Sequence[Pair], names: Sequence[str]) -> None:
    """Refuse pairs that are not about the prompts' pictures, and routes that cannot be swapped.

    Raises:
        SpecError: naming the pair or the route.
    """
    one_for_each(prompts, pairs=pairs)
    if not names:
        raise SpecError(
            "routes= lead to generated tokens only, along which the first token of a pair's answer cannot be changed; "
            "leave pairs out"
        )
    sources = {name.split("->")[0] for name in names}
    if len(sources) > 1:
        raise SpecError(
            f"routes= begin at {', '.join(sorted(sources))}: what they carry can be swapped together only where all "
            "of them begin at the same tokens; give routes of one source, or leave pairs out"
        )
    for number, (prompt, pair) in enumerate(zip(prompts, pairs, strict=True)):
        if not same_pictures(prompt, pair.prompt):
            raise SpecError(
                f"pairs[{number}] is about another picture than prompt {number}; give one pair for each prompt, whose "
                "first prompt shows its picture"
            )


def swappable(names: Sequence[str]) -> tuple[str, ...]:
    """The routes along which an answer's first token can be changed: not those to tokens that come after it."""
    return tuple(name for name in names if not name.endswith("generated"))


def check_swaps(model: Model, pair: Pair, names: Sequence[str], layers: Layers | None) -> None:
    """Refuse what cannot be swapped in a pair before any run.

    Raises:
        SpecError: a site that the model has not got.
    """
    routes = routes_in(model, pair.prompt, names, layers)
    check(model, pair.prompt, swap(model, pair.prompt, pair.other, routes, names))


def swap_rows(
    model: Model,
    pairs: Sequence[Pair],
    image: int,
    names: Sequence[str],
    layers: Layers | None,
    work: Work,
    remote: Remote,
) -> list[dict[str, Any]]:
    """Rows of one pair: how much of the other picture's answer comes along each route."""
    pair, third = pairs[image], third_picture(pairs, image)
    routes = routes_in(model, pair.prompt, names, layers)
    steps = steps_of(names, "swapped", "others swapped")
    alone = [step for step in alone_and_all(steps) if step.condition == "swapped"]
    donors: list[tuple[Control, Prompt, list[Step]]] = [(NONE, pair.other, steps)]
    if third is not None:
        donors.append((ANOTHER_IMAGE, third, alone))
    conditions = dict[tuple[Control, frozenset[str]], Condition]()
    for control, donor, of_donor in donors:
        for swapped in dict.fromkeys(step.routes for step in of_donor):
            patch = swap(model, pair.prompt, donor, routes, swapped)
            first = min(position for route in routes if route.name in swapped for position in route.edges.target)
            conditions[control, swapped] = Condition({"key": (control, swapped)}, first, patch)
    found = pair_rows(model, pair, image, conditions.values(), MEASURES, work, remote)
    by_key = {row.pop("key"): row for row in found}
    return [
        {"route": step.route, "condition": step.condition, "shows": DOES, "control": control}
        | by_key[control, step.routes]
        for control, _, of_donor in donors
        for step in of_donor
    ]
