"""Places of a decoder that recipes write states at: some tokens, layers, a site, and of heads which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from ..arguments import listed, one_of, refuse, text
from ..errors import SpecError
from ..families import Model, view_of
from ..lowering.head_choice import Heads, chosen_heads, listed_heads
from ..lowering.layers import Layers, layer_numbers
from ..lowering.sites import HEAD_SITES, SITES
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from .layer_sets import spell_layers
from .token_sets import lies_outside

PlaceSite = Literal["residual", "attention", "cross", "mlp", "head", "query", "key", "value", "output"]
PLACE_SITES: tuple[PlaceSite, ...] = get_args(PlaceSite)
"""Sites of `nv.Patch` that lie in layers; `output` is what leaves the last layer, of receivers only."""
PLACE = 'nv.recipes.Place("last", layers=[5, 6], site="head")'


@dataclass(frozen=True)
class Place:
    """Where states are written: the tokens of a group, in some layers, at a site.

    Args:
        group: a group name.
        layers: see `nv.Patch`; default all that a recipe can use.
        site: `residual`, `attention`, `cross`, `mlp`, `head`, `query`, `key` or `value`, see `nv.Patch`. Of a receiver
            also `output`, what leaves the last layer: what reaches it has passed no other receiver.
        heads: of the last four, which; default all.

    Raises:
        SpecError: a site that is not there, or heads of a site that has none.
    """

    group: str
    layers: Layers | None = field(default=None, kw_only=True)
    site: PlaceSite = field(default="residual", kw_only=True)
    heads: Heads = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        text("group", self.group, 'Place("last")')
        one_of("site", self.site, PLACE_SITES)
        object.__setattr__(self, "layers", as_tuples(self.layers))
        object.__setattr__(self, "heads", listed_heads(self.heads))
        if self.heads is not None and self.site not in HEAD_SITES:
            raise SpecError(
                f'heads={self.heads!r} names heads, and site {self.site!r} has none; write site="head", or leave '
                "heads out"
            )
        if self.layers is not None and self.site == "output":
            raise SpecError('site="output" lies behind all layers; leave layers out')


class PlaceInModel(NamedTuple):
    """A place with its layers and heads as numbers, which settings can hold.

    Attributes:
        group: a group name.
        site: see `Place`.
        layers: numbers of layers, ascending; none of `output`.
        heads: pairs of `(layer, head)`; None for all, and at sites without heads.
    """

    group: str
    site: PlaceSite
    layers: tuple[int, ...]
    heads: tuple[tuple[int, int], ...] | None

    def __str__(self) -> str:
        heads = "" if self.heads is None else " " + ",".join(f"{layer}.{head}" for layer, head in self.heads)
        where = heads or (" " + spell_layers(self.layers) if self.layers else "")
        return f"{self.group} {self.site}{where}"


def places_given(name: str, given: Any) -> tuple[Place, ...]:
    """Places as a user gives them, or one; a text is the residual stream of this group.

    Raises:
        SpecError: no place.
    """
    several = (given,) if isinstance(given, (Place, str)) else listed(name, given, f"{name}=[{PLACE}]")
    if not several:
        raise SpecError(f"{name}= names no place; write {name}=[{PLACE}]")
    return tuple(place_given(name, each) for each in several)


def place_given(name: str, given: Any) -> Place:
    """One place as a user gives it.

    Raises:
        SpecError: something else.
    """
    if isinstance(given, str):
        return Place(given)
    if not isinstance(given, Place):
        refuse(name, given, "place", f"{name}={PLACE}")
    return given


def require_place(prompt: Prompt, name: str, group: str) -> None:
    """Refuse tokens that a prompt has not got, or that lie outside the decoder's sequence.

    Raises:
        SpecError: naming the argument.
    """
    prompt.rows[0].required(group)
    if lies_outside(prompt, group):
        raise SpecError(
            f"{name}: {group!r} lies outside the decoder's sequence, where there are no states to write; write a group "
            'of the sequence, such as "last"'
        )


def place_in(model: Model, name: str, place: Place, default: Sequence[int]) -> PlaceInModel:
    """A place with numbers for its layers and heads.

    Args:
        model: an nnsight model.
        name: of the argument, for messages.
        place: as it was given.
        default: the layers that are meant where none are named, as far as they have the site.

    Raises:
        SpecError: a layer without the site, or a head that it has not got.
    """
    if place.site == "output":
        return PlaceInModel(place.group, place.site, (), None)
    spec = view_of(model).stage()
    having = {"attention": spec.attention, "cross": spec.cross}.get(SITES[place.site].needs, range(spec.layer_count))
    try:
        chosen = default if place.layers is None else layer_numbers(place.layers, spec.layer_count)
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None
    layers = tuple(layer for layer in chosen if place.layers is not None or layer in having)
    lacking = [layer for layer in layers if layer not in having]
    if lacking or not layers:
        problem = f"layer {lacking[0]} has no site {place.site!r}" if lacking else "no layer is named or left"
        raise SpecError(f"{name}: {problem}; write layers={list(having)}, or some of these")
    try:
        return PlaceInModel(place.group, place.site, layers, _heads_in(model, place, layers))
    except SpecError as error:
        raise SpecError(f"{name}: {error}") from None


def heads_of(model: Model, site: str, layer: int) -> tuple[int, ...]:
    """The numbers of a site's heads in a layer; none at a site without heads."""
    if site not in HEAD_SITES:
        return ()
    spec = view_of(model).stage()
    return tuple(range(spec.key_heads[layer] if SITES[site].holds_keys else spec.head_count))


def _heads_in(model: Model, place: Place, layers: Sequence[int]) -> tuple[tuple[int, int], ...] | None:
    """The chosen heads as pairs.

    Raises:
        SpecError: a head that is not there, or in a layer that is not named.
    """
    if place.heads is None:
        return None
    count, pairs = view_of(model).stage().layer_count, list[tuple[int, int]]()
    for layer in layers:
        chosen = chosen_heads(place.heads, layer, count, len(heads_of(model, place.site, layer)))
        pairs += [(layer, head) for head in (chosen.numbers if chosen else ())]
    named = {pair[0] % count for pair in listed_heads(place.heads) or () if isinstance(pair, tuple)}
    if not pairs or not named <= set(layers):
        raise SpecError(
            f"heads={place.heads!r} of layers {list(layers)}: a head lies in another layer, or there is none; write "
            "head numbers, or (layer, head) pairs of these layers"
        )
    return tuple(pairs)
