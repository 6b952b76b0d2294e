"""The cuts of a study of several routes: each alone, all but one, pairs, all of them, and as many random edges."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import reduce
from itertools import combinations
from operator import or_
from typing import Literal, NamedTuple

import numpy as np

from ..errors import SpecError
from ..families import Model, view_of
from ..lowering.layers import Layers, layer_numbers
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..specs.interventions import Intervention
from ..specs.knockouts import Knockout
from ..studies.controls import Edges, random_edges, seen_edges
from ..studies.layer_sets import layers_reading
from ..studies.token_sets import lies_outside
from .routes import Route

DIRECT_AND_BY_TEXT = ("image->last", "image->question", "image->markers")
"""The ways from the image to the prompt's last token that are compared unless others are asked for.

- `image->last`: the last token reads the image itself.
- `image->question`: the question's words read the image, and later tokens read them.
- `image->markers`: the same of the tokens of the chat template that follow the image.
"""
TO_THE_ANSWER = (*DIRECT_AND_BY_TEXT, "image->generated")
"""The same for descriptions, of which all words but the first are predicted by generated tokens."""

ALL = "all"
"""The column `route` of what is done to all routes together."""

Condition = Literal["clean", "blind", "cut", "only", "swapped", "others swapped"]
"""The column `condition`.

- `clean`, `blind`: baselines, see `studies.labels.Condition`.
- `cut`: the route is closed (of `all`, every route; of `a & b`, both).
- `only`: every other route is closed.
- `swapped`: the route carries the other picture, and all else is this prompt's.
- `others swapped`: every other route carries the other picture.
"""


class RouteInPrompt(NamedTuple):
    """A route in one prompt.

    Attributes:
        name: `"source->target"`.
        edges: from its source to the targets that are there already.
        grows: whether generated tokens are targets too.
        layers: the layers in which it is closed or swapped.
    """

    name: str
    edges: Edges
    grows: bool
    layers: tuple[int, ...]

    @property
    def target(self) -> Where:
        """What no longer reads the source."""
        return (*self.edges.target, "generated") if self.grows else self.edges.target

    def cut(self) -> Intervention:
        """All of it closed."""
        return Knockout(self.edges.source, self.target, layers=self.layers)


class Step(NamedTuple):
    """One condition of a study of several routes.

    Attributes:
        route: a route's name, two of them, or `ALL`.
        condition: what is done.
        routes: the routes that it is done to.
    """

    route: str
    condition: Condition
    routes: frozenset[str]


def routes_in(model: Model, prompt: Prompt, names: Sequence[str], layers: Layers | None) -> list[RouteInPrompt]:
    """Routes in one prompt, that have no edge in common: a token of two targets belongs to the route named first.

    Args:
        model: an nnsight model.
        prompt: of one row.
        names: of the routes, see `Route.parse`.
        layers: in which they are closed; None for all that have them.

    Raises:
        SpecError: nothing is left of a route, or nothing can flow along it.
    """
    tokens, found = prompt.rows[0], list[RouteInPrompt]()
    for name in names:
        source, target = Route.parse(name)
        reading = layers_reading(model, prompt, source)
        chosen = reading if layers is None else layer_numbers(layers, view_of(model).stage().layer_count)
        lacking = [layer for layer in chosen if layer not in reading]
        if not chosen or lacking:
            raise SpecError(
                f"layers={layers!r} of route {name!r}: "
                + (f"layer {lacking[0]} reads no {source!r} tokens" if lacking else "no layer is named")
                + f"; write layers={list(reading)}, or some of these"
            )
        sources = prompt[source]
        if target != "generated" and lies_outside(prompt, target):
            raise SpecError(
                f"route {name!r}: {target!r} lies outside the decoder's sequence; write a target that is in it, "
                '"image->last"'
            )
        where = tokens.ranges(target)
        before = [route for route in found if set(route.edges.source) & set(sources)]
        taken = {position for route in before for position in route.edges.target}
        first = min(sources)
        readers = [p for p in where.positions(tokens.answer) if tokens.last_seen(p) >= first and p not in taken]
        grows = where.is_open and not any(route.grows for route in before)
        if not readers and not grows:
            left = [p for p in where.positions(tokens.answer) if p not in taken]
            why = (
                f"no token of {target!r} sees {source!r}" if left else f"all of {target!r} belongs to routes before it"
            )
            raise SpecError(f"route {name!r}: {why}; leave it out")
        edges = Edges(tuple(sorted(sources)), tuple(readers))
        found.append(RouteInPrompt(name=name, edges=edges, grows=grows, layers=chosen))
    return found


def usable_routes(model: Model, prompt: Prompt, among: Sequence[str]) -> tuple[str, ...]:
    """Those of some routes that a prompt has something of."""
    usable = tuple[str, ...]()
    for name in among:
        try:
            routes_in(model, prompt, (*usable, name), None)
        except SpecError:
            continue
        usable = (*usable, name)
    return usable


def steps_of(names: Sequence[str], one: Condition = "cut", others: Condition = "only") -> list[Step]:
    """Each route alone, all but one, pairs where they are something else, and all routes."""
    every = frozenset(names)
    steps = [Step(name, one, frozenset({name})) for name in names]
    steps += [Step(name, others, every - {name}) for name in names if len(names) > 1]
    if len(names) > 2:
        steps += [Step(" & ".join(pair), one, frozenset(pair)) for pair in combinations(names, 2)]
    return [*steps, Step(ALL, one, every)]


def alone_and_all(steps: Sequence[Step]) -> list[Step]:
    """The steps without pairs of routes: those that have controls."""
    return [step for step in steps if "&" not in step.route]


def cut_of(routes: Mapping[str, Intervention], closed: Collection[str]) -> Intervention:
    """Several routes closed, from the cut of each."""
    return reduce(or_, [routes[name] for name in routes if name in closed])


def random_cuts(
    prompt: Prompt, routes: Sequence[RouteInPrompt], decoded: int, rng: np.random.Generator
) -> dict[str, Intervention]:
    """For each route, as many random edges in the same layers; without routes for which too few are left.

    Args:
        prompt: of one row.
        routes: whose edges are not drawn.
        decoded: how many generated tokens are given back to the model: what a route to them closes.
        rng: draws the edges.
    """
    closed, drawn = [route.edges for route in routes], dict[str, Intervention]()
    for route in routes:
        source = route.edges.source
        count = seen_edges(prompt, route.edges) + (decoded * len(source) if route.grows else 0)
        edges = random_edges(prompt, count, source[0] < 0, closed, rng)
        if edges:
            closed = [*closed, *edges]
            drawn[route.name] = reduce(or_, [Knockout(*each, layers=route.layers) for each in edges])
    return drawn
