"""The token maps of stages with a batch of their own whose sequence is learned queries: a Q-Former, a resampler.

Such a stage has a batch of its own: a row for every picture, or tile of one, of all prompts of an encoding, with keys
and a question that are padded to the longest of them. So its maps are made here, from the encoding that runs, and never
taken over from a prompt that was encoded alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from ..errors import SpecError
from ..families import VISION, Family, Model, ModelView, Stage, view_of
from ..grids import GRIDS, Cells
from ..grids.tokens import Inputs
from .ranges import Ranges
from .token_map import TokenMap
from .tower_maps import with_tower


def with_earlier_stages(view: ModelView, inputs: Inputs, rows: Sequence[TokenMap]) -> tuple[TokenMap, ...]:
    """The rows of an encoding, each with the token maps of the vision tower and of stages with learned queries.

    One of these that reads pictures with queries is left out of a row that has another number of pictures or tiles than
    one: `"query"` would name several sequences there.

    Raises:
        SpecError: a Q-Former that reads questions gets another number of them than of pictures; no picture at all,
            where the model cannot run without.
    """
    require_image(view, any(tokens.images for tokens in rows))
    found = with_tower(view, inputs, rows)
    for name, stage in view.family.stages.items():
        if stage.keys:
            maps = _maps_of_stage(view, inputs, rows, stage)
            found = tuple(_with_stage(tokens, name, own) for tokens, own in zip(found, maps, strict=True))
    return found


def stage_map(model: Model, tokens: TokenMap, stage: str) -> TokenMap:
    """The token map of a stage of a row.

    Raises:
        SpecError: the model, or this row, has no such stage.
    """
    if stage == VISION:
        require_tower(view_of(model).family)
    return tokens.stage(stage)


def require_tower(family: Family) -> None:
    """Refuse the stage of the vision tower in a family where it is none.

    Raises:
        SpecError: saying why.
    """
    reason = family.limitation(VISION)
    if reason:
        raise SpecError(f"models of type {family.name!r} have no stage {VISION!r}: {reason}")


def require_image(view: ModelView, there: bool) -> None:
    """Refuse an encoding without an image where the model cannot run without.

    Raises:
        SpecError: saying why.
    """
    reason = view.family.limitation("text alone")
    if reason and not there:
        raise SpecError(f"{view.family.name!r} models cannot read a text without an image: {reason}; give it one")


def _with_stage(tokens: TokenMap, name: str, own: TokenMap | None) -> TokenMap:
    """A row with this map of a stage in place of the one it may have."""
    others = tuple((other, its) for other, its in tokens.stages if other != name)
    return replace(tokens, stages=others if own is None else ((name, own), *others))


def _maps_of_stage(
    view: ModelView, inputs: Inputs, rows: Sequence[TokenMap], stage: Stage
) -> Sequence[TokenMap | None]:
    """The map of a stage for each row of the encoding; None for a row that has not just one sequence there.

    The image tokens of the prompts are what the queries become, sequence after sequence: that tells which are whose.
    """
    totals = [sum(map(len, tokens.images)) for tokens in rows]
    sequences = GRIDS[stage.keys].cells(view, inputs) if stage.keys and any(totals) else []
    if not sequences:
        return [None] * len(rows)
    if stage.text and len(sequences) != len(rows):
        raise SpecError(
            f"models of type {view.family.name!r} read a picture with each question, and here are {len(sequences)} "
            f"picture(s) for {len(rows)} question(s); run prompts without a picture one at a time"
        )
    queries = sum(totals) // len(sequences)
    firsts = [before // queries for before in accumulate(totals, initial=0)]
    return [
        _query_token_map(inputs, number, queries, stage, sequences, firsts[number]) if total == queries else None
        for number, total in enumerate(totals)
    ]


def _query_token_map(
    inputs: Inputs, number: int, queries: int, stage: Stage, sequences: Sequence[Cells], row: int
) -> TokenMap:
    """The map of one sequence of such a stage: queries, then the question's tokens if it reads them.

    Patches are keys outside the sequence. Some are no group's: those that pad a tile, which the model masks.

    Args:
        inputs: the encoding.
        number: the prompt's row in it.
        queries: how many queries the stage has.
        stage: the stage.
        sequences: the keys of each row of the stage's batch.
        row: the sequence's row in that batch.
    """
    question = inputs[stage.text][number].tolist() if stage.text else []
    real = inputs[stage.text_mask][number].nonzero().flatten().tolist() if stage.text else []
    text = Ranges.of(queries + place for place in real)
    cells, tokens = sequences[row], (0,) * queries + tuple(question)
    outside, stop = len(cells.places), queries + max(real, default=-1) + 1
    patches, read = cells.without_padding()
    return TokenMap(
        tokens=tokens,
        row=row,
        rows=len(sequences),
        start=0,
        stop=stop,
        answer=stop,
        images=(tuple(int(place) - outside for place in read),),
        cells=(patches,),
        outside=outside,
        key_grid=cells.padded,
        readers=queries,
        blocks=(Ranges(((0, stop),)),),
        padding=tuple(place for place in range(queries, stop) if place not in text),
        named=(
            ("query", Ranges(((0, queries),))),
            ("text", text),
            ("question", text),
            ("system", Ranges()),
            ("markup", Ranges()),  # between its patches are only those that pad a tile
            ("all", Ranges.union([Ranges(((0, queries),)), text])),
            *((("latents", Ranges(((-cells.latents, 0),))),) if cells.latents else ()),
        ),
    )
