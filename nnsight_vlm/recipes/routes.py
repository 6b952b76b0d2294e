"""The conditions of a knockout study: every route cut in every window, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..families import layer_count
from ..interventions import Intervention, Knockout, Patch
from ..prompts import Prompt
from .common import (
    NONE,
    Case,
    another,
    equal_windows,
    matched_positions,
    middle_half,
    outside,
    rng_of,
    spell_layers,
    with_picture_of,
)

ROUTES = ("image->generated", "image->query", "query->generated", "image->last", "image->text")
FORMS = ("block", "allow")
BLIND = {"route": "image->text", "form": "blind", "window": "all", "control": NONE}
CLEAN_ROW = {"route": "", "form": "clean", "window": "", "control": NONE, "layers": ""}
ANOTHER_QUERY = "query of another image"


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
        self.prompts, self.routes, self.forms, self.seed = prompts, routes, forms, seed
        self.depth = layer_count(model)
        self.everywhere = tuple(range(self.depth))
        self.windows = equal_windows(self.depth, windows)

    def cases(self, image: int) -> list[Case]:
        """Clean first, then blind, then every route with its controls."""
        found = [Case(labels=CLEAN_ROW, intervention=None)]
        found.append(
            Case(labels={**BLIND, "layers": spell_layers(self.everywhere)}, intervention=Knockout("image", "text"))
        )
        for route in self.routes:
            found += self._route(image, route)
        return found

    def _route(self, image: int, route: str) -> Iterator[Case]:
        source, target = route.split("->")
        if route != "image->text":
            yield self._cut(route, "block", "all", self.everywhere)
        for layers in self.windows:
            for form in self.forms:
                yield self._cut(route, form, spell_layers(layers), layers)
        if self.windows:
            yield from self._random_layers(image, route)
        if route == "image->text" and self.windows:
            yield from self._halves(image, route)
        yield from self._random_positions(image, route, source, target)
        if route == "image->generated":
            yield from self._another_query(image, route)

    def _cut(self, route: str, form: str, window: str, layers: Sequence[int], control: str = NONE) -> Case:
        source, target = route.split("->")
        closed = tuple(layers) if form == "block" else outside(self.depth, layers)
        labels = {"route": route, "form": form, "window": window, "layers": spell_layers(layers), "control": control}
        if control == "random layers":
            labels["layers"] = ""
        return Case(labels=labels, intervention=Knockout(source, target, layers=closed) if closed else None)

    def _random_layers(self, image: int, route: str) -> Iterator[Case]:
        size = len(self.windows[0])
        drawn = rng_of(self.seed, image).choice(self.depth, size, replace=False)
        for form in self.forms:
            yield self._cut(route, form, f"any {size}", sorted(map(int, drawn)), "random layers")

    def _halves(self, image: int, route: str) -> Iterator[Case]:
        middle = middle_half(self.depth)
        drawn = sorted(map(int, rng_of(self.seed + 1, image).choice(self.depth, len(middle), replace=False)))
        yield self._cut(route, "block", "middle half", middle)
        yield self._cut(route, "block", "outer half", outside(self.depth, middle))
        yield self._cut(route, "block", "middle half", drawn, "random layers")
        yield self._cut(route, "block", "outer half", outside(self.depth, drawn), "random layers")

    def _random_positions(self, image: int, route: str, source: str, target: str) -> Iterator[Case]:
        prompt = self.prompts[image]
        rows = [place for place in prompt[target] if place >= min(prompt[source])]
        chosen = matched_positions(prompt, prompt[source], rows, rng_of(self.seed + 2, image))
        if chosen is None:
            return
        labels = {"route": route, "form": "block", "window": "all", "layers": spell_layers(self.everywhere)}
        shared = len(set(chosen) & set(prompt[source])) / len(chosen)
        cut: Intervention = Knockout(chosen, rows or target)
        cut = Knockout(chosen, (*rows, "generated")) if target == "text" else cut
        yield Case(labels={**labels, "control": "random positions"}, intervention=cut, overlap=shared)

    def _another_query(self, image: int, route: str) -> Iterator[Case]:
        lender = another(image, len(self.prompts), self.seed)
        source = None if lender is None else with_picture_of(self.prompts[image], self.prompts[lender])
        if source is None:
            return
        swap = Patch("query", source=source, layers=self.everywhere)
        case = self._cut(route, "block", "all", self.everywhere, ANOTHER_QUERY)
        yield Case(labels=case.labels, intervention=Knockout("image", "generated") | swap)
