"""Where a case begins to be its own: everything before comes from clean runs, which cases can share.

A causal model makes two things certain without running it. A patch at positions where source and target
cannot differ yet changes nothing. And a patch, behind a layer, of everything that differs so far makes the
run there what the source's own run is: from that layer on, it begins with the source's keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any

import torch

from .families import family, lacking
from .interventions import CLEAN, Intervention, StateWrite
from .layouts import as_it_is
from .positions import position_ids
from .prompts import Prompt
from .rows import Row, to_positions
from .scope import Scope, scope


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Where a case departs from clean runs, and what is left to do.

    Attributes:
        position: the first position that changes; the last token at the latest.
        layer: the first layer in which it changes; the number of layers where it does not.
        case: what is to be done from there on.
        donor: the prompt whose clean run gives the positions before, from layer `lent` on; None where all of it
            is the case's own prompt.
        lent: up to here it is.
    """

    position: int
    layer: int
    case: Intervention
    donor: Prompt | None = None
    lent: int = 0


def whole(model: Any, prompt: Prompt, case: Intervention) -> Start:
    """The start of a case that is done as it is."""
    here = scope(model, as_it_is(prompt).seats[0])
    position = min(prompt.rows[0].stop - 1, case.first_position(here))
    return Start(position=position, layer=case.first_layer(here), case=case)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Taken:
    """A patch that takes another prompt's clean run over at all `places` before its end where the two may differ."""

    patch: StateWrite
    source: Prompt
    places: range


def start_of(model: Any, prompt: Prompt, case: Intervention, donors: bool) -> Start:
    """The start of a case without patches that change nothing and, if `donors` are had, without one that lends."""
    here = scope(model, as_it_is(prompt).seats[0])
    parts = case.parts
    taken = [found for part in parts if (found := _taken(here, prompt, part)) is not None]
    for each in taken:
        others = _without(parts, each.patch)
        if not each.places and _first_position(here, others) >= each.places.stop:
            parts = others
    for each in taken if donors else ():
        others, end = _without(parts, each.patch), each.places.stop
        if each.places and _first_position(here, others) >= end and _lends(here, prompt, each):
            lent, case = min(here.state_layers(each.patch.site, each.patch.layers)) + 1, _joined(others)
            layer = min(lent, case.first_layer(here))
            return Start(position=end, layer=layer, case=case, donor=each.source, lent=lent)
    return whole(model, prompt, case if parts == case.parts else _joined(parts))


def _without(parts: Sequence[Intervention], part: Intervention) -> tuple[Intervention, ...]:
    return tuple(other for other in parts if other is not part)


def _joined(parts: Sequence[Intervention]) -> Intervention:
    return reduce(or_, parts) if parts else CLEAN


def _first_position(here: Scope, parts: Sequence[Intervention]) -> int:
    return min((part.first_position(here) for part in parts), default=here.seat.tokens.stop)


def _taken(here: Scope, prompt: Prompt, part: Intervention) -> _Taken | None:
    """What a patch takes over; no places where the runs cannot differ yet, None for whatever is no such patch."""
    found = part.capture()
    if found is None or found.under is not None or not isinstance(part, StateWrite) or part.acts_in != "decoder":
        return None
    mine, theirs = prompt.rows[0], found.prompt.rows[0]
    written = to_positions(here.ranges(part.where), mine.stop)
    if not written or mine.start or theirs.start or mine.outside or theirs.outside:
        return None
    end = written[-1] + 1
    if end >= mine.stop or mine.last_seen(end - 1) >= end or to_positions(theirs.ranges(found.where), end) != written:
        return None
    places = range(_first_difference(mine, theirs, end), end)
    taken = _Taken(patch=part, source=found.prompt, places=places)
    return taken if set(places) <= set(written) and _same_places(prompt, found.prompt, end) else None


def _first_difference(mine: Row, theirs: Row, end: int) -> int:
    """The first position before `end` at which two clean runs may differ, else `end`."""
    images = min((position for row in (mine, theirs) for image in row.images for position in image), default=end)
    same = min(images, end, theirs.stop)
    first = next((place for place in range(same) if mine.tokens[place] != theirs.tokens[place]), same)
    return next((place for place in range(first) if mine.last_seen(place) >= first), first)


def _lends(here: Scope, prompt: Prompt, taken: _Taken) -> bool:
    """Whether behind the patch's layer the source's own run is what this one becomes by the patch.

    For that, nothing but the states may tell the layers which run it is: not which tokens are an image's, and not the
    image itself, entering again.
    """
    if taken.patch.site not in ("residual", "embedding") or "embedded" in lacking(here.row):
        return False
    mine, theirs, end = prompt.rows[0], taken.source.rows[0], taken.places.stop
    return _images(mine, end) == _images(theirs, end) and mine.blocks == theirs.blocks


def _same_places(prompt: Prompt, other: Prompt, end: int) -> bool:
    """Whether the tokens before `end` have the same position ids in both."""
    counted = all("position_ids" not in each.inputs for each in (prompt, other))
    if counted and family(prompt.model).positions == "sequence":
        return True
    return family(prompt.model).positions != "own" and torch.equal(
        position_ids(prompt)[..., :end], position_ids(other)[..., :end]
    )


def _images(row: Row, end: int) -> list[tuple[int, ...]]:
    return [tuple(position for position in image if position < end) for image in row.images]
