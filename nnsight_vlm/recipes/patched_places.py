"""The places of a patching map: groups of tokens, single tokens, single heads, and the controls of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from ..arguments import listed, one_of, refuse
from ..errors import SpecError
from ..execution.checking import check
from ..families import Model
from ..lowering.layers import Layers
from ..lowering.layouts import one_case_per_row
from ..lowering.resolve import resolver
from ..lowering.sites import HEAD_SITES, STATES, StateSite
from ..prompts.prompt import Prompt
from ..prompts.where import as_tuples
from ..specs.states import Patch
from ..studies.labels import ANOTHER_IMAGE, NONE, Control
from ..studies.pair_scores import Condition
from ..studies.pair_sources import groups_with_states, patched_layers, sources_of, third_picture
from ..studies.pairs import Pair
from ..studies.positions import named_positions
from ..studies.token_sets import owning_stage

Over = Literal["group", "position", "head"]
"""What one column of a map is, beside the layer: a group of tokens, one token, or one attention head."""
OVERS: tuple[Over, ...] = get_args(Over)
GROUPS = ("last", "query", "image", "all")
"""The rows that every map has, as far as the prompts have hidden states for them."""
SITES = tuple(site for site in STATES if site not in ("projector", "features", "embedding"))
"""The sites that every layer has for itself."""
EVERY_HEAD = "all"
"""The column `head` where all heads of a layer are patched together."""

# what is patched ------------------------------------------------------------------------------------


class Places(NamedTuple):
    """What a map is of.

    Attributes:
        over: what one column is.
        groups: groups that are patched as a whole.
        single: groups of which single tokens, or single heads, are patched.
        layers: the layers; None for all that have the site.
        site: what is written.
    """

    over: Over
    groups: tuple[str, ...]
    single: tuple[str, ...]
    layers: Any
    site: StateSite


def places_given(over: Any, groups: Any, positions: Any, layers: Any, site: Any) -> Places:
    """What a user asks a map of; `groups` are those named, without those that every map has.

    Raises:
        SpecError: words that are none of those known, an argument that is not used.
    """
    over = one_of("over", over, OVERS)
    site = one_of("site", ("head" if over == "head" else "residual") if site is None else site, SITES)
    if over == "head" and site not in HEAD_SITES:
        refuse("site", site, 'site of heads, which over="head" patches', f"one of {', '.join(HEAD_SITES)}")
    if positions is not None and over != "position":
        raise SpecError(f'positions= names the tokens of over="position"; over={over!r} was given, leave it out')
    named = _names("groups", groups, 'groups=["image", "last"]')
    single = _names("positions", positions, 'positions=["query"]') or ("query",) if over == "position" else ()
    if over == "head":
        single, named = named or ("last",), ()
    return Places(over, named, single, as_tuples(layers), site)


def _names(argument: str, given: Any, write: str) -> tuple[str, ...]:
    names = () if given is None else listed(argument, given, write, kind=str)
    if given is not None and not names:
        raise SpecError(f"{argument}=() names no group to patch; write {write}, or leave it out")
    return tuple(dict.fromkeys(names))


def place_errors(model: Model, prompt: Prompt, *, places: Places) -> dict[str, str]:
    """For each group of a map that a prompt has why it cannot be patched; empty where it can.

    Args:
        model: an nnsight model.
        prompt: of one row.
        places: what the user asked for.

    Raises:
        SpecError: a group that was asked for has no tokens or hidden states, or a layer has not got the site.
    """
    found, asked = dict[str, str](), (*places.groups, *places.single)
    for group in dict.fromkeys((*groups_with_states([prompt], GROUPS), *asked)):
        try:
            prompt.rows[0].required(group)
            layers = patched_layers(model, prompt, prompt[group], places.layers, places.site)
            for layer in layers if places.site in HEAD_SITES else [layers]:
                check(model, prompt, _patch(prompt, prompt, prompt[group], layer, places.site))
            found[group] = ""
        except SpecError as error:
            if group in asked:
                raise
            found[group] = str(error)
    return found


def _patch(
    prompt: Prompt,
    donor: Prompt,
    positions: Sequence[int],
    layers: Layers,
    site: StateSite,
    heads: tuple[int, ...] | None = None,
) -> Patch:
    """A patch of some tokens in the stage that has their hidden states."""
    stage, places = owning_stage(prompt, tuple(positions))
    return Patch(places, source=donor, layers=layers, site=site, stage=stage, heads=heads)


# one pair -------------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """One place of a map, or its control: what the table calls it, its tokens, and whose states are written there."""

    labels: Mapping[str, str]
    positions: tuple[int, ...]
    control: Control
    donor: Prompt
    by_head: bool = False


def conditions_of(model: Model, pairs: Sequence[Pair], image: int, places: Places, seed: int) -> Iterator[Condition]:
    """The patched runs of one pair."""
    prompt = pairs[image].prompt
    for place in _places_of(pairs, image, places, seed):
        for layer in patched_layers(model, prompt, place.positions, places.layers, places.site):
            for head in range(_head_count(model, prompt, place, layer, places.site)) if place.by_head else (None,):
                heads = None if head is None else (head,)
                labels = {"layer": layer, **place.labels, "control": place.control}
                named = labels if head is None else {**labels, "head": str(head)}
                patch = _patch(prompt, place.donor, place.positions, layer, places.site, heads)
                yield Condition(named, min(place.positions), patch)


def _places_of(pairs: Sequence[Pair], image: int, places: Places, seed: int) -> Iterator[_Place]:
    """The places of one pair's map, with their controls."""
    pair = pairs[image]
    if places.over == "group":
        for source in sources_of(pairs, image, places.groups, seed):
            yield _Place({"group": source.group}, source.positions, source.control, source.donor)
        return
    donors: dict[Control, Prompt | None] = {NONE: pair.other, ANOTHER_IMAGE: third_picture(pairs, image)}
    for control, donor in donors.items():
        if donor is None:
            continue
        if places.over == "position":
            for label, position in named_positions(pair.prompt, places.single):
                yield _Place({"position": label}, (position,), control, donor)
            for group in places.groups:
                yield _Place({"position": group}, pair.prompt[group], control, donor)
        else:
            for group in places.single:
                yield _Place({"group": group, "head": ""}, pair.prompt[group], control, donor, by_head=True)
            for group in dict.fromkeys((*places.groups, *places.single)):
                yield _Place({"group": group, "head": EVERY_HEAD}, pair.prompt[group], control, donor)


def _head_count(model: Model, prompt: Prompt, place: _Place, layer: int, site: StateSite) -> int:
    stage, positions = owning_stage(prompt, place.positions)
    here = resolver(model, one_case_per_row(prompt).placements[0]).at(stage)
    return here.head_size(here.site_of(site, positions), layer).number
