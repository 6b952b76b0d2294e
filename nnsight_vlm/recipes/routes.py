"""The conditions of a knockout study: every route cut in every window of layers, the baselines, and the controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import SpecError
from ..execution.checking import check
from ..execution.emptiness import Call, generating
from ..families import Model
from ..prompts.prompt import Prompt
from ..prompts.where import Where
from ..specs.knockouts import Knockout
from ..specs.states import Patch
from ..studies.controls import blind_cut, matched_positions, other_image, rng_of, with_picture_of
from ..studies.labels import (
    FORMS,
    MIDDLE_HALF,
    NONE,
    OUTER_HALF,
    QUERY_OF_ANOTHER_IMAGE,
    RANDOM_LAYERS,
    RANDOM_POSITIONS,
    Control,
    Form,
)
from ..studies.layer_sets import layers_reading, middle_half, other_layers, spell_layers
from ..studies.token_sets import lies_outside, owning_stage, require
from ..studies.windows import USUAL, LayerWindow, Windows, nested_draws
from ..studies.work import Case

ROUTES = ("image->generated", "image->query", "query->generated", "image->last", "image->text")
"""The routes that are cut unless others are asked for; information flows from the source to the target.

- `image->generated`: generated tokens read the image directly.
- `image->query`: the text after the image, which is where the question stands, reads the image. As in Kaduri et al.
  this is all of that text, so it holds `image->last` (`image->question` would leave it out).
- `query->generated`: generated tokens read the question.
- `image->last`: the prompt's last token, which predicts the first word, reads the image.
- `image->text`: the joint route: any token that is not an image token reads the image.
"""
JOINT_ROUTE = "image->text"
BLIND = {"route": JOINT_ROUTE, "form": "blind", "window": "all", "control": NONE}
CLEAN_ROW = {"route": "", "form": "clean", "window": "", "control": NONE, "layers": ""}


class Route(NamedTuple):
    """A way for information to take: the target's tokens attend to the source's. Both are group names.

    >>> Route.parse("image->query")
    Route(source='image', target='query')
    """

    source: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Route:
        """A route from `"source->target"`.

        Raises:
            SpecError: the text is not of that form.
        """
        groups = text.split("->")
        if len(groups) != 2:
            raise SpecError(f'no route {text!r}; a route is "source->target" in group names, such as "image->query"')
        return cls(*groups)


def default_routes(prompts: Sequence[Prompt], among: Sequence[str] = ROUTES) -> tuple[str, ...]:
    """The routes that can be cut in all prompts: those whose target lies in the decoder's sequence."""
    return tuple(
        route for route in among if not any(lies_outside(prompt, Route.parse(route).target) for prompt in prompts)
    )


def route_errors(
    model: Model, prompt: Prompt, *, routes: Sequence[str] | None, windows: Windows, max_new_tokens: int | None
) -> dict[str, str]:
    """For each route that a prompt has why nothing can flow along it; empty where something can.

    Args:
        model: an nnsight model.
        prompt: a prompt of one row.
        routes: those that the user asked for, which raise; None for those of `ROUTES` whose target lies in the
            decoder's sequence.
        windows: how the layers are grouped.
        max_new_tokens: see `check_routes`.

    Raises:
        SpecError: naming the route.
    """
    if routes is not None:
        check_routes(model, prompt, routes, windows, max_new_tokens)
        return dict.fromkeys(routes, "")
    found = {}
    for route in default_routes([prompt]):
        try:
            check_routes(model, prompt, [route], windows, max_new_tokens)
            found[route] = ""
        except SpecError as error:
            found[route] = str(error)
    return found


def check_routes(
    model: Model, prompt: Prompt, routes: Sequence[str], windows: Windows, max_new_tokens: int | None
) -> None:
    """Refuse routes along which nothing can flow in a prompt: their cut changes nothing in any layer.

    Args:
        model: an nnsight model.
        prompt: a prompt of one row.
        routes: see `Route.parse`.
        windows: how the layers are grouped; refused where a route has too few layers for it.
        max_new_tokens: how many tokens are generated at most; None where one token is scored, which routes to generated
            tokens do not concern.

    Raises:
        SpecError: naming the route.
    """
    for name in routes:
        source, target = Route.parse(name)
        if max_new_tokens is None and target.endswith("generated"):
            require(prompt, target)
            layers_reading(model, prompt, source)
            continue
        whose = f"route {name!r}: "
        call = Call(whose) if max_new_tokens is None else generating(max_new_tokens, "error", whose)
        layers = layers_reading(model, prompt, source)
        check(model, prompt, Knockout(source, target, layers=layers), call)
        windows.of(layers, whose)


def cases_of(
    model: Model,
    prompts: Sequence[Prompt],
    routes: Sequence[str] = ROUTES,
    *,
    windows: Windows | int = USUAL,
    forms: Sequence[Form] = FORMS,
    seed: int = 0,
) -> Callable[[int], list[Case]]:
    """The conditions of `knockout_windows`: a function from an image's number to its conditions."""
    chosen = windows if isinstance(windows, Windows) else Windows(count=windows)
    cases = _Cases(model=model, prompts=prompts, routes=routes, windows=chosen, forms=forms, seed=seed)
    return cases.of_image


@dataclass(frozen=True, kw_only=True)
class _RouteInPrompt:
    """A route in one prompt.

    Attributes:
        name: `"source->target"`.
        source, target: group names.
        layers: the layers that have the route.
        windows: the windows into which these layers are grouped.
    """

    name: str
    source: str
    target: str
    layers: tuple[int, ...]
    windows: tuple[LayerWindow, ...]


@dataclass(frozen=True, kw_only=True)
class _Cases:
    """What the conditions of all images have in common; see `knockout_windows`."""

    model: Model
    prompts: Sequence[Prompt]
    routes: Sequence[str]
    windows: Windows
    forms: Sequence[Form]
    seed: int

    def of_image(self, image: int) -> list[Case]:
        """The clean run first, then the blind one, then every route with its controls."""
        prompt = self.prompts[image]
        image_layers = spell_layers(layers_reading(self.model, prompt, "image"))
        cases = [
            Case(labels=CLEAN_ROW, intervention=None),
            Case(labels={**BLIND, "layers": image_layers}, intervention=blind_cut(prompt)),
        ]
        for name in self.routes:
            cases += self._of_route(image, self._route_in(prompt, name))
        return cases

    def _route_in(self, prompt: Prompt, name: str) -> _RouteInPrompt:
        source, target = Route.parse(name)
        require(prompt, target)
        layers = layers_reading(self.model, prompt, source)
        windows = self.windows.of(layers)
        return _RouteInPrompt(name=name, source=source, target=target, layers=layers, windows=windows)

    def _of_route(self, image: int, route: _RouteInPrompt) -> Iterator[Case]:
        if route.name != JOINT_ROUTE:  # cut in all layers, the joint route is the blind run
            yield self._cut(route, "block", "all", route.layers)
        for window in route.windows:
            for form in self.forms:
                yield self._cut(route, form, window.label, window.layers)
        if route.windows:
            yield from self._random_layers(image, route)
        if route.name == JOINT_ROUTE and route.windows:
            yield from self._halves(image, route)
        yield from self._random_positions(image, route)
        if route.name == "image->generated":
            yield from self._query_of_another_image(image, route)

    def _cut(
        self, route: _RouteInPrompt, form: Form, window: str, layers: Sequence[int], control: Control = NONE
    ) -> Case:
        closed = tuple(layers) if form == "block" else other_layers(route.layers, layers)
        shown = "" if control == RANDOM_LAYERS else spell_layers(layers)
        labels = {"route": route.name, "form": form, "window": window, "layers": shown, "control": control}
        cut = Knockout(route.source, route.target, layers=closed) if closed else None
        return Case(labels=labels, intervention=cut)

    def _random_layers(self, image: int, route: _RouteInPrompt) -> Iterator[Case]:
        sizes = [len(window.layers) for window in route.windows]
        for count, drawn in nested_draws(route.layers, sizes, rng_of(self.seed, image)).items():
            for form in self.forms:
                yield self._cut(route, form, f"any {count}", drawn, RANDOM_LAYERS)

    def _halves(self, image: int, route: _RouteInPrompt) -> Iterator[Case]:
        middle = middle_half(route.layers)
        drawn = nested_draws(route.layers, [len(middle)], rng_of(self.seed + 1, image))[len(middle)]
        yield self._cut(route, "block", MIDDLE_HALF, middle)
        yield self._cut(route, "block", OUTER_HALF, other_layers(route.layers, middle))
        yield self._cut(route, "block", MIDDLE_HALF, drawn, RANDOM_LAYERS)
        yield self._cut(route, "block", OUTER_HALF, other_layers(route.layers, drawn), RANDOM_LAYERS)

    def _random_positions(self, image: int, route: _RouteInPrompt) -> Iterator[Case]:
        """Every target position loses as many edges as in the cut of the route, but to random positions."""
        prompt = self.prompts[image]
        source, tokens = prompt[route.source], prompt.rows[0]
        readers = [place for place in prompt[route.target] if tokens.last_seen(place) >= min(source, default=0)]
        chosen = matched_positions(prompt, source, readers, rng_of(self.seed + 2, image))
        if chosen is None:
            return
        target: Where = (*readers, "generated") if tokens.ranges(route.target).is_open else tuple(readers)
        labels = {"route": route.name, "form": "block", "window": "all", "layers": spell_layers(route.layers)}
        yield Case(
            labels={**labels, "control": RANDOM_POSITIONS},
            intervention=Knockout(chosen, target, layers=route.layers),
            overlap=len(set(chosen) & set(source)) / len(chosen),
        )

    def _query_of_another_image(self, image: int, route: _RouteInPrompt) -> Iterator[Case]:
        """The direct route is cut, and the query tokens carry another picture."""
        prompt, other = self.prompts[image], other_image(self.prompts, image, self.seed)
        donor = None if other is None else with_picture_of(prompt, self.prompts[other])
        if donor is None:
            return
        swap = Patch("query", source=donor, stage=owning_stage(prompt, "query").stage)
        case = self._cut(route, "block", "all", route.layers, QUERY_OF_ANOTHER_IMAGE)
        yield Case(labels=case.labels, intervention=Knockout("image", "generated", layers=route.layers) | swap)
