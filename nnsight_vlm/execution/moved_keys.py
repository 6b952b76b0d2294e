"""Keys and queries that a patch takes from another position: refused, because position rotates them."""

from __future__ import annotations

import torch

from ..errors import SpecError
from ..families import VISION, Model, view_of
from ..lowering.layouts import one_case_per_row
from ..lowering.placements import Placement
from ..lowering.resolve import resolver
from ..prompts.position_ids import position_ids
from ..prompts.prompt import Prompt
from ..prompts.token_map import TokenMap
from ..prompts.where import Where
from ..specs.interventions import Intervention
from ..specs.states import StateIntervention

ROTATED = ("query", "key")
"""Sites whose states depend on the position by more than what it holds."""


def refuse_moved_keys(model: Model, prompt: Prompt, placement: Placement, part: Intervention) -> None:
    """Refuse a patch of keys or queries whose source has them at other positions.

    Positions are compared as the model counts them, padding left out. Keys outside the sequence are not rotated.

    Raises:
        SpecError: naming the first pair of positions that differ.
    """
    want = part.capture()
    if want is None or not isinstance(part, StateIntervention) or part.site not in ROTATED:
        return
    if resolver(model, placement).at(part.stage).site_of(part.site, part.where) != part.site:
        return
    source = one_case_per_row(want.prompt).placements[0]
    mine, theirs = (
        _counted(model, *where, part.stage)
        for where in ((prompt, placement, part.where), (want.prompt, source, want.where))
    )
    if mine.shape != theirs.shape or torch.equal(mine, theirs):  # another number of positions is refused elsewhere
        return
    at = int((mine != theirs).any(0).nonzero()[0])
    here, there = (tuple(ids[:, at].tolist()) for ids in (mine, theirs))
    here, there = (ids[0] if len(ids) == 1 else ids for ids in (here, there))
    raise SpecError(
        f"a {part.site} of the source at position {there} would be written at position {here}, as the model counts "
        f"them, and a {part.site} at another position was rotated otherwise; choose positions that are equal in both "
        'prompts, or patch what is not rotated: site="value", site="head" or site="residual"'
    )


def _counted(model: Model, prompt: Prompt, placement: Placement, where: Where, stage: str) -> torch.Tensor:
    """Position ids of some positions, `[1 or 3, position]`."""
    here = resolver(model, placement).at(stage)
    positions = torch.tensor(here.positions(where), dtype=torch.long)
    if stage == VISION:
        return _cells(here.placement.tokens)[:, positions]
    counts = stage == "decoder" and view_of(model).family.positions != "own"
    if "position_ids" not in prompt.inputs and not counts:
        return (positions - here.placement.tokens.start)[None]
    ids = position_ids(prompt)
    ids = ids if ids.dim() > 2 else ids[None]
    return ids[:, placement.row if ids.shape[1] > 1 else 0][:, positions]


def _cells(tokens: TokenMap) -> torch.Tensor:
    """The row and column of each token of a tower, `[2, position]`; -1 for one that is no patch."""
    cells = torch.full((2, tokens.stop), -1)
    for visual in tokens.visuals:
        cells[:, list(visual.positions)] = torch.as_tensor(visual.cells.places[:, 1:].T)
    return cells
