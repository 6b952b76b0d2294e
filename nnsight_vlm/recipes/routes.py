"""The conditions of a knockout study: every route cut in every window, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..prompts.prompt import Prompt
from ..prompts.token_map import Where
from ..specs.knockouts import Knockout
from ..specs.states import Patch
from .controls import (
    another,
    blinded,
    equal_windows,
    layers_of,
    lies_outside,
    matched_positions,
    middle_half,
    outside,
    owning_stage,
    readers_of,
    rng_of,
    spell_layers,
    with_picture_of,
)
from .work import NONE, Case

ROUTES = ("image->generated", "image->query", "query->generated", "image->last", "image->text")
FORMS = ("block", "allow")
BLIND = {"route": "image->text", "form": "blind", "window": "all", "control": NONE}
CLEAN_ROW = {"route": "", "form": "clean", "window": "", "control": NONE, "layers": ""}
ANOTHER_QUERY = "query of another image"


def default_routes(prompts: Sequence[Prompt], among: Sequence[str] = ROUTES) -> tuple[str, ...]:
    """The routes that can be cut: those whose target lies in the decoder's sequence."""
    return tuple(route for route in among if not any(lies_outside(prompt, route.split("->")[1]) for prompt in prompts))


def cases_of(
    model: Any,
    prompts: Sequence[Prompt],
    routes: Sequence[str] = ROUTES,
    *,
    windows: int = 4,
    forms: Sequence[str] = FORMS,
    seed: int = 0,
) -> Callable[[int], list[Case]]:
    """What `knockout_windows` does to an image: a function from its number to its conditions."""
    return _Plan(model, prompts, routes, windows, forms, seed).cases


@dataclass(frozen=True, kw_only=True)
class _Route:
    """A route of one prompt: `source` and `target` as a knockout takes them, and the layers that have it."""

    name: str
    source: str
    target: Where
    layers: tuple[int, ...]
    windows: tuple[tuple[int, ...], ...]


class _Plan:
    """Every condition of every image."""

    def __init__(
        self,
        model: Any,
        prompts: Sequence[Prompt],
        routes: Sequence[str],
        windows: int,
        forms: Sequence[str],
        seed: int,
    ) -> None:
        self.model, self.prompts, self.routes, self.forms, self.seed = model, prompts, routes, forms, seed
        self.windows = windows

    def cases(self, image: int) -> list[Case]:
        """Clean first, then blind, then every route with its controls."""
        prompt = self.prompts[image]
        everywhere = spell_layers(layers_of(self.model, prompt, "image"))
        found = [Case(labels=CLEAN_ROW, intervention=None)]
        found.append(Case(labels={**BLIND, "layers": everywhere}, intervention=blinded(prompt)))
        for name in self.routes:
            source, target = name.split("->")
            layers = layers_of(self.model, prompt, source)
            route = _Route(
                name=name,
                source=source,
                target=readers_of(prompt, target),
                layers=layers,
                windows=equal_windows(layers, self.windows),
            )
            found += self._route(image, route)
        return found

    def _route(self, image: int, route: _Route) -> Iterator[Case]:
        if route.name != "image->text":
            yield self._cut(route, "block", "all", route.layers)
        for layers in route.windows:
            for form in self.forms:
                yield self._cut(route, form, spell_layers(layers), layers)
        if route.windows:
            yield from self._random_layers(image, route)
        if route.name == "image->text" and route.windows:
            yield from self._halves(image, route)
        yield from self._random_positions(image, route)
        if route.name == "image->generated":
            yield from self._another_query(image, route)

    def _cut(self, route: _Route, form: str, window: str, layers: Sequence[int], control: str = NONE) -> Case:
        closed = tuple(layers) if form == "block" else outside(route.layers, layers)
        shown = "" if control == "random layers" else spell_layers(layers)
        labels = {"route": route.name, "form": form, "window": window, "layers": shown, "control": control}
        cut = Knockout(route.source, route.target, layers=closed) if closed else None
        return Case(labels=labels, intervention=cut)

    def _drawn(self, image: int, route: _Route, size: int, salt: int) -> tuple[int, ...]:
        drawn = rng_of(self.seed + salt, image).choice(len(route.layers), size, replace=False)
        return tuple(route.layers[place] for place in sorted(map(int, drawn)))

    def _random_layers(self, image: int, route: _Route) -> Iterator[Case]:
        size = len(route.windows[0])
        if size == len(route.layers):  # a draw of all layers is no control
            return
        for form in self.forms:
            yield self._cut(route, form, f"any {size}", self._drawn(image, route, size, 0), "random layers")

    def _halves(self, image: int, route: _Route) -> Iterator[Case]:
        middle = middle_half(route.layers)
        drawn = self._drawn(image, route, len(middle), 1)
        yield self._cut(route, "block", "middle half", middle)
        yield self._cut(route, "block", "outer half", outside(route.layers, middle))
        yield self._cut(route, "block", "middle half", drawn, "random layers")
        yield self._cut(route, "block", "outer half", outside(route.layers, drawn), "random layers")

    def _random_positions(self, image: int, route: _Route) -> Iterator[Case]:
        prompt = self.prompts[image]
        source, readers = prompt[route.source], prompt[route.target]
        rows = [place for place in readers if prompt.rows[0].last_seen(place) >= min(source, default=0)]
        chosen = matched_positions(prompt, source, rows, rng_of(self.seed + 2, image))
        if chosen is None:
            return
        labels = {"route": route.name, "form": "block", "window": "all", "layers": spell_layers(route.layers)}
        shared = len(set(chosen) & set(source)) / len(chosen)
        grows = any(stop is None for _, stop in prompt.rows[0].ranges(route.target))
        target: Where = (*rows, "generated") if grows else tuple(rows)
        cut = Knockout(chosen, target, layers=route.layers)
        yield Case(labels={**labels, "control": "random positions"}, intervention=cut, overlap=shared)

    def _another_query(self, image: int, route: _Route) -> Iterator[Case]:
        lender, prompt = another(image, len(self.prompts), self.seed), self.prompts[image]
        source = None if lender is None else with_picture_of(prompt, self.prompts[lender])
        if source is None:
            return
        swap = Patch("query", source=source, stage=owning_stage(prompt, "query")[0])
        case = self._cut(route, "block", "all", route.layers, ANOTHER_QUERY)
        yield Case(labels=case.labels, intervention=Knockout("image", "generated", layers=route.layers) | swap)
