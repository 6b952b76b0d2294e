"""Proof that image features are written for the tokens that an intervention names, and for no others.

Which rows of the projector's output a token comes from is counted when an intervention is lowered, and both the plan
and the proof of states take it from there. Here it is not counted: the model itself puts the features where the image
tokens are, so the states that enter the layers behind must change at the tokens named, one for each row that changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..errors import InterventionError
from ..families import Model, view_of
from ..lowering.layouts import Layout
from ..lowering.writes import PlannedWrite
from ..prompts.token_map import TokenMap
from ..remote.batching import together
from ..remote.model_call import Remote
from ..specs.interventions import Intervention
from .proof_states import states_everywhere


def prove_features(
    model: Model, layout: Layout, writes: Sequence[PlannedWrite], intervention: Intervention, remote: Remote
) -> int:
    """Compare what enters the layers behind the projector with and without the writes at the features.

    Returns:
        At how many tokens it changed; 0 where nothing is written there, or where image tokens are no part of the
        sequence behind (Mllama, whose rows are counted for the keys that it reads).

    Raises:
        InterventionError: naming row and position.
    """
    behind = _behind(model)
    named = [_named(intervention, tokens, behind) for tokens in layout.prompt.rows]
    written = [planned for planned in writes if planned.site == "features"]
    if not written or behind is None or any(position < 0 for row in named for position in row):
        return 0
    sites = ("features", "features"), (behind, "embedding")
    runs = [partial(states_everywhere, model, layout, some, sites, remote) for some in ((), written)]
    [features, states], [new_features, new_states] = together(runs, remote)
    changed = (states != new_states).any(-1)
    for row, tokens in enumerate(layout.prompt.rows):
        own = tokens if behind == "decoder" else tokens.stage(behind)
        for position in changed[own.row if behind != "decoder" else row].nonzero().flatten().tolist():
            if position not in named[row]:
                raise InterventionError(
                    f"row {row}: image features were written, and position {position} of the {behind} changed, which "
                    "is not among the tokens named"
                )
    rows, places = int((features != new_features).any(-1).sum()), int(changed.sum())
    if rows != places:
        raise InterventionError(
            f"{rows} row(s) of image features changed and {places} token(s) of the {behind}: some of the features that "
            "were written are those of no token"
        )
    return places


def _behind(model: Model) -> str | None:
    """The stage whose sequence holds the image tokens; None where none does, or nothing gives what enters it."""
    stages = view_of(model).family.stages
    name = "encoder" if "encoder" in stages else "decoder"
    return None if stages[name].embedding is None else name


def _named(intervention: Intervention, tokens: TokenMap, behind: str | None) -> set[int]:
    """The positions of a row, in the stage behind the projector, whose features an intervention names."""
    found: set[int] = set()
    for part in intervention.parts:
        where = part.named().get("where")
        if where is None or part.acts_in != "features":
            continue
        own = tokens if part.stage == "decoder" else tokens.stage(part.stage)
        positions = own.ranges(where).positions(own.stop)
        outside = own.outside if part.stage == "decoder" and behind != "decoder" else 0
        found.update(position + outside for position in positions)
    return found
