"""Where a case first differs from clean runs: everything before comes from clean runs, which cases can share.

In a causal model two things are certain without running it. A patch of a prefix that the two prompts share changes
nothing. And a patch that overwrites everything that differs so far makes later layers equal to the source's own run, so
the source's keys and values can be used there: the source is a *donor*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import torch

from ..families import Model, unsupported, view_of
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import Resolver, resolver
from ..prompts.carried import same_clean_run
from ..prompts.position_ids import position_ids
from ..prompts.prompt import Prompt
from ..prompts.token_map import TokenMap
from ..specs.interventions import CLEAN, Intervention
from ..specs.states import StateIntervention


@dataclass(frozen=True, kw_only=True, eq=False)
class Divergence:
    """Where a case departs from clean runs, and what is left to do.

    Attributes:
        position: the first position that changes; the last token at the latest.
        layer: the first layer in which it changes; the number of layers where it does not.
        case: what is to be done from there on.
        donor: the prompt whose clean run gives the positions before, from layer `donor_from_layer` on; None where all
            of it is the case's own prompt.
        donor_from_layer: first layer whose keys come from the donor; earlier layers use the prompt's own.
        whole: what the case is without a donor.
        read_first: whether nothing changes at `position` yet, but a read looks at it.
    """

    position: int
    layer: int
    case: Intervention
    donor: Prompt | None = None
    donor_from_layer: int = 0
    whole: Intervention = CLEAN
    read_first: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class _PrefixPatch:
    """A patch that covers every position before its end where its source's clean run and this one may differ."""

    patch: StateIntervention
    source: Prompt
    places: range


def unshared_divergence(model: Model, prompt: Prompt, case: Intervention) -> Divergence:
    """The divergence of a case that is carried out as it was given, without a donor."""
    here = resolver(model, one_case_per_row(prompt).placements[0])
    position = min(prompt.rows[0].stop - 1, case.first_position(here))
    return Divergence(position=position, layer=case.first_layer(here), case=case)


def divergence_of(model: Model, prompt: Prompt, case: Intervention, donors: bool) -> Divergence:
    """The divergence of a case, patches that change nothing left out.

    If `donors` may be used, the source of a patch after which the run equals the source's becomes a donor.
    """
    here = resolver(model, one_case_per_row(prompt).placements[0])
    parts = case.parts
    prefix_patches = [covered for part in parts if (covered := _prefix_patch(here, prompt, part)) is not None]
    for each in prefix_patches:
        others = _without(parts, each.patch)
        if not each.places and _first_position(here, others) >= each.places.stop:
            parts = others
    for each in prefix_patches if donors else ():
        others, end = _without(parts, each.patch), each.places.stop
        if each.places and _first_position(here, others) >= end and _can_donate(here, prompt, each):
            donor_from_layer = min(here.state_layers(each.patch.site, each.patch.layers)) + 1
            left = _composed(others)
            return Divergence(
                position=end,
                layer=min(donor_from_layer, left.first_layer(here)),
                case=left,
                whole=case,
                donor=each.source,
                donor_from_layer=donor_from_layer,
            )
    return unshared_divergence(model, prompt, case if parts == case.parts else _composed(parts))


def _without(parts: Sequence[Intervention], part: Intervention) -> tuple[Intervention, ...]:
    return tuple(other for other in parts if other is not part)


def _composed(parts: Sequence[Intervention]) -> Intervention:
    return reduce(or_, parts) if parts else CLEAN


def _first_position(here: Resolver, parts: Sequence[Intervention]) -> int:
    return min((part.first_position(here) for part in parts), default=here.placement.tokens.stop)


def _prefix_patch(here: Resolver, prompt: Prompt, part: Intervention) -> _PrefixPatch | None:
    """The places that a patch overwrites and where the two runs may differ; None if it does not cover all of these.

    There are none if the runs cannot differ yet.
    """
    want = part.capture()
    if want is None or want.under is not None or not isinstance(part, StateIntervention) or part.acts_in != "decoder":
        return None
    if not same_clean_run(prompt, want.prompt):
        return None
    mine, theirs = prompt.rows[0], want.prompt.rows[0]
    written = here.positions(part.where)
    if not written or mine.start or theirs.start or mine.outside or theirs.outside:
        return None
    end = written[-1] + 1
    if end >= mine.stop or mine.last_seen(end - 1) >= end or theirs.ranges(want.where).positions(end) != written:
        return None
    places = range(_first_difference(mine, theirs, end), end)
    patch = _PrefixPatch(patch=part, source=want.prompt, places=places)
    return patch if set(places) <= set(written) and _same_position_ids(prompt, want.prompt, end) else None


def _first_difference(mine: TokenMap, theirs: TokenMap, end: int) -> int:
    """The first position before `end` at which two clean runs may differ, else `end`."""
    images = min((position for tokens in (mine, theirs) for position in tokens.visual_tokens), default=end)
    same = min(images, end, theirs.stop)
    first = next((place for place in range(same) if mine.tokens[place] != theirs.tokens[place]), same)
    return next((place for place in range(first) if mine.last_seen(place) >= first), first)


def _can_donate(here: Resolver, prompt: Prompt, patch: _PrefixPatch) -> bool:
    """Whether, above the patched layer, this run equals the source's own.

    For that, nothing but the states may tell the layers which run it is: not which tokens are an image's, and not the
    image itself, entering again.
    """
    if patch.patch.site not in ("residual", "embedding") or "embedded" in unsupported(here.family):
        return False
    mine, theirs, end = prompt.rows[0], patch.source.rows[0], patch.places.stop
    return _images_before(mine, end) == _images_before(theirs, end) and mine.blocks == theirs.blocks


def _same_position_ids(prompt: Prompt, other: Prompt, end: int) -> bool:
    """Whether the tokens before `end` have the same position ids in both."""
    counting = view_of(prompt.model).family.positions
    if counting == "sequence" and all("position_ids" not in each.inputs for each in (prompt, other)):
        return True
    return counting != "own" and torch.equal(position_ids(prompt)[..., :end], position_ids(other)[..., :end])


def _images_before(tokens: TokenMap, end: int) -> list[tuple[int, ...]]:
    return [tuple(place for place in visual.positions if place < end) for visual in tokens.visuals]
