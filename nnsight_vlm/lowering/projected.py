"""Where positions lie among the rows that the projector is handed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SpecError
from ..families import VISION, Family
from ..prompts.ranges import Ranges
from ..prompts.token_map import TokenMap
from ..prompts.where import Where
from .layouts import Layout

if TYPE_CHECKING:
    from .resolve import Resolver

OWN = ("cls", "registers")
"""Groups of a tower's tokens that are no patches."""


def rows_handed(family: Family, layout: Layout) -> int:
    """How many rows the projector is handed in a batch."""
    if family.handed == "features":
        return sum(tokens.feature_rows or len(tokens.visual_tokens) for tokens in layout.prompt.rows)
    return sum(tokens.stop - len(_left_out(family, tokens)) for tokens in layout.tower_maps)


def projector_places(here: Resolver, where: Where) -> Ranges:
    """The rows of what the projector is handed that positions name, counted over the whole batch.

    Raises:
        SpecError: positions of another stage than its rows come from, or tokens that it is not handed.
    """
    family = here.family
    if family.handed == "features" and here.spec.stage.tower is not None:
        raise SpecError(
            f"what the projector of {family.name!r} models is handed are not the tower's patches, but what is made of "
            f"them for each image token; leave out stage={here.stage!r}"
        )
    if family.handed == "features":
        return here.feature_places(where)
    if here.stage != VISION:
        raise SpecError(
            f"what the projector of {family.name!r} models is handed are the vision tower's tokens; write "
            'stage="vision", or site="features" for what it makes of them'
        )
    tokens = here.placement.tokens
    left_out = _left_out(family, tokens)
    wanted = here.positions(where)
    if left_out.intersection(wanted):
        raise SpecError(f'{where!r} has class tokens or registers, which the projector is not handed; write "image"')
    if not left_out:
        return Ranges.in_order([here.placement.place(place) for place in wanted])
    rows = {place: row for row, place in enumerate(n for n in range(tokens.stop) if n not in left_out)}
    before = here.placement.place(0) * len(rows) // tokens.stop  # every sequence has equally many tokens of its own
    return Ranges.in_order([before + rows[place] for place in wanted])


def _left_out(family: Family, tokens: TokenMap) -> set[int]:
    """The places of a tower's tokens that are not handed over."""
    if family.handed == "tokens":
        return set()
    return {place for group in OWN for place in tokens.group(group).positions(tokens.stop)}
