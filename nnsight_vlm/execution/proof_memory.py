"""What a proof takes: the evidence of every attention, from two runs, is there at one time."""

from __future__ import annotations

from collections.abc import Sequence

from ..families import Model, view_of
from ..lowering.layouts import Layout
from ..lowering.sites import ATTENTION_OF
from ..lowering.writes import PlannedWrite
from ..remote.model_call import Remote
from .memory import refuse_large_prompt
from .proof_attention import attentions_to_read, changed_sites, queries_read
from .proof_towers import by_sequence, placements_in


def refuse_large_proof(model: Model, layout: Layout, writes: Sequence[PlannedWrite], remote: Remote) -> None:
    """Refuse a proof that does not fit into what is free: of a cut for many queries, whose rows are all compared.

    Raises:
        SpecError: see `execution.memory`.
    """
    cuts, evidence = [planned for planned in by_sequence(layout, writes) if planned.site in ATTENTION_OF], 0
    changed = changed_sites(model, cuts)
    for site in attentions_to_read(model, layout, writes):
        spec = view_of(model).stage(site.stage)
        for placement in placements_in(layout, site.stage):
            keys = placement.tokens.outside if site.site == "cross mask" else len(placement.tokens.tokens)
            evidence += spec.head_count * len(queries_read(placement, cuts, site)) * keys
            if site in changed:
                evidence += spec.key_heads[site.layer] * spec.head_dim[site.layer] * keys
    refuse_large_prompt(model, layout.prompt, remote, whose="this proof", numbers=evidence, masks=2)
