"""What `attribute` estimates: every site, layer and group or position, each as the patch that it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..arguments import listed, one_of
from ..errors import SpecError
from ..execution.checking import check
from ..execution.emptiness import Call
from ..families import Model
from ..lowering.layers import Layers
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import Resolver, resolver
from ..lowering.sites import BEFORE_LAYERS, HEAD_SITES, SITES, STATES, StateSite
from ..prompts.prompt import Prompt
from ..prompts.token_map import PARTS
from ..prompts.where import Where, as_tuples, names_in
from ..specs.interventions import CLEAN
from ..specs.measurements import Residual
from ..specs.states import Patch

By = Literal["group", "position"]
WAYS: tuple[By, ...] = get_args(By)
PICTURED = ("image", "video")
GRADED = tuple(site for site in STATES if site != "projector")
"""The sites of the decoder, and the features that enter it."""
SITES_WRITTEN = 'site names, at=("residual", "head")'
GROUPS = 'group names, where=("image", "query", "last")'


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A site in one layer at some positions.

    Attributes:
        site, layer: where.
        where, source: positions in the corrupt run, and those that correspond in the clean one.
        labels: what the frame calls them: the group, or each position.
        heads: how many heads the site has there, 0 for none.
    """

    site: StateSite
    layer: int
    where: Where
    source: Where
    labels: tuple[str | int, ...]
    heads: int

    def read(self, where: Where) -> Residual:
        """What is read of one of the runs."""
        return Residual(where, layers="all" if self.layer == BEFORE_LAYERS else self.layer, site=self.site)

    def patch(self, clean: Prompt, label: str | int, head: int | None) -> Patch:
        """The patch whose effect one number estimates."""
        where, source = self.where, self.source
        if not isinstance(label, str):
            at = self.labels.index(label)
            where, source = label, as_tuples(source)[at]
        layers: Layers = "all" if self.layer == BEFORE_LAYERS else self.layer
        heads = None if head is None else [head]
        return Patch(where, source=clean, source_where=source, layers=layers, site=self.site, heads=heads)


def spots_of(model: Model, clean: Prompt, corrupt: Prompt, at: Any, where: Any, by: Any, layers: Layers) -> list[Spot]:
    """The spots of a call, all of which a patch could write.

    Raises:
        SpecError: what `Patch` refuses; no such site, group or layer.
    """
    sites = (at,) if isinstance(at, str) else listed("at", at, SITES_WRITTEN)
    if not sites:
        raise SpecError(f"at=() names no site; write {SITES_WRITTEN}")
    by, found = one_of("by", by, WAYS), list[Spot]()
    for called, prompt in (("clean", clean), ("corrupt", corrupt)):
        try:
            check(model, prompt, CLEAN)
        except SpecError as error:
            raise SpecError(f"{called}: {error}") from None
    for site in dict.fromkeys(one_of("at", site, GRADED, "site") for site in sites):
        here, there = (resolver(model, one_case_per_row(prompt).placements[0]) for prompt in (corrupt, clean))
        chosen = _positions(here, there, site, where) if by == "position" else _groups(here, there, site, where)
        for place, source, labels in chosen:
            name = here.site_of(site, place)
            numbers = _layers(here, name, layers)
            _check(model, clean, corrupt, here, site, numbers, place, source)
            for layer in numbers:
                heads = here.head_size(name, layer).number if site in HEAD_SITES else 0
                found.append(Spot(site=site, layer=layer, where=place, source=source, labels=labels, heads=heads))
    return found


def _layers(here: Resolver, site: str, layers: Layers) -> tuple[int, ...]:
    """The layers that have a site, of those that are asked for.

    Raises:
        SpecError: there are none.
    """
    some: Layers = (
        "attention" if isinstance(layers, str) and layers == "all" and SITES[site].needs == "attention" else layers
    )
    numbers = here.ordered_layers(site, some)
    if not numbers:
        raise SpecError('layers=() names no layer; write "all", a number or a list of numbers')
    return numbers


def _groups(
    here: Resolver, there: Resolver, site: StateSite, where: Any
) -> Iterator[tuple[Where, Where, tuple[str, ...]]]:
    """The groups that are patched as a whole; by default those that part the prompt, and its last token."""
    if where is None:
        parts = [name for name in PARTS if here.positions(name) or there.positions(name) or here.ranges(name).outside]
        names: Sequence[Any] = [name for name in (*parts, "last") if _holds(here, site, name)]
        if not names:
            raise SpecError(f"site {site!r} holds none of the groups of this prompt; leave it out of at=")
    else:
        names = (where,) if isinstance(where, str) else listed("where", where, GROUPS)
    for name in names:
        if not isinstance(name, str):
            raise SpecError(f'{name!r} is no group; write {GROUPS}, or by="position" for single positions')
        yield name, name, (name,)


def _holds(here: Resolver, site: StateSite, name: str) -> bool:
    """Whether a group has states at a site."""
    if name == "generated" and not here.positions(name):
        return False
    if site == "features":
        return name in PICTURED
    ranges = here.ranges(name)
    return not ranges.outside or (SITES[site].holds_keys and not ranges.inside)


def _positions(
    here: Resolver, there: Resolver, site: StateSite, where: Any
) -> Iterator[tuple[Where, Where, tuple[int, ...]]]:
    """Each position by itself."""
    given = as_tuples(("image" if site == "features" else "all") if where is None else where)
    mine = here.positions(given)
    theirs = there.positions(given) if any(names_in(given)) else mine
    if not mine or len(mine) != len(theirs):
        raise SpecError(
            f"clean has {len(theirs)} and corrupt {len(mine)} positions {given!r}, and those of the one are patched by "
            "those of the other, in order; give prompts that correspond, or where= for positions that do"
        )
    yield mine, theirs, mine


def _check(
    model: Model,
    clean: Prompt,
    corrupt: Prompt,
    here: Resolver,
    site: StateSite,
    layers: Sequence[int],
    where: Where,
    source: Where,
) -> None:
    """Refuse what `Patch` refuses: layers whose heads are alike are looked at together."""
    name, alike = here.site_of(site, where), dict[Any, list[int]]()
    for layer in layers:
        alike.setdefault(here.head_size(name, layer) if site in HEAD_SITES else None, []).append(layer)
    for some in alike.values():
        chosen: Layers = "all" if some == [BEFORE_LAYERS] else tuple(some)
        patch = Patch(where, source=clean, source_where=source, layers=chosen, site=site)
        check(model, corrupt, patch, Call(f"site {site!r}: "))
